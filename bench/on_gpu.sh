#!/usr/bin/env bash
# Everything that only a GPU can prove, in one command: see the head of on_gpu.py, which takes the same options.
#
#     bench/on_gpu.sh                       all stages; results in bench/results/<gpu>-<date>/
#     bench/on_gpu.sh --stage kernels       one of them
#     bench/on_gpu.sh --minutes 30          stops cleanly when the time is over
#     bench/on_gpu.sh --dry                 every stage at a tiny size on the CPU: nothing is measured
set -euo pipefail
cd "$(dirname "$0")/.."
python=python
if [[ -x .venv/bin/python ]]; then python=.venv/bin/python; fi
exec "${PYTHON:-$python}" bench/on_gpu.py "$@"

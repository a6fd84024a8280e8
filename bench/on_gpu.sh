#!/usr/bin/env bash
# Everything that only a GPU can prove, in one command: the gpu tests, then every benchmark there is, a profile of the
# step, and the scaling over the GPUs of this machine. Writes bench/results/<gpu>-<date>.json, and stops at the first
# red test: no number is worth more than the check before it.
#
#     bench/on_gpu.sh [python]        PYTHON defaults to .venv/bin/python where there is one
#     TUNE=1 bench/on_gpu.sh          first searches launch configurations for this GPU and keeps them
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:-python}
if [[ $# -eq 0 && -x .venv/bin/python ]]; then python=.venv/bin/python; fi
gpu=$("$python" - <<'PY'
import re, torch
if not torch.cuda.is_available():
    raise SystemExit("error: PyTorch sees no CUDA device; bench/kernels.py alone runs without one")
print(re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-"))
PY
)
out=bench/results/$gpu-$(date +%F).json
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT

"$python" -m pytest tests/kernels tests/fastdmt tests/loaders -m gpu -q
"$python" -m pytest tests/kernels -q --deselect tests/kernels/test_aot.py
"$python" bench/kernels.py ${TUNE:+--tune} --out "$parts/kernels.json"
"$python" bench/loaders.py --device cuda --out "$parts/loaders.json"
"$python" bench/throughput.py --device cuda --out "$parts/throughput.json" --profile "${out%.json}-profile.txt"
counts=$("$python" -c "import torch; n = torch.cuda.device_count(); print(','.join(str(k) for k in (1, 2, 4, 8) if k <= n))")
"$python" bench/throughput.py --gpus "$counts" --out "$parts/scaling.json"
rm -f "${out%.json}-profile.trace.json"

"$python" - "$out" "$parts" <<'PY'
import json, subprocess, sys
from pathlib import Path
out, parts = Path(sys.argv[1]), Path(sys.argv[2])
smi = "name,driver_version,power.limit,clocks.max.sm,clocks.max.mem,memory.total"
query = subprocess.run(["nvidia-smi", f"--query-gpu={smi}", "--format=csv,noheader"], capture_output=True, text=True)
commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
record = {"commit": commit, "nvidia_smi": dict(zip(smi.split(","), query.stdout.strip().split("\n")[0].split(", ")))}
record |= {part.stem: json.loads(part.read_text()) for part in sorted(parts.glob("*.json"))}
out.write_text(json.dumps(record, indent=1) + "\n")
print(f"wrote {out}")
PY

"""`fastdmt slurm`: a batch file for sbatch: a run, requeued before the time limit, or an array that prepares data."""

from __future__ import annotations

import contextlib
import io
import shlex

import tyro

from fastdmt.cli import arguments
from fastdmt.config import require
from fastdmt.console import CONSOLE, say
from fastdmt.errors import FastDMTError

NOTICE_S = 120  # from the signal to the limit; a checkpoint takes seconds

TEMPLATE = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={cpus}
#SBATCH --time={hours}:00:00
#SBATCH --signal=USR1@{notice}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={run}/slurm-%j.log
{extra}
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
resume=""
if [[ -f {run}/checkpoints/last ]]; then resume=--resume; fi

# srun does not take --cpus-per-task from the job.
# One launcher a node; it starts a process a GPU. USR1 makes every process save and leave with exit code 0.
srun --cpus-per-task={cpus} --kill-on-bad-exit fastdmt train {train} --run {run} $resume \\
    --gpus {gpus} --nodes {nodes} --rdzv "$head:{port}"

# Not finished: the signal came first. Go on in a new slot of time.
if ! grep -q "^finished" {run}/state.txt 2>/dev/null; then scontrol requeue "$SLURM_JOB_ID"; fi
"""

PREPARE = """\
#!/bin/bash
#SBATCH --job-name=prepare
#SBATCH --array=1-{parts}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --time={hours}:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={run}/prepare-%A_%a.log
{extra}
set -euo pipefail
# What is done is left alone: the whole array, or a job of it, may be sent off again. Exit code 1: a video is broken.
srun --cpus-per-task={cpus} fastdmt data prepare {prepare} --part "$SLURM_ARRAY_TASK_ID/{parts}" --workers {cpus}
"""


def write(args: arguments.Slurm) -> int:
    """Write the file and say how to send it off."""
    counts = min(args.nodes, args.gpus, args.hours, args.cpus_per_gpu, args.parts)
    require(counts >= 1, "--nodes, --gpus, --hours, --cpus-per-gpu and --parts must be at least 1")
    if args.prepare:
        _check_prepare(args.prepare)
    args.run.mkdir(parents=True, exist_ok=True)  # Slurm drops the log of a job whose folder is missing
    text = (PREPARE if args.prepare else TEMPLATE).format(
        name=args.run.name,
        nodes=args.nodes,
        gpus=args.gpus,
        cpus=args.cpus_per_gpu * (1 if args.prepare else args.gpus),
        prepare=args.prepare,
        parts=args.parts,
        hours=args.hours,
        notice=NOTICE_S,
        run=args.run,
        extra="".join(f"#SBATCH --{line}\n" for line in args.sbatch),
        train=args.train,
        port=args.port,
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text, encoding="utf-8", errors="surrogateescape")
    say(CONSOLE, f"written: {args.out}; next: sbatch {args.out}")
    return 0


def _check_prepare(words: str) -> None:
    """Raises FastDMTError: not arguments of `data prepare`."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # where tyro explains itself in many lines
            tyro.cli(arguments.DataPrepare, args=shlex.split(words), console_outputs=False)
    except (SystemExit, ValueError) as error:
        advice = 'give a folder of videos and a new one, --prepare="videos data/own", and options of data prepare'
        raise FastDMTError(f"--prepare {words.strip()!r}: {advice}") from error

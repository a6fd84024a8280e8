"""`fastdmt slurm`: a batch file for sbatch, with requeue before the time limit."""

from __future__ import annotations

from fastdmt.cli import arguments
from fastdmt.config import require
from fastdmt.console import CONSOLE, say

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


def write(args: arguments.Slurm) -> int:
    """Write the file and say how to send it off."""
    require(min(args.nodes, args.gpus, args.hours) >= 1, "--nodes, --gpus and --hours must be at least 1")
    args.run.mkdir(parents=True, exist_ok=True)  # Slurm drops the log of a job whose folder is missing
    text = TEMPLATE.format(
        name=args.run.name,
        nodes=args.nodes,
        gpus=args.gpus,
        cpus=args.cpus_per_gpu * args.gpus,
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

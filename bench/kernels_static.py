"""What of the kernels is known without a GPU: machine code against a committed record, and the host's time of a call.

`bench/kernels.py --static` and `--host` call this file.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import fastdmt_kernels as fk

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "bench" / "results" / "kernels_static.json"
TARGETS = ("sm_80", "sm_90", "sm_100")
KEPT = ("registers", "spilled", "shared", "instructions", "executed")
TOLERANCE = 0.05  # of instructions, static and executed


def compiled(targets: tuple[str, ...], *options: str) -> dict[str, dict[str, int]]:
    """Turn "target kernel, case" -> its numbers, compiled in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT / "kernels")
    command = [sys.executable, "-m", "fastdmt_kernels.aot", "--target", *targets, *options]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"error: kernels were not compiled: {result.stderr.strip().splitlines()[-1]}")
    return table([json.loads(text) for text in result.stdout.splitlines()])


def table(rows: list[dict]) -> dict[str, dict[str, int]]:
    """Index rows as "target kernel, case" -> the numbers that are recorded, from the rows of `fastdmt_kernels.aot`."""
    return {f"{r['target']} {r['kernel']}, {r['case']}": {key: r[key] for key in KEPT} for r in rows}


def worse(now: dict[str, dict[str, int]], before: dict[str, dict[str, int]]) -> list[str]:
    """What got worse by more than the tolerance, or spills, or has no record."""
    found = []
    for name, row in now.items():
        old = before.get(name)
        if row["spilled"]:
            found.append(f"{name}: {row['spilled']} bytes spilled")
        if old is None:
            found.append(f"{name}: not in the record; run bench/kernels.py --static --update")
            continue
        more = [key for key in ("instructions", "executed") if row[key] > old[key] * (1 + TOLERANCE)]
        found.extend(f"{name}: {key} {old[key]} -> {row[key]}" for key in more)
    return found


def static(update: bool) -> int:
    """Prints the table, compares it with the record or writes it; the exit code."""
    import triton

    now = compiled(TARGETS)
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {"triton": None, "kernels": {}}
    print("executed: derived from the machine code of one warp, loop bodies times their rounds; not measured")
    print(f"{'kernel':52}" + "".join(f"{key:>14}" for key in KEPT) + "   executed before")
    for name, row in now.items():
        old = record["kernels"].get(name, {}).get("executed", "-")
        print(f"{name:52}" + "".join(f"{row[key]:14}" for key in KEPT) + f"{old:>18}")
    if update:
        RECORD.write_text(json.dumps({"triton": triton.__version__, "kernels": now}, indent=1) + "\n")
        print(f"wrote {RECORD}")
        return 0
    if record["triton"] != triton.__version__:
        print(f"the record is of Triton {record['triton']}, this is {triton.__version__}: not compared")
        return 0
    found = worse(now, record["kernels"])
    print("\n".join(found) or f"nothing is worse than the record by more than {TOLERANCE:.0%}")
    return bool(found)


def processor_time(calls: dict[str, Callable[[], object]], rounds: int = 300) -> dict[str, float]:
    """Median microseconds of this thread's processor time of a call, in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds + 20):
        for name, call in calls.items():
            start = time.thread_time_ns()
            call()
            if i >= 20:
                times[name].append((time.thread_time_ns() - start) / 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def host() -> dict[str, dict[str, float]]:
    """Times the host's part: tensors so small that nothing is left to compute. Prints and returns microseconds."""
    torch.set_num_threads(1)
    table = {}
    for count in (62, 200, 600):
        teachers, students = ([torch.randn(8) for _ in range(count)] for _ in range(2))
        prepared = fk.EMA(teachers, students)
        table[f"EMA over {count} tensors"] = processor_time({
            "EMA.step": lambda prepared=prepared: prepared.step(0.999),
            "ema_update": lambda t=teachers, s=students: fk.ema_update(t, s, 0.999),
            "_foreach_lerp_": lambda t=teachers, s=students: torch._foreach_lerp_(t, s, 0.001),
        })  # fmt: skip
    v, a, s = torch.randn(2, 8, 2, 2), torch.randn(2, 8), torch.randn(2, 2, 2)
    affine, weight, boxes = torch.tensor([10.0, -5.0]), torch.ones(2), torch.rand(2, 3, 4)
    mask, size = torch.zeros(2, 8, 1, dtype=torch.int32), (8, 8)
    table["ops on this device"] = processor_time({
        "similarity_map": lambda: fk.similarity_map(v, a),
        "mil_logits": lambda: fk.mil_logits(v, a),
        "localize": lambda: fk.localize(v, a),
        "consensus": lambda: fk.consensus(s, s, affine, affine, size=size),
        "boxes_to_mask": lambda: fk.boxes_to_mask(boxes, size),
        "localization_loss": lambda: fk.localization_loss(s, affine, mask, weight, size=size),
    })  # fmt: skip
    for name, row in table.items():
        print(name)
        for key, value in row.items():
            print(f"  {key:20}{value:10.1f} us")
        if "_foreach_lerp_" in row:
            print(f"  EMA.step is {row['EMA.step'] / row['_foreach_lerp_']:.2f}x _foreach_lerp_")
    return table

"""Proofs of the training step: how fast in every form, whether bf16 learns what float32 learns, kill and resume.

    python bench/steps.py matrix --rows 128,64,256,16     # compile x amp x rows, on one cached batch
    python bench/steps.py parity --steps 200              # losses of bf16 beside float32's, on the same batches
    python bench/steps.py resume                          # kill -9 in the middle, --resume, against an undisturbed run
    python bench/steps.py profile --out profile.txt       # a table of operators; a trace beside it

`matrix` writes its JSON after every cell, so that a limit of time keeps what was measured. `parity` and `resume` end
with exit code 1 where the proof fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import gzip
import itertools
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path

import throughput  # beside this file; it brings the packages
import torch
from rich.console import Console

from fastdmt.config import TrainConfig
from fastdmt.errors import FastDMTError
from fastdmt.presets import preset
from fastdmt.training.schedule import UNBIASED, WARMUP
from fastdmt.training.step_graph import WARM_UP
from fastdmt.training.trainer import Trainer

WINDOW = 20  # steps whose mean loss is compared
PARITY = 0.05  # relative, of a window's mean; single losses of two formats part where a pixel crosses a threshold
APART = {"cpu": 0.0, "cuda": 0.02}  # RMS of the difference of the weights, relative: GPUs add in no fixed order
ROOT = Path(__file__).resolve().parents[1]


def configuration(args: argparse.Namespace, folder: Path, rows: int) -> TrainConfig:
    """A preset on the demo's files, made once in `folder`, with so many clips a step."""
    base, demo = preset(args.preset), preset("demo")
    root = folder / "demo"
    if not root.exists():
        throughput.make_files(root, args.clips)
    data = dataclasses.replace(base.data, root=root, annotations=demo.data.annotations)
    if args.size:
        data = dataclasses.replace(data, size=args.size)
    optim = dataclasses.replace(base.optim, batch=rows, labelled_share=0.25)
    return dataclasses.replace(base, device=args.device, data=data, optim=optim, run=folder / "run")


def matrix(args: argparse.Namespace, folder: Path) -> int:
    """Milliseconds a step of every form; a form that fails is noted and the others go on."""
    cells: list[dict] = []
    print(f"{'rows':>5} {'amp':<6}{'compile':<11}{'ms':>9}{'host ms':>9}{'pairs/s':>10}{'GiB':>7}{'first s':>9}")
    for rows, amp, kind in itertools.product(args.rows, args.amp, args.compile):
        cfg = configuration(args, folder, rows)
        cfg = dataclasses.replace(cfg, scale=dataclasses.replace(cfg.scale, amp=amp, compile=kind))
        cell = {"rows": rows, "amp": amp, "compile": kind}
        try:
            cell |= measured(cfg, folder / f"{rows}-{amp}-{kind}", args)
            numbers = f"{cell['ms']:>9.2f}{cell['host_ms']:>9.2f}{cell['pairs_per_s']:>10.0f}"
            print(f"{rows:>5} {amp:<6}{kind:<11}{numbers}{cell['gib']:>7.1f}{cell['first_s']:>9.1f}", flush=True)
        except Exception as error:  # of a compiler, a driver, the memory: a cell of the table
            cell["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"
            print(f"{rows:>5} {amp:<6}{kind:<11}  {cell['error']}", flush=True)
        cells.append(cell)
        device = torch.device(args.device)
        throughput.write(args.out, "steps", device, {"preset": args.preset, "cells": cells})
        gc.collect()
        torch._dynamo.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    return int(any("error" in cell for cell in cells))


def measured(cfg: TrainConfig, run: Path, args: argparse.Namespace) -> dict[str, float | list[float]]:
    """Median milliseconds of a step, and of the host alone, until it may go on."""
    trainer = Trainer(dataclasses.replace(cfg, run=run), Console(quiet=True))
    try:
        (loader,) = trainer.begin(UNBIASED)
        cached = next(iter(loader))
        began = time.perf_counter()
        for _ in range(WARM_UP + 2):  # compilation, the allocator, the recording of a graph
            trainer.step([repeat(cached)])
        throughput.synchronise(trainer.device)
        first = time.perf_counter() - began
        whole, host = [], []
        for _ in range(args.rounds):
            began = time.perf_counter()
            for _ in range(args.steps):
                trainer.step([repeat(cached)])
            host.append(1e3 * (time.perf_counter() - began) / args.steps)
            throughput.synchronise(trainer.device)
            whole.append(1e3 * (time.perf_counter() - began) / args.steps)
            trainer.clock.read()
            trainer.bad.forget()
    finally:
        trainer.close_loaders()
    ms = statistics.median(whole)
    memory = torch.cuda.max_memory_allocated() / 2**30 if cfg.device == "cuda" else math.nan
    speed = 1e3 * cfg.batch_unlabelled / ms
    return {"ms": ms, "host_ms": statistics.median(host), "pairs_per_s": speed, "gib": memory, "first_s": first,
            "rounds_ms": whole}  # fmt: skip


def parity(args: argparse.Namespace, folder: Path) -> int:
    """Losses of the same steps in float32 and in bf16, both stages, and how far the means of windows lie apart."""
    losses: dict[str, dict[str, list[float]]] = {}
    for amp in ("none", "bf16"):
        cfg = configuration(args, folder, args.rows[0])
        scale = dataclasses.replace(cfg.scale, amp=amp, tf32=False)
        optim = dataclasses.replace(cfg.optim, warmup_steps=args.steps, steps=args.steps)
        pseudo = dataclasses.replace(cfg.pseudo, delta=0.5, tau=0.3)
        cfg = dataclasses.replace(cfg, scale=scale, optim=optim, pseudo=pseudo, run=folder / amp, log_every=1)
        trainer, found = Trainer(cfg, Console(quiet=True)), []
        for stage in (WARMUP, UNBIASED):
            trainer.begin(stage)
            values = [trainer.step() for _ in range(args.steps)]
            found += [{f"{stage} {name}": x for name, x in step.items() if "loss" in name} for step in values]
            trainer.bad.forget()
            trainer.close_loaders()
        losses[amp] = {}
        for step in found:
            for name, value in step.items():
                losses[amp].setdefault(name, []).append(float(value))
    apart = {name: [relative(*pair) for pair in windows(losses["bf16"][name], losses["none"][name])]
             for name in losses["none"]}  # fmt: skip
    worst = max(max(values) for values in apart.values())
    for name, values in apart.items():
        print(f"{name:<24} " + " ".join(f"{value:.4f}" for value in values))
    agrees = worst <= PARITY
    print(f"worst window of {WINDOW} steps: {worst:.4f} of the loss apart, at most {PARITY} allowed")
    record = {"preset": args.preset, "steps": args.steps, "losses": losses, "apart": apart, "agrees": agrees}
    throughput.write(args.out, "parity", torch.device(args.device), record)
    return int(not agrees)


def windows(a: Sequence[float], b: Sequence[float]) -> list[tuple[float, float]]:
    """Means of both over windows of WINDOW steps."""
    parts = range(0, len(a), WINDOW)
    return [(statistics.fmean(a[i : i + WINDOW]), statistics.fmean(b[i : i + WINDOW])) for i in parts]


def relative(a: float, b: float) -> float:
    return abs(a - b) / max(abs(b), 1e-12) if math.isfinite(a) and math.isfinite(b) else math.inf


def resume(args: argparse.Namespace, folder: Path) -> int:
    """A run that is killed after its second checkpoint and goes on, beside one that nobody disturbs."""
    cfg = configuration(args, folder, args.rows[0])
    every, warmup = max(1, args.steps // 6), max(1, args.steps // 3)
    words = ["train", "--preset", args.preset, "--data", str(cfg.data.root), "--annotations", cfg.data.annotations]
    words += ["--batch", str(args.rows[0]), "--labelled-share", "0.25", "--warmup-steps", str(warmup)]
    words += ["--steps", str(args.steps - warmup), "--save-every", str(every), "--log-every", "1", "--eval-every"]
    words += [str(10 * args.steps), "--size", str(cfg.data.size), "--logger", "jsonl"]
    gpus = torch.cuda.device_count() if args.device == "cuda" else 0
    words += ["--gpus", str(gpus)] if gpus > 1 else ["--device", args.device]
    began = time.perf_counter()
    finish(start(words, folder / "whole"))
    seconds = time.perf_counter() - began
    process = start(words, folder / "killed")
    saved = wait_for_checkpoint(folder / "killed", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    began = time.perf_counter()
    finish(start([*words, "--resume"], folder / "killed"))
    whole, killed = (final(folder / name) for name in ("whole", "killed"))
    apart = distance(killed, whole)
    record = {"preset": args.preset, "steps": args.steps, "gpus": gpus, "killed_after": saved, "apart": apart}
    record |= {"whole_s": seconds, "resumed_s": time.perf_counter() - began, "agrees": apart <= APART[args.device]}
    print(f"killed after step {saved}, went on to {args.steps}: weights {apart:.2e} apart (RMS, relative)")
    throughput.write(args.out, "resume", torch.device(args.device), record)
    return int(not record["agrees"])


def start(words: Sequence[str], run: Path) -> subprocess.Popen:
    path = os.pathsep.join(str(ROOT / name) for name in ("", "kernels", "loaders"))
    command = [sys.executable, "-m", "fastdmt", *words, "--run", str(run)]
    return subprocess.Popen(command, start_new_session=True, env=os.environ | {"PYTHONPATH": path})


def finish(process: subprocess.Popen) -> None:
    if process.wait():
        raise SystemExit(f"error: {' '.join(process.args)} ended with exit code {process.returncode}")


def wait_for_checkpoint(run: Path, process: subprocess.Popen) -> int:
    """The step of the second checkpoint, as soon as it is there."""
    while process.poll() is None:
        last = run / "checkpoints" / "last"
        steps = sorted(
            int(name[0]) for path in run.glob("checkpoints/step-*") if (name := re.findall(r"\d+", path.name))
        )
        if len(steps) > 1 and last.is_file():
            return steps[-1]
        time.sleep(0.02)
    raise SystemExit(f"error: {run} ended before its second checkpoint; give more --steps")


def final(run: Path) -> dict[str, torch.Tensor]:
    from fastdmt.runs import checkpoint

    folder, notes = checkpoint.newest(run)
    if folder is None or notes:
        raise FastDMTError(f"{run}: no whole checkpoint at the end ({notes})")
    return checkpoint.load_tensors(folder)


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """RMS of the difference of all float tensors, by the RMS of the second ones."""
    assert a.keys() == b.keys()
    names = [name for name, t in b.items() if t.is_floating_point()]
    error = sum(float((a[name].double() - b[name].double()).square().sum()) for name in names)
    return math.sqrt(error / sum(float(b[name].double().square().sum()) for name in names))


def profile(args: argparse.Namespace, folder: Path) -> int:
    """The compiled step's operators, with the loader."""
    compiled = {"compile": "inductor"} if args.device == "cuda" else {}
    row = throughput.fast(configuration(args, folder, args.rows[0]), folder, "FastDMT", **compiled)
    for _ in range(3):
        row.step(repeat(row.cached))
    out = args.out or Path("profile.txt")
    throughput.profile(row, out)
    trace = out.with_suffix(".trace.json")
    with trace.open("rb") as file, gzip.open(f"{trace}.gz", "wb") as packed:
        shutil.copyfileobj(file, packed)
    trace.unlink()
    row.loader.close()
    return 0


WORK = {"matrix": matrix, "parity": parity, "resume": resume, "profile": profile}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--preset", default="vggsound-10k", help="whose networks")
    parser.add_argument("--clips", type=int, default=1024, help="files that are written")
    parser.add_argument("--size", type=int, help="pixels of a frame; default: the preset's")
    parser.add_argument(
        "--rows", type=throughput.counts, default=[128], help="clips a step, a quarter of them labelled"
    )
    parser.add_argument("--amp", type=names, default=["bf16"], help="matrix: number formats")
    parser.add_argument("--compile", type=names, default=["none", "inductor"], help="matrix: values of --compile")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of a measurement, of each stage, or of the run")
    parser.add_argument("--out", type=Path, help="JSON, or the profile's text")
    return parser


def names(text: str) -> list[str]:
    return text.split(",")


def main(words: Sequence[str] | None = None) -> int:
    args = parser().parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        return WORK[args.work](args, Path(folder))


if __name__ == "__main__":
    raise SystemExit(main())

"""Training samples a second of several processes, in both modes; `throughput.py --gpus` or `--workers-cpu` calls it."""

from __future__ import annotations

import dataclasses
import os
import statistics
from pathlib import Path

import throughput  # which puts the project's packages on the path
from rich.console import Console

from fastdmt.config import TrainConfig
from fastdmt.distributed.processes import World, start
from fastdmt.training.trainer import Trainer

ROUNDS, STEPS = "FASTDMT_BENCH_ROUNDS", "FASTDMT_BENCH_STEPS"


def measure(cfg: TrainConfig, counts: list[int], strong: bool, rounds: int, steps: int) -> dict[str, dict[int, float]]:
    """Unlabelled samples a second of so many processes, both modes.

    Every process has the whole batch of `cfg` (weak scaling), or, with `strong`, its share of it.
    """
    table: dict[str, dict[int, float]] = {}
    on_gpu = cfg.device != "cpu"
    os.environ |= {ROUNDS: str(rounds), STEPS: str(steps)}  # for the processes that are started
    for count in counts:
        optim = dataclasses.replace(cfg.optim, batch=cfg.optim.batch * (1 if strong else count))
        for mode in ("fsdp", "ddp"):
            where = {"gpus": count} if on_gpu else {"gpus": 0, "workers_cpu": count}
            changes = {**where, "parallel": mode, "compile": "inductor" if on_gpu else "none"}
            scale = dataclasses.replace(cfg.scale, **changes)
            run = cfg.run.with_name(f"{mode}-{count}")
            one = dataclasses.replace(cfg, run=run, optim=optim, scale=scale, device="auto")
            seconds = start(one, f"{Path(__file__).stem}:scaled")
            table.setdefault(mode, {})[count] = one.batch_unlabelled / seconds
    return table


def scaled(cfg: TrainConfig, world: World) -> float:
    """A process of `measure`: median seconds of a step, slowest rank."""
    trainer = Trainer(cfg, Console(quiet=True), world=world)
    row = throughput.Variant(trainer.cfg.scale.parallel, trainer, lambda batches: trainer.step([batches]))
    row.time("e2e", 2)
    row.seconds.clear()
    for _ in range(int(os.environ[ROUNDS])):
        row.time("e2e", int(os.environ[STEPS]))
    row.loader.close()
    return max(world.gather(statistics.median(row.seconds["e2e"])))


def show(table: dict[str, dict[int, float]]) -> None:
    """Samples a second and efficiency of each number of processes."""
    print(f"\n{'processes':<12}" + "".join(f"{mode:>12}{'efficiency':>12}" for mode in table))
    for count in next(iter(table.values())):
        cells = ""
        for speeds in table.values():
            first = min(speeds)
            cells += f"{speeds[count]:>12,.1f}{speeds[count] / count / (speeds[first] / first):>12.0%}"
        print(f"{count:<12}{cells}")

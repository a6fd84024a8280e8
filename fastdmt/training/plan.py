"""`fastdmt train --plan`: how long a run is and what it takes, by three timed steps of each stage; nothing is kept."""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console

from fastdmt.config import TrainConfig
from fastdmt.console import clock
from fastdmt.distributed.processes import processes
from fastdmt.training.schedule import UNBIASED, WARMUP, Schedule
from fastdmt.training.trainer import Trainer

TIMED = 3  # steps of each stage
VALIDATED = 32  # validation clips of the timed validation


@dataclass
class Course:
    """One stage: steps and validations, with the measured seconds of each."""

    name: str
    steps: int
    clips: str  #: a step's, in words
    step_s: float = 0.0
    validations: int = 0
    validation_s: float = 0.0

    @property
    def seconds(self) -> float:
        return self.steps * self.step_s + self.validations * self.validation_s


@dataclass
class Forecast:
    """What a run will take. Bytes and seconds; `lines` says it for a terminal."""

    cfg: TrainConfig
    clips: list[str]
    where: str
    memory: int = 0
    loaders: int = 0
    device_memory: int = 0
    disk: int = 0
    free: int = 0
    processes: int = 1
    courses: list[Course] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(course.seconds for course in self.courses)

    def lines(self) -> list[str]:
        out = [f"clips   {line}" for line in self.clips]
        out += [f"steps   {c.name}: {c.steps:,} of {c.clips}, {c.validations} validations" for c in self.courses]
        each = " each" if self.processes > 1 else ""
        memory = [f"{_size(self.memory)}{each}"]
        memory += [f"{_size(self.loaders)} in processes that decode"] if self.loaders else []
        memory += [f"{_size(self.device_memory)} of the GPU{each}"] if self.device_memory else []
        out.append(f"memory  {', '.join(memory)}")
        out.append(f"disk    {_size(self.disk)} in {self.cfg.run}; {_size(self.free)} are free")
        parts = [
            f"{course.name} {clock(course.steps * course.step_s)} ({1e3 * course.step_s:,.0f} ms a step)"
            for course in self.courses
        ]
        parts.append(f"validation {clock(sum(c.validations * c.validation_s for c in self.courses))}")
        out.append(f"time    about {clock(self.seconds)}: {', '.join(parts)}")
        more = f"; {self.processes} processes: what they tell each other is not counted" if self.processes > 1 else ""
        out.append(f"        from {TIMED} timed steps of each stage on {self.where}{more}")
        if self.disk > self.free:
            out.append(f"the disk is too small: make room, or give another --run than {self.cfg.run}")
        return out


def forecast(cfg: TrainConfig, console: Console) -> Forecast:
    """Build the run in a folder that is thrown away, and time a few steps.

    Features of frozen encoders (--feature-crops) are made where they are missing, and kept for the run.

    Raises:
        FastDMTError, DataError: what training would refuse.
    """
    count = processes(cfg) * cfg.scale.nodes
    with tempfile.TemporaryDirectory(prefix="fastdmt-plan-") as folder:
        mine = replace(
            cfg,
            run=Path(folder),
            resume=False,
            logger="jsonl",
            optim=replace(cfg.optim, batch=max(4, cfg.optim.batch // count)),
            scale=replace(cfg.scale, gpus=-1 if cfg.scale.gpus else 0, workers_cpu=1, nodes=1),
        )
        trainer = Trainer(mine, console)
        try:
            return _measured(cfg, trainer, count)
        finally:
            trainer.close_loaders()


def _measured(cfg: TrainConfig, trainer: Trainer, count: int) -> Forecast:
    data, device = trainer.data, trainer.device
    warms_up = bool(trainer.warmup.total)
    schedule = Schedule(cfg, len(data.labelled), len(data.unlabelled), count, warms_up)
    found = Forecast(cfg, list(data.summary), f"{device} in {trainer.format}", processes=count)
    validation = len(data.validation)
    data.split.validation = data.validation[:VALIDATED]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for name in (WARMUP, UNBIASED):
        steps = schedule.steps[name]
        if not steps:
            continue
        rows = f"{schedule.batch_warmup} labelled" if name == WARMUP else f"{cfg.batch_labelled} labelled"
        rows += f" + {cfg.batch_unlabelled} unlabelled" if name == UNBIASED and cfg.batch_unlabelled else " clips"
        course = Course(name, steps, rows, validations=-(-steps // schedule.eval_every(name)))
        trainer.begin(name)
        trainer.step()  # the first one starts the loaders and allocates
        course.step_s = _seconds(device, lambda: [trainer.step() for _ in range(TIMED)]) / TIMED
        found.loaders = max(found.loaders, _loaders())
        if validation:
            trainer.stage.validate(0)  # decodes; later ones find the clips in memory
            once = _seconds(device, lambda: trainer.stage.validate(0))
            course.validation_s = once * validation / len(data.split.validation)
        found.courses.append(course)
    found.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if device.type == "cuda":
        found.device_memory = torch.cuda.max_memory_reserved(device)
    tensors = trainer.state_dict()["tensors"].values()
    state = sum(t.numel() * t.element_size() for t in tensors)
    model = sum(t.numel() * t.element_size() for t in trainer.model.tensors().values())
    found.disk = (cfg.scale.keep + 1) * state + 2 * model  # one more while it is written; the best weights
    there = next(p for p in (cfg.run.absolute(), *cfg.run.absolute().parents) if p.exists())
    found.free = shutil.disk_usage(there).free
    return found


def _seconds(device: torch.device, work) -> float:
    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    began = now()
    work()
    return now() - began


def _loaders() -> int:
    """Bytes of the processes that decode, shared pages by their share; 0 where the system does not tell."""
    total = 0
    for child in multiprocessing.active_children():
        try:
            lines = Path(f"/proc/{child.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
            total += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, ValueError):
            continue
    return total


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"

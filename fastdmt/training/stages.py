"""The two stages of a run, each as what differs between them; the loop that both share is the trainer's.

stage 1 "warm-up":  students A and B learn from labelled clips, each in its own order; the best epoch goes on
stage 2 "unbiased": teachers = copies of them; students learn from boxes and pseudo-labels; teachers follow by EMA
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fastdmt.algorithm.accepted_queue import AcceptedQueue
from fastdmt.algorithm.diagnostics import diagnose
from fastdmt.algorithm.dmt import DualMeanTeacherStep
from fastdmt.config import TrainConfig
from fastdmt.data.run_data import Data
from fastdmt.distributed.processes import World
from fastdmt.models.pair import Model
from fastdmt.runs import checkpoint
from fastdmt.runs.weights import write_weights
from fastdmt.training.clock import Clock
from fastdmt.training.pictures import training_picture, warmup_picture
from fastdmt.training.schedule import UNBIASED, WARMUP, Schedule
from fastdmt.training.tracking import Observer
from fastdmt.training.validation import Validator
from fastdmt_loaders import Batch
from fastdmt_loaders.loader import Loader


class Part(NamedTuple):
    """One forward pass, ready for its backward."""

    loss: Tensor  #: 0-d, to be differentiated
    values: dict[str, Tensor]  #: 0-d, detached: what a log shows


@dataclass
class Parts:
    """What a stage works with."""

    cfg: TrainConfig
    world: World
    data: Data
    schedule: Schedule
    model: Model
    algorithm: DualMeanTeacherStep
    validator: Validator
    observer: Observer
    clock: Clock
    queue: AcceptedQueue | None


class Stage:
    """One stage.

    Attributes:
        total: its optimizer steps.
        every: steps from one validation to the next.
    """

    name: ClassVar[str]

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.total, self.every = parts.schedule.steps[self.name], parts.schedule.eval_every(self.name)

    def loaders(self) -> list[Loader]:
        """Sources of batches, without end."""
        raise NotImplementedError

    def forwards(self, draw: Callable[[int], Batch], log: bool) -> list[Callable[[], Part]]:
        """The forward passes of one part of a step; the caller differentiates each before it calls the next.

        Args:
            draw: the next batch of the k-th loader.
            log: the values will be logged: compute all of them.
        """
        raise NotImplementedError

    def before_step(self, done: int) -> None:
        """What precedes a step, after `done` of them."""

    def after_step(self) -> None:
        """What follows the optimizer."""

    def validate(self, step: int) -> dict[str, float]:
        """Measure, keep the best weights, and return what a log shows. Every rank calls it."""
        raise NotImplementedError

    def _loader(self, labelled: int, unlabelled: int, seed: int, front_ends: tuple[str, ...] = ()) -> Loader:
        p = self.parts
        view = p.data.view(front_ends or p.model.front_ends, augment=True)
        return p.data.training(view, labelled, unlabelled, seed, p.world)


class Warmup(Stage):
    """Stage 1: each student on its own batches of labelled clips."""

    name = WARMUP

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.best = [-1.0, -1.0]
        self.batches: list[Batch | None] = [None, None]  #: the last of each student, for pictures

    def loaders(self) -> list[Loader]:
        rows, seed = self.parts.schedule.batch_warmup, 10 * self.parts.cfg.seed
        # A batch carries the sound of its own student only.
        return [self._loader(rows, 0, seed + 1 + k, (s.front_end,)) for k, s in enumerate(self.parts.model.students)]

    def forwards(self, draw: Callable[[int], Batch], log: bool) -> list[Callable[[], Part]]:
        return [partial(self._forward, draw, k) for k in range(len(self.parts.model.students))]

    def _forward(self, draw: Callable[[int], Batch], k: int) -> Part:
        batch = self.batches[k] = draw(k)
        loss = self.parts.algorithm.warmup(k, batch)
        return Part(loss, {f"loss_{'ab'[k]}": loss.detach()})

    def validate(self, step: int) -> dict[str, float]:
        p, values = self.parts, {}
        scores = p.validator.scores(step, "student A", "student B")
        for k, name in enumerate("AB"):
            batch = self.batches[k]
            if p.world.first and batch is not None and batch.frames_weak.shape[1] == 3:  # not features
                p.observer.picture(f"maps of student {name}", step, warmup_picture(p.validator.whole, batch, k))
            score = scores[f"student {name}"]
            values |= {f"val_ciou_{name}": score["ciou"], f"val_auc_{name}": score["auc"]}
            if score["by_ciou"] > self.best[k]:
                self.best[k] = score["by_ciou"]
                if p.world.first:
                    weights = p.validator.whole.students[k].state_dict()
                    write_weights(p.cfg.run / f"warmup-{name}.safetensors", weights)
        return values


class Unbiased(Stage):
    """Stage 2: the teachers label, the students learn, the teachers follow."""

    name = UNBIASED

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.best = -1.0
        self.momentum = torch.full((), parts.schedule.momentum, device=parts.world.device)
        self.batch: Batch | None = None  #: the last one, for a picture

    def start_from_warmup(self) -> None:
        """Teachers and students start from each localizer's best warm-up epoch."""
        p = self.parts
        for k, student in enumerate(p.model.students):
            path = (p.cfg.warm_from or p.cfg.run) / f"warmup-{'AB'[k]}.safetensors"
            if path.is_file() or p.cfg.warm_from:
                p.model.load_part(f"students.{k}", checkpoint.read_weights(path))
            p.model.teachers[k].load_state_dict(student.state_dict())

    def loaders(self) -> list[Loader]:
        cfg = self.parts.cfg
        return [self._loader(cfg.batch_labelled, cfg.batch_unlabelled, seed=10 * cfg.seed)]

    def forwards(self, draw: Callable[[int], Batch], log: bool) -> list[Callable[[], Part]]:
        return [partial(self._forward, draw, log)]

    def _forward(self, draw: Callable[[int], Batch], log: bool) -> Part:
        p, batch = self.parts, draw(0)
        self.batch = batch
        labels = p.algorithm.pseudo_labels(batch)
        seen, used = batch, labels
        if p.queue is not None and labels is not None:
            seen, label = p.queue.exchange(batch, labels[0])
            used = [label, label]
        p.clock.lap("teachers")
        losses = p.algorithm.learn(seen, used)
        values = losses.logged()
        if used is not labels:  # what the teachers said of this step's clips, whichever the students saw
            values["kept"] = labels[0].keep.float().mean()
        if log:
            values |= diagnose(labels, batch, p.algorithm.size, p.algorithm.min_agree)
        return Part(losses.total, values)

    def before_step(self, done: int) -> None:
        self.parts.algorithm.progress.fill_(done / self.total)

    def after_step(self) -> None:
        self.parts.algorithm.update_teachers(self.momentum)
        self.parts.clock.lap("ema")

    def validate(self, step: int) -> dict[str, float]:
        p = self.parts
        scores = p.validator.scores(step, "teachers", "A", "B", "students")
        shown = self.batch is not None and self.batch.frames_weak.shape[1] == 3  # not features
        if p.world.first and shown:
            p.observer.picture("maps", step, training_picture(p.validator.whole, self.batch))
        if scores["teachers"]["by_auc"] > self.best:
            self.best = scores["teachers"]["by_auc"]
            if p.world.first:
                write_weights(p.cfg.run / "best.safetensors", p.validator.whole.tensors())
        values = {"val_ciou": scores["teachers"]["ciou"], "val_auc": scores["teachers"]["auc"]}
        return values | {f"val_ciou_{source}": scores[source]["ciou"] for source in ("A", "B", "students")}


def mean_of(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Values of a step from those of its parts, each of as many rows."""
    if len(parts) == 1:
        return parts[0]
    return {name: torch.stack([values[name] for values in parts]).mean() for name in parts[0]}

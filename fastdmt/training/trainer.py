"""The training loop: two stages, their schedules, validation, checkpoints. It knows no algorithm; see dmt.py for that.

stage 1 "warm-up":  students A and B learn from labelled clips, each in its own order; the best epoch goes on
stage 2 "unbiased": teachers = copies of them; students learn from boxes and pseudo-labels; teachers follow by EMA
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

import fastdmt_kernels
from fastdmt.algorithm.accepted_queue import AcceptedQueue
from fastdmt.algorithm.dmt import DualMeanTeacherStep, Losses
from fastdmt.algorithm.negatives import Negatives
from fastdmt.algorithm.pseudo_labels import CLASSES
from fastdmt.config import TrainConfig
from fastdmt.data.run_data import Data, open_data
from fastdmt.distributed.processes import Leaving, World, join, resume_command
from fastdmt.distributed.sharding import Parallel
from fastdmt.models.feature_cache import Features
from fastdmt.models.pair import Model, keep_origins
from fastdmt.runs import checkpoint
from fastdmt.runs.folder import open_run
from fastdmt.training import state
from fastdmt.training.clock import Clock
from fastdmt.training.diagnostics import diagnose
from fastdmt.training.nonfinite import BadSteps
from fastdmt.training.optimizer import Update, build_optimizer
from fastdmt.training.pictures import training_picture
from fastdmt.training.precision import compile_step, precision
from fastdmt.training.schedule import UNBIASED, WARMUP, Schedule
from fastdmt.training.tracking import Observer, Silent
from fastdmt.training.validation import Validator
from fastdmt_loaders import Batch


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    run: Path
    step: int
    best: float  #: what chose the best step: the teachers' validation CIoU@0.5, ties broken by a thousandth of AUC
    interrupted: bool  #: stopped by a signal and saved
    signal: int | None = None  #: which one


class Trainer:
    """One run.

    Args:
        cfg: complete configuration; `cfg.run` is created, or resumed from with `cfg.resume`.
        console: where progress is drawn.
        world: this process among the others; None: alone, or what a launcher says.
        sinks: functions (step, stage, values) of one's own, called with everything that is logged.

    Raises:
        FastDMTError, DataError: bad input, each with the file and what to do about it.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        console: Console | None = None,
        sinks: Sequence[Callable] = (),
        *,
        world: World | None = None,
    ) -> None:
        self.world, self.sinks = world or join(cfg), sinks
        self.console = (console or Console()) if self.world.first else Console(file=open(os.devnull, "w"))
        with self.world.one_by_one():
            self.cfg = cfg = open_run(cfg, self.world.first)
            self.data: Data = open_data(cfg, self.console)
        self.device = self.world.device
        self.last = checkpoint.last_folder(cfg.run) if cfg.resume else None
        fastdmt_kernels.use(cfg.kernels)
        algorithm = CLASSES[cfg.algorithm](cfg.pseudo, cfg.model.probability)
        self.schedule = Schedule(
            cfg, len(self.data.labelled), len(self.data.unlabelled), self.world.size, algorithm.warms_up
        )
        self.model, origins = Model.build(cfg, pretrained=self.last is None)
        with self.world.one_by_one():
            self.origins = keep_origins(cfg.run, origins, fresh=self.last is None and self.world.first)
        self.model.to(self.device)
        for student in self.model.students:
            student.affine.requires_grad_(algorithm.uses_labels or algorithm.warms_up)
        with self.world.one_by_one():
            self.data.features = Features.of_run(self.data, self.model.students, self.model.front_ends, self.console)
        negatives = Negatives.of_run(cfg, self.model.front_ends, self.device, self.data.features)
        self.parallel = Parallel(self.model.students, self.model.teachers, cfg.scale, self.world)
        self.validator = Validator(self.model, self.parallel, self.world, self.data)
        self.algorithm = DualMeanTeacherStep(
            self.model.students,
            self.model.teachers,
            algorithm,
            cfg.pseudo,
            size=(cfg.data.size, cfg.data.size),
            min_agree=self.data.dataset.min_agree,
            group=self.world.group,
            calls=self.parallel.calls,
            negatives=negatives,
        )
        self.autocast, self.loss_scale, self.format = precision(cfg.scale, self.device)
        compile_step(self.algorithm, cfg.scale.compile, alone=self.world.size == 1)
        self.stage, self.done, self.best = WARMUP, 0, -1.0
        self.best_warmup = [-1.0, -1.0]
        self._new_optimizers()
        self.queue = AcceptedQueue(cfg.scale.pack_accepted) if cfg.scale.pack_accepted else None
        self.bad = BadSteps(cfg, self.world)
        self.clock = Clock(self.device)
        self.interrupted = False

    # ------------------------------------------------------------------ the two stages

    def run(self) -> Outcome:
        """Train to the end, or until a signal asks to stop."""
        cfg = self.cfg
        self.saver = checkpoint.Saver(cfg.run, cfg.scale.keep, self.world)
        if self.last is not None:
            state.restore(self, self.last)
        self.observer = Silent()
        if self.world.first:
            self.observer = Observer(cfg.run, self.console, self.global_step, cfg.logger, self.sinks)
            self.data.write_splits(cfg.run)
        for line in (*self.data.summary, *self.origins, self._plan_line()):
            self.observer.say(line)
        with Leaving() as self.leaving, _manual_gc():
            try:
                if self.stage == WARMUP:
                    self._warm_up()
                if self.stage == UNBIASED and not self.interrupted:
                    self._learn_unbiased()
                self.saver.close()
            finally:
                self.observer.end_stage()
        if self.interrupted:
            self.observer.say(f"stopped at step {self.global_step}, saved; go on with: {resume_command(cfg)}")
        elif self.world.first:  # for whoever asks whether to start it again
            (cfg.run / "state.txt").write_text(f"finished at step {self.global_step}\n", encoding="utf-8")
        self.observer.close()
        return Outcome(cfg.run, self.global_step, self.best, self.interrupted, self.leaving.signal)

    def _warm_up(self) -> None:
        total = self.schedule.steps[WARMUP]
        if total == 0:
            self._begin_unbiased()
            return self._save()
        loaders = [
            # In stage 1 a batch has one reader, its own student.
            self._loader(self.schedule.batch_warmup, 0, 10 * self.cfg.seed + 1 + k, (student.front_end,))
            for k, student in enumerate(self.model.students)
        ]
        batches = [self._from(loader) for loader in loaders]
        self.observer.stage(WARMUP, total, self.done)
        every = self.schedule.eval_every(WARMUP)
        while self.done < total and not self.interrupted:
            self._set_rates()
            self.clock.start()
            losses = []
            for k, student in enumerate(self.model.students):
                student.train()
                loss = 0.0
                for part in self._parts():
                    batch = self._next(batches[k])
                    with self.autocast():
                        value = self.algorithm.warmup(k, batch)
                    self._backward(value, part)
                    loss = loss + value.detach() / self.cfg.scale.accumulate
                self.clock.lap("students")
                self._step([k], loss)
                losses.append(loss)
            self._advance()
            self.interrupted = self.world.agree(self.leaving.wanted)
            if self._logs():
                self._log({"loss_a": losses[0], "loss_b": losses[1]})
            if self.done % every == 0 or self.done == total:
                self._validate_warmup()
            # The last step is saved as the beginning of stage 2, below: one checkpoint for one step.
            if self.done < total and (self.done % every == 0 or self._saves()):
                self._save()
        for loader in loaders:
            loader.close()
        if self.done == total:
            self._begin_unbiased()
        self._save()

    def _begin_unbiased(self) -> None:
        """Teachers and students start from each localizer's best warm-up epoch, with fresh optimizers."""
        self.world.broadcast(None)  # rank 0 has written the files
        self.parallel.reshard()
        for k, student in enumerate(self.model.students):
            path = (self.cfg.warm_from or self.cfg.run) / f"warmup-{'AB'[k]}.safetensors"
            if path.is_file() or self.cfg.warm_from:
                self.model.load_part(f"students.{k}", checkpoint.read_weights(path))
            self.model.teachers[k].load_state_dict(student.state_dict())
        self._new_optimizers()
        self.stage, self.done = UNBIASED, 0

    def _learn_unbiased(self) -> None:
        total = self.schedule.steps[UNBIASED]
        loader = self._loader(self.cfg.batch_labelled, self.cfg.batch_unlabelled, seed=10 * self.cfg.seed)
        batches = self._from(loader)
        self.observer.stage(UNBIASED, total, self.done)
        every = self.schedule.eval_every(UNBIASED)
        momentum = torch.full((), self.schedule.momentum, device=self.device)
        while self.done < total and not self.interrupted:
            self._set_rates()
            self.algorithm.progress.fill_(self.done / total)
            batch, losses = self.learn(batches, momentum)
            self._advance()
            self.interrupted = self.world.agree(self.leaving.wanted)
            if self._logs():
                truth = diagnose(losses.labels, batch, self.algorithm.size, self.algorithm.min_agree)
                self._log(losses.logged() | truth)
            due = self.done % every == 0 or self.done == total
            if due:
                self._validate_teachers(batch)
            if due or self.interrupted or self._saves():
                self._save()
        loader.close()
        for bad, reason in loader.bad.items():
            self.observer.say(f"skipped {bad}: {reason}")

    # ------------------------------------------------------------------ parts of a step

    def learn(self, batches: Iterator[Batch], momentum: Tensor) -> tuple[Batch, Losses]:
        """One step of stage 2, from the loader to the teachers; nothing here waits for the device."""
        self.clock.start()
        for student in self.model.students:
            student.train()
        for part in self._parts():
            batch = self._next(batches)
            with self.autocast():
                labels = self.algorithm.pseudo_labels(batch)
                packing = self.queue is not None and labels is not None
                packed, label = self.queue.exchange(batch, labels[0]) if packing else (batch, None)
                self.clock.lap("teachers")
                losses = self.algorithm.learn(packed, [label, label] if packing else labels)
            self._backward(losses.total, part)
            self.clock.lap("students")
        self._step([0, 1], losses.total.detach())
        self.algorithm.update_teachers(momentum)
        self.clock.lap("ema")
        if packing:  # what the teachers said of this step's clips, whichever the students saw
            losses = losses._replace(labels=labels, kept=labels[0].keep.float().mean())
        return batch, losses

    def _parts(self) -> range:
        """Parts of a step's batch; gradients start at zero and are averaged over ranks with the last part."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return range(self.cfg.scale.accumulate)

    def _next(self, batches: Iterator[Batch]) -> Batch:
        batch = next(batches)
        self.bad.saw(batch)
        self.clock.lap("data")
        return batch

    def _backward(self, loss: Tensor, part: int) -> None:
        parts = self.cfg.scale.accumulate
        self.parallel.synchronise_gradients(part == parts - 1)
        loss = loss / parts if parts > 1 else loss
        (loss if self.loss_scale is None else loss * self.loss_scale.value).backward()

    def _step(self, which: list[int], loss: Tensor) -> None:
        """Optimizers of the named students; teachers and shards are ready for the EMA."""
        self.parallel.reshard()
        bad = torch.stack([self.updates[k](loss, self.loss_scale) for k in which]).amax()
        if self.loss_scale is not None:
            self.loss_scale.update(bad)
            bad = (~loss.isfinite()).float()  # an overflow of the scaled gradient is routine, not a fault
        self.bad.add(self.global_step + 1, bad)
        for k in which:
            self.model.students[k].after_step()
        self.clock.lap("optimizer")

    def _advance(self) -> None:
        self.done += 1
        self.observer.advance(self.done)

    def _log(self, values: dict[str, Tensor]) -> None:
        """The one wait for the device. Every rank's mean; steps that were skipped; where the time went."""
        stack = torch.stack([value.float() for value in values.values()]) / self.world.size
        numbers = dict(zip(values, self.world.sum(stack).tolist(), strict=True))
        self.bad.read(self.global_step, numbers, self.observer)
        self.observer.scalars(self.global_step, self.done, numbers)
        laps, wall = self.clock.read()
        speed = {
            "pairs_per_s": self.schedule.rows(self.stage) / wall,
            "step_ms": 1e3 * wall,
            **{f"{name}_ms": ms for name, ms in laps.items()},
        }
        if self.device.type == "cuda":
            speed["memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        self.observer.timings(self.global_step, speed)

    def _new_optimizers(self) -> None:
        scale, optim = self.cfg.scale, self.cfg.optim
        self.optimizers = [build_optimizer(s, optim, scale.optimizer) for s in self.model.students]
        self.updates = [
            Update(student, optimizer, optim.clip, self.world, self.parallel.sharded)
            for student, optimizer in zip(self.model.students, self.optimizers, strict=True)
        ]

    def _set_rates(self) -> None:
        rates = self.schedule.rates(self.stage, self.done)
        for optimizer in self.optimizers:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

    # ------------------------------------------------------------------ validation

    def _validate_warmup(self) -> None:
        values = {}
        scores = self.validator.scores(self.global_step, "student A", "student B")
        for k, name in enumerate("AB"):
            score = scores[f"student {name}"]
            values[f"val_ciou_{name}"], values[f"val_auc_{name}"] = score["ciou"], score["auc"]
            if score["selection"] > self.best_warmup[k]:
                self.best_warmup[k] = score["selection"]
                if self.world.first:
                    weights = self.validator.whole.students[k].state_dict()
                    checkpoint.write_weights(self.cfg.run / f"warmup-{name}.safetensors", weights)
        self.observer.scalars(self.global_step, self.done, values)

    def _validate_teachers(self, batch: Batch) -> None:
        scores = self.validator.scores(self.global_step, "teachers", "A", "B", "students")
        values = {"val_ciou": scores["teachers"]["ciou"], "val_auc": scores["teachers"]["auc"]}
        values |= {f"val_ciou_{source}": scores[source]["ciou"] for source in ("A", "B", "students")}
        self.observer.scalars(self.global_step, self.done, values)
        if self.world.first and batch.frames_weak.shape[1] == 3:  # not features
            self.observer.picture("maps", self.global_step, training_picture(self.validator.whole, batch))
        if scores["teachers"]["selection"] > self.best:
            self.best = scores["teachers"]["selection"]
            if self.world.first:
                checkpoint.write_weights(self.cfg.run / "best.safetensors", self.validator.whole.tensors())

    # ------------------------------------------------------------------ state

    @property
    def global_step(self) -> int:
        """Optimizer steps since the beginning of stage 1."""
        return self.done + (self.schedule.steps[WARMUP] if self.stage == UNBIASED else 0)

    def _save(self) -> None:
        state.save(self)

    # ------------------------------------------------------------------ plumbing

    def _loader(self, labelled: int, unlabelled: int, seed: int, front_ends: tuple[str, ...] = ()):
        view = self.data.view(front_ends or self.model.front_ends, augment=True)
        return self.data.training(view, labelled, unlabelled, seed, self.world)

    def _from(self, loader) -> Iterator[Batch]:
        loader.load_state_dict({"step": self.done * self.cfg.scale.accumulate})
        return iter(loader)

    def _logs(self) -> bool:
        return self.done % self.cfg.log_every == 0

    def _saves(self) -> bool:
        return self.cfg.save_every > 0 and self.done % self.cfg.save_every == 0

    def _where(self) -> str:
        """Device, format and processes."""
        how = f", {self.world.size} processes ({self.cfg.scale.parallel})" if self.world.size > 1 else ""
        return f"{self.device} in {self.format}{how}"

    def _plan_line(self) -> str:
        cfg, steps, rows = self.cfg, self.schedule.steps, self.schedule.rows(WARMUP)
        return (
            f"{cfg.algorithm} on {self._where()}: {steps[WARMUP]} warm-up steps of {rows} labelled, then "
            f"{steps[UNBIASED]} steps of {cfg.batch_labelled} labelled + {cfg.batch_unlabelled} unlabelled"
        )


class _manual_gc:
    """Hold Python's garbage collector outside the step: its pauses hit ranks at different times."""

    def __enter__(self) -> None:
        self.was = gc.isenabled()
        gc.collect()
        gc.disable()

    def __exit__(self, *exc) -> None:
        if self.was:
            gc.enable()
        gc.collect()

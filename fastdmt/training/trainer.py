"""The training loop: steps, logs, validation, checkpoints. What differs between the two stages is in stages.py.

trainer.run()           both stages, to the end or until a signal
trainer.step(batches)   one optimizer step of the stage that `trainer.begin(name)` made the present one
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from fastdmt.algorithm.accepted_queue import AcceptedQueue
from fastdmt.algorithm.dmt import DualMeanTeacherStep
from fastdmt.algorithm.negatives import Negatives
from fastdmt.algorithm.pseudo_labels import CLASSES, Algorithm
from fastdmt.config import TrainConfig
from fastdmt.data.run_data import Data, open_data
from fastdmt.distributed.processes import Leaving, World, join, resume_command
from fastdmt.distributed.sharding import Parallel, assign
from fastdmt.models.feature_cache import Features
from fastdmt.models.pair import Model, keep_origins
from fastdmt.runs import checkpoint, lock
from fastdmt.runs.folder import open_run
from fastdmt.training.clock import Clock, manual_gc
from fastdmt.training.nonfinite import BadSteps
from fastdmt.training.optimizer import Update
from fastdmt.training.precision import chosen_recorder, compile_step, precision, use_kernels
from fastdmt.training.schedule import UNBIASED, WARMUP, Schedule
from fastdmt.training.stages import Parts, Stage, Unbiased, Warmup, mean_of
from fastdmt.training.step_graph import Recorder, StepGraph
from fastdmt.training.tracking import Observer, Silent
from fastdmt.training.validation import Validator
from fastdmt_loaders import Batch
from fastdmt_loaders.loader import Loader


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    run: Path
    step: int
    best: float  #: what chose the best step: the teachers' validation AUC, ties broken by a thousandth of CIoU@0.5
    interrupted: bool  #: stopped by a signal and saved
    signal: int | None = None  #: which one


class Trainer:
    """One run.

    Args:
        cfg: complete configuration; `cfg.run` is created, or resumed from with `cfg.resume`.
        console: where progress is drawn.
        world: this process among the others; None: alone, or what a launcher says.
        sinks: functions (step, stage, values) of one's own, called with everything that is logged.
        algorithm: pseudo-labels of one's own instead of what the configuration names.
        recorder: how steps are recorded; None: as CUDA graphs, where --compile graphs asks for them.

    Attributes:
        stage: the present one.
        done: its optimizer steps so far.
        model: students and teachers.

    Raises:
        FastDMTError, DataError: bad input, each with the file and what to do.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        console: Console | None = None,
        sinks: Sequence[Callable] = (),
        *,
        world: World | None = None,
        algorithm: Algorithm | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.world = world or join(cfg)
        console = (console or Console()) if self.world.first else Console(file=open(os.devnull, "w"))
        with self.world.one_by_one():
            self.cfg = cfg = open_run(cfg, self.world.first)
            self.data: Data = open_data(cfg, console)
        self.device = self.world.device
        last, notes = checkpoint.newest(cfg.run, self.world) if cfg.resume else (None, [])
        self.data.summary += notes
        use_kernels(cfg.kernels, self.device)
        scheme = algorithm or CLASSES[cfg.algorithm](cfg.pseudo, cfg.model.probability)
        self.schedule = Schedule(
            cfg, len(self.data.labelled), len(self.data.unlabelled), self.world.size, scheme.warms_up
        )
        self.model, origins = Model.build(cfg, pretrained=last is None)
        with self.world.one_by_one():
            self.origins = keep_origins(cfg.run, origins, fresh=last is None and self.world.first)
        self.model.to(self.device)
        for student in self.model.students:
            student.affine.requires_grad_(scheme.uses_labels or scheme.warms_up)
        with self.world.one_by_one():
            self.data.features = Features.of_run(self.data, self.model.students, self.model.front_ends, console)
        self.autocast, self.loss_scale, self.format = precision(cfg.scale, self.device)
        half, recorder = self.format == "bf16", recorder or chosen_recorder(cfg.scale.compile, self.device)
        self.parallel = Parallel(
            self.model.students, self.model.teachers, cfg.scale, self.world, half, recorded=recorder is not None
        )
        self.graph = StepGraph(recorder) if recorder and not self.parallel.sharded else None
        self.algorithm = DualMeanTeacherStep(
            self.model.students,
            self.model.teachers,
            scheme,
            cfg.pseudo,
            size=(cfg.data.size, cfg.data.size),
            min_agree=self.data.dataset.min_agree,
            group=self.world.group,
            calls=self.parallel.calls,
            negatives=Negatives.of_run(cfg, self.model.front_ends, self.device, self.data.features),
        )
        alone, recorded = self.world.size == 1, self.graph is not None
        self.compiled = compile_step(self.algorithm, cfg.scale.compile, self.device, alone, recorded)
        self.clock = Clock(self.device)
        self.queue = AcceptedQueue(cfg.scale.pack_accepted) if cfg.scale.pack_accepted else None
        self.bad = BadSteps(cfg, self.world)
        self.saver = checkpoint.Saver(cfg.run, cfg.scale.keep, self.world)
        self.leaving, self.interrupted = Leaving(), False
        self.observer = Observer(cfg.run, console, cfg.logger, sinks) if self.world.first else Silent()
        validator = Validator(self.model, self.parallel, self.world, self.data)
        own = (self.schedule, self.model, self.algorithm, validator, self.observer, self.clock, self.queue)
        parts = Parts(cfg, self.world, self.data, *own)
        self.warmup, self.unbiased = Warmup(parts), Unbiased(parts)
        self.stage: Stage = self.warmup
        self.done = 0
        self._loaders: list[Loader] = []
        self._batches: list[Iterator[Batch]] = []
        self._new_update()
        if last is not None:
            self._restore(last)

    # ------------------------------------------------------------------ the run

    def run(self) -> Outcome:
        """Train to the end, or until a signal asks to stop."""
        self.observer.open(self.global_step)
        if self.world.first:
            self.data.write_splits(self.cfg.run)
        chosen = self.schedule.line(f"{self.device} in {self.format}{self.parallel.many}")
        for line in (*self.data.summary, *self.origins, *self.compiled.notes, *self.parallel.notes, chosen):
            self.observer.say(line)
        with lock.held(self.cfg.run, self.world.first), self.leaving, manual_gc():
            try:
                if self.stage is self.warmup:
                    self._train()
                    if self.done == self.stage.total:
                        self._begin_unbiased()
                    self.save()
                if self.stage is self.unbiased and not self.interrupted:
                    self._train()
                self.saver.close()
            finally:
                self.observer.end_stage()
        if self.interrupted:
            self.observer.say(f"stopped at step {self.global_step}, saved; go on with: {resume_command(self.cfg)}")
        elif self.world.first:  # for whoever asks whether to start it again
            (self.cfg.run / "state.txt").write_text(f"finished at step {self.global_step}\n", encoding="utf-8")
        self.observer.close()
        return Outcome(self.cfg.run, self.global_step, self.unbiased.best, self.interrupted, self.leaving.signal)

    def _train(self) -> None:
        """The present stage, from where it stands."""
        stage = self.stage
        if self.done == stage.total:
            return
        self.begin(stage.name)
        self.observer.stage(stage.name, stage.total, self.done)
        while self.done < stage.total and not self.interrupted:
            values = self.step()
            self.observer.advance(self.done)
            self.interrupted = self.world.agree(self.leaving.wanted, self.update.leave)
            if self.done % self.cfg.log_every == 0:
                self.log(values)
            due = self.done % stage.every == 0 or self.done == stage.total
            if due:
                self.observer.scalars(self.global_step, self.done, stage.validate(self.global_step))
                self._train_mode()
            # The last step of stage 1 is saved as the beginning of stage 2: one checkpoint for one step.
            ends = stage is self.warmup and self.done == stage.total
            if (due or self.interrupted or self._saves()) and not ends:
                self.save()
        self.close_loaders()

    def _begin_unbiased(self) -> None:
        """The best of the warm-up, with a fresh optimizer."""
        self.world.broadcast(None)  # rank 0 has written the files
        self.parallel.reshard()
        self.unbiased.start_from_warmup()
        self._new_update()
        self.stage, self.done = self.unbiased, 0

    # ------------------------------------------------------------------ one step

    def begin(self, stage: str) -> list[Loader]:
        """Make a stage the present one and open its loaders where it stands."""
        self.close_loaders()
        wanted = {WARMUP: self.warmup, UNBIASED: self.unbiased}[stage]
        if wanted is not self.stage:
            self.stage, self.done = wanted, 0
        self._loaders = self.stage.loaders()
        for loader in self._loaders:
            loader.load_state_dict({"step": self.done * self.cfg.scale.accumulate})
        self._batches = [iter(loader) for loader in self._loaders]
        self._forget_graph()
        self._train_mode()
        return self._loaders

    def close_loaders(self) -> None:
        """End the loaders of the present stage, and say what they skipped."""
        for loader in self._loaders:
            loader.close()
            for bad, reason in loader.bad.items():
                self.observer.say(f"skipped {bad}: {reason}")
        self._loaders, self._batches = [], []

    def step(self, batches: Sequence[Iterator[Batch]] | None = None) -> dict[str, Tensor]:
        """One optimizer step of the present stage, from the loader to the teachers; waits for nothing on the device.

        Args:
            batches: where batches come from instead of the stage's loaders (an iterator each); `--accumulate` parts
                of each are drawn.

        Returns:
            What a log shows, 0-d tensors on the device: the mean over the parts.
        """
        sources, parts = self._batches if batches is None else batches, self.cfg.scale.accumulate
        log = (self.done + 1) % self.cfg.log_every == 0

        def draw(k: int) -> Batch:
            batch = next(sources[k])
            self.bad.saw(batch)
            self.clock.lap("data")
            return batch

        self.update.rate(self.schedule.rates(self.stage.name, self.done))
        self.stage.before_step(self.done)
        if self.world.size > 1:
            self.update.wants.fill_(self.leaving.wanted)
        self.clock.start()
        if self.graph is None:
            values, bad = self._learn(draw, log)
        else:
            drawn = [draw(k) for _ in range(parts) for k in range(len(sources))]
            with self.clock.paused():
                values, bad = self.graph.step(drawn, lambda batches: self._learn(lambda k: next(batches), True))
            self.clock.lap("graph")
        self.bad.add(self.global_step + 1, bad)
        self.done += 1
        return values

    def _learn(self, draw: Callable[[int], Batch], log: bool) -> tuple[dict[str, Tensor], Tensor]:
        """From batches to teachers; what a log shows, and the flag of a step that is a fault."""
        parts = self.cfg.scale.accumulate
        self.update.zero()
        found, losses = [], []
        for part in range(parts):
            self.parallel.synchronise_gradients(part == parts - 1)
            self.algorithm.place(part * self.world.size + self.world.rank)
            found.append({})
            for forward in self.stage.forwards(draw, log):
                with self.autocast(), self.compiled:
                    loss, values = forward()
                self.backward(loss)
                self.clock.lap("students")
                losses.append(loss.detach())
                found[-1] |= values
        bad = self._apply(losses[0] if len(losses) == 1 else torch.stack(losses).mean())
        self.stage.after_step()
        return mean_of(found), bad

    def backward(self, loss: Tensor) -> None:
        """Add a part's share of the step's gradient."""
        parts = self.cfg.scale.accumulate
        loss = loss / parts if parts > 1 else loss
        (loss if self.loss_scale is None else loss * self.loss_scale.value).backward()

    def _apply(self, loss: Tensor) -> Tensor:
        """The optimizer's step; teachers and shards are ready for the EMA."""
        self.parallel.reshard()
        bad = self.update(loss, self.loss_scale)
        if self.loss_scale is not None:
            self.loss_scale.update(bad)
            bad = (~loss.isfinite()).float()  # an overflow of the scaled gradient is routine, not a fault
        for student in self.model.students:
            student.after_step()
        self.clock.lap("optimizer")
        return bad

    def _train_mode(self) -> None:
        for student in self.model.students:
            student.train()
        for teacher in self.model.teachers:
            teacher.eval()

    def log(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """The one wait for the device. Every rank's mean; steps that were skipped; where the time went."""
        stack = torch.stack([value.float() for value in values.values()]) / self.world.size
        numbers = dict(zip(values, self.world.sum(stack).tolist(), strict=True))
        self.bad.read(self.global_step, numbers, self.observer)
        self.observer.scalars(self.global_step, self.done, numbers)
        speed = self.clock.speed(self.schedule.rows(self.stage.name))
        self.observer.timings(self.global_step, speed)
        return numbers

    def _new_update(self) -> None:
        cfg, parallel = self.cfg, self.parallel
        how = {"recorded": self.graph is not None, "averages": parallel.averages_late}
        self.update = Update(self.model.students, cfg.optim, cfg.scale.optimizer, self.world, parallel.sharded, **how)
        self._forget_graph()

    def _forget_graph(self) -> None:
        if self.graph is not None:
            self.graph.forget()

    # ------------------------------------------------------------------ state

    @property
    def global_step(self) -> int:
        """Optimizer steps since the beginning of stage 1."""
        return self.done + (self.warmup.total if self.stage is self.unbiased else 0)

    def state_dict(self) -> dict[str, Any]:
        """Everything the run goes on from.

        Returns:
            "tensors": name -> the live tensor, sharded or not, of a shape that all processes share; and "progress":
            stage, step, best values, and this process's state of the random generators.
        """
        tensors = self.model.tensors() | self.update.tensors()
        if self.loss_scale is not None:
            tensors |= {"loss_scale.value": self.loss_scale.value, "loss_scale.good": self.loss_scale.good}
        if self.queue:
            tensors |= {f"queue.{self.world.rank}.{name}": t for name, t in self.queue.state_dict().items()}
        progress = {
            "stage": self.stage.name,
            "done": self.done,
            "best": self.unbiased.best,
            "best_warmup": self.warmup.best,
            "rng": checkpoint.random_state(self.device),
        }
        return {"tensors": tensors, "progress": progress}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, of a trainer of the same model; tensors are copied."""
        tensors, progress = state["tensors"], state["progress"]
        queue = f"queue.{self.world.rank}."
        for name, mine in self.state_dict()["tensors"].items():
            if not name.startswith("queue.") and tensors[name] is not mine:
                assign(mine, tensors[name])
        if self.queue:
            waiting = {n.removeprefix(queue): t for n, t in tensors.items() if n.startswith(queue)}
            self.queue.load_state_dict(waiting, self.device)
        self.update.remember()
        self._forget_graph()
        self.stage = self.warmup if progress["stage"] == WARMUP else self.unbiased
        self.done = progress["done"]
        self.unbiased.best, self.warmup.best = progress["best"], list(progress["best_warmup"])
        checkpoint.set_random_state(progress["rng"], self.device)

    def save(self) -> None:
        """Hand a checkpoint of this step to the saver; wait for it only where the stage or the run ends."""
        self.parallel.reshard()
        state = self.state_dict()
        progress = state["progress"] | {"rng": self.world.gather(state["progress"]["rng"])}
        self.saver.save(self.global_step, state["tensors"], progress)
        if self.interrupted or self.done == self.stage.total:
            self.saver.wait()

    def _restore(self, folder: Path) -> None:
        """Go on from a checkpoint, of any number of processes.

        Raises:
            FastDMTError: damaged, or of another model.
        """
        tensors = self.state_dict()["tensors"]
        checkpoint.load_into(folder, tensors, self.world)  # in place: shards stay shards
        progress = checkpoint.read_progress(folder)
        streams = progress["rng"]
        if self.queue and len(streams) == self.world.size:  # else it begins empty: its rows are another shape
            tensors |= checkpoint.load_tensors(folder, (f"queue.{self.world.rank}.",))
        # With more processes than were saved, the new ones take the streams of the first ones.
        progress["rng"] = streams[self.world.rank % len(streams)]
        self.load_state_dict({"tensors": tensors, "progress": progress})

    # ------------------------------------------------------------------ plumbing

    def _saves(self) -> bool:
        return self.cfg.save_every > 0 and self.done % self.cfg.save_every == 0

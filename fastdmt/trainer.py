"""The training loop: two stages, their schedules, validation, checkpoints. It knows no method; see dmt.py for that.

stage 1 "warm-up":  students A and B learn from labelled clips, each in its own order; the best epoch goes on
stage 2 "unbiased": teachers = copies of them; students learn from boxes and pseudo-labels; teachers follow by EMA
"""

from __future__ import annotations

import gc
import json
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

import fastdmt_kernels
from fastdmt_loaders import Batch, Plan, make_loader

from . import checkpoint
from .config import TrainConfig, load_config, require, to_dict
from .data import Data, open_data
from .dmt import DualMeanTeacherStep, diagnose
from .draw import training_picture
from .errors import FastDMTError
from .evaluate import validate
from .methods import METHODS
from .model import Model, keep_origins
from .observe import Observer

WARMUP, UNBIASED = "warm-up", "unbiased"


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    run: Path
    step: int
    best: float  #: validation CIoU@0.5 (absolute), teachers' mean, in 0..1
    interrupted: bool  #: stopped by a signal and saved


class Trainer:
    """One run.

    Args:
        cfg: complete configuration; `cfg.run` is created, or resumed from with `cfg.resume`.
        console: where progress is drawn.
        sinks: functions (step, stage, values) of one's own, called with everything that is logged.

    Raises:
        FastDMTError, DataError: bad input, each with the file and the mend.
    """

    def __init__(self, cfg: TrainConfig, console: Console | None = None, sinks: Sequence[Callable] = ()) -> None:
        self.cfg, self.console, self.sinks = cfg, console or Console(), sinks
        self.saved = self._open_run()
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(auto if cfg.device == "auto" else cfg.device)
        fastdmt_kernels.use(cfg.kernels)
        self.data: Data = open_data(cfg, self.console)
        self.model, origins = Model.build(cfg, pretrained=self.saved is None)
        self.origins = keep_origins(cfg.run, origins, fresh=self.saved is None)
        self.model.to(self.device)
        self.method = METHODS[cfg.method](cfg.pseudo, cfg.model.probability)
        self.algorithm = DualMeanTeacherStep(
            self.model.students,
            self.model.teachers,
            self.method,
            cfg.pseudo,
            size=(cfg.data.size, cfg.data.size),
            min_agree=self.data.dataset.min_agree,
        )
        self.stage_steps = self._stage_steps()
        self.stage, self.done, self.best = WARMUP, 0, -1.0
        self.best_warmup = [-1.0, -1.0]
        self.optimizers = self._optimizers()
        self.interrupted = False

    # ------------------------------------------------------------------ the two stages

    def run(self) -> Outcome:
        """Train to the end, or until a signal asks to stop."""
        cfg = self.cfg
        if self.saved is not None:
            self._restore(*self.saved)
        step = self.global_step
        self.observer = Observer(cfg.run, self.console, step, cfg.logger, self.sinks)
        self.data.write_splits(cfg.run)
        for line in (*self.data.summary, *self.origins, self._plan_line()):
            self.observer.say(line)
        with self._signals(), _manual_gc():
            try:
                if self.stage == WARMUP:
                    self._warm_up()
                if self.stage == UNBIASED and not self.interrupted:
                    self._learn_unbiased()
            finally:
                self.observer.end_stage()
        if self.interrupted:
            self.observer.say(f"stopped at step {self.global_step}, saved; go on with: {self._resume_command()}")
        self.observer.close()
        return Outcome(cfg.run, self.global_step, self.best, self.interrupted)

    def _warm_up(self) -> None:
        total = self.stage_steps[WARMUP]
        if total == 0:
            self._begin_unbiased()
            return self._save()
        loaders = [self._loader(self._batch_warmup, 0, seed=10 * self.cfg.seed + 1 + k) for k in range(2)]
        batches = [self._from(loader, self.done) for loader in loaders]
        self.observer.stage(WARMUP, total, self.done)
        every = self._eval_every(WARMUP)
        while self.done < total and not self.interrupted:
            self._set_rates(total)
            losses = []
            for k, student in enumerate(self.model.students):
                student.train()
                loss = self.algorithm.warmup(k, next(batches[k]))
                self._step(k, loss)
                losses.append(loss.detach())
            self._advance()
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
        for k, student in enumerate(self.model.students):
            path = (self.cfg.warm_from or self.cfg.run) / f"warmup-{'AB'[k]}.safetensors"
            if path.is_file() or self.cfg.warm_from:
                student.load_state_dict(checkpoint.read_weights(path))
            self.model.teachers[k].load_state_dict(student.state_dict())
        self.optimizers = self._optimizers()
        self.stage, self.done = UNBIASED, 0

    def _learn_unbiased(self) -> None:
        total = self.stage_steps[UNBIASED]
        loader = self._loader(self.cfg.batch_labelled, self.cfg.batch_unlabelled, seed=10 * self.cfg.seed)
        batches = self._from(loader, self.done)
        self.observer.stage(UNBIASED, total, self.done)
        every = self._eval_every(UNBIASED)
        momentum = torch.full((), self._momentum(total), device=self.device)
        while self.done < total and not self.interrupted:
            self._set_rates(total)
            for student in self.model.students:
                student.train()
            batch = next(batches)
            losses = self.algorithm.unbiased(batch)
            self._step(None, losses.total)
            self.algorithm.update_teachers(momentum)
            self._advance()
            if self._logs():
                truth = diagnose(losses.labels, batch, self.algorithm.size, self.algorithm.min_agree)
                self._log(
                    {
                        "loss": losses.total.detach(),
                        "supervised": losses.supervised,
                        "contrastive": losses.contrastive,
                        "kept": losses.kept,
                        "teachers_iou": losses.iou,
                        "empty": losses.empty,
                        **truth,
                    }
                )
            due = self.done % every == 0 or self.done == total
            if due:
                self._validate_teachers(batch)
            if due or self.interrupted or self._saves():
                self._save()
        loader.close()
        for bad, reason in loader.bad.items():
            self.observer.say(f"skipped {bad}: {reason}")

    # ------------------------------------------------------------------ parts of a step

    def _step(self, k: int | None, loss: Tensor) -> None:
        optimizers = self.optimizers if k is None else [self.optimizers[k]]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for i, optimizer in enumerate(optimizers):
            student = self.model.students[i if k is None else k]
            if self.cfg.optim.clip > 0:
                torch.nn.utils.clip_grad_norm_(student.parameters(), self.cfg.optim.clip)
            optimizer.step()
            student.after_step()

    def _advance(self) -> None:
        self.done += 1
        self.observer.advance(self.done)

    def _log(self, values: dict[str, Tensor]) -> None:
        names = list(values)
        numbers = torch.stack([values[name].float() for name in names]).tolist()  # the one wait for the device
        require(
            all(map(math.isfinite, numbers)),
            f"the loss is not finite at step {self.global_step} ({dict(zip(names, numbers))}); "
            f"lower --lr and go on with: {self._resume_command()}",
        )
        self.observer.scalars(self.global_step, self.done, dict(zip(names, numbers)))

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """One AdamW per student: (w, b) at their own rate; no decay on norms, biases and (w, b)."""
        optim = self.cfg.optim
        out = []
        for student in self.model.students:
            decay, plain = [], []
            for name, p in student.named_parameters():
                if p.requires_grad and name != "affine":
                    (decay if p.ndim > 1 else plain).append(p)
            groups = [
                {"params": decay, "lr": optim.lr, "weight_decay": optim.weight_decay},
                {"params": plain, "lr": optim.lr, "weight_decay": 0.0},
                {"params": [student.affine], "lr": optim.affine_lr, "weight_decay": 0.0},
            ]
            out.append(torch.optim.AdamW(groups, fused=True))
        return out

    def _set_rates(self, total: int) -> None:
        optim = self.cfg.optim
        scale = 0.5 * (1 + math.cos(math.pi * self.done / total)) if optim.schedule == "cosine" else 1.0
        if optim.lr_warmup:
            scale *= min(1.0, (self.done + 1) / (optim.lr_warmup * total))
        lr = optim.lr_unbiased if self.stage == UNBIASED and optim.lr_unbiased else optim.lr
        for optimizer in self.optimizers:
            for group, base in zip(optimizer.param_groups, (lr, lr, optim.affine_lr), strict=True):
                group["lr"] = base * scale

    def _momentum(self, total: int) -> float:
        pseudo = self.cfg.pseudo
        return 0.5 ** (1 / max(1.0, pseudo.half_life * total)) if pseudo.half_life > 0 else pseudo.momentum

    # ------------------------------------------------------------------ validation

    def _validate_warmup(self) -> None:
        values = {}
        scores = self._scores("student A", "student B")
        for k, (student, score) in enumerate(zip(self.model.students, scores, strict=True)):
            name = "AB"[k]
            values[f"val_ciou_{name}"], values[f"val_auc_{name}"] = score["ciou"], score["auc"]
            if score["selection"] > self.best_warmup[k]:
                self.best_warmup[k] = score["selection"]
                checkpoint.write_weights(self.cfg.run / f"warmup-{name}.safetensors", student.state_dict())
        self.observer.scalars(self.global_step, self.done, values)

    def _validate_teachers(self, batch: Batch) -> None:
        score, *others = self._scores("teachers", "A", "B", "students")
        values = {"val_ciou": score["ciou"], "val_auc": score["auc"]}
        values |= {f"val_ciou_{name}": other["ciou"] for name, other in zip(("A", "B", "students"), others)}
        self.observer.scalars(self.global_step, self.done, values)
        self.observer.picture("maps", self.global_step, training_picture(self.model, batch))
        if score["selection"] > self.best:
            self.best = score["selection"]
            checkpoint.write_weights(self.cfg.run / "best.safetensors", self.model.tensors())

    def _scores(self, *sources: str) -> list[dict[str, float]]:
        """Validation CIoU@0.5 and AUC at the absolute threshold; `selection` breaks CIoU's ties by AUC."""
        if not self.data.validation:
            return [{"ciou": 0.0, "auc": 0.0, "selection": float(self.global_step)} for _ in sources]
        batches = self.data.validation_batches(self.model.front_ends, self.device)
        scores = validate(self.model, batches, sources)
        return [scores[s] | {"selection": scores[s]["ciou"] + 1e-3 * scores[s]["auc"]} for s in sources]

    # ------------------------------------------------------------------ state

    @property
    def global_step(self) -> int:
        """Optimizer steps since the beginning of stage 1."""
        return self.done + (self.stage_steps[WARMUP] if self.stage == UNBIASED else 0)

    def _save(self) -> None:
        state = {
            "stage": self.stage,
            "done": self.done,
            "best": self.best,
            "best_warmup": self.best_warmup,
            "optimizers": [o.state_dict() for o in self.optimizers],
            "torch_rng": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        checkpoint.save(self.cfg.run, self.global_step, self.model.tensors(), state)

    def _restore(self, tensors: dict[str, Tensor], state: dict) -> None:
        self.model.load_tensors(tensors, self.cfg.run / "checkpoints")
        self.stage, self.done = state["stage"], state["done"]
        self.best, self.best_warmup = state["best"], list(state["best_warmup"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        torch.set_rng_state(state["torch_rng"])
        if "cuda_rng" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)

    def _open_run(self) -> tuple[dict[str, Tensor], dict] | None:
        run = self.cfg.run
        config = run / "config.json"
        if self.cfg.resume:
            saved = checkpoint.load_last(run)
            require(
                config.is_file(),
                f"nothing to resume in {run}: it has no config.json; leave --resume out, or give the run's folder",
            )
            changed = differences(to_dict(load_config(run)), to_dict(self.cfg))
            require(
                not changed,
                f"{config} says otherwise: {'; '.join(changed)}; resume with the same settings, or give another --run",
            )
            return saved
        require(
            checkpoint.last_step(run) is None,
            f"{run} already holds a run; go on with --resume, or give another --run",
        )
        try:
            run.mkdir(parents=True, exist_ok=True)
            config.write_text(json.dumps(to_dict(self.cfg), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise FastDMTError(f"cannot write {config}: {error.strerror}; give another --run") from None
        return None

    # ------------------------------------------------------------------ plumbing

    def _loader(self, labelled: int, unlabelled: int, seed: int):
        data = self.data
        plan = Plan(len(data.labelled), len(data.unlabelled) if unlabelled else 0, labelled, unlabelled, seed=seed)
        return make_loader(
            data.dataset,
            data.labelled,
            data.unlabelled if unlabelled else [],
            plan,
            data.view(self.model.front_ends, augment=True),
            kind=self.cfg.data.loader,
            device=self.device,
            workers=None if self.cfg.data.workers < 0 else self.cfg.data.workers,
            cache=self.cfg.data.cache,
            max_bad=self.cfg.data.max_bad_files,
        )

    @staticmethod
    def _from(loader, step: int) -> Iterator[Batch]:
        loader.load_state_dict({"step": step})
        return iter(loader)

    @property
    def _batch_warmup(self) -> int:
        return min(self.cfg.optim.batch, len(self.data.labelled))

    def _stage_steps(self) -> dict[str, int]:
        optim, data = self.cfg.optim, self.data
        warmup = optim.warmup_steps or math.ceil(optim.warmup_epochs * len(data.labelled) / self._batch_warmup)
        # The supervised baseline gets as many steps as the methods that see unlabelled clips.
        unlabelled = max(1, optim.batch - self.cfg.batch_labelled)
        steps = optim.steps or math.ceil(optim.epochs * len(data.unlabelled) / unlabelled)
        return {WARMUP: warmup if self.method.warms_up and not self.cfg.warm_from else 0, UNBIASED: steps}

    def _eval_every(self, stage: str) -> int:
        if self.cfg.eval_every:
            return self.cfg.eval_every
        optim = self.cfg.optim
        if stage == WARMUP:
            epoch = math.ceil(len(self.data.labelled) / self._batch_warmup)
        else:
            epoch = math.ceil(len(self.data.unlabelled) / max(1, optim.batch - self.cfg.batch_labelled))
        # Small sets have epochs of a few steps: never more than some 8 validations a stage because of that.
        return max(1, math.ceil(self.stage_steps[stage] / 8), epoch if epoch < self.stage_steps[stage] / 8 else 1)

    def _logs(self) -> bool:
        return self.done % self.cfg.log_every == 0

    def _saves(self) -> bool:
        return self.cfg.save_every > 0 and self.done % self.cfg.save_every == 0

    def _plan_line(self) -> str:
        cfg, steps = self.cfg, self.stage_steps
        return (
            f"{cfg.method} on {self.device}: {steps[WARMUP]} warm-up steps of {self._batch_warmup} labelled, then "
            f"{steps[UNBIASED]} steps of {cfg.batch_labelled} labelled + {cfg.batch_unlabelled} unlabelled"
        )

    def _resume_command(self) -> str:
        return f"fastdmt train --run {self.cfg.run} --resume"

    def _signals(self):
        trainer = self

        class Handlers:
            def __enter__(self):
                def stop(signum, frame):
                    trainer.interrupted = True

                self.old = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}

            def __exit__(self, *exc):
                for s, handler in self.old.items():
                    signal.signal(s, handler)

        return Handlers()


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


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Settings that differ and would change the numbers, as "name: old -> new"."""
    free = {"resume", "run", "device", "workers", "log_every", "cache", "loader", "max_bad_files", "root", "logger"}
    out = []
    for key in old:
        if isinstance(old[key], dict):
            out += differences(old[key], new[key], f"{prefix}{key}.")
        elif key not in free and old[key] != new[key]:
            out.append(f"{prefix}{key} was {old[key]} and is now {new[key]}")
    return out

"""How long a run is and how fast it learns: batches, steps, validations, learning rates, momentum. Plain arithmetic."""

from __future__ import annotations

import math

from fastdmt.config import TrainConfig, require

WARMUP, UNBIASED = "warm-up", "unbiased"


class Schedule:
    """What a configuration means for so many clips and processes.

    Args:
        cfg: the run's configuration.
        labelled, unlabelled: clips of the two training lists.
        processes: over which every batch is shared.
        warms_up: the algorithm has a stage 1.

    Attributes:
        batch_warmup: labelled clips of a step of stage 1, over all processes.
        steps: stage -> optimizer steps.

    Raises:
        FastDMTError: a batch that cannot be shared evenly.
    """

    def __init__(self, cfg: TrainConfig, labelled: int, unlabelled: int, processes: int, warms_up: bool) -> None:
        self.cfg, optim = cfg, cfg.optim
        share = processes * cfg.scale.accumulate
        for name, rows in (("labelled", cfg.batch_labelled), ("unlabelled", cfg.batch_unlabelled)):
            require(
                rows % share == 0,
                f"{rows} {name} clips a step do not divide by {processes} processes times "
                f"{cfg.scale.accumulate} parts; change --batch or --labelled-share",
            )
        require(
            cfg.batch_labelled + cfg.batch_unlabelled >= 2 * share,
            f"a step of {cfg.batch_labelled + cfg.batch_unlabelled} clips gives a process less than two, and BatchNorm "
            "needs two; raise --batch or --labelled-share",
        )
        rows = min(optim.batch, labelled)
        self.batch_warmup = max(2 * share, rows - rows % share)  # a single labelled clip comes twice
        warmup = optim.warmup_steps or math.ceil(optim.warmup_epochs * labelled / self.batch_warmup)
        # The supervised baseline gets as many steps as the algorithms that see unlabelled clips.
        steps = optim.steps or math.ceil(optim.epochs * unlabelled / max(1, optim.batch - cfg.batch_labelled))
        self.steps = {WARMUP: warmup if warms_up and not cfg.warm_from else 0, UNBIASED: steps}

    def rows(self, stage: str) -> int:
        """Clips of a step over all processes."""
        return self.batch_warmup if stage == WARMUP else self.cfg.batch_labelled + self.cfg.batch_unlabelled

    def eval_every(self, stage: str) -> int:
        """Steps from one validation to the next."""
        return self.cfg.eval_every or max(1, math.ceil(self.steps[stage] / 8))

    def rates(self, stage: str, done: int) -> tuple[float, ...]:
        """Learning rates after `done` steps of a stage.

        Returns:
            Of the weights, of norms and biases, of (w, b), and, with --lr-encoders, of the encoders' weights and norms.
        """
        optim, total = self.cfg.optim, self.steps[stage]
        scale = 0.5 * (1 + math.cos(math.pi * done / total)) if optim.schedule == "cosine" else 1.0
        if optim.lr_warmup:
            scale *= min(1.0, (done + 1) / (optim.lr_warmup * total))
        lr = optim.lr_unbiased if stage == UNBIASED and optim.lr_unbiased else optim.lr
        lr = lr * scale
        encoders = (lr * optim.lr_encoders,) * 2 if optim.lr_encoders > 0 else ()
        return lr, lr, optim.affine_lr * scale, *encoders

    @property
    def momentum(self) -> float:
        """m of the teachers, after every step of stage 2."""
        pseudo = self.cfg.pseudo
        if pseudo.half_life > 0:
            return 0.5 ** (1 / max(1.0, pseudo.half_life * self.steps[UNBIASED]))
        return pseudo.momentum

    def line(self, where: str) -> str:
        """The run in a line, for the log."""
        cfg, rows = self.cfg, self.rows(WARMUP)
        return (
            f"{cfg.algorithm} on {where}: {self.steps[WARMUP]} warm-up steps of {rows} labelled, then "
            f"{self.steps[UNBIASED]} steps of {cfg.batch_labelled} labelled + {cfg.batch_unlabelled} unlabelled"
        )

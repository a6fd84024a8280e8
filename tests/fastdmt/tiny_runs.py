"""Runs of a few steps on the demo's files."""

import dataclasses
import os

from rich.console import Console

from fastdmt.presets import preset
from fastdmt.runs import checkpoint
from fastdmt.training.trainer import Trainer

QUIET = Console(file=open(os.devnull, "w"))


def tiny(data, run, **changes):
    base = preset("demo")
    optim = dataclasses.replace(base.optim, batch=8, warmup_steps=4, steps=6)
    return dataclasses.replace(
        base,
        run=run,
        eval_every=2,
        log_every=1,
        data=dataclasses.replace(base.data, root=data, size=32, audio_augment="light"),
        optim=optim,
        pseudo=dataclasses.replace(base.pseudo, lambda_u=0.1),
        **changes,
    )


def scaled(files, run, **scale):
    """A run whose teachers keep some clips, small steps so that rounding stays rounding."""
    cfg = tiny(files, run)
    return dataclasses.replace(
        cfg,
        optim=dataclasses.replace(cfg.optim, lr=1e-4, lr_unbiased=0.0, lr_warmup=0.0),
        pseudo=dataclasses.replace(cfg.pseudo, delta=0.5, tau=0.3, ignore_below=None),
        model=dataclasses.replace(cfg.model, affine_init=(10.0, 0.0)),
        scale=dataclasses.replace(cfg.scale, **scale),
    )


def train(cfg):
    return Trainer(cfg, QUIET).run()


def final(run):
    return checkpoint.load_tensors(run / "checkpoints" / "step-0000010", prefixes=("",))

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


def train(cfg):
    return Trainer(cfg, QUIET).run()


def final(run):
    return checkpoint.load_tensors(run / "checkpoints" / "step-0000010", prefixes=("",))

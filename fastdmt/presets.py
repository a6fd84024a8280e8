"""Complete configurations by name: a preset is a function that returns one, and single flags replace its fields."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from fastdmt.config import DataConfig, ModelConfig, OptimConfig, PseudoLabelConfig, TrainConfig, require


def _real(name: str, **optim: Any) -> TrainConfig:
    return TrainConfig(
        preset=name,
        run=Path("runs") / name,
        data=DataConfig(root=Path("data") / name.split("-")[0]),
        optim=OptimConfig(**optim),
    )


def _demo() -> TrainConfig:
    return TrainConfig(
        preset="demo",
        data=DataConfig(size=96),
        model=ModelConfig(visual="small", audio_a="small-logmel", audio_b="small-spectrogram", dim=128),
        # From scratch and for minutes, the contrastive loss stays at chance: the demo leaves it out.
        # With negatives alone its maps shrink (30.0 CIoU); the foreground's own weight brings the objects back.
        pseudo=PseudoLabelConfig(
            delta=0.6, tau=0.7, ignore_below=0.4, lambda_u=0.0, half_life=0.15, foreground=0.25, negatives=0.5
        ),
        optim=OptimConfig(
            warmup_steps=250,
            steps=600,
            batch=48,
            labelled_share=1 / 3,
            lr=3e-3,
            lr_unbiased=2e-3,
            affine_lr=3e-3,
            schedule="cosine",
            lr_warmup=0.2,
        ),
        log_every=5,
    )


def _real_small() -> TrainConfig:
    return TrainConfig(
        preset="real-small",
        run=Path("runs/real-small"),
        data=DataConfig(root=Path("data/real"), size=192, feature_crops=3),
        model=ModelConfig(
            visual="efficientnet-lite0",
            visual_weights="lite0",
            audio_a="small-logmel",
            audio_b="soundnet8",
            audio_weights_b="sound8",
            freeze=-1,
            freeze_audio="B",
            head="conv",
            head_dropout=0.3,
            dim=128,
            temperature=0.07,
        ),
        pseudo=PseudoLabelConfig(
            delta=0.6,
            tau=0.05,
            lambda_u=0.1,
            lambda_warmup=0.1,
            foreground=0.25,
            negatives=0.5,
            half_life=0.2,
        ),
        optim=OptimConfig(
            warmup_steps=80,
            steps=400,
            batch=48,
            lr=2e-3,
            lr_unbiased=2e-3,
            weight_decay=1e-2,
            schedule="cosine",
            lr_warmup=0.1,
        ),
    )


def _paper() -> TrainConfig:
    base = _real("paper", warmup_epochs=20, epochs=100)
    return dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, audio_augment="none"),
        pseudo=PseudoLabelConfig(ignore_below=None),
    )


PRESETS = {
    "demo": _demo,
    "real-small": _real_small,
    "flickr-10k": lambda: _real("flickr-10k", epochs=100),
    "flickr-144k": lambda: _real("flickr-144k", epochs=20),
    "vggsound-10k": lambda: _real("vggsound-10k", epochs=100),
    "vggsound-144k": lambda: _real("vggsound-144k", epochs=20),
    "paper": _paper,
}


def makes_demo(cfg: TrainConfig) -> bool:
    """Whether a missing data folder is filled with the demo's files: a new run of the demo's preset, in its own place.

    Any other folder was named by a person, or by a run that was trained on what lay there: it is never invented.
    """
    return cfg.preset == "demo" and not cfg.resume and cfg.data.root.absolute() == DataConfig().root.absolute()


def require_data(cfg: TrainConfig, made: bool = False) -> None:
    """The data folder is there.

    Args:
        made: it is also good where `makes_demo` says that it will be made.

    Raises:
        FastDMTError: it is not.
    """
    root = cfg.data.root
    require(
        root.is_dir() or (made and not root.exists() and makes_demo(cfg)),
        f"{root}: no such folder; give --data FOLDER, the one that holds frames/ and audio/",
    )


def preset(name: str) -> TrainConfig:
    """The complete configuration of a preset.

    Raises:
        FastDMTError: the name is unknown; the message lists the known ones.
    """
    require(name in PRESETS, f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]()

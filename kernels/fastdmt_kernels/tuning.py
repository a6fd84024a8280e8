"""Launch configurations: shipped as JSON by GPU name, read once, never searched for at a user's start."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from pathlib import Path

import torch

FOLDER = Path(__file__).with_name("tuned")


def slug(gpu: str) -> str:
    """The file name of a GPU: "NVIDIA H100 80GB HBM3" -> "nvidia-h100-80gb-hbm3"."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


@functools.cache
def load(gpu: str) -> dict[str, dict]:
    """Kernel name -> keyword arguments of its launch: the default, overlaid by the files whose name begins the GPU's.

    A longer name wins: nvidia-h100-pcie.json over nvidia-h100.json.
    """
    table = json.loads((FOLDER / "default.json").read_text())
    files = [f for f in FOLDER.glob("*.json") if f.stem != "default" and f"{slug(gpu)}-".startswith(f"{f.stem}-")]
    for file in sorted(files, key=lambda f: len(f.stem)):
        for kernel, config in json.loads(file.read_text()).items():
            table[kernel] = {**table[kernel], **config}
    return table


@functools.cache
def _gpu_name(device: torch.device) -> str:
    return {"cuda": torch.cuda.get_device_name, "cpu": lambda _: "interpreter"}[device.type](device)


_pretended: str | None = None


@contextlib.contextmanager
def pretending(gpu: str):
    """Configurations of another GPU than the one at hand, for ahead-of-time compilation."""
    global _pretended
    _pretended = gpu
    try:
        yield
    finally:
        _pretended = None


def config(kernel: str, device: torch.device) -> dict:
    """The configuration of one kernel on one device, as a dict of its own."""
    return dict(load(_gpu_name(device) if _pretended is None else _pretended)[kernel])

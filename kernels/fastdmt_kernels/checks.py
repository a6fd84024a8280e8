"""What a public function says about an argument it cannot take: its name, what came, what is wanted."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def tensor(name: str, value, shape: str, dtypes: tuple[torch.dtype, ...] = FLOATS) -> None:
    """`shape` is written as in the docstrings, e.g. "[N, D, h, w]"; only the number of letters is tested here."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; a tensor {shape} is wanted")
    letters = [letter for letter in shape.strip("[]").split(",") if letter.strip()]
    if value.dim() != len(letters):
        raise ValueError(f"{name} has shape {list(value.shape)}; {shape} is wanted")
    if value.dtype not in dtypes:
        wanted = ", ".join(str(d).removeprefix("torch.") for d in dtypes)
        raise TypeError(f"{name} is {str(value.dtype).removeprefix('torch.')}; {wanted} is wanted")


def same_size(what: str, name_a: str, size_a: int, name_b: str, size_b: int) -> None:
    if size_a != size_b:
        raise ValueError(f"{name_b} holds {size_b} {what}, {name_a} holds {size_a}; the same number is wanted")


def same_device(name: str, anchor: Tensor, /, **others: Tensor | None) -> None:
    for key, other in others.items():
        if other is not None and other.device != anchor.device:
            raise ValueError(f"{key} is on {other.device}, {name} on {anchor.device}; one device is wanted")


def not_empty(name: str, value: Tensor, *dims: int) -> None:
    """The batch may be empty; these dimensions may not."""
    if any(value.shape[d] == 0 for d in dims):
        raise ValueError(f"{name} has shape {list(value.shape)}; only the batch may be 0")


def number(name: str, value, low: float, high: float, wanted: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a {type(value).__name__}; a Python number is wanted")
    if not low < value < high:
        raise ValueError(f"{name} is {value}; {wanted} is wanted")


def scalar(name: str, value: Tensor) -> None:
    if value.numel() != 1 or not value.is_floating_point():
        raise ValueError(f"{name} has shape {list(value.shape)} and is {value.dtype}; one float is wanted")


def frame_size(name: str, size) -> None:
    if len(size) != 2 or size[0] < 1 or size[1] < 1:
        raise ValueError(f"{name} is {size}; (H, W) in pixels is wanted")


def one_of(name: str, value, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; one of {', '.join(choices)} is wanted")


def affine(name: str, value) -> None:
    tensor(name, value, "[2]")
    if value.shape[0] != 2:
        raise ValueError(f"{name} has shape {list(value.shape)}; the pair (w, b) is wanted")

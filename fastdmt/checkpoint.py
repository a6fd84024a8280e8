"""Checkpoints that survive a crash at any moment: written beside, synced, renamed; weights as safetensors.

RUN/checkpoints/step-0000350/model.safetensors   students.0.*, students.1.*, teachers.0.*, teachers.1.*
                             state.pt            optimizers, random states, step, best value
RUN/checkpoints/last                             name of the newest complete folder
RUN/best.safetensors                             weights with the best validation so far
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import FastDMTError


def save(run: Path, step: int, tensors: Mapping[str, Tensor], state: dict[str, Any], keep: int = 2) -> Path:
    """Write one checkpoint, then point `last` at it, then remove all but the newest `keep`.

    Raises:
        FastDMTError: the disk is full or read-only; the previous checkpoint stays as it was.
    """
    folder = run / "checkpoints"
    final = folder / f"step-{step:07d}"
    partial = folder / f".partial-{step:07d}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_weights(partial / "model.safetensors", tensors)
        torch.save(state, partial / "state.pt")
        _sync(partial / "state.pt")
        shutil.rmtree(final, ignore_errors=True)  # left by a crash before `last` named it
        os.replace(partial, final)
        _write_text(folder / "last", final.name)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise _full(final, error, last_step(run)) from None
    for old in sorted(folder.glob("step-*"))[:-keep]:
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Atomic safetensors file of contiguous CPU copies."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file({k: t.detach().to("cpu", copy=False).contiguous() for k, t in tensors.items()}, partial, metadata)
        _sync(partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise _full(path, error, None) from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        FastDMTError: absent or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise FastDMTError(f"{path} cannot be read ({error}); train again or give another run") from None


def last_step(run: Path) -> int | None:
    """Step of the newest complete checkpoint, or None."""
    pointer = run / "checkpoints" / "last"
    return int(pointer.read_text().strip().removeprefix("step-")) if pointer.is_file() else None


def load_last(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and state of the newest complete checkpoint, or None when the run has none."""
    step = last_step(run)
    if step is None:
        return None
    folder = run / "checkpoints" / f"step-{step:07d}"
    tensors = read_weights(folder / "model.safetensors")
    try:
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except Exception as error:
        raise FastDMTError(f"{folder / 'state.pt'} cannot be read ({error}); remove {folder} and resume") from None
    return tensors, state


def _full(path: Path, error: Exception, last: int | None) -> FastDMTError:
    text = str(error)
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(
        sign in text for sign in ("No space left", "enforce fail", "file write failed", "unexpected pos")
    )
    reason = "the disk is full" if full else text.splitlines()[0]
    kept = "" if last is None else f"; the checkpoint of step {last} is whole"
    return FastDMTError(f"cannot write {path}: {reason}{kept}; make room, then go on with --resume")


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    _sync(partial)
    os.replace(partial, path)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())

"""Checkpoints that survive a crash at any moment: written beside, synced, renamed, behind the training's back.

RUN/checkpoints/step-0000350/*.distcp, .metadata   every tensor by name, in torch.distributed.checkpoint's format
                             state.pt              stage, step, best values, random states
RUN/checkpoints/last                               name of the newest complete folder
RUN/best.safetensors                               weights with the best validation so far

Each rank writes its shards. A checkpoint of any number of processes, sharded or not, loads in any other.
"""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from fastdmt.distributed.processes import World
from fastdmt.errors import FastDMTError
from fastdmt.runs.index import Reader, read_index

warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


class Saver:
    """Writes checkpoints in a thread; at most one at a time.

    Args:
        run: run folder.
        keep: checkpoints that stay.
        world: every rank calls `save` and `wait` alike.
    """

    def __init__(self, run: Path, keep: int, world: World) -> None:
        self.run, self.keep, self.world = run, keep, world
        self.group = dist.new_group(backend="gloo") if world.size > 1 else None  # the thread's own
        self.stager = DefaultStager(StagingOptions(False, False, False, False))
        self.pool = ThreadPoolExecutor(1, "checkpoint")
        self.future: Future | None = None
        if world.first:
            for left in (run / "checkpoints").glob(".partial-*"):  # by a crash
                shutil.rmtree(left, ignore_errors=True)

    def save(self, step: int, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        """Copy everything to the host, then write it while training goes on.

        Raises:
            FastDMTError: the checkpoint before this one could not be written (disk full, read-only); the last good
                one is whole.
        """
        self.wait()
        staged = self.stager.stage(dict(tensors))
        self.future = self.pool.submit(self._write, step, staged, state)

    def wait(self) -> None:
        """Until the last checkpoint is on disk."""
        if self.future is not None:
            future, self.future = self.future, None
            future.result()

    def close(self) -> None:
        self.wait()
        self.pool.shutdown()
        self.stager.close()

    def _write(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        folder = self.run / "checkpoints"
        final, partial = folder / f"step-{step:07d}", folder / f".partial-{step:07d}"
        try:
            if self.world.first:
                partial.mkdir(parents=True, exist_ok=True)
                _write_state(partial / "state.pt", state)
            dcp.save(tensors, checkpoint_id=partial, process_group=self.group, no_dist=self.group is None)
            if self.world.first:
                publish(folder, partial, final, self.keep)
        except (Exception, CheckpointException) as error:
            if self.world.first:
                shutil.rmtree(partial, ignore_errors=True)
            raise _full(final, error, last_step(self.run)) from None


def publish(folder: Path, partial: Path, final: Path, keep: int) -> None:
    """Rename a complete folder, point `last` at it, then remove all but the newest `keep`."""
    shutil.rmtree(final, ignore_errors=True)  # left by a crash before `last` named it
    os.replace(partial, final)
    _write_text(folder / "last", final.name)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        if old != final:
            shutil.rmtree(old, ignore_errors=True)


def last_step(run: Path) -> int | None:
    """Step of the newest complete checkpoint, or None."""
    pointer = run / "checkpoints" / "last"
    return int(pointer.read_text().strip().removeprefix("step-")) if pointer.is_file() else None


def last_folder(run: Path) -> Path | None:
    """Folder of the newest complete checkpoint, or None."""
    step = last_step(run)
    return None if step is None else run / "checkpoints" / f"step-{step:07d}"


def read_state(folder: Path) -> dict[str, Any]:
    """What a checkpoint holds beside its tensors."""
    try:
        return torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except Exception as error:
        raise FastDMTError(f"{folder / 'state.pt'} cannot be read ({error}); remove {folder} and resume") from None


def load_into(folder: Path, tensors: dict[str, Tensor], world: World | None = None) -> None:
    """Fill tensors, sharded or not, with what a checkpoint holds under their names.

    Raises:
        FastDMTError: damaged, or of another model.
    """
    group = world.control if world is not None and world.size > 1 else None
    try:
        dcp.load(tensors, storage_reader=Reader(folder), process_group=group, no_dist=group is None)
    except (Exception, CheckpointException) as error:
        raise FastDMTError(
            f"{folder} is damaged or holds another model ({_reason(error)}); use the run's own config.json, or remove "
            f"{folder} and name an older one in {folder.parent / 'last'}"
        ) from None


def load_tensors(folder: Path, prefixes: tuple[str, ...] = ("students.", "teachers.")) -> dict[str, Tensor]:
    """Whole tensors of a checkpoint whose names begin so, on the host, in one process."""
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in read_index(folder).state_dict_metadata.items()
        if name.startswith(prefixes)
    }
    load_into(folder, tensors)
    return tensors


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Atomic safetensors file of contiguous CPU copies."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file({k: t.detach().to("cpu", copy=False).contiguous() for k, t in tensors.items()}, partial, metadata)
        os.umask(mask := os.umask(0))
        partial.chmod(0o666 & ~mask)  # safetensors lets the owner alone read
        _sync(partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise _full(path, error, None) from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, or the localizers' of a checkpoint's folder.

    Raises:
        FastDMTError: absent or damaged.
    """
    if path.is_dir():
        return load_tensors(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise FastDMTError(f"{path} cannot be read ({error}); train again or give another run") from None


def _reason(error: BaseException) -> str:
    """In one line; of several processes' failures the first."""
    if isinstance(error, CheckpointException):
        error = next((failure for failure, _ in error.failures.values()), error)
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _full(path: Path, error: BaseException, last: int | None) -> FastDMTError:
    text = _reason(error)
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(
        sign in text for sign in ("No space left", "enforce fail", "file write failed", "unexpected pos")
    )
    reason = "the disk is full" if full else text
    kept = "" if last is None else f"; the checkpoint of step {last} is whole"
    return FastDMTError(f"cannot write {path}: {reason}{kept}; make room, then go on with --resume")


def _write_state(path: Path, state: dict[str, Any]) -> None:
    torch.save(state, path)
    _sync(path)


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    _sync(partial)
    os.replace(partial, path)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())

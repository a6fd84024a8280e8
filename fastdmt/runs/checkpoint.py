"""Checkpoints that survive a crash at any moment: written beside, synced, renamed, behind the training's back.

RUN/checkpoints/step-0000350/*.distcp, .metadata   every tensor by name, in torch.distributed.checkpoint's format
                             state.pt              stage, step, best values, random states
                             sha256.json           of each of these files
RUN/checkpoints/last                               name of the newest complete folder
RUN/best.safetensors                               weights with the best validation so far

Each rank writes its shards. A checkpoint of any number of processes, sharded or not, loads in any other.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from fastdmt.distributed.processes import World
from fastdmt.errors import FastDMTError, first_line
from fastdmt.files import cannot_write, sync, write_text
from fastdmt.runs import weights
from fastdmt.runs.index import Reader, read_index

DIGESTS = "sha256.json"
STEP = re.compile(r"step-(\d{7,})")

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
        self.group: Any = None  # the thread's own
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
        self.group = self.world.own_group("checkpoint")
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
            last = last_step(self.run)
            advice = "make room, then type the same command again"
            if last is not None:
                advice = f"the checkpoint of step {last} is whole; make room, then go on with --resume"
            raise cannot_write(final, _cause(error), advice) from None


def publish(folder: Path, partial: Path, final: Path, keep: int) -> None:
    """Digest a complete folder, rename it, point `last` at it, then remove all but the newest `keep`.

    Folders of later steps are removed too: training went on from an older one, and passes them again.
    """
    digests = {path.name: weights.file_digest(path) for path in sorted(partial.iterdir())}
    write_text(partial / DIGESTS, json.dumps(digests, indent=1) + "\n", durable=True)
    shutil.rmtree(final, ignore_errors=True)  # left by a crash before `last` named it
    os.replace(partial, final)
    write_text(folder / "last", final.name, durable=True)
    steps, mine = _steps(folder), _step_of(final.name) or 0
    for step in [*[s for s in steps if s <= mine][:-keep], *(s for s in steps if s > mine)]:
        shutil.rmtree(folder / f"step-{step:07d}", ignore_errors=True)


def last_step(run: Path) -> int | None:
    """Step of the newest checkpoint, whole or not, or None."""
    folder = run / "checkpoints"
    named = _pointed(folder)
    if named is not None:
        return named
    return max(_steps(folder), default=None)


def newest(run: Path, world: World | None = None) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole: the one that `last` names, else an older one that was kept.

    Args:
        world: every rank calls it, the first one looks.

    Returns:
        Its folder (None where none was ever written), and a line for whoever should know that it is not the last.

    Raises:
        FastDMTError: there are checkpoints, and none is whole.
    """
    if world is None or world.size == 1:
        return _newest(run)
    found: Any = None
    if world.first:
        try:
            found = _newest(run)
        except FastDMTError as error:
            found = str(error)
    found = world.broadcast(found)
    if isinstance(found, str):
        raise FastDMTError(found)
    return found


def _newest(run: Path) -> tuple[Path | None, list[str]]:
    folder = run / "checkpoints"
    pointed, steps = _pointed(folder), _steps(folder)
    order = sorted(steps, key=lambda step: (step == pointed, step), reverse=True)
    wrong = []
    if pointed is None and (folder / "last").exists():
        wrong.append(f"{folder / 'last'} names no checkpoint")
    elif pointed is not None and pointed not in steps:
        wrong.append(f"{folder / f'step-{pointed:07d}'} is missing")
    for step in order:
        path = folder / f"step-{step:07d}"
        reason = damage(path)
        if reason is None:
            return path, [f"{'; '.join(wrong)}: going on from {path.name}"] if wrong else []
        wrong.append(f"{path} is damaged ({reason})")
    if not wrong:
        return None, []
    raise FastDMTError(
        f"{'; '.join(wrong)}: no checkpoint of {run} is whole; restore one from a copy, or remove {folder} and "
        "--resume begins the run again"
    )


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None; one without digests (of an older version) is looked at as a whole."""
    path = folder / DIGESTS
    try:
        if not path.exists():
            read_index(folder)
            read_state(folder)
            return None
        for name, said in json.loads(path.read_text(encoding="utf-8")).items():
            if Path(name).name != name:
                return f"{DIGESTS} names a file elsewhere"
            if not (folder / name).is_file():
                return f"{name} is missing"
            if weights.file_digest(folder / name) != said:
                return f"{name} does not have the SHA-256 it was written with"
    except FastDMTError as error:
        return str(error)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        return f"{path.name} cannot be read ({getattr(error, 'strerror', None) or error})"
    return None


def read_state(folder: Path) -> dict[str, Any]:
    """What a checkpoint holds beside its tensors. Raises FastDMTError."""
    try:
        return torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file raises anything
        raise FastDMTError(
            f"{folder / 'state.pt'} cannot be read ({first_line(_cause(error))}); restore it from a copy"
        ) from None


def read_progress(folder: Path) -> dict[str, Any]:
    """What a training put beside its tensors; see `Trainer.state_dict`. Raises FastDMTError: it is something else."""
    state = read_state(folder)
    try:
        random = [rng["cpu"] for rng in state["rng"]]
        numbers = [state["best"], *state["best_warmup"]]
        good = random and all(isinstance(r, Tensor) and r.dtype == torch.uint8 for r in random)
        good = good and isinstance(state["done"], int) and isinstance(state["stage"], str)
        if good and all(isinstance(number, (int, float)) for number in numbers):
            return state
    except (LookupError, TypeError):
        pass
    raise FastDMTError(f"{folder / 'state.pt'} holds no progress of a training; restore it from a copy")


def load_into(folder: Path, tensors: dict[str, Tensor], world: World | None = None) -> None:
    """Fill tensors, sharded or not, with what a checkpoint holds under their names.

    Raises:
        FastDMTError: damaged, of another model, or with weights that are not finite.
    """
    group = world.control if world is not None and world.size > 1 else None
    try:
        dcp.load(tensors, storage_reader=Reader(folder), process_group=group, no_dist=group is None)
    except (Exception, CheckpointException) as error:
        raise FastDMTError(
            f"{folder} is damaged or holds another model ({first_line(_cause(error))}); use the run's own "
            f"config.json, or remove {folder} and an older checkpoint is taken"
        ) from None
    local = {name: getattr(t, "to_local", lambda t=t: t)() for name, t in tensors.items()}
    weights.require_finite({name: t for name, t in local.items() if not name.startswith("queue.")}, folder)


def load_tensors(folder: Path, prefixes: tuple[str, ...] = ("students.", "teachers.")) -> dict[str, Tensor]:
    """Whole tensors of a checkpoint whose names begin so, on the host, in one process."""
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in read_index(folder).state_dict_metadata.items()
        if name.startswith(prefixes)
    }
    load_into(folder, tensors)
    return tensors


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a weight file, or the localizers' of a checkpoint's folder.

    Raises:
        FastDMTError: absent, damaged, or not finite.
    """
    if path.is_dir():
        return load_tensors(path)
    return weights.read_weights(path, "restore it from a copy, take the run's last checkpoint, or train again")


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Of this process's random generators."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Go on from what `random_state` gave, on another kind of device too."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def _pointed(folder: Path) -> int | None:
    """The step that `last` names, if it names one."""
    try:
        return _step_of((folder / "last").read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        return None


def _steps(folder: Path) -> list[int]:
    """Steps of the folders that are there, the oldest first."""
    found = (_step_of(path.name) for path in folder.glob("step-*") if path.is_dir())
    return sorted(step for step in found if step is not None)


def _step_of(name: str) -> int | None:
    match = STEP.fullmatch(name)
    return None if match is None else int(match[1])


def _cause(error: BaseException) -> BaseException:
    """Of several processes' failures the first."""
    if isinstance(error, CheckpointException):
        return next((failure for failure, _ in error.failures.values()), error)
    return error


def _write_state(path: Path, state: dict[str, Any]) -> None:
    torch.save(state, path)
    sync(path)

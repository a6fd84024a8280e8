"""Decoding on the host, and the plain torch loader: DataLoader workers that decode whole batches."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from fastdmt_loaders import augment, memory
from fastdmt_loaders.batch import RawBatch, ShownBatch, View
from fastdmt_loaders.dataset.dataset import Table
from fastdmt_loaders.dataset.sampler import Plan
from fastdmt_loaders.decode.pictures import read_frame
from fastdmt_loaders.decode.sound import read_sound
from fastdmt_loaders.errors import DataError, MachineError
from fastdmt_loaders.files import MACHINE, MORE_FILES

Item = TypeVar("Item")
Read = TypeVar("Read")
# Open files that a loader process needs here: its queue and its end; and with the tensors that it hands over.
TO_START, HANDED_OVER = 4, 12
SUBSTITUTES = 100  # tries for one row before a run of broken files is an error of its own


def read_item(table: Table, index: int, view: View) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Frame uint8 [R, R, 3] and rate -> float32 PCM of one item. Raises DataError."""
    frame = read_frame(table.frame_path(index), view.resize)
    return frame, read_sound(table.sound_path(index), view.rates, view.seconds)


def read_rows(plan: Plan, step: int, read: Callable[[int], Item]) -> tuple[np.ndarray, list[Item], dict[int, str]]:
    """Reads a step's rows. A broken item is replaced by what its slot holds in a later step.

    Returns:
        index int64 [N] of the items read, the items, and index -> reason of those that were broken.

    Raises:
        DataError: a hundred broken items in a row.
    """
    index, items, bad = plan.index(step), [], {}
    for row in range(len(index)):
        for attempt in range(1, SUBSTITUTES + 1):
            try:
                items.append(read(int(index[row])))
                break
            except MachineError:
                raise
            except DataError as error:
                bad[int(index[row])] = str(error)
                index[row] = plan.substitute(step, row, attempt)
        else:
            raise DataError(f"{SUBSTITUTES} files in a row are broken, the last one: {list(bad.values())[-1]}")
    return index, items, bad


def raw_batch(
    table: Table, plan: Plan, step: int, index: np.ndarray, frames: torch.Tensor, sounds: list, bad: dict[int, str]
) -> RawBatch:
    """What was read, as a RawBatch; `sounds` holds rate -> PCM of each row."""
    pcm = {}
    for rate, first in sounds[0].items():
        pcm[rate] = memory.empty((len(sounds), len(first)))
        np.stack([sound[rate] for sound in sounds], out=pcm[rate].numpy())
    boxes, known = torch.from_numpy(table.boxes[index]), torch.from_numpy(table.known[index])
    return RawBatch(frames, pcm, boxes, known, index, plan.labelled, step, bad=bad)


def read_batch(table: Table, plan: Plan, view: View, step: int) -> RawBatch:
    """A step's items, decoded here."""
    index, items, bad = read_rows(plan, step, lambda item: read_item(table, item, view))
    frames = memory.empty((len(items), view.resize, view.resize, 3), torch.uint8)
    np.stack([frame for frame, _ in items], out=frames.numpy())
    return raw_batch(table, plan, step, index, frames.permute(0, 3, 1, 2), [sound for _, sound in items], bad)


@dataclass
class _From(Sampler):
    """Steps without end."""

    step: int

    def __iter__(self) -> Iterator[int]:
        step = self.step
        while True:
            yield step
            step += 1


@dataclass
class WorkerSource(Dataset, Generic[Read]):
    """Batches by a pool of DataLoader workers, one batch a task; 0 workers read in this process.

    Args:
        read: step -> batch; runs in the workers.
    """

    read: Callable[[int], Read]
    workers: int
    prefetch: int
    pin: bool

    def __getitem__(self, step: int) -> Read | DataError:
        try:
            return self.read(step)
        except DataError as error:
            return error  # raised in a worker, it would arrive wrapped in a traceback

    def batches(self, step: int) -> Iterator[Read]:
        extra = {"prefetch_factor": self.prefetch} if self.workers else {}
        loader = DataLoader(
            self, batch_size=None, sampler=_From(step), num_workers=self.workers, pin_memory=self.pin, **extra
        )
        if self.workers:
            _allow_descriptors(self.workers)
        with _told():
            batches = iter(loader)
        while True:
            with _told():
                batch = next(batches)
            if isinstance(batch, DataError):
                raise batch
            yield batch

    def close(self) -> None:
        """Nothing to free: workers end with their iterator."""


class ShowingSource:
    """Batches that the workers have augmented as well: what is left to do are the frames' floats. For a CPU."""

    def __init__(self, table: Table, plan: Plan, view: View, workers: int, prefetch: int):
        self.table, self.plan, self.view, self.workers, self.prefetch = table, plan, view, workers, prefetch

    def batches(self, step: int) -> Iterator[ShownBatch]:
        """A batch's frames are to be read before the next one is asked for."""
        # The loader asks for another batch as it hands one out, and none is asked for while that one is being read.
        with _told():
            turns = memory.Turns(self.workers * self.prefetch + 1, self._shapes(), shared=self.workers > 0)
        source = WorkerSource(partial(self._show, turns), self.workers, self.prefetch, pin=False)
        for batch in source.batches(step):
            parts = turns.of(batch.step)
            batch.weak, batch.strong = parts["weak"], parts.get("strong", parts["weak"])
            batch.sound = {name: memory.copy(parts[f"sound {name}"]) for name in self.view.front_ends}
            batch.sound_strong = batch.sound
            if self.view.audio_augment != "none":
                batch.sound_strong = {name: memory.copy(parts[f"varied {name}"]) for name in self.view.front_ends}
            yield batch

    def close(self) -> None:
        """Nothing to free: workers end with their iterator."""

    def _shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        n, view = len(self.plan.rows), self.view
        frames = ((n, view.size, view.size, 3), torch.uint8)
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {"weak": frames}
        if view.augment:
            shapes["strong"] = frames
        for name in view.front_ends:
            for kind in ("sound", "varied") if view.audio_augment != "none" else ("sound",):
                shapes[f"{kind} {name}"] = ((n, *augment.heard(view, name).shape[1:]), torch.float32)
        return shapes

    def _show(self, turns: memory.Turns, step: int) -> ShownBatch:
        """In a worker: a batch whose large parts lie in the shared memory."""
        parts = turns.of(step)
        raw = read_batch(self.table, self.plan, self.view, step)
        draws = augment.draws_of(self.plan, step)
        shown = augment.show(raw, draws, self.view, place=lambda name, shape, dtype: parts[name])
        shown.weak = shown.strong = torch.empty(0)
        shown.sound = shown.sound_strong = {}
        return shown


def _allow_descriptors(workers: int) -> None:
    """Raises the soft limit of open files as far as it goes, where so many processes may need it.

    Raises:
        MachineError: too few even to start them; torch could not take back those of half a pool.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/dev/fd"))
    wanted = used + HANDED_OVER * workers
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else max(soft, min(wanted, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < (needed := used + TO_START * workers):
            raise MachineError(f"{workers} loader processes need {needed} open files, {soft} are allowed: {MORE_FILES}")


@contextmanager
def _told() -> Iterator[None]:
    """What became of the worker processes, in one line; other errors as they are. Raises MachineError."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        text = str(error)
        if "Too many open files" in text or "ancdata" in text:
            raise MachineError(MACHINE[errno.EMFILE]) from error
        if any(sign in text for sign in ("DataLoader worker", "No space left", "unable to write to file")):
            raise MachineError(
                "a loader process was killed or had no room: give the machine more memory, /dev/shm more space (docker "
                "run --shm-size 8g), or use fewer --workers; 0 needs neither"
            ) from error
        raise

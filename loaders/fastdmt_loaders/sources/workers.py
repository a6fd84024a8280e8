"""Decoding on the host, and the plain torch loader: DataLoader workers that decode whole batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

Item = TypeVar("Item")
Read = TypeVar("Read")
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


def show_batch(table: Table, plan: Plan, view: View, step: int) -> ShownBatch:
    """A step's items, decoded and augmented here: what is left to do are the frames' floats."""
    return augment.show(read_batch(table, plan, view, step), augment.draws_of(plan, step), view)


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
        batches = iter(loader)
        while True:
            try:
                batch = next(batches)
            except (RuntimeError, OSError) as error:
                raise _told(error) from error
            if isinstance(batch, DataError):
                raise batch
            yield batch

    def close(self) -> None:
        """Nothing to free: workers end with their iterator."""


def _told(error: Exception) -> Exception:
    """What became of the worker processes, in one line; other errors as they are."""
    text = str(error)
    if "DataLoader worker" in text or "No space left" in text or "unable to write to file" in text:
        return MachineError(
            "a loader process was killed or had no room: give the machine more memory, /dev/shm more space (docker run "
            "--shm-size 8g), or use fewer --workers; 0 needs neither"
        )
    if "Too many open files" in text or "ancdata" in text:
        return MachineError("too many open files: raise the limit with `ulimit -n 65536`, or use fewer --workers")
    return error

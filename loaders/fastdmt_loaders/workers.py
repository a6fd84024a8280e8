"""Decoding on the host, and the plain torch loader: DataLoader workers that decode whole batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset, Sampler

from fastdmt_loaders.audio import read_sound
from fastdmt_loaders.batch import RawBatch, View
from fastdmt_loaders.dataset import Table
from fastdmt_loaders.errors import DataError
from fastdmt_loaders.sampler import Plan

MEND = "replace the file or take its id out of the list"
SUBSTITUTES = 100  # tries for one row before a run of broken files is an error of its own


def read_frame(path: str | Path, size: int) -> np.ndarray:
    """A picture as uint8 RGB [size, size, 3]: turned as its EXIF says, resized with PIL's bicubic filter.

    Raises:
        DataError: missing, empty, truncated, or not a picture.
    """
    try:
        with Image.open(path) as image:
            # A JPEG of at least twice the size is decoded at a half, quarter or eighth of it.
            image.draft("RGB", (2 * size, 2 * size))
            image = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such frame; add it or take its id out of the list") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be decoded as a picture ({reason}); {MEND}") from error


def read_item(table: Table, index: int, view: View) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Frame uint8 [R, R, 3] and rate -> float32 PCM of one item. Raises DataError."""
    frame = read_frame(table.frame_path(index), view.resize)
    return frame, read_sound(table.sound_path(index), view.rates, view.seconds)


def read_batch(table: Table, plan: Plan, view: View, step: int) -> RawBatch:
    """A step's items. A broken file is replaced by what its slot holds in a later step, and named in `.bad`.

    Raises:
        DataError: a hundred broken files in a row.
    """
    index = plan.index(step)
    frames = np.empty((len(index), view.resize, view.resize, 3), np.uint8)
    pcm = {rate: np.empty((len(index), view.samples(rate)), np.float32) for rate in view.rates}
    bad: dict[int, str] = {}
    for row in range(len(index)):
        for attempt in range(1, SUBSTITUTES + 1):
            try:
                frames[row], sound = read_item(table, index[row], view)
                break
            except DataError as error:
                bad[int(index[row])] = str(error)
                index[row] = plan.substitute(step, row, attempt)
        else:
            raise DataError(f"{SUBSTITUTES} files in a row are broken, the last one: {list(bad.values())[-1]}")
        for rate, samples in sound.items():
            pcm[rate][row] = samples
    return RawBatch(
        torch.from_numpy(frames).permute(0, 3, 1, 2),
        {rate: torch.from_numpy(samples) for rate, samples in pcm.items()},
        torch.from_numpy(table.boxes[index]),
        torch.from_numpy(table.known[index]),
        index,
        plan.labelled,
        step,
        bad=bad,
    )


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
class WorkerSource(Dataset):
    """Raw batches by a pool of DataLoader workers, one batch a task; 0 workers decode in this process."""

    table: Table
    plan: Plan
    view: View
    workers: int
    prefetch: int
    pin: bool

    def __getitem__(self, step: int) -> RawBatch:
        return read_batch(self.table, self.plan, self.view, step)

    def batches(self, step: int) -> Iterator[RawBatch]:
        extra = {"prefetch_factor": self.prefetch} if self.workers else {}
        return iter(
            DataLoader(
                self, batch_size=None, sampler=_From(step), num_workers=self.workers, pin_memory=self.pin, **extra
            )
        )

    def close(self) -> None:
        pass

"""Decode once, keep uint8 frames and 16-bit sound in memory; then a batch is a gather and the augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from fastdmt_loaders.audio import FRONT_ENDS
from fastdmt_loaders.batch import RawBatch, View
from fastdmt_loaders.dataset import Table
from fastdmt_loaders.errors import DataError
from fastdmt_loaders.parallel import cores
from fastdmt_loaders.sampler import Plan
from fastdmt_loaders.workers import SUBSTITUTES, read_item

# Share of the free memory that an automatically chosen cache may take.
DEVICE_SHARE, HOST_SHARE = 0.4, 0.4
CHUNK = 16  # items decoded by one task: larger temporaries are paid for in page faults


def kept_front_ends(view: View, device: torch.device) -> list[str]:
    """Front-ends of the plain sound that are worth keeping: on a CPU, those that cost a Fourier transform."""
    return [name for name in view.front_ends if name != "waveform"] if device.type == "cpu" else []


def cache_bytes(items: int, view: View, device: torch.device) -> int:
    """Memory that the cache of so many items takes."""
    features = sum(4 * _one(view, name).numel() for name in kept_front_ends(view, device))
    return items * (3 * view.resize**2 + sum(2 * view.samples(rate) for rate in view.rates) + features)


def _one(view: View, name: str) -> torch.Tensor:
    """A front-end's output for one silent item."""
    rate = FRONT_ENDS[name].rate
    return FRONT_ENDS[name].function(torch.zeros(1, view.samples(rate)))


def choose_cache(items: int, view: View, device: torch.device, world: int = 1) -> str:
    """ "device", "host" or "none": the first whose free memory the caches of `world` processes take less than 40% of.

    Processes share the host's memory and have a device each.
    """
    need = cache_bytes(items, view, device)
    if device.type == "cuda" and need < DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return "device"
    return "host" if need * world < HOST_SHARE * free_host_memory() else "none"


def free_host_memory() -> int:
    """Bytes that may still be taken: what the kernel calls available, or what the container's limit leaves."""
    free = 1 << 62
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                free = int(line.split()[1]) * 1024
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            free = min(free, int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return free if free < 1 << 62 else 0


class CacheSource:
    """Raw batches out of memory. Items that could not be decoded are replaced as the worker source does.

    Args:
        where: "device" or "host"; a host cache for a CUDA device hands out pinned batches.
        progress: called with (items done, items in all) while decoding.
    """

    def __init__(
        self,
        table: Table,
        plan: Plan,
        view: View,
        where: str,
        device: torch.device,
        threads: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ):
        self.plan, self.view = plan, view
        self.device = device if where == "device" else torch.device("cpu")
        self.pin = where == "host" and device.type == "cuda"
        n = len(table)
        self.frames = torch.empty((n, view.resize, view.resize, 3), dtype=torch.uint8, device=self.device)
        self.pcm = {r: torch.zeros((n, view.samples(r)), dtype=torch.int16, device=self.device) for r in view.rates}
        self.scale = {rate: np.zeros(n, np.float32) for rate in view.rates}
        self.sound = {name: _one(view, name).repeat_interleave(n, 0) for name in kept_front_ends(view, device)}
        self.bad: dict[int, str] = {}
        done = 0
        chunks = [range(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]
        with ThreadPoolExecutor(threads or cores()) as pool:
            for count in pool.map(lambda rows: self._fill(table, rows), chunks):
                done += count
                if progress is not None:
                    progress(done, n)
        self.usable = np.ones(n, bool)
        self.usable[list(self.bad)] = False
        self.scale = {rate: torch.from_numpy(scale).to(self.device) for rate, scale in self.scale.items()}
        self.boxes = torch.from_numpy(table.boxes).to(self.device)
        self.known = torch.from_numpy(table.known).to(self.device)

    def _fill(self, table: Table, rows: range) -> int:
        frames = np.zeros((len(rows), self.view.resize, self.view.resize, 3), np.uint8)
        pcm = {rate: np.zeros((len(rows), self.view.samples(rate)), np.int16) for rate in self.view.rates}
        exact = {rate: np.zeros(samples.shape, np.float32) for rate, samples in pcm.items()}
        for place, row in enumerate(rows):
            try:
                frames[place], sound = read_item(table, row, self.view)
            except DataError as error:
                self.bad[row] = str(error)
                continue
            for rate, samples in sound.items():
                exact[rate][place] = samples
                # A scale per item keeps 16 bits for quiet sounds and for float files beyond full scale.
                scale = max(float(np.abs(samples).max()), 1e-9) / 32767
                self.scale[rate][row] = scale
                pcm[rate][place] = np.rint(samples / scale)
        self.frames[rows.start : rows.stop] = torch.from_numpy(frames)
        for rate, samples in pcm.items():
            self.pcm[rate][rows.start : rows.stop] = torch.from_numpy(samples)
        for name, features in self.sound.items():
            features[rows.start : rows.stop] = FRONT_ENDS[name].function(torch.from_numpy(exact[FRONT_ENDS[name].rate]))
        return len(rows)

    def batches(self, step: int) -> Iterator[RawBatch]:
        while True:
            yield self.batch(step)
            step += 1

    def batch(self, step: int) -> RawBatch:
        index = self.plan.index(step)
        bad: dict[int, str] = {}
        if self.bad:
            for row in np.flatnonzero(~self.usable[index]):
                for attempt in range(1, SUBSTITUTES + 1):
                    bad[int(index[row])] = self.bad[int(index[row])]
                    index[row] = self.plan.substitute(step, row, attempt)
                    if self.usable[index[row]]:
                        break
                else:
                    raise DataError(f"{SUBSTITUTES} files in a row are broken, the last one: {list(bad.values())[-1]}")
        rows = torch.from_numpy(index).to(self.device, non_blocking=True)
        raw = RawBatch(
            self.frames[rows].permute(0, 3, 1, 2),
            {rate: pcm[rows].float().mul_(self.scale[rate][rows, None]) for rate, pcm in self.pcm.items()},
            self.boxes[rows],
            self.known[rows],
            index,
            self.plan.labelled,
            step,
            {name: features[rows] for name, features in self.sound.items()},
            bad,
        )
        return raw.pin_memory() if self.pin else raw

    def close(self) -> None:
        self.frames = self.pcm = None

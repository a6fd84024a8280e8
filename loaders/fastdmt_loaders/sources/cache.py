"""Decode once, keep uint8 frames and 16-bit sound in memory; then a batch is a gather and the augmentation.

Several processes keep a share each, item i in process i % world, and exchange the rows of every batch: all of them know
the whole plan, so nobody has to ask. An epoch is still one permutation of all items over all ranks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from fastdmt_loaders import augment, memory
from fastdmt_loaders.batch import RawBatch, View
from fastdmt_loaders.dataset.dataset import Table
from fastdmt_loaders.dataset.sampler import Plan
from fastdmt_loaders.errors import DataError
from fastdmt_loaders.frontends import FRONT_ENDS
from fastdmt_loaders.parallel import cores
from fastdmt_loaders.sources.workers import SUBSTITUTES, read_item

# Share of the free memory that an automatically chosen cache may take.
DEVICE_SHARE, HOST_SHARE = 0.4, 0.4
CHUNK = 16  # items decoded by one task: larger temporaries are paid for in page faults


def kept_front_ends(view: View, device: torch.device) -> list[str]:
    """Front-ends of the plain sound that are worth keeping: on a CPU, those that cost a Fourier transform."""
    return [name for name in view.front_ends if name != "waveform"] if device.type == "cpu" else []


def cache_bytes(items: int, view: View, device: torch.device) -> int:
    """Memory that the cache of so many items takes."""
    features = sum(4 * augment.heard(view, name).numel() for name in kept_front_ends(view, device))
    return items * (3 * view.resize**2 + sum(2 * view.samples(rate) for rate in view.rates) + features)


def choose_cache(items: int, view: View, device: torch.device, world: int = 1, shared: bool = False) -> str:
    """The first of "device", "host" whose free memory the caches of `world` processes take less than 40% of, or "none".

    Processes share the host's memory and have a device each; with `shared` each keeps its share of the items only.
    """
    need = cache_bytes(items, view, device)
    everywhere = need if shared else need * world
    if device.type == "cuda" and everywhere / world < DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return "device"
    return "host" if everywhere < HOST_SHARE * free_host_memory() else "none"


def agreed(choice: str, group: dist.ProcessGroup) -> str:
    """The most modest choice of all processes: one without room decides for all."""
    choices: list = [None] * dist.get_world_size(group)
    dist.all_gather_object(choices, choice, group=group)
    return max(choices, key=("device", "host", "none").index)


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
        group: processes that keep a share of the items each, the plan's ranks in their order; None: all items here.
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
        group: dist.ProcessGroup | None = None,
    ):
        self.plan, self.view, self.group = plan, view, group
        self.device = device if where == "device" else torch.device("cpu")
        self.pin = where == "host" and device.type == "cuda"
        self.items = np.arange(len(table)) if group is None else np.arange(plan.rank, len(table), plan.world)
        n = len(self.items)
        self.frames = torch.empty((n, view.resize, view.resize, 3), dtype=torch.uint8, device=self.device)
        self.pcm = {r: torch.zeros((n, view.samples(r)), dtype=torch.int16, device=self.device) for r in view.rates}
        self.scale = {rate: np.zeros(n, np.float32) for rate in view.rates}
        self.sound = {name: augment.heard(view, name).repeat_interleave(n, 0) for name in kept_front_ends(view, device)}
        # Sound whose front-ends are all kept is not touched again unless it is varied.
        names = view.front_ends if view.audio_augment != "none" else set(view.front_ends) - set(self.sound)
        self.asked = {FRONT_ENDS[name].rate for name in names}
        self.bad: dict[int, str] = {}
        done = 0
        chunks = [range(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]
        with ThreadPoolExecutor(threads or cores()) as pool:
            for count in pool.map(lambda rows: self._fill(table, rows), chunks):
                done += count
                if progress is not None:
                    progress(done, n)
        if group is not None:
            found: list = [None] * plan.world
            dist.all_gather_object(found, self.bad, group=group)
            self.bad = {item: reason for bad in found for item, reason in bad.items()}
        self.usable = np.ones(len(table), bool)
        self.usable[list(self.bad)] = False
        self.scale = {rate: torch.from_numpy(scale).to(self.device) for rate, scale in self.scale.items()}
        self.boxes = torch.from_numpy(table.boxes).to(self.device)
        self.known = torch.from_numpy(table.known).to(self.device)

    def _fill(self, table: Table, rows: range) -> int:
        frames = np.zeros((len(rows), self.view.resize, self.view.resize, 3), np.uint8)
        pcm = {rate: np.zeros((len(rows), self.view.samples(rate)), np.int16) for rate in self.view.rates}
        exact = {rate: np.zeros(samples.shape, np.float32) for rate, samples in pcm.items()}
        for place, row in enumerate(rows):
            item = int(self.items[row])
            try:
                frames[place], sound = read_item(table, item, self.view)
            except DataError as error:
                self.bad[item] = str(error)
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
        bad: dict[int, str] = {}
        if self.group is None:
            index = self._index(self.plan, step, bad)
        else:
            whole = self._index(dataclasses.replace(self.plan, rank=0, world=1), step, bad)
            index = whole[self.plan.rows]
        rows = torch.from_numpy(index).to(self.device, non_blocking=True)
        if self.group is None:
            frames, scale = memory.rows(self.frames, rows), {rate: scale[rows] for rate, scale in self.scale.items()}
            pcm = {rate: memory.rows(pcm, rows) for rate, pcm in self.pcm.items() if rate in self.asked}
            sound = {name: memory.rows(features, rows) for name, features in self.sound.items()}
        else:
            frames, pcm, scale, sound = self._exchange(whole)
        raw = RawBatch(
            frames.permute(0, 3, 1, 2),
            pcm,
            self.boxes[rows],
            self.known[rows],
            index,
            self.plan.labelled,
            step,
            sound,
            scale=scale,
            bad=bad,
        )
        return raw.pin_memory() if self.pin else raw

    def _index(self, plan: Plan, step: int, bad: dict[int, str]) -> np.ndarray:
        """Items of a step, broken ones replaced and noted in `bad`."""
        index = plan.index(step)
        if self.bad:
            for row in np.flatnonzero(~self.usable[index]):
                for attempt in range(1, SUBSTITUTES + 1):
                    bad[int(index[row])] = self.bad[int(index[row])]
                    index[row] = plan.substitute(step, row, attempt)
                    if self.usable[index[row]]:
                        break
                else:
                    raise DataError(f"{SUBSTITUTES} files in a row are broken, the last one: {list(bad.values())[-1]}")
        return index

    def _exchange(self, whole: np.ndarray) -> tuple[Tensor, dict, dict, dict]:
        """This process's rows of the global batch `whole`, each from the process that keeps it."""
        world, rank = self.plan.world, self.plan.rank
        wanted = [whole[dataclasses.replace(self.plan, rank=r).rows] for r in range(world)]
        sent = [index[index % world == rank] // world for index in wanted]
        owner = wanted[rank] % world
        out_rows, in_rows = [len(rows) for rows in sent], np.bincount(owner, minlength=world).tolist()
        give = torch.from_numpy(np.concatenate(sent)).to(self.device, non_blocking=True)
        # Rows arrive by owner; where each one goes:
        place = torch.from_numpy(np.argsort(np.argsort(owner, kind="stable"))).to(self.device, non_blocking=True)

        def swap(kept: Tensor) -> Tensor:
            got = kept.new_empty((sum(in_rows), *kept.shape[1:]))
            # As bytes, for backends that do not know every type.
            width = math.prod(kept.shape[1:])
            received, sent = (t.contiguous().view(len(t), width).view(torch.uint8) for t in (got, kept[give]))
            dist.all_to_all_single(received, sent, in_rows, out_rows, group=self.group)
            return got[place]

        pcm, scale = ({r: swap(kept) for r, kept in by.items() if r in self.asked} for by in (self.pcm, self.scale))
        return swap(self.frames), pcm, scale, {name: swap(kept) for name, kept in self.sound.items()}

    def close(self) -> None:
        self.frames = self.pcm = None

"""The loaders' front door: `make_loader` for training, `eval_batches` for evaluation."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
import torch.distributed as dist

from fastdmt_loaders import augment
from fastdmt_loaders.batch import Batch, EvalBatch, RawBatch, ShownBatch, View
from fastdmt_loaders.dataset.dataset import AVDataset, Table
from fastdmt_loaders.dataset.lists import Pair
from fastdmt_loaders.dataset.sampler import Plan
from fastdmt_loaders.decode.pictures import read_frame
from fastdmt_loaders.decode.sound import read_sound
from fastdmt_loaders.errors import DataError
from fastdmt_loaders.parallel import cores, one_thread
from fastdmt_loaders.sources.cache import CacheSource, agreed, cache_bytes, choose_cache
from fastdmt_loaders.sources.workers import ShowingSource, WorkerSource, read_batch

log = logging.getLogger("fastdmt_loaders")


class Loader:
    """Training batches without end, from `step` on. One at a time may be iterated.

    Attributes:
        step: the next step to be yielded; all that a checkpoint needs.
        bad: id -> reason, files found broken so far. Each was replaced and logged once.
        description: what was chosen, for people.
    """

    def __init__(
        self, source, table: Table, plan: Plan, view: View, device, dtype, max_bad: float, description: str, threads=0
    ):
        self.source, self.table, self.plan, self.view = source, table, plan, view
        self.device, self.dtype, self.max_bad, self.description = torch.device(device), dtype, max_bad, description
        self.step = 0
        self.bad: dict[str, str] = {}
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __iter__(self) -> Iterator[Batch]:
        batches = self._ahead() if self.device.type == "cuda" else map(self._finish, self.source.batches(self.step))
        for batch in batches:
            self.step = batch.step + 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a saved step at the next `iter()`."""
        self.step = int(state["step"])

    def close(self) -> None:
        """Frees workers and cache."""
        self.source.close()
        if self.pool:
            self.pool.shutdown()

    def _finish(self, raw: RawBatch | ShownBatch) -> Batch:
        if raw.bad:
            self._note(raw.bad)
        ids = self.table.ids[raw.index].tolist()
        with nullcontext() if self.device.type == "cuda" else one_thread():
            if isinstance(raw, RawBatch):
                draws = augment.draws_of(self.plan, raw.step)
                raw = augment.show(raw.to(self.device), draws, self.view, self.pool)
            return augment.finish(raw, ids, self.dtype)

    def _ahead(self) -> Iterator[Batch]:
        """On CUDA: copies and augmentation of the next batch run on a stream of their own beside the training."""
        stream, waiting = torch.cuda.Stream(self.device), deque()
        stream.wait_stream(torch.cuda.current_stream(self.device))
        source = self.source.batches(self.step)
        while True:
            with torch.cuda.stream(stream):
                batch = self._finish(next(source))
                done = torch.cuda.Event()
                done.record(stream)
            waiting.append((batch, done))
            if len(waiting) == 2:
                yield self._hand_over(*waiting.popleft())

    def _hand_over(self, batch: Batch, done: torch.cuda.Event) -> Batch:
        current = torch.cuda.current_stream(self.device)
        current.wait_event(done)

        def used(tensor: torch.Tensor) -> torch.Tensor:
            tensor.record_stream(current)  # or its memory would return to the side stream while still being read
            return tensor

        return batch.map(used)

    def _note(self, bad: dict[int, str]) -> None:
        for index, reason in bad.items():
            id = str(self.table.ids[index])
            if id not in self.bad:
                self.bad[id] = reason
                log.warning("%s: replaced while training: %s", id, reason)
        allowed = math.ceil(self.max_bad * len(self.table))
        if len(self.bad) > allowed:
            raise DataError(
                f"{len(self.bad)} of {len(self.table)} items are broken, {allowed} allowed; run `fastdmt data check`, "
                f"mend the files or raise --max-bad-files; the last one: {reason}"
            )


def make_loader(
    dataset: AVDataset,
    labelled_ids: Sequence[str],
    unlabelled_ids: Sequence[str],
    plan: Plan,
    view: View,
    *,
    kind: str = "auto",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    workers: int | None = None,
    prefetch: int = 2,
    cache: str = "auto",
    max_bad: float = 0.001,
    progress: Callable[[int, int], None] | None = None,
    group: dist.ProcessGroup | None = None,
) -> Loader:
    """A loader of training batches. Every kind and cache yields the same items with the same augmentation.

    Args:
        labelled_ids, unlabelled_ids: the items of the plan's two streams.
        kind: "torch" (DataLoader workers), "dali", or "auto": DALI on CUDA where installed, else torch.
        device: where the batches are wanted.
        dtype: of the frames, float32 or bfloat16.
        workers: decoding processes (torch) or threads (DALI, cache); None: one a core.
        prefetch: batches that each worker prepares ahead.
        cache: "device" or "host" keep everything decoded in memory, "none" decodes every time, "auto" caches where
            less than 40% of the free memory suffices.
        max_bad: share of items that may turn out broken before training stops.
        progress: called with (done, total) while a cache fills.
        group: a process group of the plan's ranks, for this loader alone, which every rank makes alike; then each
            rank caches its share of the items, and the rows of a batch are exchanged.

    Raises:
        DataError: an id without a file, a plan that does not fit the lists, an unknown kind, DALI not installed.
    """
    device = torch.device(device)
    held = (len(labelled_ids), len(unlabelled_ids))
    if plan.counts != held:
        raise DataError(f"the plan is for {plan.counts} labelled and unlabelled items, the lists hold {held}")
    if cache not in ("auto", "none", "host", "device"):
        raise DataError(f"unknown cache {cache!r}; use auto | none | host | device")
    table = dataset.table([*labelled_ids, *unlabelled_ids], view.max_boxes)
    workers = cores() if workers is None else workers
    on_host = device.type == "cpu"
    threads = max(1, workers) if on_host else 0
    chosen = choose_cache(len(table), view, device, plan.world, group is not None) if cache == "auto" else cache
    chosen = agreed(chosen, group) if group else chosen
    if chosen != "none":
        share = cache_bytes(len(table), view, device) / (plan.world if group else 1)
        description = f"{share / 2**30:.2f} GiB of decoded items in {chosen} memory"
        source = CacheSource(table, plan, view, chosen, device, max(1, workers), progress, group)
    elif resolve_kind(kind, device) == "dali":
        from fastdmt_loaders.sources.dali import DaliSource

        # Reading costs less than decoding on a CPU, and is all that is left to do beside a GPU's decoder.
        readers = workers if device.type == "cuda" else (workers + 3) // 4
        description = f"DALI, {max(1, workers)} threads, {readers} readers"
        source = DaliSource(table, plan, view, device, max(1, workers), readers, prefetch)
    else:
        description = f"torch, {workers} workers"
        # A GPU augments in no time; without one, each worker does it for its own batches.
        if on_host:
            source, threads = ShowingSource(table, plan, view, workers, prefetch), 0
        else:
            source = WorkerSource(partial(read_batch, table, plan, view), workers, prefetch, pin=True)
    log.info("loader: %s", description)
    return Loader(source, table, plan, view, device, dtype, max_bad, description, threads)


def resolve_kind(kind: str, device: torch.device) -> str:
    """Resolve "auto": DALI on CUDA where it is installed, else torch. Raises DataError."""
    if kind not in ("auto", "torch", "dali"):
        raise DataError(f"unknown loader {kind!r}; use auto | torch | dali")
    installed = find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None
    if kind == "dali" and not installed:
        raise DataError("DALI is not installed; pip install 'fastdmt[dali]' or use --loader torch")
    return "dali" if kind == "dali" or (kind == "auto" and installed and device.type == "cuda") else "torch"


def eval_batches(
    dataset: AVDataset,
    pairs: Sequence[Pair],
    view: View,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    workers: int | None = None,
) -> Iterator[EvalBatch]:
    """Evaluation items in order, the last batch as small as it comes: frames resized to S x S, nothing random.

    Raises:
        DataError: a missing or broken file; evaluation never skips an item.
    """

    def read(pair: Pair):
        return (
            read_frame(dataset.frame_path(pair.video), view.size),
            read_sound(dataset.sound_path(pair.audio), view.rates, view.seconds),
        )

    groups = [list(pairs[start : start + batch_size]) for start in range(0, len(pairs), batch_size)]
    with ThreadPoolExecutor(max(1, cores() if workers is None else workers)) as pool:
        ahead = deque([pool.submit(read, pair) for pair in group] for group in groups[:2])
        for number, group in enumerate(groups):
            items = [future.result() for future in ahead.popleft()]
            if number + 2 < len(groups):
                ahead.append([pool.submit(read, pair) for pair in groups[number + 2]])
            raw = torch.from_numpy(np.stack([frame for frame, _ in items])).permute(0, 3, 1, 2).to(device)
            pcm = {r: torch.from_numpy(np.stack([sound[r] for _, sound in items])).to(device) for r in view.rates}
            annotations = [dataset.annotation(pair.video) for pair in group]
            yield EvalBatch(augment.normalise(raw), augment.front_ends(pcm, view.front_ends), annotations, group, raw)

"""One function over many files, on all cores, in order, with progress."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]


def cores() -> int:
    """Cores that this process may use (a container's or a batch system's share, not the machine's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int | None = None,
    progress: Progress | None = None,
    chunk: int = 16,
) -> Iterator[Result]:
    """Yield function(item) for every item, in the order of `items`.

    Args:
        function: picklable; an exception that it raises is raised here.
        items: picklable.
        workers: processes; None: one a core; at most 1: in this process.
        progress: called with (done, total) for every result, just before it is given out.
        chunk: items sent to a worker at a time.
    """
    total = len(items)
    workers = min(cores() if workers is None else workers, -(-total // chunk))
    if workers <= 1:
        for done, item in enumerate(items, 1):
            result = function(item)
            if progress:
                progress(done, total)
            yield result
        return
    # Workers decode: nothing in them starts torch's thread pools, so the cheap fork is safe where it is native.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_ignore_interrupt)
    try:
        for done, result in enumerate(pool.map(function, items, chunksize=chunk), 1):
            if progress:
                progress(done, total)
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ignore_interrupt() -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides, so that no worker prints a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

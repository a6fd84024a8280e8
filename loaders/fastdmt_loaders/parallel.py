"""One function over many files, on all cores, in order, with progress."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

import torch

from fastdmt_loaders.errors import MachineError

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]


def cores() -> int:
    """Cores that this process may use (a container's or a batch system's share, not the machine's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread in torch's operators: beside decoding processes, threads that wait for each other take their cores.

    Threads started inside keep to one; what this thread had comes back at the end.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
        with _terminable():
            for done, item in enumerate(items, 1):
                result = function(item)
                if progress:
                    progress(done, total)
                yield result
        return
    # Workers decode: nothing in them starts torch's thread pools, so the cheap fork is safe where it is native.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),))
    with _terminable():
        try:
            for done, result in enumerate(pool.map(function, items, chunksize=chunk), 1):
                if progress:
                    progress(done, total)
                yield result
        except BrokenProcessPool as error:
            raise MachineError(
                f"one of {workers} worker processes was killed, probably for want of memory; use fewer --workers and "
                "run it again"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does, so that half-written files go and workers end."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, _frame) -> None:
    raise SystemExit(128 + number)


def _start_worker(parent: int) -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides, so that no worker prints a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A parent that was killed cannot tell its workers; each sees for itself."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)  # the main thread removes what it has begun
    time.sleep(3)
    os._exit(1)

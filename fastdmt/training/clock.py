"""Where a step's time goes, without waiting for the device: events are recorded now and read when the run logs."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
from typing import Any

import torch


class Clock:
    """Laps of the steps since the last `read`.

    >>> clock = Clock(torch.device("cpu"))
    >>> clock.start(); clock.lap("data"); clock.lap("students"); sorted(clock.read()[0])
    ['data', 'students']
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.cuda = device, device.type == "cuda"
        self.laps: list[tuple[str, Any, Any]] = []
        self.steps = 0
        self.running = True
        self.began = time.perf_counter()

    def start(self) -> None:
        """A step begins."""
        self.steps += 1
        self.last = self._now()

    def lap(self, name: str) -> None:
        """What was done since the last call has this name."""
        if not self.running:
            return
        now = self._now()
        self.laps.append((name, self.last, now))
        self.last = now

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Laps in here count to the one that follows: a recorded step has no times of its parts."""
        self.running = False
        try:
            yield
        finally:
            self.running = True

    def read(self) -> tuple[dict[str, float], float]:
        """Mean milliseconds a step of each name, and seconds a step by the wall clock; starts anew.

        Call it after something has waited for the device (reading the losses does).
        """
        total: dict[str, float] = {}
        for name, a, b in self.laps:
            total[name] = total.get(name, 0.0) + (a.elapsed_time(b) if self.cuda else 1e3 * (b - a))
        now = time.perf_counter()
        steps = max(1, self.steps)
        wall = (now - self.began) / steps
        self.laps, self.steps, self.began = [], 0, now
        return {name: value / steps for name, value in total.items()}, wall

    def speed(self, rows: int) -> dict[str, float]:
        """What a log shows of the steps since the last `read`, which this is as well.

        Args:
            rows: pairs of a step, over all processes.

        Returns:
            pairs_per_s, step_ms, milliseconds of every name, and on a GPU memory_gb, the most that was in use.
        """
        laps, wall = self.read()
        found = {"pairs_per_s": rows / wall, "step_ms": 1e3 * wall, **{f"{name}_ms": ms for name, ms in laps.items()}}
        if self.cuda:
            found["memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        return found

    def _now(self) -> object:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class manual_gc:
    """Hold Python's garbage collector outside the step: its pauses hit ranks at different times."""

    def __enter__(self) -> None:
        self.was = gc.isenabled()
        gc.collect()
        gc.disable()

    def __exit__(self, *exc) -> None:
        if self.was:
            gc.enable()
        gc.collect()

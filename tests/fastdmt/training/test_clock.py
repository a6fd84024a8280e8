"""Laps add up to the time that passed."""

import gc
import time

import pytest
import torch

from fastdmt.training.clock import Clock, manual_gc


def test_laps_are_means_of_a_step_and_reading_starts_anew():
    clock = Clock(torch.device("cpu"))
    began = time.perf_counter()
    for _ in range(3):
        clock.start()
        time.sleep(0.01)
        clock.lap("data")
        time.sleep(0.02)
        clock.lap("step")
    laps, wall = clock.read()
    passed = time.perf_counter() - began
    assert laps["data"] >= 10 and laps["step"] >= 20
    assert 3 * (laps["data"] + laps["step"]) <= 1e3 * passed and 0.03 <= wall <= passed / 3
    assert clock.read()[0] == {}


def test_a_pause_counts_to_the_lap_that_follows():
    clock = Clock(torch.device("cpu"))
    clock.start()
    with pytest.raises(ZeroDivisionError), clock.paused():
        time.sleep(0.02)
        clock.lap("students")
        raise ZeroDivisionError
    clock.lap("graph")
    found = clock.speed(rows=8)
    assert found.keys() == {"pairs_per_s", "step_ms", "graph_ms"} and 20 <= found["graph_ms"] <= found["step_ms"]
    assert found["pairs_per_s"] == pytest.approx(8e3 / found["step_ms"])


def test_the_collector_is_held_and_comes_back():
    was = gc.isenabled()
    gc.enable()
    with pytest.raises(ZeroDivisionError), manual_gc():
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()
    if not was:
        gc.disable()

"""Many items over processes: order, progress, errors, and workers that die."""

import os
import signal
import time

import pytest

from fastdmt_loaders.errors import MachineError
from fastdmt_loaders.parallel import parallel_map


def square(x):
    time.sleep(0.01 * (x % 3))
    return x * x


def odd_is_an_error(x):
    if x % 2:
        raise ValueError(f"item {x}")
    return x


def die_at_five(x):
    if x == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order_with_progress(workers):
    seen = []
    found = list(parallel_map(square, range(20), workers, lambda done, total: seen.append((done, total)), chunk=2))
    assert found == [x * x for x in range(20)] and seen == [(k + 1, 20) for k in range(20)]
    assert list(parallel_map(square, [], workers)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_function_is_raised_here(workers):
    with pytest.raises(ValueError, match="item 1"):
        list(parallel_map(odd_is_an_error, range(4), workers, chunk=1))


def test_a_killed_worker_is_the_machines_fault_and_one_line():
    with pytest.raises(MachineError, match=r"one of 2 worker processes was killed.*fewer --workers"):
        list(parallel_map(die_at_five, range(10), 2, chunk=1))


def test_sigterm_is_given_back():
    before = signal.getsignal(signal.SIGTERM)
    list(parallel_map(square, range(3), 1))
    assert signal.getsignal(signal.SIGTERM) is before

"""What becomes of a batch when a worker process dies."""

import os
import signal

import pytest

from fastdmt_loaders.errors import MachineError
from fastdmt_loaders.sources.workers import WorkerSource


def dies_at_three(step):
    if step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step


def test_a_killed_worker_is_one_line():
    with pytest.raises(MachineError, match="--workers") as caught:
        for _ in WorkerSource(dies_at_three, 2, 2, pin=False).batches(0):
            pass
    assert "\n" not in str(caught.value)

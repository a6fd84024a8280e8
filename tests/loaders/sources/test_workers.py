"""What becomes of a batch when a worker process dies."""

import os
import signal
from itertools import islice

import pytest
import torch

from fastdmt_loaders import Plan, View, make_loader
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


@pytest.mark.parametrize("augmented", [True, False])
def test_batches_stay_as_they_were_while_later_ones_are_made(field_set, augmented):
    """Workers write into memory that batches take turns in: what is kept must not change under the reader's hand."""
    view = View(32, ("logmel", "waveform"), 1.0, augmented, "full" if augmented else "none")
    plan = Plan(0, 24, 0, 6, seed=1)

    def made(workers: int) -> list:
        loader = make_loader(field_set, [], field_set.ids, plan, view, kind="torch", cache="none", workers=workers)
        return list(islice(loader, 12))

    for got, want in zip(made(2), made(0), strict=True):
        assert got.step == want.step and got.ids == want.ids
        assert torch.equal(got.frames_weak, want.frames_weak) and torch.equal(got.frames_strong, want.frames_strong)
        for name in view.front_ends:
            assert torch.equal(got.sound[name], want.sound[name])
            assert torch.equal(got.sound_strong[name], want.sound_strong[name])


def test_torchs_threads_are_what_they_were(field_set):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for cache in ("none", "host"):
            view = View(32, ("waveform",), 1.0)
            for _ in islice(make_loader(field_set, [], field_set.ids, Plan(0, 24, 0, 6), view, cache=cache), 2):
                assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)

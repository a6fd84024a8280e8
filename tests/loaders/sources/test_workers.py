"""What becomes of a batch when a worker process dies."""

import os
import resource
import shlex
import signal
import subprocess
import sys
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


def same(step):
    return step


def test_a_killed_worker_is_one_line():
    with pytest.raises(MachineError, match="--workers") as caught:
        for _ in WorkerSource(dies_at_three, 2, 2, pin=False).batches(0):
            pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[Errno 24] Too many open files", "received 0 items of ancdata"])
def test_too_few_descriptors_are_the_machines_fault(text):
    def read(step):
        raise OSError(24, text) if text.startswith("[") else RuntimeError(text)

    with pytest.raises(MachineError, match=r"ulimit -n 65536.*--workers"):
        next(WorkerSource(read, 0, 2, pin=False).batches(0))


@pytest.mark.parametrize("hard_above, allowed", [(4, None), (8, 8), (15, 15), (1000, 24), (resource.RLIM_INFINITY, 24)])
def test_open_files_are_allowed_as_far_as_the_machine_lets(monkeypatch, hard_above, allowed):
    """Two processes need 8 to start and may need 24; limits count from what is open already."""
    used = len(os.listdir("/dev/fd"))
    hard = hard_above if hard_above == resource.RLIM_INFINITY else used + hard_above
    set_to = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (used + 2, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_to.append(limits))
    source = WorkerSource(same, 2, 2, pin=False)
    if allowed is None:
        with pytest.raises(MachineError, match=rf"2 loader processes need {used + 8} open files.*ulimit -n 65536"):
            next(source.batches(0))
        return
    assert next(source.batches(0)) == 0 and set_to == [(used + allowed, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (len(os.listdir("/dev/fd")) + 24, hard))
    assert next(source.batches(0)) == 0 and len(set_to) == 1  # enough: left as it is


def test_without_processes_no_limit_is_asked(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1, 1))
    assert next(WorkerSource(same, 0, 2, pin=False).batches(0)) == 0


def test_other_errors_are_not_taken_for_the_machines():
    def read(step):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        next(WorkerSource(read, 0, 2, pin=False).batches(0))


def small_shared_memory(*words) -> subprocess.CompletedProcess:
    """A command where /dev/shm has 64 KiB, as in a container started without --shm-size."""
    inside = "mount -t tmpfs -o size=64k tmpfs /dev/shm && exec " + shlex.join(map(str, words))
    return subprocess.run(["unshare", "-m", "sh", "-c", inside], capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_small_shared_memory_is_one_line(field_set, tmp_path):
    if small_shared_memory("true").returncode:
        pytest.skip("cannot mount a small disk here")
    script = tmp_path / "load.py"
    script.write_text(
        "import sys\n"
        "from fastdmt_loaders import AVDataset, Plan, View, make_loader\n"
        "data = AVDataset(sys.argv[1]); view = View(64, ('waveform',), 1.0)\n"
        "loader = make_loader(data, [], data.ids, Plan(0, len(data.ids), 0, 6), view, kind='torch', cache='none',"
        " workers=int(sys.argv[2]))\n"
        "print(next(iter(loader)).frames_weak.shape)\n"
    )
    few, none = (small_shared_memory(sys.executable, script, field_set.root, workers) for workers in (2, 0))
    assert few.returncode and "MachineError: a loader process was killed or had no room" in few.stderr
    assert none.returncode == 0 and "6, 3, 64, 64" in none.stdout, none.stderr


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

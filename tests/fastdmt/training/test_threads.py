"""A run may live in a thread of somebody's program: signals are the main thread's, and are left alone."""

import signal
import threading

import pytest
import torch
from tiny_runs import final, tiny, train

from fastdmt.errors import FastDMTError
from fastdmt.training import precision
from fastdmt.training.precision import use_kernels
from fastdmt_loaders.tools.demo import make_demo


def test_a_run_in_a_thread_is_the_run_of_the_main_thread(tmp_path):
    root = make_demo(tmp_path / "data", clips=48, labelled=10, seed=1).root
    handlers, outcome = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}, []
    thread = threading.Thread(target=lambda: outcome.append(train(tiny(root, tmp_path / "thread"))))
    thread.start()
    thread.join()
    assert outcome and outcome[0].step == 10 and not outcome[0].interrupted
    assert {s: signal.getsignal(s) for s in handlers} == handlers
    train(tiny(root, tmp_path / "main"))
    there, here = final(tmp_path / "thread"), final(tmp_path / "main")
    assert all((there[key] == here[key]).all() for key in here)


def test_kernels_that_this_machine_cannot_run_are_refused_before_the_first_step(monkeypatch):

    monkeypatch.setattr(precision, "INTERPRET", False)
    try:
        with pytest.raises(FastDMTError, match="--kernels triton needs a GPU"):
            use_kernels("triton", torch.device("cpu"))
        monkeypatch.setattr("fastdmt_kernels.backend.triton", None)
        with pytest.raises(FastDMTError, match="needs Triton, which is not installed"):
            use_kernels("triton", torch.device("cpu"))
    finally:
        use_kernels("auto", torch.device("cpu"))

"""Sharded and replicated training against one process."""

import dist_worker
import pytest
import torch
from dist_worker import assert_same, losses, tiny

from fastdmt import load
from fastdmt.distributed.processes import start
from fastdmt_loaders.tools.demo import make_demo

pytestmark = [pytest.mark.dist, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "data"
    make_demo(root, clips=80, labelled=24, seed=1)
    return root


@pytest.fixture(scope="module")
def one(files, tmp_path_factory):
    """The run of a single process."""
    run = tmp_path_factory.mktemp("one") / "run"
    start(tiny(files, run), "dist_worker:finished")
    return run


@pytest.mark.slow
def test_fsdp_and_ddp_equal_one_process(files, one, tmp_path):
    shares = start(tiny(files, tmp_path / "two", workers_cpu=2), "dist_worker:every_mode")
    kept = [line["kept"] for line in losses(one) if "kept" in line]
    assert any(0 < k < 1 for k in kept), "the case must keep some clips and drop others"
    for name, share in zip(dist_worker.MODES, shares):
        assert_same(one, tmp_path / "two" / name)
        assert share == 1 if name == "ddp" else share < 0.6, "teachers are not sharded"
        model = load(tmp_path / "two" / name)
        assert all(torch.isfinite(t).all() for t in model.tensors().values())

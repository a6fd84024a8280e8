"""Two processes against one: same batches, same losses, same weights; shards, checkpoints, signals, deaths."""

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
from dist_worker import assert_same, tiny

from fastdmt import load
from fastdmt.cli.main import main
from fastdmt.distributed.processes import going_on, start
from fastdmt.errors import FastDMTError
from fastdmt.presets import preset
from fastdmt.runs import checkpoint
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
def test_stopped_on_two_goes_on_on_one_and_on_two(files, one, tmp_path):
    cfg = tiny(files, tmp_path / "run", workers_cpu=2)
    assert start(cfg, "dist_worker:stopped") == (True, 3)  # one step after the signal: all ranks agree on the step
    resumed = dataclasses.replace(cfg, resume=True, scale=dataclasses.replace(cfg.scale, workers_cpu=1))
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    assert start(resumed, "dist_worker:finished") == (False, 7)
    assert_same(one, tmp_path / "run")
    # 2 -> 2 in the other mode.
    other = dataclasses.replace(
        cfg, run=tmp_path / "again", resume=True, scale=dataclasses.replace(cfg.scale, parallel="ddp")
    )
    assert start(other, "dist_worker:finished") == (False, 7)
    assert_same(one, tmp_path / "again")


def test_killed_worker_ends_the_group_and_the_run_goes_on(files, one, tmp_path):
    cfg = tiny(files, tmp_path / "run", workers_cpu=2)
    began = time.monotonic()
    with pytest.raises(FastDMTError, match=r"rank 1 was killed by SIGKILL.*go on with: fastdmt train .* --resume"):
        start(cfg, "dist_worker:killed")
    assert time.monotonic() - began < 90
    assert checkpoint.last_step(cfg.run) == 3
    assert start(dataclasses.replace(cfg, resume=True), "dist_worker:finished") == (False, 7)
    assert_same(one, cfg.run)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("parallel", ["fsdp", "ddp"])
def test_processes_of_one_machine_listen_on_the_loopback_interface_alone(files, tmp_path, parallel):
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    before = dict(os.environ)
    ranks = start(tiny(files, tmp_path / "run", workers_cpu=2, parallel=parallel), "dist_worker:listening")
    assert len(ranks) == 2 and all(ranks), "gloo listens somewhere, or the look at /proc is wrong"
    assert {address for found in ranks for address in found} <= loopback
    assert {k: v for k, v in os.environ.items() if "SOCKET" in k or "FASTDMT" in k} == {
        k: v for k, v in before.items() if "SOCKET" in k or "FASTDMT" in k
    }


@pytest.mark.parametrize("parallel", ["fsdp", "ddp"])
def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_all(files, tmp_path, parallel):
    cfg = tiny(files, tmp_path / "run", workers_cpu=2, parallel=parallel)
    interrupted, step, ranks = start(cfg, "dist_worker:poisoned")
    assert (interrupted, step) == (False, 7)
    for changed, apart, finite in ranks:
        assert changed == [0], "the poisoned step changed weights or statistics"
        assert apart == 0 and finite
    assert "1 skipped, 1 in all" in (tmp_path / "run" / "train.log").read_text()


def test_more_processes_than_labelled_and_validation_clips(tmp_path):
    make_demo(tmp_path / "few", clips=16, labelled=1, seed=2)
    cfg = tiny(tmp_path / "few", tmp_path / "run", workers_cpu=2)
    assert start(cfg, "dist_worker:finished") == (False, 7)
    assert all(t.isfinite().all() for t in load(cfg.run).tensors().values())


def test_compare_trains_in_as_many_processes_as_asked_for(files, tmp_path, capsys):
    size = "--size 32 --batch 8 --labelled-share 0.5 --warmup-steps 2 --steps 2 --eval-every 2".split()
    where = ["--data", str(files), "--run", str(tmp_path / "runs"), "--gpus", "0", "--workers-cpu", "2"]
    methods = ["--algorithms", "supervised,dmt", "--seeds", "1"]
    assert main(["compare", *where, *methods, *size]) == 0
    for method in ("supervised", "dmt"):
        (run,) = (tmp_path / "runs").glob(f"{method}-0-*")
        assert list((run / "logs").glob("*/attempt_0/1/stderr.log")), "one process only"
        assert (run / "compare-test.json").is_file() and checkpoint.last_step(run) == (4 if method != "dmt" else 2)
    assert (tmp_path / "runs" / "compare.html").is_file()


def test_a_start_that_failed_says_nothing_of_resuming(tmp_path):
    """Only where there is a checkpoint can a run go on."""
    cfg = tiny(tmp_path / "data", tmp_path / "run")
    assert going_on(cfg) == "nothing was saved yet: mend it, then type the same command again"
    (cfg.run / "checkpoints" / ".partial-0000003").mkdir(parents=True)
    assert "resume" not in going_on(cfg)
    (cfg.run / "checkpoints" / "step-0000003").mkdir()
    assert going_on(cfg) == f"go on with: fastdmt train --run {cfg.run} --resume"


def test_a_worker_that_dies_at_the_start_is_no_run_to_resume(files, tmp_path):
    with pytest.raises(FastDMTError, match=r"rank \d failed;.*nothing was saved yet: mend it") as caught:
        start(tiny(files, tmp_path / "run", workers_cpu=2), "dist_worker:no_such_function")
    assert "--resume" not in str(caught.value)


def test_impossible_requests_are_one_line(files, tmp_path):
    cfg = preset("demo")
    scale = dataclasses.replace(cfg.scale, gpus=99)
    with pytest.raises(FastDMTError, match=r"--gpus 99, but .* can be seen"):
        start(dataclasses.replace(cfg, scale=scale), "dist_worker:finished")
    with pytest.raises(FastDMTError, match="--rdzv HOST:PORT"):
        start(dataclasses.replace(cfg, scale=dataclasses.replace(cfg.scale, gpus=0, nodes=2)), "dist_worker:finished")
    with pytest.raises(FastDMTError, match="--workers-cpu goes with --gpus 0"):
        dataclasses.replace(cfg.scale, workers_cpu=2) and dataclasses.replace(
            cfg, scale=dataclasses.replace(cfg.scale, workers_cpu=2)
        )


@pytest.mark.slow
def test_a_group_that_may_restart_goes_on_by_itself(files, one, tmp_path):
    cfg = tiny(files, tmp_path / "run", workers_cpu=2, max_restarts=1)
    assert start(cfg, "dist_worker:killed") == (False, 7)
    assert_same(one, cfg.run)


@pytest.mark.slow
def test_two_machines_equal_one_process(files, one, tmp_path):
    """Two launchers that meet at an address, a process each: HSDP, copies between machines."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    cfg = tiny(files, tmp_path / "run", workers_cpu=1, nodes=2, rdzv=address)
    script = "import sys, dist_worker as d; from fastdmt.distributed.processes import start; from pathlib import Path; "
    script += f"start(d.tiny(Path({str(files)!r}), Path({str(cfg.run)!r}), workers_cpu=1, nodes=2, rdzv={address!r}), "
    script += "'dist_worker:finished')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    machines = [subprocess.Popen([sys.executable, "-c", script], env=environment) for _ in range(2)]
    assert [machine.wait(600) for machine in machines] == [0, 0]
    assert_same(one, cfg.run)

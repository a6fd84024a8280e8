"""Sharded and replicated training against one process."""

import dataclasses

import dist_worker
import numpy as np
import pytest
import torch
from dist_worker import assert_same, losses, tiny
from small_pairs import make_pairs

from fastdmt import load
from fastdmt.config import OptimConfig
from fastdmt.distributed import sharding
from fastdmt.distributed.processes import World, start
from fastdmt.distributed.sharding import bytes_of_a_copy, chosen_mode
from fastdmt.training.optimizer import build_optimizer
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


def test_two_processes_that_replay_their_steps_equal_one_that_does_not(files, one, tmp_path):
    cfg = tiny(files, tmp_path / "two", workers_cpu=2, parallel="ddp")
    assert start(cfg, "dist_worker:recorded") == ([2, 3], False)
    assert_same(one, tmp_path / "two")


@pytest.mark.slow
def test_two_processes_add_the_negatives_of_one(files, tmp_path):
    def run(name, **scale):
        cfg = tiny(files, tmp_path / name, parallel="ddp", **scale)
        pseudo = dataclasses.replace(cfg.pseudo, negatives=0.5, foreground=0.25)
        optim = dataclasses.replace(cfg.optim, labelled_share=0.5)  # pairs of labelled clips in every process
        assert start(dataclasses.replace(cfg, pseudo=pseudo, optim=optim), "dist_worker:finished") == (False, 7)
        return [{k: line[k] for k in line if k in ("loss_a", "loss_b", "negative")} for line in losses(cfg.run)]

    for alone, together in zip(run("one"), run("two", workers_cpu=2), strict=True):
        assert together == pytest.approx(alone, rel=1e-3)  # silence enlarges what the order of a sum rounds


def test_bytes_of_a_copy_are_those_that_a_step_leaves():
    students, teachers = make_pairs()
    students[1].audio.requires_grad_(False)
    optimizer = build_optimizer(students, OptimConfig())
    for student in students:
        for p in student.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    held = [t for m in (*students, *teachers) for t in m.state_dict().values()]
    held += [p.grad for student in students for p in student.parameters() if p.grad is not None]
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert bytes_of_a_copy(students, teachers) == sum(t.numel() * t.element_size() for t in (*held, *moments))


def test_auto_copies_what_is_small_and_shards_what_is_not(monkeypatch):
    students, teachers = make_pairs()
    world = World(torch.device("cpu"), size=2)
    monkeypatch.setattr(World, "broadcast", lambda self, value: value)
    need = bytes_of_a_copy(students, teachers)
    for memory, mode, word in ((4 * need + 8, "ddp", "less"), (4 * need - 8, "fsdp", "not less")):
        monkeypatch.setattr(sharding, "_memory", lambda world, memory=memory: memory)
        chosen, why = chosen_mode("auto", students, teachers, world)
        assert chosen == mode and f", {word} than a quarter" in why
    assert chosen_mode("ddp", students, teachers, world) == ("ddp", "--parallel ddp")
    assert chosen_mode("fsdp", students, teachers, World(torch.device("cpu")))[0] == "one process"


def test_two_processes_of_a_small_model_hold_copies_and_say_why(files, tmp_path):
    run = tmp_path / "run"
    start(tiny(files, run, workers_cpu=2, parallel="auto"), "dist_worker:finished")
    log = (run / "train.log").read_text()
    assert "parallel: ddp (auto: parameters, gradients, optimizer and teachers take " in log
    assert "2 processes (ddp)" in log and "compile: none (auto: no GPU)" in log


def test_encoders_are_gathered_in_bf16_and_batchnorm_stays_in_float32(files, tmp_path):
    found = start(tiny(files, tmp_path / "run", workers_cpu=2, amp="bf16"), "dist_worker:gathered")
    half, single = torch.bfloat16, torch.float32
    for mode, convolutions in (("fsdp", half), ("ddp", single)):
        used, rest, _, _ = found[mode]
        norms = {name for _, name, _ in used if "BatchNorm" in name}
        assert norms, "the encoder of the case has convolutions and BatchNorm"
        for role in ("students", "teachers"):
            assert {dtype for r, name, dtype in used if r == role and name == "Conv2d"} == {convolutions}
            assert {dtype for r, name, dtype in used if r == role and name in norms} == {single}
        assert rest == {single}, "what the optimizer and the EMA work on"
    # Autocast rounds the weights to bf16 in any case: the modes compute the same but for the order of sums, which the
    # layout of the weights decides, and for one bit of bf16 that follows.
    assert found["fsdp"][2] == pytest.approx(found["ddp"][2], rel=2**-8)
    sharded, copied = found["fsdp"][3], found["ddp"][3]
    assert np.linalg.norm(sharded - copied) <= 2e-2 * np.linalg.norm(copied)

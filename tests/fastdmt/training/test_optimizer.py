"""The update of both students against torch's plain loop, steps that must change nothing, apex where it is not."""

import copy
import sys
import types

import pytest
import torch
from small_pairs import make_pairs
from tiny_runs import QUIET, scaled

from fastdmt.config import OptimConfig
from fastdmt.distributed.processes import World
from fastdmt.errors import FastDMTError
from fastdmt.training.optimizer import LossScale, Update, gather
from fastdmt.training.trainer import Trainer

ALONE = World(torch.device("cpu"))
LOSS = torch.tensor(1.0)


def plain(students, optim):
    """torch's loop over single tensors, one optimizer for each student's groups."""
    named = [pair for student in students for pair in student.named_parameters()]
    decay = [p for n, p in named if p.ndim > 1]
    rest = [p for n, p in named if p.ndim <= 1 and n != "affine"]
    groups = [(decay, optim.lr, optim.weight_decay), (rest, optim.lr, 0.0)]
    groups += [([p for n, p in named if n == "affine"], optim.affine_lr, 0.0)]
    return torch.optim.AdamW([{"params": p, "lr": r, "weight_decay": w} for p, r, w in groups], foreach=False)


def give_gradients(students, seed, leave_out=lambda k, name: False, factor=1.0):
    g = torch.Generator().manual_seed(seed)
    for k, student in enumerate(students):
        for name, p in student.named_parameters():
            grad = torch.randn(p.shape, generator=g)
            p.grad = None if leave_out(k, name) else grad * factor


def parameters(students):
    return [p for student in students for p in student.parameters()]


def copies(students):
    return [t.clone() for student in students for t in student.state_dict().values()]


def test_rates_on_the_device_are_the_rates():
    ours, _ = make_pairs()
    theirs, optim = copy.deepcopy(ours), OptimConfig(lr=1e-2)
    there = Update(ours, optim, "adamw", ALONE, sharded=False, recorded=True)
    here = Update(theirs, optim, "adamw", ALONE, sharded=False)
    for seed, rate in enumerate((1e-2, 3e-3, 0.0, 5e-2)):
        before = copies(ours)
        for students, update in ((ours, there), (theirs, here)):
            give_gradients(students, seed)
            update.rate((rate, rate, rate))
            update(LOSS)
        assert (rate == 0) == all(torch.equal(a, b) for a, b in zip(before, copies(ours), strict=True))
    for p, q in zip(parameters(ours), parameters(theirs), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_update_equals_torchs_plain_loop_whichever_gradients_are_there(clip):
    ours, _ = make_pairs()
    theirs, optim = copy.deepcopy(ours), OptimConfig(lr=1e-2, weight_decay=0.1, clip=clip)
    update, optimizer = Update(ours, optim, "adamw", ALONE, sharded=False), plain(theirs, optim)

    def first_student_alone(k, name):
        return k == 1

    def without_heads(k, name):
        return "head" in name

    absent = [lambda k, name: False, first_student_alone, without_heads, lambda k, name: False]
    for seed, leave_out in enumerate(absent):
        for students in (ours, theirs):
            give_gradients(students, seed, leave_out)
        if clip:
            for student in theirs:
                if any(p.grad is not None for p in student.parameters()):
                    torch.nn.utils.clip_grad_norm_(student.parameters(), clip)
        optimizer.step()
        assert update(LOSS) == 0
    for p, q in zip(parameters(ours), parameters(theirs), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
    counts = {name: int(t) for name, t in update.tensors().items() if ".step." in name}
    assert {counts[n] for n in counts if n.startswith("optimizers.1.")} == {2, 3}
    assert {counts[n] for n in counts if n.startswith("optimizers.0.")} == {3, 4}


@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_but_is_said(fault):
    students, _ = make_pairs()
    update = Update(students, OptimConfig(lr=1e-2), "adamw", ALONE, sharded=False)
    give_gradients(students, 0)
    update(LOSS)
    state = {name: t.clone() for name, t in update.tensors().items()}
    before = copies(students)
    give_gradients(students, 1)
    for student in students:  # what a forward pass leaves behind
        for name, buffer in student.named_buffers():
            if "running" in name:
                buffer.add_(float("nan"))
    if fault == "gradient":
        students[1].affine.grad[0] = float("inf")
    assert update(LOSS * float("nan") if fault == "loss" else LOSS) == 1
    for a, b in zip(copies(students), before, strict=True):
        assert torch.equal(a, b)
    for name, t in update.tensors().items():
        assert torch.equal(t, state[name]), name
    give_gradients(students, 2)
    assert update(LOSS) == 0
    assert not torch.equal(students[0].affine, before[0])


def test_a_scaled_gradient_is_divided_before_it_is_clipped_and_applied():
    ours, _ = make_pairs()
    theirs, optim = copy.deepcopy(ours), OptimConfig(lr=1e-2, clip=0.5)
    scale = LossScale(torch.device("cpu"))
    scaled, straight = (Update(s, optim, "adamw", ALONE, sharded=False) for s in (ours, theirs))
    for seed in range(3):
        give_gradients(ours, seed, factor=scale.value)
        give_gradients(theirs, seed)
        scaled(LOSS, scale), straight(LOSS)
    for p, q in zip(parameters(ours), parameters(theirs), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


def test_gathered_tensors_keep_values_shapes_and_alignment():
    tensors = [torch.arange(5.0), torch.ones(2, 3), torch.tensor(7.0), torch.arange(4.0)]
    values = [t.clone() for t in tensors]
    flat = gather(tensors)
    for t, value in zip(tensors, values, strict=True):
        assert torch.equal(t, value) and t.data_ptr() % 16 == 0
        assert t.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
    flat.zero_()
    assert not any(t.any() for t in tensors)
    assert len(gather([])) == 0
    with pytest.raises(FastDMTError, match="of one type"):
        gather([torch.ones(2), torch.ones(2, dtype=torch.float64)])


@pytest.mark.parametrize("module", [None, types.ModuleType("apex")], ids=["absent", "another package of that name"])
def test_apex_that_is_not_there_is_one_line(monkeypatch, files, tmp_path, module):
    if module is not None:
        monkeypatch.setitem(sys.modules, "apex", module)
    with pytest.raises(FastDMTError, match="--optimizer apex needs NVIDIA apex built from source"):
        Trainer(scaled(files, tmp_path / "run", optimizer="apex"), QUIET)

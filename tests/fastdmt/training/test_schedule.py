"""Learning rates and the groups of parameters that they belong to."""

import dataclasses

import pytest

from fastdmt.models.localizer import build_localizer
from fastdmt.presets import preset
from fastdmt.training.optimizer import build_optimizer
from fastdmt.training.schedule import UNBIASED, WARMUP, Schedule


def with_rate(factor):
    base = preset("demo")
    return dataclasses.replace(base, optim=dataclasses.replace(base.optim, lr_encoders=factor, schedule="constant"))


@pytest.mark.parametrize("stage", [WARMUP, UNBIASED])
def test_encoders_learn_at_their_own_rate(stage):
    cfg = with_rate(0.1)
    student = build_localizer("dmt", "small", "small-logmel", dim=16)
    optimizer = build_optimizer([student], cfg.optim)
    rates = Schedule(cfg, 96, 1000, 1, True).rates(stage, 10_000)
    assert len(rates) == len(optimizer.param_groups) == 5
    names = {p: name for name, p in student.named_parameters()}
    rate = {}
    for group, value in zip(optimizer.param_groups, rates, strict=True):
        rate |= {names[p]: value for p in group["params"]}
    lr = cfg.optim.lr if stage == WARMUP else cfg.optim.lr_unbiased
    assert set(rate) == {name for name, _ in student.named_parameters()}
    for name, value in rate.items():
        expected = cfg.optim.affine_lr if name == "affine" else lr
        assert value == pytest.approx(0.1 * lr if name.startswith(("visual.", "audio.")) else expected)
    assert all(group["weight_decay"] == 0 for group in optimizer.param_groups[1:3] + optimizer.param_groups[4:])


def test_one_rate_without_the_option():
    cfg = with_rate(0.0)
    student = build_localizer("dmt", "small", "small-logmel", dim=16)
    groups = build_optimizer([student], cfg.optim).param_groups
    assert len(groups) == 3 == len(Schedule(cfg, 9, 9, 1, True).rates(WARMUP, 0))

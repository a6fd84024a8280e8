"""The optimizer against torch's plain loop; apex where it is not."""

import copy
import sys
import types

import pytest
import torch
from tiny_runs import QUIET, scaled

from fastdmt.errors import FastDMTError
from fastdmt.training.optimizer import build_optimizer
from fastdmt.training.trainer import Trainer


@pytest.mark.parametrize("module", [None, types.ModuleType("apex")], ids=["absent", "another package of that name"])
def test_apex_that_is_not_there_is_one_line(monkeypatch, files, tmp_path, module):
    if module is not None:
        monkeypatch.setitem(sys.modules, "apex", module)
    with pytest.raises(FastDMTError, match="--optimizer apex needs NVIDIA apex built from source"):
        Trainer(scaled(files, tmp_path / "run", optimizer="apex"), QUIET)


def test_adamw_equals_torchs_plain_loop(files, tmp_path):
    trainer = Trainer(scaled(files, tmp_path / "run"), QUIET)
    ours = trainer.model.students[0]
    theirs = copy.deepcopy(ours)
    optim = trainer.cfg.optim
    optimizer = build_optimizer([ours], optim)
    decay = [p for n, p in theirs.named_parameters() if p.ndim > 1 and n != "affine"]
    plain = [p for n, p in theirs.named_parameters() if p.ndim <= 1 and n != "affine"]
    groups = [(decay, optim.lr, optim.weight_decay), (plain, optim.lr, 0.0), ([theirs.affine], optim.affine_lr, 0.0)]
    other = torch.optim.AdamW([{"params": p, "lr": r, "weight_decay": w} for p, r, w in groups], foreach=False)
    for step in range(3):
        torch.manual_seed(step)
        for p, q in zip(ours.parameters(), theirs.parameters()):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizer.step(), other.step()
    for p, q in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)

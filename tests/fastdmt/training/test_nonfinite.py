"""Losses that are not finite: skipped steps are counted, too many end the run with the clips' names."""

import dataclasses

import pytest
from tiny_runs import tiny, train

from fastdmt.errors import FastDMTError


def test_nan_loss_stops_and_names_the_step(files, tmp_path):
    cfg = tiny(files, tmp_path / "run")
    with pytest.raises(FastDMTError, match="not finite at step"):
        train(dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, lr=1e30, affine_lr=1e30)))

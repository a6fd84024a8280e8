"""`train --plan`: figures that can be worked out otherwise, and nothing left behind."""

import os
import re

import pytest
from tiny_runs import QUIET, tiny, train

from fastdmt.cli.main import main
from fastdmt.training.plan import forecast
from fastdmt_loaders.tools.demo import make_demo


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("files") / "data", clips=48, labelled=10, seed=1).root


def test_the_plan_is_what_training_does(data, tmp_path):
    cfg = tiny(data, tmp_path / "run")
    plan = forecast(cfg, QUIET)
    assert not cfg.run.exists()
    warmup, unbiased = plan.courses
    assert (warmup.steps, warmup.clips) == (4, "8 labelled clips")
    assert (unbiased.steps, unbiased.clips) == (6, "3 labelled + 5 unlabelled")
    train(cfg)
    lines = (cfg.run / "metrics.jsonl").read_text().splitlines()
    validated = [line for line in lines if "val_ciou" in line]
    assert warmup.validations + unbiased.validations == len(validated)
    # The disk: as many bytes as the run holds, and one checkpoint more while the next is written.
    held = sum(p.stat().st_size for p in cfg.run.rglob("*") if p.is_file() and not p.is_symlink())
    assert 0.7 * held < plan.disk < 2.5 * held
    assert plan.memory > 100 << 20 and plan.seconds > 0


def test_the_command_says_it_and_leaves_nothing(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--size", "32", "--batch", "8", "--warmup-steps", "7", "--steps", "1000", "--data", str(data)]
    assert main(["train", *words, "--run", "runs/mine", "--plan"]) == 0
    out = capsys.readouterr().out
    for word in ("10 labelled", "warm-up: 7 of 8 labelled", "unbiased: 1,000 of 3 labelled + 5 unlabelled"):
        assert word in out
    assert "in runs/mine" in out
    assert re.search(r"memory  \d", out) and re.search(r"time    about \d+:\d\d", out) and "on cpu in" in out
    assert os.listdir(tmp_path) == []
    assert main(["train", "--data", str(tmp_path / "none"), "--plan"]) == 2

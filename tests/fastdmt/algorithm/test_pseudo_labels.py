"""Every localizer under every algorithm on real files, and the example of docs/add_a_localizer.md in use."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastdmt import load
from fastdmt.errors import FastDMTError
from fastdmt.names import ALGORITHMS
from fastdmt.presets import preset
from fastdmt.runs.checkpoint import read_weights
from fastdmt.training.trainer import Trainer
from fastdmt_loaders.tools.demo import make_demo

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "data"
    make_demo(root, clips=48, labelled=10, seed=1)
    return root


def tiny(data, run, algorithm, localizer):
    base = preset("demo")
    return dataclasses.replace(
        base,
        run=run,
        algorithm=algorithm,
        log_every=1,
        data=dataclasses.replace(base.data, root=data, size=32),
        model=dataclasses.replace(base.model, localizer=localizer, dim=32),
        # Maps of a few steps agree nowhere near 0.4: everything that is not empty is kept, so that stage 2 has work.
        pseudo=dataclasses.replace(base.pseudo, delta=0.001, ignore_below=None, tau=0.0, lambda_u=1.0),
        optim=dataclasses.replace(base.optim, batch=8, warmup_steps=1, steps=2, lr_warmup=0.0),
    )


@pytest.mark.parametrize("localizer", ["ezvsl", "lvs", "slavc"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_localizer_trains_through_every_algorithm(files, tmp_path, algorithm, localizer):
    cfg = tiny(files, tmp_path / "run", algorithm, localizer)
    before = {k: v.clone() for k, v in Trainer(cfg).model.tensors().items()}
    (cfg.run / "config.json").unlink()
    outcome = Trainer(cfg).run()
    assert not outcome.interrupted
    step = f"step-{outcome.step:07d}"
    after = read_weights(cfg.run / "checkpoints" / step)
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    for k in range(2):
        for role in ("students", "teachers"):
            for part in ("visual.", "audio.", "visual_head." if localizer != "lvs" else "visual.", "affine"):
                if part == "affine" and algorithm == "self-supervised":
                    continue  # no boxes, no probability to learn
                assert any(name.startswith(f"{role}.{k}.{part}") for name in moved), (role, k, part)
    assert all(torch.isfinite(t.float()).all() for t in after.values())
    assert type(load(cfg.run).teachers[0]).__name__.lower() == localizer


def test_the_documents_example_trains_evaluates_and_is_forty_lines(files, tmp_path):
    text = (DOCS / "add_a_localizer.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S).group(1)
    assert len(code.splitlines()) <= 40
    (tmp_path / "attention.py").write_text(code)
    command = "train --localizer attention:Attention --run runs/attention"
    assert f"fastdmt {command}" in text
    small = "--size 32 --batch 8 --warmup-steps 1 --steps 2 --delta 0.001 --ignore-below None --tau 0".split()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    fastdmt = str(Path(sys.executable).with_name("fastdmt"))
    for args in (
        [*command.split(), "--data", str(files), *small],
        ["eval", "runs/attention", "--trust-localizer", "attention:Attention"],
    ):
        done = subprocess.run(
            [fastdmt, *args], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=200
        )
        assert done.returncode == 0, done.stderr
    assert "CIoU@0.5" in done.stdout and (tmp_path / "runs" / "attention" / "eval" / "report.html").is_file()


def test_unknown_localizers_are_refused_in_one_line():
    with pytest.raises(FastDMTError, match=r"'nope' is unknown: choose one of dmt, ezvsl, lvs, slavc"):
        dataclasses.replace(preset("demo"), model=dataclasses.replace(preset("demo").model, localizer="nope"))

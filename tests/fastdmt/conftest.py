"""Files and a trained run that several modules look at; whoever changes files takes a copy."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from fastdmt.presets import preset
from fastdmt.training.trainer import Trainer
from fastdmt_loaders.tools.demo import make_demo


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """48 clips of the demo, 10 of them labelled; not to be changed."""
    root = tmp_path_factory.mktemp("demo") / "data"
    make_demo(root, clips=48, labelled=10, seed=1)
    return root


@pytest.fixture
def data(files, tmp_path) -> Path:
    """A copy of `files` that may be spoilt."""
    return Path(shutil.copytree(files, tmp_path / "data"))


@pytest.fixture(scope="session")
def run(files, tmp_path_factory) -> Path:
    """A run of four steps: what it found is worthless, what it left is complete."""
    base = preset("demo")
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    cfg = dataclasses.replace(
        base,
        run=folder,
        data=dataclasses.replace(base.data, root=files, size=32),
        optim=dataclasses.replace(base.optim, batch=8, warmup_steps=2, steps=2),
    )
    Trainer(cfg).run()
    return folder

"""Where logged numbers go: metrics.jsonl always, a board by choice, functions of one's own."""

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastdmt.errors import FastDMTError
from fastdmt.training.tracking import Observer, Silent, write_hparams

QUIET = Console(file=open(os.devnull, "w"))


def watch(run, logger, resume_step=0, sinks=()):
    run.mkdir(exist_ok=True)
    (run / "config.json").write_text('{"seed": 3}')
    observer = Observer(run, QUIET, logger, sinks)
    observer.open(resume_step)
    observer.stage("unbiased", 4)
    observer.scalars(resume_step + 1, 1, {"loss": 0.5, "kept": 0.25})
    observer.picture("maps", resume_step + 1, np.zeros((8, 8, 3), np.uint8))
    observer.close()
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_jsonl_is_written_by_every_logger_and_alone_by_jsonl(tmp_path):
    seen = []
    for logger in ("jsonl", "tensorboard"):
        lines = watch(tmp_path / logger, logger, sinks=[lambda *call: seen.append(call)])
        assert lines == [{"step": 1, "stage": "unbiased", "loss": 0.5, "kept": 0.25}]
    assert seen == 2 * [(1, "unbiased", {"loss": 0.5, "kept": 0.25})]
    assert not (tmp_path / "jsonl" / "tensorboard").exists()
    board = EventAccumulator(str(tmp_path / "tensorboard" / "tensorboard"))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("unbiased/kept")] == [(1, 0.25)]
    assert board.Tags()["images"] == ["maps"]


def test_weights_and_biases_where_it_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(FastDMTError, match="pip install wandb, or use --logger tensorboard"):
        watch(tmp_path / "run", "wandb")


def test_weights_and_biases_gets_the_same_and_resumes_under_its_id(tmp_path, monkeypatch):
    """A stand-in for the package, with the four calls of its public interface that are used."""
    calls, logged = [], []

    def init(**options):
        calls.append(options)
        return SimpleNamespace(id="abc123", log=lambda values, step: logged.append((step, values)), finish=lambda: None)

    fake = ModuleType("wandb")
    fake.init, fake.Image = init, lambda image: ("image", image.shape)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    watch(tmp_path / "run", "wandb")
    watch(tmp_path / "run", "wandb", resume_step=1)
    assert [c["id"] for c in calls] == [None, "abc123"] and calls[0]["config"] == {"seed": 3}
    assert logged[:2] == [
        (1, {"unbiased/loss": 0.5, "unbiased/kept": 0.25}),
        (1, {"maps": ("image", (8, 8, 3))}),
    ]
    assert logged[2][0] == 2


def test_weights_and_biases_offline(tmp_path):
    """The package itself, without a network and without an account, in a process of its own: numbers and pictures."""
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("wandb is not installed")
    code = (
        "import sys; from pathlib import Path; from test_tracking import watch\n"
        "watch(Path(sys.argv[1]), 'wandb'); watch(Path(sys.argv[1]), 'wandb', resume_step=1)"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    told = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "PYTHONPATH": paths, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "run"],
        env=told,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    identity = (tmp_path / "run" / "wandb-id.txt").read_text().strip()
    kept = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{identity}"))
    assert len(kept) == 2, "the resumed run goes on under its own id"
    for folder in kept:
        record = (folder / f"run-{identity}.wandb").read_bytes()
        assert b"unbiased/loss" in record and b"unbiased/kept" in record
        assert len(list((folder / "files" / "media" / "images").glob("maps_*.png"))) == 1


def test_hparams_hold_settings_and_final_figures(tmp_path):
    write_hparams(tmp_path, {"algorithm": "dmt", "seed": 1}, {"test/ciou": 0.5})
    board = EventAccumulator(str(tmp_path / "tensorboard" / "hparams"))
    board.Reload()
    assert [e.value for e in board.Scalars("test/ciou")] == [0.5]
    assert any("hparams" in tag for tag in board.summary_metadata)


def test_the_silent_observer_takes_every_call_and_no_misspelt_one(tmp_path):
    for name, method in inspect.getmembers(Observer, inspect.isfunction):
        if not name.startswith("_"):
            own = vars(Silent)[name]
            assert inspect.signature(own) == inspect.signature(method), name
            assert own(Silent(), *[None] * (len(inspect.signature(own).parameters) - 1)) is None
    with pytest.raises(AttributeError):
        Silent().scalar(1)

"""The examples, as a reader starts them."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from fastdmt.models.foreign import EZVSL
from fastdmt.models.localizer import build_localizer
from fastdmt_loaders.tools.demo import make_demo

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("own") / "data"
    make_demo(root, clips=36, labelled=8, seed=2)
    return root


def example(name, *args) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *map(str, args)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_has_a_test():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(
        re.findall(r'example\("(\w+)"', Path(__file__).read_text())
    )


def test_train_on_own_files_and_localize_a_recording(files, tmp_path):
    assert "CIoU@0.5" in example("train_on_own_files", files, tmp_path / "run", 2)
    soundfile.write(tmp_path / "sound.wav", 0.1 * np.random.default_rng(0).standard_normal((44100, 2)), 44100)
    photo = next((files / "frames").iterdir())
    said = example("localize_a_recording", tmp_path / "run", photo, tmp_path / "sound.wav", tmp_path / "heat.png")
    assert "most likely at" in said
    assert Image.open(tmp_path / "heat.png").size == Image.open(photo).size


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel, Jupyter's Python, is not installed")
    nbformat = importlib.import_module("nbformat")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "it is kept without outputs"
    numbers = "clips, warmup_steps, steps = 400, 150, 80"
    assert numbers in code[0].source
    code[0].source = code[0].source.replace(numbers, "clips, warmup_steps, steps = 48, 2, 2")
    nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in code for output in cell.outputs]
    pictures = [o.data["image/png"] for o in shown if o.output_type == "execute_result" and "image/png" in o.data]
    assert len(pictures) == 2 and all(len(text) > 5000 for text in pictures)
    assert any("With its own sound it finds" in o.text for o in shown if o.output_type == "stream")


def test_own_localizer(files, tmp_path):
    example("own_localizer", files, tmp_path / "run", 2)
    assert (tmp_path / "run" / "best.safetensors").is_file()


def test_kernels_in_a_loop_learn():
    losses = [float(found) for found in re.findall(r"loss ([\d.]+)", example("kernels_in_a_loop", 60))]
    assert losses[-1] < 0.7 * losses[0]


def test_evaluate_ezvsl(files, tmp_path):
    torch.manual_seed(0)
    ours = build_localizer("ezvsl", "resnet18", "spectrogram", dim=512, output_stride=32, tau=0.03).state_dict()
    theirs = {}
    for key, tensor in ours.items():
        theirs |= {their + key.removeprefix(our): tensor for their, our in EZVSL.items() if key.startswith(our)}
    torch.save({"model": {f"module.{key}": t for key, t in theirs.items()}}, tmp_path / "best.pth")
    said = example("evaluate_ezvsl", tmp_path / "best.pth", files, tmp_path / "run")
    assert {"median", "absolute", "adaptive"} <= {line.split(":")[0] for line in said.splitlines()}

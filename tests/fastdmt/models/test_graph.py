"""The graph for other programs says what the model says, in each of its forms and with any number of pairs."""

import dataclasses
import re
import sys

import numpy as np
import pytest
import torch
from one_line import refused
from PIL import Image

import fastdmt
from fastdmt.cli.main import main
from fastdmt.errors import FastDMTError
from fastdmt.models.graph import Graph, write_graph
from fastdmt.models.inputs import read_picture
from fastdmt.models.pair import Model
from fastdmt.models.probability import upsample
from fastdmt.names import GRAPHS
from fastdmt.presets import preset
from fastdmt_loaders import read_sound
from fastdmt_loaders.decode.pictures import resize
from fastdmt_loaders.decode.sound import fit_waveform


def run_file(path, *inputs: np.ndarray) -> np.ndarray:
    """The file's answer, by the program that its form is for."""
    if path.suffix == ".onnx":
        runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (the extra [onnx])")
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(["map"], dict(zip([i.name for i in session.get_inputs()], inputs, strict=True)))[0]
    tensors = [torch.from_numpy(x) for x in inputs]
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(*tensors).numpy()
    return torch.jit.load(path)(*tensors).numpy()


@pytest.fixture(params=list(GRAPHS))
def form(request) -> str:
    if request.param == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name, reason=f"{name} is not installed (the extra [onnx])")
    return request.param


def test_each_form_agrees_with_localize(run, files, tmp_path, form):
    out = tmp_path / "released"
    assert main(["export", str(run), str(out), "--format", form]) == 0
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "config.json", "origins.json", GRAPHS[form]}
    model = fastdmt.load(run, device="cpu")
    for rows in (1, 3):
        frames, sounds, expected = [], [], []
        for path in sorted((files / "frames").iterdir())[:rows]:
            sound = next((files / "audio").glob(f"{path.stem}.*"))
            frames.append(resize(read_picture(path), model.size).transpose(2, 0, 1))
            sounds.append(read_sound(sound, (16000,), model.cfg.data.seconds)[16000])
            expected.append((model.localize(path, sound), Image.open(path).size))
        p = run_file(out / GRAPHS[form], np.stack(frames), np.stack(sounds))
        assert p.shape == (rows, model.size, model.size) and np.ptp(p) > 0.01
        for found, (heat, (width, height)) in zip(p, expected):
            whole = upsample(torch.from_numpy(found)[None], (height, width))[0].numpy()
            assert np.abs(whole - heat).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"audio_b": "soundnet8"}, {"localizer": "slavc"}, {"probability": "minmax"}])
def test_graphs_of_other_pairs(tmp_path, form, changes):
    """Two rates of sound, two heads, another probability."""
    cfg = preset("demo")
    cfg = dataclasses.replace(
        cfg,
        model=dataclasses.replace(cfg.model, **changes),
        data=dataclasses.replace(cfg.data, size=64, seconds=2.0),
    )
    model, _ = Model.build(cfg, pretrained=False)
    model.to("cpu")
    graph = Graph(model, "intersection")
    rng = np.random.default_rng(0)
    inputs = [
        rng.integers(0, 256, (2, *shape[1:])).astype(np.uint8)
        if kind == torch.uint8
        else 0.2 * rng.standard_normal((2, *shape[1:])).astype(np.float32)
        for shape, kind in graph.inputs.values()
    ]
    assert list(graph.inputs)[1:] == [f"sound_{rate}" for rate in graph.rates]
    path = write_graph(model, tmp_path, form, "intersection")
    for i in range(2):
        pcm = inputs[1][i]
        expected = model.localize(inputs[0][i].transpose(1, 2, 0), pcm, graph.rates[0], "intersection")
        if len(graph.rates) == 1:
            found = run_file(path, *(x[i : i + 1] for x in inputs))[0]
        else:  # the model makes the other rate itself
            made = fit_waveform(pcm, graph.rates[0], tuple(graph.rates), 2.0)
            found = run_file(path, inputs[0][i : i + 1], *(made[rate][None] for rate in graph.rates))[0]
        assert np.abs(found - expected).max() < 1e-4


def test_what_is_missing_or_does_not_fit_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    model = fastdmt.load(run, device="cpu")
    pytest.importorskip("onnx", reason="onnx is not installed (the extra [onnx])")
    needs = "--format onnx needs onnxscript; pip install 'fastdmt[onnx]'"
    with pytest.raises(FastDMTError, match=re.escape(needs)):
        write_graph(model, tmp_path, "onnx")
    assert needs in refused("export", run, tmp_path / "released", "--format", "onnx")
    assert not (tmp_path / "released").exists(), "a second try would find a run there"
    plain = model.teachers[0].forward
    model.teachers[0].forward = lambda frames, sound: plain(frames, sound if frames.sum() > 0 else -sound)
    with pytest.raises(FastDMTError, match="does not become a graph of export"):
        write_graph(model, tmp_path, "export")

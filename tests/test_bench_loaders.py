"""The loader that the field writes, as the benchmarks have it: it must give what ours gives, or it is no rival."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fastdmt_loaders import AVDataset, Plan, View, make_loader
from fastdmt_loaders.frontends import FRONT_ENDS
from fastdmt_loaders.tools.demo import make_demo

BENCH = Path(__file__).parents[1] / "bench"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def naive():
    spec = importlib.util.spec_from_file_location("bench_naive", BENCH / "naive.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> AVDataset:
    root = tmp_path_factory.mktemp("bench") / "demo"
    make_demo(root, clips=80, labelled=16)
    return AVDataset(root)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_its_front_ends_are_ours(naive, name):
    rate, function = naive.FRONT_ENDS[name]
    pcm = (0.2 * np.random.default_rng(1).standard_normal(3 * rate)).astype(np.float32)
    ours = FRONT_ENDS[name].function(torch.from_numpy(pcm)[None])[0]
    assert rate == FRONT_ENDS[name].rate
    np.testing.assert_allclose(function(pcm), ours, atol=1e-4)


def test_its_batches_are_made_as_ours_are(naive, files):
    ids, rows = files.ids, (4, 12)
    view = View(64, ("spectrogram", "logmel", "waveform"))
    theirs = next(naive.pair_batches(files, ids[:16], ids[16:], rows, view, 0, CPU))
    plan = Plan(16, len(ids) - 16, *rows, 0)
    loader = make_loader(files, ids[:16], ids[16:], plan, view, workers=0, cache="none")
    ours = next(iter(loader))
    loader.close()
    for kind in ("frames_weak", "frames_strong", "boxes", "known"):
        assert getattr(theirs, kind).shape == getattr(ours, kind).shape, kind
        assert getattr(theirs, kind).dtype == getattr(ours, kind).dtype, kind
    for kind in ("sound", "sound_strong"):
        shapes = [{name: value.shape for name, value in getattr(b, kind).items()} for b in (theirs, ours)]
        assert shapes[0] == shapes[1], kind
    assert theirs.known[:4].all() and set(theirs.ids[:4]) <= set(ids[:16]) and set(theirs.ids[4:]) <= set(ids[16:])


def test_its_boxes_stay_on_their_objects(naive, files, monkeypatch):
    view = View(64, ("spectrogram",), audio_augment="none")
    monkeypatch.setattr(naive.random, "random", lambda: 1.0)  # no flip, no photometric change
    monkeypatch.setattr(naive.random, "randint", lambda low, high: low)  # the crop begins at the upper left
    boxes = naive.PairSet(files, files.ids[:16], view)[0][4]
    whole = files.table(files.ids[:16], view.max_boxes).boxes[0] * view.resize
    np.testing.assert_allclose(boxes, whole.clip(0, 64), atol=1e-4)
    monkeypatch.setattr(naive.random, "random", lambda: 0.49)  # flipped: 0.49 < 0.5
    flipped = naive.PairSet(files, files.ids[:16], view)[0][4]
    some = whole.any(axis=1)
    np.testing.assert_allclose(flipped[some][:, [0, 2]], 64 - boxes[some][:, [2, 0]], atol=1e-4)


@pytest.mark.slow
def test_the_benchmark_runs_on_a_users_folder(files, tmp_path):
    command = [sys.executable, BENCH / "loaders.py", "--data", files.root, "--size", "64", "--workers", "1"]
    command += ["--batches", "1", "--rounds", "1", "--out", tmp_path / "out.json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "bound by" in ended.stdout and "change: " in ended.stdout
    record = json.loads((tmp_path / "out.json").read_text())
    assert set(record["sources"]["data"]["stage_ms"]) >= {"reading", "decoding", "resizing", "sound", "main process"}
    assert record["sources"]["data"]["samples_per_second"]["naive"][0] > 0

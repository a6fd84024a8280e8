"""Sound front-ends against torchaudio's: mel bands, log-mel, resampling."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fastdmt_loaders.decode.sound import resample
from fastdmt_loaders.frontends import logmel, mel_bands

RATES = [(44100, 16000), (48000, 16000), (22050, 16000), (8000, 16000), (44100, 22050), (16000, 22050)]
SCRIPT = Path(__file__).with_name("torchaudio_values.py")

pytestmark = pytest.mark.skipif(importlib.util.find_spec("torchaudio") is None, reason="torchaudio is not installed")


def chord(rate: int, highest: float) -> np.ndarray:
    """23 tones up to `highest` Hz, of known phase: their samples at any rate are known exactly."""
    seconds = np.arange(2 * rate) / rate
    return sum(np.sin(2 * np.pi * hertz * seconds + hertz) for hertz in np.linspace(50, highest, 23)) / 23


@pytest.fixture(scope="module")
def asked() -> dict[str, np.ndarray]:
    rng, seconds = np.random.default_rng(0), np.arange(48000) / 16000
    sounds = [
        0.3 * rng.standard_normal(48000),
        0.5 * np.sin(2 * np.pi * 440 * seconds),
        1e-3 * np.cumsum(rng.standard_normal(48000)),
        np.zeros(48000),
    ]
    questions = {"pcm": np.stack(sounds).astype(np.float32)}
    for old, new in RATES:
        questions[f"resample_{old}_{new}"] = chord(old, 0.8 * min(old, new) / 2).astype(np.float32)
    return questions


@pytest.fixture(scope="module")
def theirs(asked, tmp_path_factory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("torchaudio")
    np.savez(folder / "asked.npz", **asked)
    command = [sys.executable, SCRIPT, folder / "asked.npz", folder / "answers.npz"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return dict(np.load(folder / "answers.npz"))


def test_mel_bands_are_kaldis(theirs):
    bands = mel_bands()
    np.testing.assert_allclose(bands[:256], theirs["bands"], atol=2e-5)  # theirs are float32
    assert not bands[256].any()


def test_log_mel_is_that_of_its_spectrogram_and_bands(asked, theirs):
    ours = logmel(torch.from_numpy(asked["pcm"])).reshape(theirs["logmel"].shape).numpy()
    np.testing.assert_allclose(ours, theirs["logmel"], atol=1e-3, rtol=0)
    assert np.abs(ours - theirs["logmel"]).mean() < 1e-5


@pytest.mark.parametrize(("old", "new"), RATES)
def test_resampled_tones_are_as_exact_as_its_sharpest_filter(asked, theirs, old, new):
    name = f"resample_{old}_{new}"
    exact = chord(new, 0.8 * min(old, new) / 2)
    middle = slice(new // 4, -new // 4)  # both ends hear the silence outside
    ours = resample(asked[name], old, new, len(exact))[middle]
    ours_off = np.abs(ours - exact[middle]).max()
    theirs_off = np.abs(theirs[name][: len(exact)][middle] - exact[middle]).max()
    assert ours_off < 2e-5
    assert ours_off < 2 * theirs_off + 5e-6

"""Whatever form a frame and a sound come in, `localize` sees the same."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from fastdmt.errors import FastDMTError
from fastdmt.models.inputs import as_frame, as_sound
from fastdmt.models.pair import Model
from fastdmt.presets import preset

RATE = 22050


@pytest.fixture(scope="module")
def model():
    base = preset("demo")
    return Model.build(dataclasses.replace(base, data=dataclasses.replace(base.data, size=32)), pretrained=False)[0]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    sound = (0.3 * rng.standard_normal((RATE * 4, 2)).clip(-3, 3)).astype(np.float32).clip(-1, 1)
    Image.fromarray(frame).save(folder / "frame.png")
    soundfile.write(folder / "sound.wav", sound, RATE, subtype="FLOAT")
    return folder, frame, sound


def test_localize_takes_files_images_arrays_and_tensors(model, clip):
    folder, frame, sound = clip
    p = model.localize(frame, sound, RATE)
    assert p.shape == (40, 56)
    chw = torch.from_numpy(frame).permute(2, 0, 1)
    for other in (Image.fromarray(frame), chw, chw.float() / 255, frame.astype(np.float64) / 255, folder / "frame.png"):
        np.testing.assert_array_equal(model.localize(other, sound, RATE), p)
    np.testing.assert_array_equal(model.localize(str(folder / "frame.png"), torch.from_numpy(sound.T), RATE), p)
    from_file = model.localize(folder / "frame.png", folder / "sound.wav")
    np.testing.assert_allclose(from_file, p, atol=2e-3)  # files may be resampled by another library


@pytest.mark.parametrize(
    "frame, says",
    [
        (np.zeros((4, 5, 4), np.uint8), r"\[H, W, 3\].*\[4, 5, 4\]"),
        (np.zeros((0, 5, 3), np.uint8), "this one is"),
        (np.full((4, 5, 3), 255.0), "divide by 255"),
        (np.full((4, 5, 3), np.nan), "0..1"),
        (np.zeros((4, 5, 3), np.int64), "int64"),
        ("no/such.png", "no such file"),
    ],
)
def test_frames_that_cannot_be(frame, says):
    with pytest.raises(FastDMTError, match=says):
        as_frame(frame)


@pytest.mark.parametrize(
    "sound, rate, says",
    [
        (np.zeros(100), None, "needs its rate"),
        (np.zeros((2, 3, 4)), 16000, "not empty"),
        (np.zeros(0), 16000, "not empty"),
        (np.array([0.0, np.nan]), 16000, "not finite"),
        ("no/such.wav", None, "no such sound"),
    ],
)
def test_sounds_that_cannot_be(sound, rate, says):
    with pytest.raises(FastDMTError, match=says):
        as_sound(sound, rate, (16000,), 3.0)


def test_a_grey_frame_is_three_equal_channels():
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    np.testing.assert_array_equal(as_frame(grey), np.stack([grey] * 3, -1))

"""Whatever form a frame and a sound come in, `localize` sees the same."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from fastdmt.errors import InputError
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
        (np.zeros((4, 5, 3), np.uint16), "uint16: divide it by its full scale"),
        (np.zeros((4, 5, 3), bool), "array of numbers"),
        (np.zeros((3, 5, 3), np.uint8), r"may be \[H, W, 3\] or \[3, H, W\]"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"\[2, 4, 5, 3\]"),
        (torch.full((3, 4, 5), -0.1), "0..1"),
        ([[1, 2], [3]], "array of numbers"),
        (b"jpeg", "array of numbers"),
        (None, "array of numbers"),
        ("no/such.png", "no such file"),
    ],
)
def test_frames_that_cannot_be(frame, says):
    with pytest.raises(InputError, match=says):
        as_frame(frame)


@pytest.mark.parametrize(
    "sound, rate, says",
    [
        (np.zeros(100), None, "needs its rate"),
        (np.zeros((2, 3, 4)), 16000, "not empty"),
        (np.zeros((1, 1, 48000)), 16000, r"\[1, 1, 48000\]"),
        (np.zeros(0), 16000, "not empty"),
        (np.zeros((16, 48000)), 16000, "does not tell its channels"),
        (np.zeros((2, 8)), 16000, "does not tell its channels"),
        (np.full(48000, 128, np.uint8), 16000, r"uint8 .* - 128\) / 128"),
        (np.zeros(48000, np.uint16), 16000, "uint16"),
        (np.zeros(48000, np.int64), 16000, "int64 .* no certain full scale"),
        (np.full(48000, 20000, np.int32), 16000, "int32 that reaches 20000 has no certain"),
        (np.full(48000, 20000.0), 16000, "reaches 20000: divide by its full scale"),
        (np.zeros(48000, complex), 16000, "array of numbers"),
        (np.zeros(48000, bool), 16000, "array of numbers"),
        (["a", "b"], 16000, "array of numbers"),
        (np.zeros(48000), 44.1, "rate in Hz"),
        (np.zeros(48000), 44, "44 Hz"),
        (np.zeros(48000), "44100", "rate in Hz"),
        (np.zeros(48000), -16000, "-16,000 Hz"),
        (np.zeros(48000), float("nan"), "rate in Hz"),
        (np.zeros(48000), 10**9, "no sound's"),
        (np.array([0.0, np.nan]), 16000, "not finite"),
        ("no/such.wav", None, "no such sound"),
    ],
)
def test_sounds_that_cannot_be(sound, rate, says):
    with pytest.raises(InputError, match=says):
        as_sound(sound, rate, (16000,), 3.0)


def test_a_grey_frame_is_three_equal_channels():
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    np.testing.assert_array_equal(as_frame(grey), np.stack([grey] * 3, -1))


def test_what_is_unambiguous_means_the_same(clip):
    """Every form of one mono sound, and of one grey frame, by the definition of its type."""
    _, frame, sound = clip
    pcm = (np.round(sound[:, 0] * 32767)).astype(np.int16)
    meant = as_sound(pcm.astype(np.float64) / 32768, RATE, (16000,), 3.0)[16000]
    forms = [
        pcm,
        pcm[None],
        pcm[:, None],
        np.stack([pcm, pcm]),
        np.stack([pcm, pcm], 1),
        pcm.astype(np.int32) * 65536,
        torch.from_numpy(pcm),
        torch.from_numpy(pcm.astype(np.float32) / 32768)[None].requires_grad_(),
        (pcm / 32768).tolist(),
    ]
    for form in forms:
        np.testing.assert_allclose(as_sound(form, np.int64(RATE), (16000,), 3.0)[16000], meant, atol=1e-6)
    np.testing.assert_array_equal(as_sound(np.zeros(48000, np.int32), 16000, (16000,), 3.0)[16000], np.zeros(48000))
    grey = frame[..., 0]
    for form in (grey[..., None], grey[None], torch.from_numpy(grey), grey / 255, (grey / 255).astype(np.float32)):
        np.testing.assert_array_equal(as_frame(form), as_frame(grey))
    half = as_frame((frame / 255).astype(np.float16))
    assert np.abs(half.astype(int) - frame).max() <= 1

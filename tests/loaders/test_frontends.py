"""Front-ends against SciPy and their definitions in float64."""

import numpy as np
import pytest
import scipy.signal
import torch

from fastdmt_loaders.frontends import FRONT_ENDS, logmel, mel_bands, spectrogram, waveform


def test_spectrogram_equals_scipy():
    pcm = torch.from_numpy(np.random.default_rng(0).normal(0.1, 0.2, (3, 48000))).float()
    _, _, density = scipy.signal.spectrogram(pcm.double().numpy(), 16000, nperseg=512, noverlap=274)
    ours = spectrogram(pcm)
    assert ours.shape == (3, 1, 257, 200)
    np.testing.assert_allclose(ours[:, 0].numpy(), np.log(density + 1e-7) / 12, atol=2e-5)


def test_logmel_equals_its_definition_in_float64():
    pcm = np.random.default_rng(1).normal(0, 0.2, (2, 48000))
    window = scipy.signal.get_window("hann", 400)
    rows = np.stack([pcm[:, i * 160 : i * 160 + 400] * window for i in range(288)], axis=1)
    _, _, stft = scipy.signal.stft(rows.reshape(-1, 400), nperseg=400, nfft=512, noverlap=0, window="boxcar",
                                   boundary=None, padded=False, scaling="spectrum")  # fmt: skip
    expected = np.log(np.abs(stft[:, :, 0]) * 400 @ mel_bands() + 0.01).reshape(2, 3, 1, 96, 64)
    ours = logmel(torch.from_numpy(pcm).float())
    assert ours.shape == (2, 3, 1, 96, 64)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("seconds, patches", [(0.5, 1), (0.96, 1), (2.88, 3), (3.0, 3), (10.0, 10)])
def test_logmel_patches(seconds, patches):
    assert logmel(torch.zeros(1, round(16000 * seconds))).shape == (1, patches, 1, 96, 64)
    assert torch.equal(logmel(torch.zeros(1, 16000)), torch.full((1, 1, 1, 96, 64), 0.01).log())


def test_mel_bands_are_triangles_at_the_right_places():
    bands = mel_bands()
    assert bands.shape == (257, 64) and bands.min() == 0 and bands.max() <= 1 and not bands[0].any()
    centres = np.arange(257) @ bands / bands.sum(axis=0) * 8000 / 256
    assert (np.diff(centres) > 0).all() and centres[0] > 125 and 7000 < centres[-1] < 7500
    # Neighbouring triangles overlap so that inside the range the bands of a bin sum to one.
    np.testing.assert_allclose(bands[8:230].sum(axis=1), 1, atol=1e-12)


def test_front_ends_keep_fp32_under_autocast_and_sizes_of_three_seconds():
    shapes = {"logmel": (2, 3, 1, 96, 64), "spectrogram": (2, 1, 257, 200), "waveform": (2, 1, 66150)}
    assert set(shapes) == set(FRONT_ENDS)
    for name, front_end in FRONT_ENDS.items():
        pcm = torch.rand(2, 3 * front_end.rate, generator=torch.Generator().manual_seed(0)) - 0.5
        with torch.autocast("cpu", torch.bfloat16):
            out = front_end.function(pcm)
        assert out.shape == shapes[name] and out.dtype == torch.float32
        torch.testing.assert_close(out, front_end.function(pcm), rtol=0, atol=0)
    assert torch.equal(waveform(torch.tensor([[0.5, -1.0]])), torch.tensor([[[128.0, -256.0]]]))

"""The demo's small encoders: receptive field, pitch, levels."""

import pytest
import torch

from fastdmt.models.encoders import build_audio, build_visual

SOUND = {"logmel": (2, 3, 1, 96, 64), "spectrogram": (2, 1, 257, 200), "waveform": (2, 1, 66150)}


def test_receptive_field_of_the_small_visual_encoder():
    module = build_visual("small").eval()
    x = torch.randn(1, 3, 96, 96, requires_grad=True)
    module(x)[0, :, 6, 6].sum().backward()
    seen = x.grad.abs().sum((0, 1)) > 0
    rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (47, 47)
    assert rows.min() <= 6 * 8 <= rows.max()


@pytest.mark.parametrize("name", ["small-logmel", "small-spectrogram"])
def test_small_audio_encoders_tell_pitches_apart(name):
    """A band moved up gives another vector: averaging over frequency would lose it."""
    module = build_audio(name).eval()
    shape = list(SOUND[module.front_end])
    axis = -1 if name == "small-logmel" else -2  # bands, bins
    low, high = torch.zeros(shape), torch.zeros(shape)
    low.narrow(axis, 16, 4).fill_(3.0)
    high.narrow(axis, 48, 4).fill_(3.0)
    with torch.no_grad():
        a, b = module(low)[0], module(high)[0]
    assert (a - b).norm() > 0.1 * a.norm()


def test_small_spectrogram_encoder_does_not_follow_the_level_of_log_spectrograms():
    """Real log-spectrograms sit at about -1.29 with a spread of 0.09. If the stem's response to the level alone
    exceeds the spread that its BatchNorm divides by, statistics that lag a little spoil evaluation mode."""
    torch.manual_seed(0)
    module = build_audio("small-spectrogram").train()
    spectrogram = -1.29 + 0.09 * torch.randn(16, 1, 257, 200, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(50):
            module(spectrogram)
    norm = module.layers[0][1]
    assert (norm.running_mean.abs() < norm.running_var.sqrt()).all()

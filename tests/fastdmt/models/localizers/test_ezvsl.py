"""EZ-VSL: the authors' initialisation."""

import pytest
import torch
from localizer_cases import build


@pytest.mark.parametrize("name", ["ezvsl", "slavc"])
def test_initialisation_of_the_authors(name):
    localizer = build(name, visual="resnet18", audio="spectrogram", dim=512)
    conv = localizer.visual_head.weight
    assert conv.shape == (512, 512, 1, 1) and localizer.audio_head.weight.shape == (512, 512)
    assert conv.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)  # over the fan-out
    assert localizer.audio_head.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert localizer.audio.conv1.weight.std().item() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)
    scales = torch.cat([m.weight for m in localizer.audio.modules() if isinstance(m, torch.nn.BatchNorm2d)])
    assert scales.mean().item() == pytest.approx(1, abs=2e-3) and scales.std().item() == pytest.approx(0.02, rel=0.05)
    assert (localizer.visual.bn1.weight == 1).all()  # the visual encoder keeps what it has

"""ResNets against a plain definition in float64."""

import pytest
import torch
from plain_networks import random_state, resnet, resnet_shapes

from fastdmt.models.encoders import build_audio, build_visual


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stride", [16, 32])
def test_resnet_is_the_published_network(name, stride):
    state = random_state(resnet_shapes(name))
    module = build_visual(name, stride).double().eval()
    module.load_state_dict(state)  # strict: the names are torchvision's
    x = torch.randn(2, 3, 71, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(module(x), resnet(state, x, name, 2 if stride == 32 else 1), rtol=1e-9, atol=1e-9)


def test_spectrogram_resnet_takes_the_maximum():
    state = random_state(resnet_shapes(channels=1))
    for name, last in (("spectrogram", 2), ("spectrogram-s16", 1)):
        module = build_audio(name).double().eval()
        module.load_state_dict(state)
        x = torch.randn(2, 1, 65, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(module(x), resnet(state, x, last_stride=last).flatten(2).max(2).values)

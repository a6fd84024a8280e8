"""EfficientNet-Lite0 against a plain definition in float64."""

import pytest
import torch
from plain_networks import efficientnet_lite0, random_state

from fastdmt.models.encoders import build_visual


@pytest.mark.parametrize("side", [(64, 96), (45, 71)])
def test_efficientnet_is_the_published_network(side):
    module = build_visual("efficientnet-lite0", 32).double().eval()
    state = random_state({k: tuple(v.shape) for k, v in module.state_dict().items()})
    module.load_state_dict(state)
    x = torch.randn(2, 3, *side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fine, deep = efficientnet_lite0(state, x)
    with torch.no_grad():
        torch.testing.assert_close(module(x), deep, rtol=1e-9, atol=1e-9)
        both = build_visual("efficientnet-lite0", 16).double().eval()
        both.load_state_dict(state)
        grid = both(x)
    assert torch.allclose(grid[:, :112], fine)
    up = torch.nn.functional.interpolate(deep, size=fine.shape[-2:], mode="bilinear", align_corners=False)
    assert torch.allclose(grid[:, 112:], up)

"""Encoders against independent definitions, published sizes and costs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fastdmt.errors import FastDMTError
from fastdmt.models.encoders import AUDIO, VISUAL, build_audio, build_visual, name_of

SOUND = {"logmel": (2, 3, 1, 96, 64), "spectrogram": (2, 1, 257, 200), "waveform": (2, 1, 66150)}


def gmac(module, *shape):
    module = module.to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(shape, device="meta"))
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize(
    "name,parameters",
    [
        ("resnet18", 11_689_512 - 513 * 1000),
        ("resnet50", 25_557_032 - 2049 * 1000),
        ("vgg16", 14_714_688),
        ("vggish", 72_141_184),
        ("soundnet8", 2_874_320),
        ("efficientnet-lite0", 4_652_008 - 1281 * 1000 - 1280 * (320 + 2)),
        ("spectrogram", 11_689_512 - 513 * 1000 - 2 * 64 * 49),
    ],
)
def test_published_parameter_counts(name, parameters):
    with torch.device("meta"):
        module = build_visual(name) if name in VISUAL else build_audio(name)
    assert sum(p.numel() for p in module.parameters()) == parameters
    assert name_of(module) == name


@pytest.mark.parametrize(
    "name,stride,side,expected",
    [("resnet18", 32, 224, 1.814), ("resnet18", 16, 256, 3.98), ("resnet50", 32, 224, 4.09), ("vgg16", 16, 224, 15.35)],
)
def test_visual_cost(name, stride, side, expected):
    assert gmac(build_visual(name, stride), 1, 3, side, side) == pytest.approx(expected, rel=2e-3)


def test_audio_cost():
    assert gmac(build_audio("vggish"), 1, 1, 1, 96, 64) == pytest.approx(0.864, rel=2e-3)
    assert gmac(build_audio("spectrogram"), 1, 1, 257, 200) == pytest.approx(1.944, rel=2e-3)
    assert gmac(build_audio("soundnet8"), 1, 1, 66150) == pytest.approx(0.0897, rel=2e-3)


def test_small_encoders_are_small():
    assert gmac(build_visual("small"), 1, 3, 96, 96) < 0.025
    assert gmac(build_audio("small-logmel"), 1, 3, 1, 96, 64) < 0.015
    assert gmac(build_audio("small-spectrogram"), 1, 1, 257, 200) < 0.015


@pytest.mark.parametrize("name", VISUAL)
@pytest.mark.parametrize("stride", [16, 32])
@pytest.mark.parametrize("side", [(64, 96)])
def test_grid(name, stride, side):
    module = build_visual(name, stride).eval()
    pixels = 8 if name == "small" else stride
    with torch.no_grad():
        grid = module(torch.zeros(2, 3, *side))
    assert grid.shape == (2, module.dim, side[0] // pixels, side[1] // pixels)


@pytest.mark.parametrize("kind,name", [("visual", n) for n in VISUAL] + [("audio", n) for n in AUDIO])
def test_gradient_reaches_every_parameter_and_silence_is_finite(kind, name):
    module = (build_visual(name) if kind == "visual" else build_audio(name)).train()
    shape = (2, 3, 64, 64) if kind == "visual" else SOUND[module.front_end]
    if name == "vggish":
        shape = (1, 1, 1, 96, 64)  # 72 M parameters: one patch is enough
    out = module(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    assert out.shape[1] == module.dim
    out.square().sum().backward()
    for key, p in module.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), key
        cancelled = name.startswith("soundnet8") and key.endswith("bias")  # BatchNorm takes a convolution's bias away
        assert cancelled or p.grad.abs().sum() > 0, key
    module.zero_grad()
    out = module(torch.zeros(shape))
    out.sum().backward()
    assert torch.isfinite(out).all() and all(torch.isfinite(p.grad).all() for p in module.parameters())


def test_names_that_do_not_exist():
    with pytest.raises(FastDMTError, match=r"'resnet19'.*resnet18"):
        build_visual("resnet19")
    with pytest.raises(FastDMTError, match=r"'vgg'.*vggish"):
        build_audio("vgg")
    with pytest.raises(FastDMTError, match="output_stride 8"):
        build_visual("resnet18", 8)

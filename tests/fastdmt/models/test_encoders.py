"""Encoders against independent definitions, published sizes and costs."""

import numpy as np
import pytest
import torch
from plain_networks import efficientnet_lite0, random_state, resnet, resnet_shapes, soundnet_arrays, soundnet_conv7
from torch.utils.flop_counter import FlopCounterMode

from fastdmt.errors import FastDMTError
from fastdmt.models.encoders import AUDIO, VISUAL, build_audio, build_visual, name_of
from fastdmt.models.pretrained import load_weights

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


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stride", [16, 32])
def test_resnet_is_the_published_network(name, stride):
    state = random_state(resnet_shapes(name))
    module = build_visual(name, stride).double().eval()
    module.load_state_dict(state)  # strict: the names are torchvision's
    x = torch.randn(2, 3, 71, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(module(x), resnet(state, x, name, 2 if stride == 32 else 1), rtol=1e-9, atol=1e-9)


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


def test_spectrogram_resnet_takes_the_maximum():
    state = random_state(resnet_shapes(channels=1))
    for name, last in (("spectrogram", 2), ("spectrogram-s16", 1)):
        module = build_audio(name).double().eval()
        module.load_state_dict(state)
        x = torch.randn(2, 1, 65, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(module(x), resnet(state, x, last_stride=last).flatten(2).max(2).values)


def test_vggish_reads_time_then_band_then_channel():
    module = build_audio("vggish").eval()
    # torchvision-style names of the public port, with its layer numbers
    convs = {0: (1, 64), 3: (64, 128), 6: (128, 256), 8: (256, 256), 11: (256, 512), 13: (512, 512)}
    for i, (before, after) in convs.items():
        assert module.features[i].weight.shape == (after, before, 3, 3)
    assert [module.embeddings[i].weight.shape for i in (0, 2, 4)] == [(4096, 12288), (4096, 4096), (128, 4096)]
    x = torch.rand(2, 3, 1, 96, 64)
    with torch.no_grad():
        expected = torch.zeros(2, 128)
        for clip in range(2):
            for patch in range(3):
                f = module.features(x[clip, patch][None])[0]
                assert f.shape == (512, 6, 4)
                row = torch.stack([f[c, t, b] for t in range(6) for b in range(4) for c in range(512)])
                expected[clip] += module.embeddings(row) / 3
        torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-6)


def test_soundnet_is_the_tensorflow_port(tmp_path):
    layers = soundnet_arrays()
    np.save(tmp_path / "sound8.npy", np.array(layers, dtype=object), allow_pickle=True)
    wave = np.random.default_rng(1).uniform(-256, 256, 66150)
    conv7 = soundnet_conv7(layers, wave)
    assert conv7.shape == (3, 1024)
    module = build_audio("soundnet8")
    load_weights(module, tmp_path / "sound8.npy")
    x = torch.from_numpy(wave)[None, None]
    with torch.no_grad():
        found = module.double().eval()(x)[0].numpy()
    np.testing.assert_allclose(found, conv7.mean(0), rtol=1e-9, atol=1e-9)


def test_soundnet_conv8_tiles_to_ten_seconds(tmp_path):
    layers = soundnet_arrays()
    np.save(tmp_path / "sound8.npy", np.array(layers, dtype=object), allow_pickle=True)
    wave = np.random.default_rng(1).uniform(-256, 256, 66150)
    conv7 = soundnet_conv7(layers, np.tile(wave, 4))  # 4 * 3 s >= 10 s
    windows = np.lib.stride_tricks.sliding_window_view(conv7, 8, axis=0)[::2]
    expected = [
        np.tensordot(windows, layers[name]["weights"][:, 0].astype(np.float64), ([2, 1], [0, 1])).mean(0)
        + layers[name]["biases"]
        for name in ("conv8", "conv8_2")
    ]
    module = build_audio("soundnet8-conv8")
    loaded = load_weights(module, tmp_path / "sound8.npy")
    assert not loaded.spare
    with torch.no_grad():
        found = module.double().eval()(torch.from_numpy(wave)[None, None])[0].numpy()
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-8, atol=1e-8)


def test_receptive_field_of_the_small_visual_encoder():
    module = build_visual("small").eval()
    x = torch.randn(1, 3, 96, 96, requires_grad=True)
    module(x)[0, :, 6, 6].sum().backward()
    seen = x.grad.abs().sum((0, 1)) > 0
    rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (47, 47)
    assert rows.min() <= 6 * 8 <= rows.max()


@pytest.mark.parametrize("name", ["small-logmel", "small-spectrogram"])
def test_small_ears_hear_pitch(name):
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


def test_small_spectrogram_ear_does_not_feel_the_level_of_log_spectrograms():
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

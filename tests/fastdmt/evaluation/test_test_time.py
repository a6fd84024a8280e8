"""Test-time options against their definitions, and that they are off unless asked for."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from fastdmt.errors import FastDMTError
from fastdmt.evaluation.result import Result
from fastdmt.evaluation.test_time import Guided, with_options

SOUND = {"any": torch.zeros(3, 1)}


class Bright:
    """A model whose cosine is the frame's brightness in cells of 16 pixels, darker to the right: no flip symmetry."""

    size, front_ends, device = 96, ("any",), torch.device("cpu")
    cfg = SimpleNamespace()

    def cosines(self, frames, sound, source="teachers"):
        s = F.avg_pool2d(frames.mean(1, keepdim=True), 16)[:, 0]
        return [torch.tanh(s - torch.linspace(0, 1, s.shape[-1]))] * (2 if source == "teachers" else 1)

    def maps(self, frames, sound, source="teachers", size=224):
        up = F.interpolate(self.cosines(frames, sound, "A")[0][:, None], size=(size, size), mode="bilinear")
        return (4 * up[:, 0]).sigmoid()


@pytest.fixture
def frames():
    return torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def test_nothing_asked_changes_nothing(frames):
    model = with_options(Bright())
    assert model.options == () and model.size == 96
    assert torch.equal(model.maps(frames, SOUND), Bright().maps(frames, SOUND))
    assert all(torch.equal(a, b) for a, b in zip(model.cosines(frames, SOUND), Bright().cosines(frames, SOUND)))


def test_flip_is_the_mean_with_the_mirrored_frame_and_so_symmetric(frames):
    plain, model = Bright(), Guided(Bright(), flip=True)
    p = model.maps(frames, SOUND)
    expected = (plain.maps(frames, SOUND) + plain.maps(frames.flip(-1), SOUND).flip(-1)) / 2
    assert torch.allclose(p, expected) and not torch.allclose(p, plain.maps(frames, SOUND), atol=1e-3)
    assert torch.allclose(model.maps(frames.flip(-1), SOUND), p.flip(-1), atol=1e-6)


def test_scales_are_rounded_to_32_pixels_and_averaged(frames):
    plain, model = Bright(), Guided(Bright(), scales=(0.7, 1, 1.25))
    sides = [view.shape[-1] for view, _ in model._views(frames)]
    assert sides == [64, 96, 128]
    parts = []
    for side in sides:
        view = frames
        if side != 96:
            view = F.interpolate(frames, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
        parts.append(plain.maps(view, SOUND))
    assert torch.allclose(model.maps(frames, SOUND), torch.stack(parts).mean(0), atol=1e-6)
    assert [s.shape[-1] for s in Guided(Bright(), True, (0.7, 1)).cosines(frames, SOUND, "A")] == [4, 4, 6, 6]


def test_object_guidance_is_ezvsls_formula(frames):
    objects = torch.nn.Conv2d(3, 5, 32, 32)
    p = Guided(Bright(), objects=objects).maps(frames, SOUND, "A").double()

    def stretched(maps):
        up = F.interpolate(maps[:, None], size=(224, 224), mode="bilinear", align_corners=False)[:, 0].double()
        flat = up.flatten(1)
        low, high = flat.min(1).values[:, None, None], flat.max(1).values[:, None, None]
        return (up - low) / (high - low)

    expected = 0.4 * stretched(Bright().cosines(frames, SOUND, "A")[0]) + 0.6 * stretched(objects(frames).abs().mean(1))
    assert torch.allclose(p, expected, atol=1e-6)
    assert p.min() >= 0 and p.max() <= 1


def test_tables_name_what_was_on():
    options = Guided(Bright(), True, (1, 1.25), torch.nn.Identity()).options
    assert options == ("flip", "scales 1 1.25", "object guidance")
    assert Result([], {}, "teachers", options=options).map == "teachers + flip + scales 1 1.25 + object guidance"


def test_refusals(tmp_path):
    with pytest.raises(FastDMTError, match=r"--scales must lie between"):
        with_options(Bright(), scales=(9.0,))
    with pytest.raises(FastDMTError, match="no such weight file"):
        with_options(Bright(), object_weights=str(tmp_path / "absent.pth"))

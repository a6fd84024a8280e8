"""The two students and two teachers: independent beginnings, maps from their parts, weights by name."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fastdmt.errors import FastDMTError
from fastdmt.models.pair import Model
from fastdmt.presets import preset


def model(seed=0, probability="sigmoid"):
    base = preset("demo")
    cfg = dataclasses.replace(
        base, seed=seed, model=dataclasses.replace(base.model, affine_init=(4.0, -1.0), probability=probability)
    )
    return Model.build(cfg, pretrained=False)[0]


@pytest.fixture(scope="module")
def pair():
    return model()


@pytest.fixture(scope="module")
def inputs(pair):
    g = torch.Generator().manual_seed(0)
    shapes = {"logmel": (2, 3, 1, 96, 64), "spectrogram": (2, 1, 257, 200), "waveform": (2, 1, 66150)}
    return torch.randn(2, 3, 64, 64, generator=g), {n: torch.randn(shapes[n], generator=g) for n in pair.front_ends}


def test_teachers_begin_as_their_students_and_the_two_pairs_differ(pair):
    first, second = (s.visual.state_dict() for s in pair.students)
    assert any(not torch.equal(first[k], second[k]) for k in first if k in second)
    for student, teacher in zip(pair.students, pair.teachers, strict=True):
        theirs = teacher.state_dict()
        assert all(torch.equal(v, theirs[k]) for k, v in student.state_dict().items())
        assert not any(p.requires_grad for p in teacher.parameters()) and not teacher.training


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before(pair):
    torch.manual_seed(12345)
    again, other = model().tensors(), model(seed=1).tensors()
    mine = pair.tensors()
    assert all(torch.equal(v, again[k]) for k, v in mine.items())
    assert any(not torch.equal(v, other[k]) for k, v in mine.items())


def test_maps_are_what_their_names_say(pair, inputs):
    frames, sound = inputs
    p = {s: pair.maps(frames, sound, s, size=96) for s in ("A", "B", "teachers")}
    with torch.no_grad():
        for k, name in enumerate("AB"):
            teacher = pair.teachers[k]
            s = teacher(frames, sound[teacher.front_end]).map
            up = F.interpolate(s[:, None].double(), size=(96, 96), mode="bilinear", align_corners=False)[:, 0]
            w, b = teacher.affine.double()
            torch.testing.assert_close(p[name].double(), torch.sigmoid(w * up + b), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(p["teachers"], (p["A"] + p["B"]) / 2)
    assert not torch.allclose(p["A"], p["B"])


def test_weights_go_out_and_in_by_name_and_another_models_are_refused(pair, tmp_path):
    saved = {k: v.clone() for k, v in pair.tensors().items()}
    other = model(seed=3)
    other.load_tensors(saved, Path("x.safetensors"))
    assert all(torch.equal(v, saved[k]) for k, v in other.tensors().items())
    released = {k: v for k, v in saved.items() if k.startswith("teachers.")}
    fresh = model(seed=4)
    fresh.load_tensors(released, Path("x.safetensors"))
    assert torch.equal(fresh.students[0].affine, saved["teachers.0.affine"])
    with pytest.raises(FastDMTError, match=r"x\.safetensors holds another model: .*students\.0\.affine"):
        fresh.load_tensors({k: v for k, v in saved.items() if k != "students.0.affine"}, Path("x.safetensors"))


def test_unknown_maps_are_refused_with_the_known_ones(pair, inputs):
    with pytest.raises(FastDMTError, match=r"unknown map 'both': choose one of .*intersection"):
        pair.maps(*inputs, "both")

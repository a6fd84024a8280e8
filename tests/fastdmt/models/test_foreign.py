"""Checkpoints of EZ-VSL, SLAVC and LVS, written with the names and shapes of the authors' code."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from plain_networks import normalised, random_state, resnet, resnet_shapes

from fastdmt.errors import FastDMTError
from fastdmt.models.foreign import import_checkpoint
from fastdmt.models.localizer import build_localizer


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def heads(**shapes):
    return random_state(
        {k: s for name, s in shapes.items() for k, s in ((f"{name}.weight", s), (f"{name}.bias", s[:1]))}
    )


def prefixed(prefix, state):
    return {f"{prefix}.{k}": v for k, v in state.items()}


def cosine_map(v, a):
    return torch.einsum("ndhw,nd->nhw", normalised(v), normalised(a))


def inputs():
    return draw(8, 2, 3, 96, 96), draw(9, 2, 1, 129, 100)


def hear(state, x, last_stride=2):
    return resnet(state, x, last_stride=last_stride).flatten(2).max(2).values


def write_ezvsl(path):
    eye, ear = random_state(resnet_shapes(), 1), random_state(resnet_shapes(channels=1), 2)
    proj = heads(img_proj=(128, 512, 1, 1), aud_proj=(128, 512))
    state = prefixed("imgnet", eye) | prefixed("audnet", ear) | proj
    scores = {"best_cIoU": np.float64(71.2), "best_Auc": np.float64(50.1)}
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}, "optimizer": {}, "epoch": 3, **scores}, path)
    frames, sound = inputs()
    v = F.conv2d(resnet(eye, frames), proj["img_proj.weight"].double(), proj["img_proj.bias"].double())
    return cosine_map(v, F.linear(hear(ear, sound), proj["aud_proj.weight"].double(), proj["aud_proj.bias"].double()))


def write_slavc(path):
    eye, ear = random_state(resnet_shapes(), 1), random_state(resnet_shapes(channels=1), 2)
    shapes = {f"{m}_proj{i}": (64, 512, 1, 1) if m == "img" else (64, 512) for m in ("img", "aud") for i in (1, 2)}
    proj = heads(**shapes)
    state = prefixed("imgnet", eye) | prefixed("audnet", ear) | proj
    slow = prefixed("imgnet", random_state(resnet_shapes(), 5)) | prefixed(
        "audnet", random_state(resnet_shapes(channels=1), 6)
    )
    slow |= heads(**dict(reversed(shapes.items())))
    torch.save({"model": state | {f"momentum_{k}": v for k, v in slow.items()}, "best_AP": 0.3}, path)
    frames, sound = inputs()
    v, a = resnet(eye, frames), hear(ear, sound)
    p = {k: x.double() for k, x in proj.items()}
    return sum(
        cosine_map(
            F.conv2d(v, p[f"img_proj{i}.weight"], p[f"img_proj{i}.bias"]),
            F.linear(a, p[f"aud_proj{i}.weight"], p[f"aud_proj{i}.bias"]),
        )
        / 2
        for i in (1, 2)
    )


def write_lvs(path):
    spare = {"conv1_flow.weight": (64, 6, 7, 7), "conv1_a.weight": (64, 1, 7, 7), "conv1.weight": (64, 3, 7, 7)}
    shapes = resnet_shapes(classes=1000) | spare
    eye, ear = random_state(shapes, 1), random_state(shapes, 2)
    state = prefixed("imgnet", eye) | prefixed("audnet", ear)
    torch.save({"epoch": 1, "model_state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    frames, sound = inputs()
    ear = ear | {"conv1.weight": ear["conv1_a.weight"]}
    return cosine_map(resnet(eye, frames, last_stride=1), hear(ear, sound, last_stride=1))


WRITERS = {"ezvsl": write_ezvsl, "slavc": write_slavc, "lvs": write_lvs}


@pytest.mark.parametrize("kind", WRITERS)
def test_imported_maps_are_the_authors(kind, tmp_path):
    expected = WRITERS[kind](tmp_path / "best.pth")
    localizer, settings = import_checkpoint(kind, tmp_path / "best.pth")
    assert not localizer.training
    frames, sound = inputs()
    with torch.no_grad():
        found = localizer(frames.float(), sound.float())
    torch.testing.assert_close(found.map.double(), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.003  # the comparison is not one of constants
    model = settings["model"]
    again = build_localizer(
        model["localizer"], model["visual"], model["audio_a"], dim=model["dim"], output_stride=model["output_stride"]
    )
    again.load_state_dict(localizer.state_dict())  # strict: the settings describe the localizer


@pytest.mark.parametrize("kind,other", [("ezvsl", "lvs"), ("lvs", "ezvsl"), ("slavc", "ezvsl"), ("ezvsl", "slavc")])
def test_a_checkpoint_of_another_localizer_is_refused(kind, other, tmp_path):
    WRITERS[other](tmp_path / "best.pth")
    with pytest.raises(FastDMTError, match=rf"best\.pth.*{kind}"):
        import_checkpoint(kind, tmp_path / "best.pth")


def test_unknown_kind(tmp_path):
    with pytest.raises(FastDMTError, match="'dino' are unknown; choose one of ezvsl, lvs, slavc"):
        import_checkpoint("dino", tmp_path / "best.pth")

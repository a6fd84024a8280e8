"""Kept features against the encoders that made them, and runs that train on them."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_runs import QUIET, tiny

from fastdmt.config import FastDMTError
from fastdmt.data.run_data import open_data
from fastdmt.models.encoders import build_visual
from fastdmt.models.feature_cache import Features
from fastdmt.models.localizer import build_localizer
from fastdmt.models.pair import Model
from fastdmt.training.trainer import Trainer
from fastdmt_loaders import Plan
from fastdmt_loaders.tools.demo import make_demo


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "data"
    make_demo(root, clips=40, labelled=10, seed=1)
    return root


def frozen(files, folder):
    """The demo's run with a frozen (random) EfficientNet and a frozen encoder of log-mel in A."""
    weights = folder / "lite0.pth"
    if not weights.is_file():
        torch.manual_seed(0)
        torch.save(build_visual("efficientnet-lite0").state_dict(), weights)
    cfg = tiny(files, folder / "run")
    return dataclasses.replace(
        cfg,
        data=dataclasses.replace(cfg.data, size=64, feature_crops=2, feature_cache=folder / "kept"),
        model=dataclasses.replace(
            cfg.model,
            visual="efficientnet-lite0",
            visual_weights=str(weights),
            freeze=-1,
            freeze_audio="A",
            head="conv",
            dim=16,
        ),
        pseudo=dataclasses.replace(cfg.pseudo, negatives=1.0, delta=0.01, ignore_below=None, tau=0.0),
    )


def features_of(cfg):
    model, data = Model.build(cfg)[0], open_data(cfg, QUIET)
    return Features.of_run(data, model.students, model.front_ends, QUIET), model, data


def test_kept_crops_are_what_the_encoders_say_of_the_loaders_crops(files, tmp_path):
    from fastdmt_loaders import augment
    from fastdmt_loaders.sources.workers import read_item

    features, model, data = features_of(frozen(files, tmp_path))
    table, view = features.table, features.view
    plan = Plan(len(data.labelled), len(data.unlabelled), 3, 5, 0)
    batch = features.batch(plan, 4)
    assert batch.frames_weak.shape == (8, 432, 4, 4) and batch.sound["logmel"].shape == (8, 128)
    assert batch.sound["spectrogram"].shape[1:] == (1, 257, 200)
    index = plan.index(4)
    assert batch.ids == table.ids[index].tolist() and batch.labelled == 3
    # By hand: the first row's item, in the chunk in which it was encoded, in both of its crops.
    item = int(index[0])
    start = item // 32 * 32
    rows = np.arange(start, min(start + 32, len(table)))
    raw = features._raw(rows, [read_item(table, int(i), view) for i in rows])
    errors = []
    for k in range(2):
        seen = augment.apply(raw, augment.draw(7919 + k, start, len(rows)), view, [""] * len(rows))
        one = slice(item - start, item - start + 1)
        with torch.no_grad():
            grid = model.students[0].visual.eval()(seen.frames_strong[one])
            heard = model.students[0].audio.eval()(seen.sound_strong["logmel"][one])
        errors.append((grid - batch.frames_strong[:1].float()).abs().max().item() / grid.abs().max().item())
        if errors[-1] < 0.02:  # half precision of the small activations of random weights
            torch.testing.assert_close(batch.boxes[:1], seen.boxes[one])
            torch.testing.assert_close(batch.sound_strong["logmel"][:1], heard, rtol=1e-4, atol=1e-5)
    assert min(errors) < 0.02 < max(errors)


def test_a_second_run_finds_the_files_and_other_weights_do_not(files, tmp_path):
    cfg = frozen(files, tmp_path)
    first = features_of(cfg)[0].folder
    before = (first / "weak.npy").stat().st_mtime_ns
    assert features_of(cfg)[0].folder == first and (first / "weak.npy").stat().st_mtime_ns == before
    other = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, size=96))
    assert features_of(other)[0].folder != first


def test_a_run_on_features_moves_heads_and_nothing_frozen(files, tmp_path):
    cfg = frozen(files, tmp_path)
    trainer = Trainer(cfg, QUIET)
    before = {k: v.clone() for k, v in trainer.model.tensors().items()}
    trainer.run()
    after = trainer.model.tensors()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    kept = ("students.0.visual.", "students.1.visual.", "students.0.audio.")
    assert not [k for k in moved if k.startswith(kept)]
    for part in ("0.visual_head.", "1.visual_head.", "0.audio_head.", "1.audio."):
        assert [k for k in moved if k.startswith(f"students.{part}")], part


def test_freeze_stops_gradients_and_statistics_of_the_first_stages():
    localizer = build_localizer("dmt", "efficientnet-lite0", "small-logmel", dim=16, head="conv")
    localizer.freeze(6, audio=True)
    state = {k: v.clone() for k, v in localizer.state_dict().items()}
    localizer.train()
    out = localizer(torch.randn(2, 3, 64, 64), torch.randn(2, 1, 1, 96, 64))
    out.map.square().sum().backward()
    moved = {k for k, v in localizer.state_dict().items() if not torch.equal(v, state[k])}
    learns = {n for n, p in localizer.named_parameters() if p.grad is not None}
    # Stem and five stages are the blocks 0 to 10.
    deep = {n for n in learns | moved if n.startswith("visual._blocks.1") and n.split(".")[2] in ("11", "12", "15")}
    assert deep
    for name in learns | moved:
        assert not name.startswith(("visual._conv_stem", "visual._bn0", "audio."))
        if name.startswith("visual._blocks."):
            assert int(name.split(".")[2]) > 10
    with pytest.raises(FastDMTError, match="has 8 stages"):
        localizer.freeze(9, audio=False)


def test_options_that_do_not_fit(files, tmp_path):
    cfg = frozen(files, tmp_path)
    with pytest.raises(FastDMTError, match="--feature-crops"):
        dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, freeze=3))
    with pytest.raises(FastDMTError, match="--visual-weights"):
        dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, visual_weights=None))


def test_maps_of_frozen_encoders_look_once_and_say_the_same(files, tmp_path):
    cfg = frozen(files, tmp_path)
    model = Model.build(cfg)[0]
    looks = []
    model.teachers[0].visual.register_forward_hook(lambda *_: looks.append(1))
    frames = torch.randn(2, 3, 64, 64)
    sound = {"logmel": torch.randn(2, 3, 1, 96, 64), "spectrogram": torch.randn(2, 1, 257, 200)}
    first, again = model.cosines(frames, sound), model.cosines(frames, sound, "students")
    assert len(looks) == 1
    for maps, localizers in ((first, model.teachers), (again, model.students)):
        for s, localizer in zip(maps, localizers, strict=True):
            with torch.no_grad():
                torch.testing.assert_close(s, localizer.eval()(frames, sound[localizer.front_end]).map)
    other = torch.randn(2, 3, 64, 64)
    assert not torch.equal(model.cosines(other, sound)[0], first[0])


@pytest.mark.parametrize("name", ["meta.json", "weak.npy"])
def test_kept_features_that_are_not_whole_are_named(files, tmp_path, name):
    cfg = frozen(files, tmp_path)
    folder = features_of(cfg)[0].folder
    kept = (folder / name).read_bytes()
    for content in (b"", b"{", b'{"arrays": ["absent"]}', kept[: len(kept) // 2]):
        (folder / name).write_bytes(content)
        with pytest.raises(FastDMTError, match=f"{folder} holds no whole features.*remove it"):
            features_of(cfg)
    (folder / name).write_bytes(kept)
    assert features_of(cfg)[0].arrays["weak"].shape[0] == 2

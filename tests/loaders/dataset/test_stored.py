"""Shards through the loaders: the same batches as from the folders they were packed from."""

import json
import os
from itertools import islice

import numpy as np
import pytest
import torch

from fastdmt_loaders import AVDataset, DataError, Plan, View, make_loader, make_split
from fastdmt_loaders.dataset import stored as module
from fastdmt_loaders.dataset.stored import MAX_MEDIA, member, read_bytes, stored
from fastdmt_loaders.tools.pack import pack

pytest.importorskip("webdataset")

VIEW = View(size=32, front_ends=("logmel",), seconds=1.0)


@pytest.fixture(scope="module")
def packed(field_root, tmp_path_factory):
    return pack(field_root, tmp_path_factory.mktemp("packed"), per_shard=7).root


def test_a_member_is_the_file_it_was(field_set, packed):
    shards = AVDataset(packed)
    assert shards.ids == field_set.ids and shards.rule == "vggss" and shards.annotated == field_set.annotated
    for id in shards.ids:
        assert read_bytes(shards.frame_path(id)) == field_set.frame_path(id).read_bytes()
        assert read_bytes(shards.sound_path(id)) == field_set.sound_path(id).read_bytes()
        np.testing.assert_array_equal(shards.annotation(id).boxes, field_set.annotation(id).boxes)
    for options in ({"labels": 4, "validation": 2, "test": 2}, {"labels": 6, "validation": 0, "test": 1}):
        assert make_split(shards, seed=3, **options) == make_split(field_set, seed=3, **options)


@pytest.mark.parametrize("kind", ["torch", "dali"])
def test_batches_from_shards_equal_those_from_folders(field_set, packed, kind):
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
    plan = Plan(6, 18, 2, 6, seed=4)
    both = []
    for dataset in (field_set, AVDataset(packed)):
        ids = dataset.ids
        made = make_loader(dataset, ids[:6], ids[6:], plan, VIEW, kind=kind, cache="none", workers=0)
        both.append(list(islice(made, 3)))
    for a, b in zip(*both):
        assert a.ids == b.ids and torch.equal(a.boxes, b.boxes)
        assert torch.equal(a.frames_strong, b.frames_strong)
        assert torch.equal(a.sound_strong["logmel"], b.sound_strong["logmel"])


def test_faults_of_shards_are_named(field_root, tmp_path):
    root = pack(field_root, tmp_path / "packed", per_shard=12).root
    dataset = AVDataset(root)
    last = dataset.ids[-1]
    tar = root / "shard-000001.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(DataError, match=rf"{last}.*ends before it"):
        stored(dataset.sound_path(last))
    tar.unlink()
    with pytest.raises(DataError, match=rf"shard-000001\.tar.*{last}.*cannot be read"):
        stored(dataset.sound_path(last))
    with pytest.raises(DataError, match="packed with vggss"):
        AVDataset(root, annotations="flickr")
    whole = json.loads((root / "boxes.json").read_text())
    for box in (
        [0.1, 0.2, 0.5, float("nan")],
        [0.5, 0.2, 0.1, 0.8],
        [0, 0, 1, 1.5],
        [-0.1, 0, 1, 1],
        [0, 0, 1],
        ["a"] * 4,
    ):
        changed = {"vggss": whole["vggss"] | {last: [[0.0, 0.0, 1.0, 1.0], box]}}
        (root / "boxes.json").write_text(json.dumps(changed))
        with pytest.raises(DataError, match="incomplete shards"):
            AVDataset(root)
    (root / "boxes.json").unlink()
    with pytest.raises(DataError, match="incomplete shards"):
        AVDataset(root)


def test_a_plain_path_that_resembles_a_member_is_told_apart(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"0123456789")
    assert stored(path) == str(path)
    assert read_bytes(member(str(path), 2, 3, "x.jpg")) == b"234"


def test_what_is_read_whole_has_a_limit(field_set, packed, field_root, tmp_path, monkeypatch):
    """A file of holes takes no room on the disk; 512 MiB of a picture or of a member would take it in memory."""
    picture = tmp_path / "a.jpg"
    picture.touch()
    os.truncate(picture, MAX_MEDIA + 1)
    with pytest.raises(DataError, match=r"a\.jpg: is too large for a picture \(more than 512 MiB\)"):
        read_bytes(picture)
    with pytest.raises(DataError, match=r"a\.jpg: is too large for a member of a tar"):
        stored(member(str(tmp_path / "x.tar"), 0, MAX_MEDIA + 1, "a.jpg"))
    id = field_set.ids[0]
    size = field_set.sound_path(id).stat().st_size
    shards = AVDataset(packed)
    monkeypatch.setattr(module, "MAX_MEDIA", size)
    assert len(stored(shards.sound_path(id)).getvalue()) == size
    monkeypatch.setattr(module, "MAX_MEDIA", size - 1)
    with pytest.raises(DataError, match="too large"):
        stored(shards.sound_path(id))
    assert stored(field_set.sound_path(id)) == str(field_set.sound_path(id))  # a plain file is read in pieces
    monkeypatch.setattr("fastdmt_loaders.tools.pack.MAX_MEDIA", size - 1)
    with pytest.raises(DataError, match="too large for a member of a shard"):
        pack(field_root, tmp_path / "out", workers=1)

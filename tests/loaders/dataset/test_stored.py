"""Shards through the loaders: the same batches as from the folders they were packed from."""

from itertools import islice

import numpy as np
import pytest
import torch

from fastdmt_loaders import AVDataset, DataError, Plan, View, make_loader, make_split
from fastdmt_loaders.dataset.stored import member, read_bytes, stored
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
    (root / "boxes.json").unlink()
    with pytest.raises(DataError, match="incomplete shards"):
        AVDataset(root)


def test_a_plain_path_that_resembles_a_member_is_told_apart(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"0123456789")
    assert stored(path) == str(path)
    assert read_bytes(member(str(path), 2, 3, "x.jpg")) == b"234"

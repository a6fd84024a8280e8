"""Shards: every byte of every item, an index that DALI's own tool would write, and DALI reading them."""

import json
import tarfile

import numpy as np
import pytest

from fastdmt_loaders.dataset.annotations import read_vggss
from fastdmt_loaders.dataset.dataset import AVDataset
from fastdmt_loaders.errors import DataError
from fastdmt_loaders.tools.demo import make_demo
from fastdmt_loaders.tools.pack import pack, read_shards

webdataset = pytest.importorskip("webdataset")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("demo"), clips=24, labelled=4, size=64, videos=0).root


@pytest.fixture(scope="module")
def shards(demo, tmp_path_factory):
    seen = []
    out = tmp_path_factory.mktemp("shards")
    made = pack(demo, out, annotations="vggss", per_shard=10, progress=lambda *n: seen.append(n))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    return made


def test_records_hold_the_files_byte_for_byte_in_order(demo, shards):
    dataset, boxes, seen = AVDataset(demo), read_vggss(demo / "vggss.json"), []
    for record in webdataset.WebDataset(shards.tars, shardshuffle=False, empty_check=False):
        id = record["__key__"]
        seen.append(id)
        sound = dataset.sound_path(id)
        assert record["jpg"] == dataset.frame_path(id).read_bytes()
        assert record[sound.suffix[1:]] == sound.read_bytes()
        label = json.loads(record["json"])
        if id in boxes:
            assert label == {"id": id, "boxes": boxes[id].boxes.tolist(), "rule": "vggss"}
        else:
            assert label == {"id": id, "boxes": None, "rule": None}  # a silent clip
    assert seen == dataset.ids == [id for ids in shards.ids for id in ids]
    assert [len(ids) for ids in shards.ids] == [10, 10, 5]


def test_index_points_at_the_bytes_and_equals_the_one_of_dalis_tool(shards, tmp_path):
    for tar, index, ids in zip(shards.tars, shards.indices, shards.ids):
        head, *lines = open(index).read().splitlines()
        assert head == f"v1.2 {len(ids)}" and len(lines) == len(ids)
        data = open(tar, "rb").read()
        with tarfile.open(tar) as archive:
            for line in lines:
                parts = line.split(" ")
                for suffix, offset, size, name in zip(*[iter(parts)] * 4):
                    assert name.endswith(f".{suffix}")
                    assert data[int(offset) : int(offset) + int(size)] == archive.extractfile(name).read()
        tool = pytest.importorskip("wds2idx")
        with tool.IndexCreator(tar, str(tmp_path / "x.idx"), verbose=False) as creator:
            creator.create_index()
        assert (tmp_path / "x.idx").read_text() == open(index).read()


def test_dali_reads_what_was_packed(demo, shards):
    fn = pytest.importorskip("nvidia.dali.fn")
    from nvidia.dali import pipeline_def

    @pipeline_def(batch_size=5, num_threads=1, device_id=None)
    def graph():
        frame, sound, label = fn.readers.webdataset(
            paths=shards.tars, index_paths=shards.indices, ext=["jpg", "wav;flac", "json"], name="reader"
        )
        return fn.decoders.image(frame), fn.decoders.audio(sound, downmix=True)[0], label

    pipe = graph()
    pipe.build()
    assert pipe.epoch_size("reader") == 25
    seen = []
    for _ in range(5):
        frames, sounds, labels = pipe.run()
        for i in range(5):
            assert np.asarray(frames[i]).shape[2] == 3 and np.asarray(sounds[i]).size > 8000
            seen.append(json.loads(bytes(np.asarray(labels[i])))["id"])
    assert seen == [id for ids in shards.ids for id in ids]


def test_same_input_same_bytes_and_a_chosen_order(demo, tmp_path):
    ids = AVDataset(demo).ids[:7][::-1]
    one, two = (pack(demo, tmp_path / name, ids, annotations="flickr", per_shard=4) for name in "ab")
    assert one.ids == [ids[:4], ids[4:]]
    for a, b in zip((*one.tars, *one.indices), (*two.tars, *two.indices)):
        assert open(a, "rb").read() == open(b, "rb").read()
    record = next(iter(webdataset.WebDataset(one.tars, shardshuffle=False, empty_check=False)))
    label = json.loads(record["json"])
    assert label["rule"] == "flickr" and len(label["boxes"]) == 3
    assert (tmp_path / "a" / "train.txt").is_file()


def test_incomplete_shards_are_refused(shards, demo, tmp_path):
    with pytest.raises(DataError, match="no complete shards"):
        read_shards(tmp_path)
    made = pack(demo, tmp_path / "x", per_shard=20)
    assert read_shards(tmp_path / "x") == made
    (tmp_path / "x" / "shard-000001.idx").unlink()
    with pytest.raises(DataError, match=r"shard-000001\.idx"):
        read_shards(tmp_path / "x")


def test_ids_that_a_record_cannot_have(demo, tmp_path):
    with pytest.raises(DataError, match="no dot"):
        pack(demo, tmp_path, ["a.b"])
    with pytest.raises(DataError, match="nobody"):
        pack(demo, tmp_path, ["nobody"])

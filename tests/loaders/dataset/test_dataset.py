"""Lists, splits and the compact table."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdmt_loaders import AVDataset, DataError, Pair, Split, make_split, read_list, read_pairs


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("a.txt", "x1\nx2", [Pair("x1", "x1", True), Pair("x2", "x2", True)]),
        ("a.csv", "-x1_000012,202\n\n x2 ,0\n", [Pair("-x1_000012", "-x1_000012", True), Pair("x2", "x2", True)]),
        (
            "b.csv",
            "video,audio,label\na,b,non-sounding\r\na,a,sounding\n",
            [Pair("a", "b", False), Pair("a", "a", True)],
        ),
    ],
)
def test_the_three_forms_of_a_list(tmp_path, name, text, want):
    (tmp_path / name).write_text(text)
    assert read_pairs(tmp_path / name) == want


def test_the_published_lists(metadata):
    assert len(read_list(metadata / "vggss_144k.txt")) == 144000
    assert len(read_list(metadata / "flickr_test.csv")) == 250
    pairs = read_pairs(metadata / "flickr_test_plus_silent.csv")
    assert len(pairs) == 250 and not any(pair.sounding for pair in pairs)
    assert pairs[0] == Pair("10000130166", "10437048305", False)


@pytest.mark.parametrize("text", ["", "\n\n", "video,audio,label\na,b,maybe\n"])
def test_a_list_without_use_is_refused(tmp_path, text):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=r"list\.csv"):
        read_pairs(tmp_path / "list.csv")


def test_test_ids_in_the_published_training_list_are_dropped_and_counted(metadata, field_set):
    split = make_split(
        field_set,
        labels=0,
        validation=0,
        lists={"train": metadata / "vggss_144k.txt", "test": metadata / "vggss_test.csv"},
    )
    assert split.dropped == {"validation or test ids from the training list": 3709}
    assert "3,709" in split.warnings[0]
    assert len(split.train_unlabelled) == 144000 - 3709
    assert not set(split.train_unlabelled) & set(split.test)


@given(seed=st.integers(0, 1000), labels=st.integers(0, 12), validation=st.integers(0, 5), test=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_drawn_splits_are_disjoint_complete_and_nested(field_root, seed, labels, validation, test):
    dataset = AVDataset(field_root)
    split = make_split(dataset, seed=seed, labels=labels, validation=validation, test=test)
    parts = [split.train_labelled, split.train_unlabelled, split.validation, split.test]
    assert [len(part) for part in parts] == [labels, len(dataset.ids) - labels - validation - test, validation, test]
    assert sorted(id for part in parts for id in part) == dataset.ids
    larger = make_split(dataset, seed=seed, labels=labels + 1, validation=validation, test=test)
    assert larger.train_labelled[:labels] == split.train_labelled
    assert (larger.validation, larger.test) == (split.validation, split.test)


def test_lists_in_the_folder_decide(own_root):
    ids = AVDataset(own_root).ids
    (own_root / "train.txt").write_text("\n".join(ids[:18]))
    (own_root / "labelled.txt").write_text("\n".join(ids[:6]))
    (own_root / "val.txt").write_text("\n".join(ids[16:20]))
    (own_root / "test.csv").write_text(
        "video,audio,label\n" + f"{ids[20]},{ids[3]},non-sounding\n{ids[21]},{ids[21]},sounding"
    )
    split = make_split(AVDataset(own_root), labels=2)
    # ids[3] is a test item's sound, ids[16] and ids[17] are validation items.
    assert len(split.train_labelled) == 2 and set(split.train_labelled) < set(ids[:6]) - {ids[3]}
    assert sorted(split.train_labelled + split.train_unlabelled) == sorted(set(ids[:16]) - {ids[3]})
    assert split.test == [ids[20], ids[21]] and split.validation == ids[16:20]
    assert split.dropped == {
        "validation or test ids from the labelled list": 1,
        "validation or test ids from the training list": 3,
    }


def test_a_split_file_comes_back(tmp_path, field_set):
    split = make_split(field_set, labels=3, validation=2, test=2)
    split.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json") == split
    (tmp_path / "split.json").write_text("{")
    with pytest.raises(DataError, match=r"split\.json"):
        Split.load(tmp_path / "split.json")


def test_more_labels_than_there_are_is_refused(field_set):
    with pytest.raises(DataError, match="24 ids with boxes are left for --test 2, --labels 30"):
        make_split(field_set, labels=30, validation=0, test=2)


def test_drawn_lists_scale_with_what_is_there(field_set, own_root):
    split = make_split(field_set)
    assert (len(split.test), len(split.validation), len(split.train_labelled)) == (4, 4, 16)  # a fifth of 24
    assert len(make_split(field_set, validation=7).validation) == 7
    path = own_root / "vggss.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:2]))
    few = make_split(AVDataset(own_root))
    assert (len(few.test), len(few.validation), len(few.train_labelled)) == (0, 0, 2)


def test_auto_takes_the_boxes_that_are_there_and_a_message_says_so(own_root):
    assert AVDataset(own_root).rule == "vggss"
    with pytest.raises(DataError, match="--annotations auto: vggss's are there"):
        AVDataset(own_root, "flickr")
    (own_root / "Annotations").mkdir()
    assert AVDataset(own_root).rule == "flickr"


def test_the_table_holds_paths_and_the_largest_boxes(own_root):
    path = own_root / "vggss.json"
    items = json.loads(path.read_text())
    items[0]["bbox"] = [[0, 0, 0.1, 0.1], [0, 0, 1, 1], [0, 0, 0.2, 0.2], [0, 0, 0.5, 0.5]]
    items[1]["bbox"] = [[0.5, 0.5, 0.5, 0.5]]
    path.write_text(json.dumps(items))
    dataset = AVDataset(own_root)
    ids = [items[2]["file"], items[0]["file"], items[1]["file"]]
    table = dataset.table(ids, max_boxes=3)
    np.testing.assert_allclose(table.boxes[1], [[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0, 0, 0.2, 0.2]])
    assert list(table.known) == [True, True, False] and not table.boxes[2].any()
    for row, id in enumerate(ids):
        assert table.frame_path(row) == str(dataset.frame_path(id))
        assert table.sound_path(row) == str(dataset.sound_path(id))
    assert list(table.ids) == ids


def test_missing_things_are_named(own_root, tmp_path):
    for id, folder in (("clip_000004", "frames"), ("clip_000005", "audio")):
        next((own_root / folder).glob(id + ".*")).unlink()
    dataset = AVDataset(own_root)
    assert not {"clip_000004", "clip_000005"} & set(dataset.ids)
    for id, kind in (("clip_000004", "frame"), ("clip_000005", "sound")):
        with pytest.raises(DataError, match=f"{id}: no {kind}"):
            dataset.table([id], 3)
    with pytest.raises(DataError, match="nowhere"):
        AVDataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="Annotations"):
        AVDataset(own_root, annotations="flickr")
    (tmp_path / "empty" / "frames").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no file"):
        AVDataset(tmp_path / "empty")


def test_flickr_annotations_are_read_when_asked(own_root):
    (own_root / "Annotations").mkdir()
    (own_root / "Annotations" / "clip_000003.xml").write_text(
        "<a><p><bbox><n>1</n><x>64</x><y>0</y><z>128</z><w>256</w></bbox></p></a>"
    )
    assert AVDataset(own_root, annotations="vggss").rule == "vggss"
    dataset = AVDataset(own_root, annotations="flickr")
    assert dataset.min_agree == 2 and dataset.annotated == {"clip_000003"}
    np.testing.assert_array_equal(dataset.annotation("clip_000003").boxes, [[0.25, 0, 0.5, 1]])
    assert dataset.annotation("clip_000001") is None


@pytest.mark.slow
def test_a_list_of_144_000_ids_is_ready_within_two_seconds(tmp_path):
    for folder in ("frames", "audio"):
        (tmp_path / folder).mkdir()
    ids = [f"{number:011d}_{number % 300:06d}" for number in range(144000)]
    for id in ids:
        (tmp_path / "frames" / f"{id}.jpg").touch()
        (tmp_path / "audio" / f"{id}.flac").touch()
    (tmp_path / "train.txt").write_text("\n".join(ids))
    start = time.process_time()
    dataset = AVDataset(tmp_path)
    split = make_split(dataset, labels=0, validation=0, test=0)
    table = dataset.table(split.train_unlabelled, 3)
    assert len(table) == 144000
    assert time.process_time() - start < 2

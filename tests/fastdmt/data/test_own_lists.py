"""`fastdmt data index --own` on a folder that no official list knows, and a run on it."""

import json
from pathlib import Path

import pytest
from tiny_runs import QUIET, tiny

from fastdmt.data.own_lists import draw_lists
from fastdmt.data.run_data import open_data
from fastdmt.errors import FastDMTError
from fastdmt_loaders import DataError, read_list
from fastdmt_loaders.dataset.dataset import DEFAULT_LISTS


@pytest.fixture
def root(tmp_path) -> Path:
    """Sixty clips, boxes for fifty of them; nobody looks into the files here."""
    for folder, suffix in (("frames", "jpg"), ("audio", "wav")):
        (tmp_path / folder).mkdir()
        for k in range(60):
            (tmp_path / folder / f"clip{k}.{suffix}").touch()
    items = [{"file": f"clip{k}", "class": "", "bbox": [[0.1, 0.1, 0.5, 0.5]]} for k in range(50)]
    (tmp_path / "vggss.json").write_text(json.dumps(items))
    return tmp_path


def lists(root: Path) -> dict[str, list[str]]:
    return {role: read_list(root / file) for role, file in DEFAULT_LISTS.items() if (root / file).is_file()}


def test_lists_part_the_clips_and_a_run_takes_them(root, tmp_path):
    drawn = draw_lists(root)
    found = lists(root)
    assert {role: len(ids) for role, ids in found.items()} == {
        "test": 10,
        "validation": 10,
        "labelled": 30,
        "train": 10,
    }
    assert sorted(id for ids in found.values() for id in ids) == sorted(f"clip{k}" for k in range(60))
    assert [path.name for path in drawn.written] == ["train.txt", "labelled.txt", "val.txt", "test.csv"]
    data = open_data(tiny(root, tmp_path / "run"), QUIET)
    assert data.validation == found["validation"] and data.split.test == found["test"]
    assert sorted(data.labelled) == sorted(found["labelled"]) and data.unlabelled == found["train"]


def test_counts_seed_and_lists_that_are_there(root):
    draw_lists(root, labelled=5, validation=3, test=4, seed=1)
    first = lists(root)
    assert {role: len(ids) for role, ids in first.items()} == {
        "test": 4,
        "validation": 3,
        "labelled": 5,
        "train": 48,
    }
    assert "is there and decides" in draw_lists(root, seed=2).lines[-1] and lists(root) == first
    draw_lists(root, labelled=5, validation=3, test=4, seed=2, force=True)
    assert lists(root)["test"] != first["test"]
    with pytest.raises(DataError, match="--test 40, --val 30; ask for fewer"):
        draw_lists(root, validation=30, test=40, force=True)


def test_where_every_clip_has_boxes_the_labelled_ones_are_unlabelled_too(root, tmp_path):
    for k in range(50, 60):
        (root / "frames" / f"clip{k}.jpg").unlink()
    drawn = draw_lists(root)
    assert not (root / "train.txt").exists() and "no clip is left for it" in " ".join(drawn.lines)
    data = open_data(tiny(root, tmp_path / "run"), QUIET)
    assert data.unlabelled == data.labelled and len(data.labelled) == 30
    assert "serve as unlabelled ones too" in " ".join(data.summary)


def test_without_boxes_it_says_where_to_get_them(root, tmp_path):
    (root / "vggss.json").unlink()
    with pytest.raises(FastDMTError, match="fastdmt data boxes FILE"):
        draw_lists(root)
    with pytest.raises(FastDMTError, match="fastdmt data boxes FILE"):
        open_data(tiny(root, tmp_path / "run"), QUIET)

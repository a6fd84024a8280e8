"""`fastdmt data index` on folders that hold 2 percent of the clips with official boxes."""

import csv
import shutil
from pathlib import Path

import pytest
from empty_files import touch
from one_line import refused

from fastdmt.cli.main import main
from fastdmt.data import official_lists as module
from fastdmt.data.official_lists import index
from fastdmt_loaders import AVDataset, make_split, read_list


@pytest.fixture
def vggss(metadata, tmp_path) -> Path:
    root = tmp_path / "vggss"
    root.mkdir()
    touch(root, read_list(metadata / "vggss_test.csv")[::50] + read_list(metadata / "vggss_144k.txt")[::500])
    return root


@pytest.fixture
def flickr(metadata, tmp_path) -> Path:
    root = tmp_path / "flickr"
    root.mkdir()
    touch(root, read_list(metadata / "flickr_sup_train.txt")[::50] + read_list(metadata / "flickr_test.csv")[::5], True)
    touch(root, read_list(metadata / "flickr_144k.txt")[::500])
    return root


def test_vggss_roles_come_from_the_official_ids_not_from_the_disk(vggss, metadata, tmp_path, capsys):
    assert main(["data", "index", str(vggss), "--dataset", "vggss", "--lists", str(metadata)]) == 0
    out = capsys.readouterr().out
    official = set(read_list(metadata / "vggss_test.csv"))
    on_disk = {p.stem for p in (vggss / "frames").iterdir()}
    lists = {n: read_list(vggss / n) for n in ("labelled.txt", "val.txt", "test.csv", "train.txt")}
    held = set(lists["val.txt"]) | set(lists["test.csv"])
    assert all(set(ids) <= on_disk for ids in lists.values())
    for a, b in (("labelled.txt", "val.txt"), ("labelled.txt", "test.csv"), ("val.txt", "test.csv")):
        assert not set(lists[a]) & set(lists[b])
    assert not held & set(lists["train.txt"])
    # The same roles as of somebody who has other clips.
    other = tmp_path / "other"
    other.mkdir()
    touch(other, read_list(metadata / "vggss_test.csv")[7::60])
    whole = index(other, "vggss", metadata)
    roles = {"labelled.txt": "train_labelled", "val.txt": "validation", "test.csv": "test"}
    assert [len(getattr(whole.split, role)) for role in roles.values()] == [4250, 500, 250]
    for file, role in roles.items():
        assert lists[file] == [i for i in getattr(whole.split, role) if i in on_disk]
        assert set(getattr(whole.split, role)) <= official
    # vggss_144k.txt holds 3,709 clips with boxes; those of this split's validation and test lists are dropped.
    listed = set(read_list(metadata / "vggss_144k.txt"))
    leaks = len(listed & (set(whole.split.validation) | set(whole.split.test)))
    assert 400 < leaks < 700
    assert f"vggss_144k.txt holds 3,709 clips with official boxes, {leaks} of them" in out
    assert f"dropped {leaks} validation or test ids from the training list" in out
    assert "vggss_144k.txt: 144,000 listed, " in out and (vggss / "vggss.json").is_file()


def test_label_budgets_are_nested_and_those_of_training(vggss, metadata, monkeypatch):
    monkeypatch.setattr(module, "BUDGETS", (5, 20, 1000))
    found = index(vggss, "vggss", metadata, train_list="vggss_10k.txt", seed=3)
    small, large = found.budgets[5], found.budgets[20]
    assert (len(small), len(large)) == (5, 20) and large[:5] == small
    assert 1000 not in found.budgets and set(large) < set(found.present["labelled"])
    assert read_list(vggss / "labelled-5.txt") == small
    # What a run with --labels 5 --split-seed 3 takes.
    assert make_split(AVDataset(vggss, "vggss"), seed=3, labels=5).train_labelled == small
    other = index(vggss, "vggss", metadata, train_list="vggss_10k.txt", seed=4, force=True)
    assert other.split.test != found.split.test


def test_missing_ids_are_named_with_what_they_lack(vggss, metadata):
    ids = read_list(metadata / "vggss_test.csv")
    (vggss / "audio" / f"{ids[0]}.wav").unlink()
    found = index(vggss, "vggss", metadata)
    rows = list(csv.DictReader(open(vggss / "missing.csv", encoding="utf-8")))
    lacks = {(row["id"], row["list"]): row["lacks"] for row in rows if row["id"] == ids[0]}
    assert lacks[ids[0], "boxes"] == "a sound"
    whole = {p.stem for p in (vggss / "frames").iterdir()} - {ids[0]}
    assert {row["id"] for row in rows if row["list"] == "boxes"} == set(ids) - whole
    assert len(found.missing) == len(rows)


def test_flickr_keeps_its_official_test_list(flickr, metadata):
    found = index(flickr, "flickr", metadata)
    official = read_list(metadata / "flickr_test.csv")
    assert found.split.test == official and read_list(flickr / "test.csv") == [i for i in official[::5]]
    pool = set(read_list(metadata / "flickr_sup_train.txt"))
    assert set(found.split.train_labelled) | set(found.split.validation) == pool
    assert (len(found.split.train_labelled), len(found.split.validation)) == (4250, 500)
    held = set(found.split.validation) | set(official)
    leaks = len(held & set(read_list(metadata / "flickr_144k.txt")))
    assert found.split.dropped == {"validation or test ids from the training list": leaks} and leaks > 20
    assert not held & set(read_list(flickr / "train.txt"))


def test_lists_that_are_there_are_kept_and_decide(flickr, metadata):
    chosen = read_list(metadata / "flickr_sup_train.txt")[::50][:7]
    (flickr / "val.txt").write_text("\n".join(chosen))
    found = index(flickr, "flickr", metadata)
    assert read_list(flickr / "val.txt") == chosen == found.split.validation
    assert not set(chosen) & (set(read_list(flickr / "labelled.txt")) | set(read_list(flickr / "train.txt")))
    assert found.kept == [flickr / "val.txt"]
    again = index(flickr, "flickr", metadata)
    assert len(again.kept) == 4
    forced = index(flickr, "flickr", metadata, force=True)
    assert len(forced.split.validation) == 500 and read_list(flickr / "val.txt") != chosen


def test_bad_input(flickr, metadata, tmp_path):
    def refuse(*args) -> str:
        return refused("data", "index", *args)

    assert "flickr_sup_train.txt" in refuse(flickr, "--dataset", "flickr", "--lists", tmp_path)
    assert "no such folder" in refuse(tmp_path / "absent", "--dataset", "vggss", "--lists", metadata)
    assert "ask for fewer" in refuse(flickr, "--dataset", "flickr", "--lists", metadata, "--labelled", 4750)
    shutil.rmtree(flickr / "Annotations")
    assert "Annotations" in refuse(flickr, "--dataset", "flickr", "--lists", metadata)

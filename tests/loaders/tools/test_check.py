"""The data check on real broken files, each of the kinds that stop a run, and on lists of the field's size."""

import json
import os
import shutil
import struct
import time

import numpy as np
import pytest
import soundfile
from PIL import Image

from fastdmt_loaders.dataset.lists import read_list, read_pairs
from fastdmt_loaders.decode.sound import read_sound
from fastdmt_loaders.errors import DataError
from fastdmt_loaders.tools import check
from fastdmt_loaders.tools.check import KINDS, check_root
from fastdmt_loaders.tools.demo import make_demo
from fastdmt_loaders.tools.pack import pack


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("demo"), clips=32, labelled=6, size=64, videos=0).root


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "root")


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def sound_of(root, id, kind):
    """The sound file of an id, written anew as a file of the given kind."""
    for path in (root / "audio").glob(f"{id}.*"):
        path.unlink()
    path = root / "audio" / f"{id}.{kind}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 64000), 16000, subtype="PCM_16")
    return path


def test_a_whole_set_is_sound_and_read_once(root):
    seen = []
    first = check_root(root, progress=lambda *n: seen.append(n))
    assert not first.fatal and set(first.counts) <= {"short"} and first.read == len(seen) == 66  # 32 + 1 silent, twice
    assert seen[-1] == (66, 66)
    again = check_root(root)
    assert again.read == 0 and again.cached == 66 and again.problems == first.problems
    touched = root / "frames" / f"{read_list(root / 'train.txt')[0]}.jpg"
    os.utime(touched, ns=(1, 1))
    assert check_root(root).read == 1
    for name in ("train.txt", "labelled.txt", "val.txt", "test.csv"):
        assert (root / "clean" / name).read_text() == (root / name).read_text()
    assert read_pairs(root / "clean" / "test_plus_silent.csv") == read_pairs(root / "test_plus_silent.csv")


def break_missing_frame(root, id):
    (root / "frames" / f"{id}.jpg").unlink()


def break_missing_sound(root, id):
    next((root / "audio").glob(f"{id}.*")).unlink()


def break_empty_frame(root, id):
    (root / "frames" / f"{id}.jpg").write_bytes(b"")


def break_empty_wav(root, id):
    sound_of(root, id, "wav").write_bytes(b"")


def break_no_samples(root, id):
    soundfile.write(sound_of(root, id, "wav"), np.zeros(0), 16000)


def break_truncated_jpeg(root, id):
    cut(root / "frames" / f"{id}.jpg", 0.6)


def break_truncated_wav(root, id):
    cut(sound_of(root, id, "wav"), 0.7)


def break_truncated_flac(root, id):
    cut(sound_of(root, id, "flac"), 0.7)


def break_text_frame(root, id):
    (root / "frames" / f"{id}.jpg").write_text("this is no picture")


def break_text_sound(root, id):
    sound_of(root, id, "wav").write_text("this is no sound, and long enough not to look like a header")


def break_nan_sound(root, id):
    pcm = np.zeros(48000, np.float32)
    pcm[7] = np.nan
    soundfile.write(sound_of(root, id, "wav"), pcm, 16000, subtype="FLOAT")


@pytest.mark.parametrize(
    "damage, kinds",
    [
        (break_missing_frame, {"missing"}),
        (break_missing_sound, {"missing"}),
        (break_empty_frame, {"empty"}),
        (break_empty_wav, {"empty"}),
        (break_no_samples, {"empty"}),
        (break_truncated_jpeg, {"truncated"}),
        (break_truncated_wav, {"truncated"}),
        (break_truncated_flac, {"truncated", "undecodable"}),
        (break_text_frame, {"undecodable"}),
        (break_text_sound, {"undecodable"}),
        (break_nan_sound, {"undecodable"}),
    ],
)
def test_damage_is_named_and_left_out_of_the_clean_lists(root, damage, kinds):
    victim = read_list(root / "labelled.txt")[2]
    damage(root, victim)
    report = check_root(root, workers=1)
    found = [problem for problem in report.problems if problem.kind != "short"]
    assert report.fatal and len(found) == 1 and found[0].kind in kinds and found[0].id == victim
    assert victim in found[0].message and "\n" not in found[0].message
    for name, lost in (("labelled.txt", 1), ("train.txt", 1), ("val.txt", 0), ("test.csv", 0)):
        before, after = read_list(root / name), read_list(root / "clean" / name)
        assert len(before) - len(after) == lost and victim not in after
    assert not check_root(root, {n: root / "clean" / n for n in ("train.txt", "test.csv")}).fatal


def test_repaired_file_is_read_again(root):
    victim = root / "frames" / f"{read_list(root / 'val.txt')[0]}.jpg"
    good = victim.read_bytes()
    cut(victim, 0.5)
    assert check_root(root).fatal
    assert check_root(root).fatal  # the verdict is remembered, not forgotten
    victim.write_bytes(good)
    report = check_root(root)
    assert not report.fatal and report.read == 1


def test_wav_of_silence_and_odd_pictures_are_no_faults(root):
    ids = read_list(root / "train.txt")
    soundfile.write(sound_of(root, ids[0], "wav"), np.zeros(64000), 16000)
    Image.new("CMYK", (64, 64), (10, 20, 30, 40)).save(root / "frames" / f"{ids[1]}.jpg")
    Image.new("L", (64, 64), 9).save(root / "frames" / f"{ids[2]}.jpg")
    assert not check_root(root).fatal


def test_wav_written_to_a_pipe_has_no_length_and_is_no_fault(root):
    path = sound_of(root, read_list(root / "train.txt")[0], "wav")
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(data))
    assert not check_root(root).fatal


def test_short_sounds_are_told_and_kept(root):
    id = read_list(root / "train.txt")[0]
    soundfile.write(sound_of(root, id, "wav"), np.full(3200, 0.1), 16000)
    report = check_root(root)
    assert f"{root / 'audio' / id}.wav: 0.20 s" in [p.message for p in report.problems if p.kind == "short"]
    assert not report.fatal and id in read_list(root / "clean" / "train.txt")


def test_broken_boxes_and_annotation_files(root):
    ids = read_list(root / "train.txt")
    items = json.loads((root / "vggss.json").read_text())
    items[0]["bbox"] = [[0.2, 0.2, 0.2, 0.9], [0.1, 0.1, 0.4, 0.4]]
    items[1]["bbox"] = [[-2.88e16, 0.1, 0.5, 0.5]]
    (root / "vggss.json").write_text(json.dumps(items))
    report = check_root(root, annotations="vggss")
    assert report.counts["box"] == 2 and not report.fatal
    (root / "Annotations" / f"{ids[4]}.xml").write_text("<annotation><participant>")
    report = check_root(root, annotations="flickr")
    assert report.counts["annotation"] == 1 and report.fatal
    assert ids[4] not in read_list(root / "clean" / "train.txt")


def test_leaks_are_dropped_from_training_lists_only(root):
    test, val = read_list(root / "test.csv"), read_list(root / "val.txt")
    with (root / "train.txt").open("a") as file:
        file.writelines(f"{id}\n" for id in (*test[:3], val[0]))
    report = check_root(root)
    assert report.counts["leak"] == 4 and not report.fatal
    assert not set(read_list(root / "clean" / "train.txt")) & {*test, *val}
    assert read_list(root / "clean" / "test.csv") == test


def test_lists_without_usable_ids_stop_a_run(root):
    (root / "val.txt").write_text("nobody\n")
    report = check_root(root)
    assert report.counts["list"] == 1 and report.fatal and report.lists["val.txt"] == (1, 0)
    (root / "val.txt").write_text("\n")
    with pytest.raises(DataError, match="holds no ids"):
        check_root(root)
    with pytest.raises(DataError, match="no such folder"):
        check_root(root / "nowhere")


def test_no_lists_means_all_ids(root):
    for path in (*root.glob("*.txt"), *root.glob("*.csv")):
        path.unlink()
    report = check_root(root)
    assert report.ids == 33 and len(read_list(root / "clean" / "all.txt")) == 33 and report.notes


def test_interrupted_check_goes_on_where_it_was(root, monkeypatch):
    def interrupt(done, total):
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_root(root, workers=1, progress=interrupt)
    assert check_root(root).cached >= 19


def test_report_fits_a_terminal(root):
    for id in read_list(root / "train.txt")[:9]:
        break_missing_frame(root, id)
    lines = check_root(root).lines(each=3)
    assert any("9 missing" in line for line in lines) and any("and 6 more" in line for line in lines)
    assert all(kind in KINDS for kind in check_root(root).counts)


def test_lists_of_the_field(metadata, tmp_path):
    """The public lists: 3,709 test ids among the training ids, 18 items with a broken box."""
    for folder in ("frames", "audio"):
        (tmp_path / folder).mkdir()
    id = "---g-f_I2yQ_000001"
    Image.new("RGB", (64, 64)).save(tmp_path / "frames" / f"{id}.jpg")
    soundfile.write(tmp_path / "audio" / f"{id}.wav", np.zeros(48000), 16000)
    shutil.copy(metadata / "vggss.json", tmp_path)
    shutil.copy(metadata / "vggss_144k.txt", tmp_path / "train.txt")
    shutil.copy(metadata / "vggss_test.csv", tmp_path / "test.csv")
    report = check_root(tmp_path)
    assert report.counts["leak"] == 3709 and report.counts["box"] == 18
    assert report.lists["train.txt"] == (144000, 1) and report.lists["test.csv"] == (5158, 0)
    assert report.counts["missing"] == 2 * (144000 + 5158 - 3709 - 1)
    assert read_list(tmp_path / "clean" / "train.txt") == [id]


@pytest.mark.slow
def test_cached_check_of_144k_ids_takes_seconds(tmp_path, monkeypatch):
    """Hard links to one frame and one sound: what is measured is the bookkeeping."""
    for folder in ("frames", "audio"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "one.jpg")
    soundfile.write(tmp_path / "one.wav", np.zeros(48000), 16000)
    for number in range(144_000):
        if number % 20_000 == 0:  # file systems limit the links to a file
            for kind in ("jpg", "wav"):
                shutil.copy2(tmp_path / f"one.{kind}", tmp_path / f"link.{kind}")
        os.link(tmp_path / "link.jpg", tmp_path / "frames" / f"clip{number}.jpg")
        os.link(tmp_path / "link.wav", tmp_path / "audio" / f"clip{number}.wav")
        if number % 20_000 == 19_999:
            (tmp_path / "link.jpg").unlink()
            (tmp_path / "link.wav").unlink()
    (tmp_path / "train.txt").write_text("".join(f"clip{number}\n" for number in range(144_000)))
    monkeypatch.setattr(check, "_read", lambda file: ("", "") if file[0] == "frame" else ("seconds", "3.000"))
    assert not check_root(tmp_path, workers=1).fatal
    start = time.process_time()
    report = check_root(tmp_path)
    assert report.cached == 288_000 and report.read == 0
    assert time.process_time() - start < 10  # 2.5 s on an idle machine


def test_sounds_that_training_reads_are_sound(root):
    """GSM 6.10 of telephones, and recorders that wrote a size of 2 or 4 GiB because they could not seek back."""
    ids = read_list(root / "labelled.txt")
    path = sound_of(root, ids[0], "wav")
    soundfile.write(path, 0.1 * np.sin(np.arange(40000) / 9), 8000, subtype="GSM610")
    for id, size in zip(ids[1:], (0x7FFFF000, 0xFFFFFFFF), strict=False):
        path = sound_of(root, id, "wav")
        whole = read_sound(path, (16000,))[16000]
        data = bytearray(path.read_bytes())
        data[4:8] = struct.pack("<I", min(size + 36, 0xFFFFFFFF))
        data[40:44] = struct.pack("<I", size)
        path.write_bytes(data)
        np.testing.assert_array_equal(read_sound(path, (16000,))[16000], whole)
    report = check_root(root, workers=1)
    assert not report.fatal, report.lines()


def test_a_packed_set_is_checked(root, tmp_path):
    pytest.importorskip("webdataset")
    packed = pack(root, tmp_path / "packed", workers=1).root
    report = check_root(packed, workers=1, out=tmp_path / "clean")
    assert not report.fatal and report.read == 66, report.lines()
    tar = next(packed.glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    assert "undecodable" in check_root(packed, workers=1, out=tmp_path / "clean").counts


@pytest.mark.parametrize(
    "text", ["null", "[]", "{", "1", '{"seconds": 3.0, "files": null}', '{"seconds": 3.0, "files": {"a": 1}}']
)
def test_results_that_are_none_are_read_anew(root, text):
    first = check_root(root, workers=1)
    (root / ".fastdmt-check.json").write_text(text)
    again = check_root(root, workers=1)
    assert again.read == first.read and again.problems == first.problems

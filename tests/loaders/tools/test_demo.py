"""The demo data: what its files promise, and that it is a fair test of audio-visual localization."""

import json
from collections import Counter

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from fastdmt_loaders.dataset.annotations import read_flickr_xml, read_vggss
from fastdmt_loaders.dataset.dataset import AVDataset
from fastdmt_loaders.dataset.lists import read_list, read_pairs
from fastdmt_loaders.decode.sound import read_sound
from fastdmt_loaders.errors import DataError
from fastdmt_loaders.tools import demo as demo_module
from fastdmt_loaders.tools.demo import CLASSES, RATES, _write_clip, _write_video, make_demo
from fastdmt_loaders.tools.demo_scenes import compose, draw_scene


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    seen = []
    made = make_demo(
        tmp_path_factory.mktemp("demo"), clips=64, labelled=12, videos=2, progress=lambda *n: seen.append(n)
    )
    assert seen[-1] == (67, 67) and [done for done, _ in seen] == list(range(1, 68))
    assert made.notes == []
    return made.root


def test_lists_are_disjoint_and_every_id_has_its_files(demo):
    train, labelled, val, test = (read_list(demo / n) for n in ("train.txt", "labelled.txt", "val.txt", "test.csv"))
    assert (len(train), len(labelled), len(val), len(test)) == (48, 12, 4, 12)
    assert set(labelled) < set(train) and len({*train, *val, *test}) == 64
    dataset = AVDataset(demo)
    assert {*train, *val, *test} <= set(dataset.ids)
    pairs = read_pairs(demo / "test_plus_silent.csv")
    assert [p.video for p in pairs if p.sounding] == test
    for pair in pairs:
        assert dataset.frame_path(pair.video).is_file() and dataset.sound_path(pair.audio).is_file()


def test_sounds_differ_in_form_and_silence_is_silent(demo):
    infos = [soundfile.info(path) for path in (demo / "audio").iterdir()]
    assert {info.samplerate for info in infos} == set(RATES) and {info.channels for info in infos} == {1, 2}
    assert {info.format for info in infos} == {"WAV", "FLAC"}
    assert min(i.duration for i in infos) < 2.5 < 3.5 < max(i.duration for i in infos) <= 10
    dataset = AVDataset(demo)
    for pair in read_pairs(demo / "test_plus_silent.csv"):
        loudness = np.sqrt(np.mean(read_sound(dataset.sound_path(pair.audio), (16000,))[16000] ** 2))
        if pair.video == pair.audio and not pair.sounding:
            assert loudness < 1e-3
        else:
            assert loudness > 3e-3


def test_off_screen_sounds_belong_to_no_object_of_the_frame(demo):
    """The sounding objects of frame and sound differ; the drawing of each frame tells all its classes."""
    classes = {item["file"]: CLASSES.index(item["class"]) for item in json.loads((demo / "vggss.json").read_text())}
    train, val = read_list(demo / "train.txt"), read_list(demo / "val.txt")
    first = len(train) + len(val)
    shown = {}
    for i, id in enumerate(read_list(demo / "test.csv")):
        rng = np.random.default_rng([0, 1, first + i])
        shown[id] = {int(k) for k in rng.permutation(len(CLASSES))[: rng.integers(2, 4)]}
        assert classes[id] in shown[id] and len(shown[id]) in (2, 3)
    off = [p for p in read_pairs(demo / "test_plus_silent.csv") if p.video != p.audio]
    assert off and all(not p.sounding and classes[p.audio] not in shown[p.video] for p in off)


def test_both_annotation_forms_tell_the_same_box_and_annotators_disagree(demo):
    exact, spread = read_vggss(demo / "vggss.json"), []
    assert len(exact) == 64 and not any(a.broken for a in exact.values())
    for id, truth in exact.items():
        drawn = read_flickr_xml(demo / "Annotations" / f"{id}.xml")
        assert drawn.boxes.shape == (3, 4) and truth.boxes.shape == (1, 4)
        assert np.abs(np.median(drawn.boxes, axis=0) - truth.boxes[0]).max() < 0.08
        spread.append(np.ptp(drawn.boxes, axis=0).max())
    assert np.mean(np.array(spread) > 0) > 0.95


def test_box_is_the_extent_of_the_object_in_the_file(demo, tmp_path):
    """Draw the frame with and without the sounding object: the pixels that differ must fill the box."""
    for index in range(6):
        rng = np.random.default_rng(index)
        scene = draw_scene(rng, 160, 200, [3, 5, 6])
        whole, boxes = compose(scene)
        rest, _ = compose(scene._replace(sprites=scene.sprites[1:], places=scene.places[1:]))
        changed = np.abs(whole.astype(int) - rest).max(axis=2) > 0
        x0, y0, x1, y1 = boxes[0].astype(int)
        assert changed[y0:y1, x0:x1].mean() > 0.7  # an outline fills most of its box
        changed[y0 - 1 : y1 + 9, x0 - 1 : x1 + 9] = False  # the shadow falls below and to the right
        assert not changed.any()


def test_same_seed_same_files_whatever_the_workers(tmp_path):
    for name, workers, seed in (("a", 1, 0), ("b", 2, 0), ("c", 1, 1)):
        make_demo(tmp_path / name, clips=32, labelled=4, seed=seed, size=64, videos=0, workers=workers)
    files = {
        n: {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()}
        for n in "abc"
    }
    assert files["a"] == files["b"] and len(files["a"]) > 100
    assert not set(files["a"].values()) & set(files["c"].values())


def test_classes_are_even_and_any_object_sounds(tmp_path):
    for folder in ("frames", "audio", "Annotations"):
        (tmp_path / folder).mkdir()
    clips = [_write_clip(tmp_path, 0, 32, (i, f"x{i}", False)) for i in range(120)]
    count = Counter(clip.labels[0] for clip in clips)
    assert len(count) == 10 and max(count.values()) < 25
    shapes = {Image.open(path).size for path in (tmp_path / "frames").iterdir()}
    assert shapes == {(32, 32), (40, 32), (32, 40)}


def test_videos_hold_picture_and_sound_of_the_forms_promised(demo):
    codecs = set()
    for path in sorted((demo / "videos").iterdir()):
        with av.open(str(path)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            codecs.add((path.suffix, video.codec_context.name.split("-")[-1], audio.codec_context.name.split("-")[-1]))
            assert sum(1 for _ in container.decode(video)) == 180
        assert np.abs(read_sound(path, (16000,))[16000]).max() > 0.02
    assert {(suffix, video) for suffix, video, _ in codecs} == {(".webm", "vp9"), (".mp4", "h264")}
    assert {audio for *_, audio in codecs} == {"opus", "aac"}


def test_a_videos_source_changes_falls_silent_and_comes_back(tmp_path, monkeypatch):
    seen = []

    def tone(rng, label, rate, seconds, channels, snr_db):
        seen.append(label)
        pitch = 600 if label == seen[0] else 1500
        pcm = 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(rate * seconds)) / rate)
        return np.repeat(pcm[:, None], channels, 1).astype(np.float32)

    monkeypatch.setattr(demo_module, "synthesize", tone)
    (tmp_path / "videos").mkdir()
    for index in range(2):
        seen.clear()
        assert _write_video(tmp_path, 0, index) is None
        assert len(seen) == 3 and seen[0] == seen[2] != seen[1]
        [path] = (tmp_path / "videos").glob(f"demo-video{index}*")
        for moment, pitch in ((3, 600), (8.5, 1500), (12.5, None), (16.5, 600)):
            pcm = read_sound(path, (16000,), 1.0, centre=moment)[16000]
            if pitch is None:
                assert np.abs(pcm).max() < 0.01
            else:
                assert np.abs(np.fft.rfft(pcm)).argmax() == pytest.approx(pitch, abs=2)


@pytest.mark.parametrize("clips, labelled", [(8, 1), (64, 0), (64, 60)])
def test_impossible_counts_are_refused(tmp_path, clips, labelled):
    with pytest.raises(DataError, match="at least 16"):
        make_demo(tmp_path / "x", clips=clips, labelled=labelled)
    assert not (tmp_path / "x").exists()


def test_an_interrupted_run_leaves_no_half_set(tmp_path):
    def interrupt(done, total):
        if done == 10:
            raise KeyboardInterrupt

    for wanted in (interrupt, None):
        try:
            make_demo(tmp_path / "x", clips=16, labelled=2, size=32, videos=0, workers=1, progress=wanted)
        except KeyboardInterrupt:
            assert not (tmp_path / "x").exists()
    assert len(list((tmp_path / "x" / "frames").iterdir())) == 17 and not (tmp_path / "x.part").exists()
    with pytest.raises(DataError, match="not an empty folder"):
        make_demo(tmp_path / "x", clips=16, labelled=2)


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        make_demo(tmp_path / "file" / "demo", clips=16, labelled=2)

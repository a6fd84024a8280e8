"""Videos and trees into frames and FLAC: the right moment, the right sound, restart, broken files."""

import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from fastdmt_loaders.dataset.annotations import read_vggss
from fastdmt_loaders.dataset.dataset import AVDataset
from fastdmt_loaders.dataset.lists import read_list
from fastdmt_loaders.decode.pictures import read_frame, read_picture
from fastdmt_loaders.errors import DataError
from fastdmt_loaders.tools.demo import make_demo
from fastdmt_loaders.tools.prepare import prepare


def film(path, seconds, width=400, height=300, codecs=("libx264", "aac"), sound=True):
    """A video that tells the time: green = 2.5 * number of the frame, and a tone of 300 + 60 * second Hz."""
    rate = 48000
    times = np.arange(int(seconds * rate)) / rate
    pcm = (0.4 * np.sin(2 * np.pi * np.cumsum(300 + 60 * np.floor(times)) / rate)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        video = out.add_stream(codecs[0], rate=10, options={"g": "25"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = out.add_stream(codecs[1], rate=rate, layout="mono") if sound else None
        for i in range(int(seconds * 10)):
            picture = np.full((height, width, 3), (90, round(2.5 * i), 60), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if sound:
            whole = av.AudioFrame.from_ndarray(pcm[None], format="fltp", layout="mono")
            whole.sample_rate, whole.pts, whole.time_base = rate, 0, Fraction(1, rate)
            cutter = av.AudioResampler(audio.format, "mono", rate, frame_size=audio.frame_size or 1024)
            for piece in [*cutter.resample(whole), *cutter.resample(None)]:
                out.mux(audio.encode(piece))
            out.mux(audio.encode(None))


def number_of_frame(path):
    return round(np.asarray(Image.open(path))[..., 1].mean() / 2.5)


def second_of_sound(pcm, rate):
    spectrum = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm))))
    return round((spectrum.argmax() * rate / len(pcm) - 300) / 60)


@pytest.mark.parametrize("suffix, codecs", [("mp4", ("libx264", "aac")), ("webm", ("libvpx-vp9", "libopus"))])
def test_frame_at_five_seconds_and_the_sound_around_it(tmp_path, suffix, codecs):
    film(tmp_path / "in" / f"clip.{suffix}", 9, codecs=codecs)
    report = prepare(tmp_path / "in", tmp_path / "out")
    assert (report.done, report.skipped, report.failed) == (1, 0, [])
    frame = tmp_path / "out" / "frames" / "clip.jpg"
    assert number_of_frame(frame) == 50 and Image.open(frame).size == (341, 256)
    pcm, rate = soundfile.read(tmp_path / "out" / "audio" / "clip.flac")
    assert rate == 16000 and pcm.shape == (48000,)
    # 3.5 s to 6.5 s: the middle of each second that lies wholly inside
    assert [second_of_sound(pcm[at + 3200 : at + 12800], rate) for at in (8000, 24000)] == [4, 5]


def test_short_videos_give_their_middle(tmp_path):
    film(tmp_path / "in" / "a.mp4", 4, width=64, height=48)
    film(tmp_path / "in" / "deep" / "b.mp4", 1, width=48, height=96)
    assert prepare(tmp_path / "in", tmp_path / "out", seconds=2.0, rate=22050).done == 2
    assert abs(number_of_frame(tmp_path / "out" / "frames" / "a.jpg") - 20) <= 1
    pcm, rate = soundfile.read(tmp_path / "out" / "audio" / "a.flac")
    assert rate == 22050 and len(pcm) == 44100 and second_of_sound(pcm[2000:20000], rate) == 1
    assert Image.open(tmp_path / "out" / "frames" / "b.jpg").size == (48, 96)  # small frames stay as they are
    assert len(soundfile.read(tmp_path / "out" / "audio" / "b.flac")[0]) == 44100  # repeated


def test_second_run_does_only_what_is_missing(tmp_path):
    for name in "abc":
        film(tmp_path / "in" / f"{name}.mp4", 1, width=64, height=48)
    seen = []
    assert prepare(tmp_path / "in", tmp_path / "out", progress=lambda *n: seen.append(n)).done == 3
    assert seen == [(1, 3), (2, 3), (3, 3)]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*")}
    (tmp_path / "out" / "frames" / "b.jpg").unlink()
    report = prepare(tmp_path / "in", tmp_path / "out")
    assert (report.done, report.skipped) == (1, 2)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*")}
    assert set(after) == set(before) and len(after) == 6
    assert {path.stem for path in after if after[path] != before[path]} == {"b"}


def test_broken_videos_are_named_and_the_others_go_on(tmp_path):
    source = tmp_path / "in"
    film(source / "good.mp4", 1, width=64, height=48)
    film(source / "mute.mp4", 1, width=64, height=48, sound=False)
    (source / "text.mp4").write_text("not a video")
    (source / "empty.webm").write_bytes(b"")
    (source / "cut.mp4").write_bytes((source / "good.mp4").read_bytes()[:2000])
    report = prepare(source, tmp_path / "out")
    assert report.done == 1 and len(report.failed) == 4
    for name, words in (("mute.mp4", "no sound stream"), ("text.mp4", "decoded"), ("empty.webm", ""), ("cut.mp4", "")):
        line = next(line for line in report.failed if name in line)
        assert words in line and "\n" not in line
    assert [path.name for path in (tmp_path / "out").rglob("*.*")] and not list((tmp_path / "out").rglob("*.part*"))
    assert {path.stem for path in (tmp_path / "out").rglob("*.*")} == {"good"}


def test_tree_is_converted_with_its_lists_and_boxes(tmp_path):
    root = make_demo(tmp_path / "demo", clips=16, labelled=3, size=96, videos=0).root
    id = read_list(root / "train.txt")[0]
    turned = Image.new("RGB", (600, 300), (200, 0, 0))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    turned.save(root / "frames" / f"{id}.jpg", exif=exif)
    report = prepare(root, tmp_path / "out", side=80)
    old, new = AVDataset(root), AVDataset(tmp_path / "out")
    assert report.failed == [] and new.ids == old.ids
    assert Image.open(new.frame_path(id)).size == (80, 160)
    assert {min(Image.open(new.frame_path(i)).size) for i in new.ids} == {80}
    for other in new.ids:
        info = soundfile.info(new.sound_path(other))
        assert (info.samplerate, info.frames, info.channels, info.subtype) == (16000, 48000, 1, "PCM_16")
    for name in ("train.txt", "labelled.txt", "val.txt", "test.csv", "test_plus_silent.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (root / name).read_bytes()
    boxes = read_vggss(tmp_path / "out" / "vggss.json")
    assert set(boxes) <= set(new.ids) and len(list((tmp_path / "out" / "Annotations").iterdir())) == 16
    assert prepare(root, tmp_path / "out", side=80).skipped == len(old.ids)


def test_what_cannot_be_done_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        prepare(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="holds no video"):
        prepare(tmp_path / "in", tmp_path / "out")
    film(tmp_path / "in" / "a.mp4", 1, width=64, height=48)
    with pytest.raises(DataError, match="source itself"):
        prepare(tmp_path / "in", tmp_path / "in")
    shutil.copy(tmp_path / "in" / "a.mp4", tmp_path / "in" / "a.mkv")
    with pytest.raises(DataError, match="same id"):
        prepare(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("kind", ["16-bit png", "16-bit tiff", "grey and alpha", "palette", "turned jpeg", "cmyk jpeg"])
def test_every_reader_sees_the_picture_that_training_sees(tmp_path, kind):
    """A ramp from black to white: its mean is 127.5 in whatever form it is stored, and its bright side stays."""
    grey = np.tile(np.linspace(0, 255, 600).astype(np.uint8), (400, 1))
    picture, suffix, options = Image.fromarray(grey), ".png", {}
    if kind.startswith("16"):
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
        options = {"format": "TIFF"} if "tiff" in kind else {}  # by content, whatever the suffix says
    elif kind == "grey and alpha":
        picture = Image.merge("LA", (picture, Image.new("L", picture.size, 9)))
    elif kind == "palette":
        picture = picture.convert("P")
    elif kind == "turned jpeg":
        turned = Image.Exif()
        turned[0x0112] = 3  # upside down: what is stored at the right is shown at the left
        suffix, options, picture = (
            ".jpg",
            {"exif": turned, "quality": 95},
            picture.transpose(Image.Transpose.ROTATE_180),
        )
    else:
        suffix, options, picture = ".jpg", {"quality": 95}, picture.convert("RGB").convert("CMYK")
    source = tmp_path / "in"
    for folder in ("frames", "audio"):
        (source / folder).mkdir(parents=True)
    path = source / "frames" / f"a{suffix}"
    picture.save(path, **options)
    soundfile.write(source / "audio" / "a.wav", np.zeros(48000), 16000)
    assert not prepare(source, tmp_path / "out", workers=1).failed
    seen = {
        "training": read_frame(path, 64),
        "prepared": np.asarray(Image.open(tmp_path / "out" / "frames" / "a.jpg")),
        "predict and report": np.asarray(read_picture(path)),
    }
    for who, pixels in seen.items():
        assert abs(pixels.mean() - 127.5) < 2, who
        assert pixels[:, : pixels.shape[1] // 8].mean() < 25 and pixels[:, -pixels.shape[1] // 8 :].mean() > 230, who


def test_videos_whose_names_look_like_addresses_are_found_from_their_own_folder(tmp_path, monkeypatch):
    """By a relative path FFmpeg would take `12` for a protocol."""
    film(tmp_path / "videos" / "12:30 talk.mp4", 6)
    monkeypatch.chdir(tmp_path / "videos")
    report = prepare(".", "../out", workers=1)
    assert (report.done, report.failed) == (1, [])
    assert number_of_frame(tmp_path / "out" / "frames" / "12:30 talk.jpg") == 50


def test_parts_share_the_items_and_leave_each_others_alone(tmp_path):
    make_demo(tmp_path / "in", clips=24, labelled=8, seed=1, videos=0)
    ids = AVDataset(tmp_path / "in").ids
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    prepare(tmp_path / "in", whole, side=32)
    (parts / "frames").mkdir(parents=True)
    dead = 2**22 + 1  # more than a process may be called
    begun = {id: parts / "frames" / f"{id}.part{dead}" for id in ids[:2]}
    for path in begun.values():
        path.write_text("half a file")
    reports = []
    for number in (3, 2, 1):
        if number == 1:
            assert not (parts / "train.txt").exists(), "lists are the first part's"
        reports.append(prepare(tmp_path / "in", parts, side=32, part=(number, 3)))
        # Another part may be at work on another machine: what it has begun stays.
        assert [path.exists() for path in begun.values()] == [number > 1, number > 2]
    assert sum(report.done for report in reports) == len(ids) and not any(report.failed for report in reports)
    assert max(report.done for report in reports) - min(report.done for report in reports) <= 1
    made = [{p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()} for root in (whole, parts)]
    assert made[0] == made[1]
    again = prepare(tmp_path / "in", parts, side=32, part=(1, 3))
    assert (again.done, again.skipped) == (0, reports[-1].done)


@pytest.mark.parametrize("part", [(0, 2), (3, 2)])
def test_there_is_no_such_part(tmp_path, part):
    with pytest.raises(ValueError, match="counted from 1"):
        prepare(tmp_path, tmp_path / "out", part=part)

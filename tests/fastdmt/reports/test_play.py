"""Clips on the table: any picture with any sound, real files of every kind, and files that are none."""

import base64
import io

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tones import ToneModel, maps_of, marked, name, picture, pitch, tone, write_data, write_video

from fastdmt.errors import FastDMTError
from fastdmt.models.pair import Model
from fastdmt.presets import preset
from fastdmt.reports import play
from fastdmt.reports.play import Clip, Table
from fastdmt_loaders import DataError, read_sound


def put(table: Table, file) -> str:
    data = file.read_bytes()
    return table.add(file.name, io.BytesIO(data), len(data))


@pytest.fixture
def table(tmp_path) -> Table:
    (tmp_path / "table").mkdir()
    return Table(ToneModel(), tmp_path / "table")


def test_one_picture_with_one_sound_another_silence_and_noise(table, tmp_path):
    root = write_data(tmp_path / "data")
    frame = put(table, root / "frames" / f"{name(0)}.jpg")
    sounds = {k: put(table, next((root / "audio").glob(f"{name(k)}.*"))) for k in (2, 7)}
    for place, sound in [*sounds.items(), (None, "silence"), (None, "noise")]:
        answer = table.look(frame, sound)
        assert marked(maps_of(answer)["result"]) == place
        heard = tmp_path / "heard.ogg"
        heard.write_bytes(base64.b64decode(answer["heard"].partition(",")[2]))
        pcm = read_sound(heard, (16000,), 2.0)[16000]
        if place is not None:  # what it heard is what is played
            assert np.abs(np.fft.rfft(pcm)).argmax() / 2 == pytest.approx(pitch(place), abs=2)
    assert max(table.look(frame, "silence")["wave"]) == 0 and max(table.look(frame, "noise")["wave"]) > 0.2


def test_both_teachers_their_intersection_and_the_result_are_the_models(table, tmp_path):
    torch.manual_seed(0)
    table.model = Model.build(preset("demo"), pretrained=False)[0]
    Image.fromarray(picture(4)).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", tone(4, 16000, 3.0), 16000)
    found = maps_of(table.look(put(table, tmp_path / "a.png"), put(table, tmp_path / "a.wav")))
    for key, source in (("A", "A"), ("B", "B"), ("intersection", "intersection"), ("result", "teachers")):
        view = {"frames": picture(4), "sounds": read_sound(tmp_path / "a.wav", (16000,), 3.0)}
        p = play.localize_batch(table.model, [view["frames"]], [view["sounds"]], source, 112)[0]
        assert np.abs(found[key] - p).max() <= 0.5 / 255 + 1e-6
    assert np.abs(found["A"] - found["B"]).max() > 0.01


def test_a_videos_sound_follows_its_moment_and_another_sound_does_not(table, tmp_path):
    clip = put(table, write_video(tmp_path / "clip.mp4"))
    assert table.describe(clip)["seconds"] == pytest.approx(8, abs=0.1)
    for moment, place in ((1.5, 0), (6.5, 8)):
        answer = table.look(clip, clip, moment)
        assert marked(maps_of(answer)["A"]) == place and answer["moment"] == pytest.approx(moment, abs=0.11)
    soundfile.write(tmp_path / "five.flac", tone(5, 44100, 5.0), 44100)
    other = put(table, tmp_path / "five.flac")
    assert {marked(maps_of(table.look(clip, other, moment))["A"]) for moment in (1.5, 6.5, None)} == {5}


def test_a_large_picture_is_shown_smaller(table, tmp_path):
    Image.new("RGB", (3000, 1500), (200, 180, 20)).save(tmp_path / "large.jpg")
    answer = table.look(put(table, tmp_path / "large.jpg"), "silence")
    shown = Image.open(io.BytesIO(base64.b64decode(answer["picture"].partition(",")[2])))
    assert shown.size == (960, 480)


@pytest.mark.parametrize(
    "file, data, says",
    [
        ("notes.txt", b"hello", "notes.txt: neither a picture"),
        ("a.jpg", b"\xff\xd8\xff" + bytes(99), "a.jpg: cannot be decoded as a picture"),
        ("a.wav", b"RIFF" + bytes(99), "a.wav: cannot be decoded"),
        ("a.mp4", b"#EXTM3U\nhttp://127.0.0.1:9/x.ts", "a.mp4: cannot be decoded"),
        ("../../up.png", b"", "up.png"),
        ("C:\\x\\empty.png", b"", "empty.png"),
        ("", b"x", "neither"),
    ],
)
def test_bad_files_are_one_line_and_leave_nothing(table, file, data, says):
    with pytest.raises((FastDMTError, DataError), match=says) as error:
        table.add(file, io.BytesIO(data), len(data))
    assert "\n" not in str(error.value) and str(table.folder) not in str(error.value)
    assert not list(table.folder.iterdir()) and not table.clips


def test_limits(table, tmp_path, monkeypatch):
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    size = (tmp_path / "a.png").stat().st_size
    with pytest.raises(FastDMTError, match="did not arrive"):
        table.add("a.png", io.BytesIO((tmp_path / "a.png").read_bytes()[:-9]), size)
    table.largest = size - 1
    with pytest.raises(FastDMTError, match="too many"):
        put(table, tmp_path / "a.png")
    assert not list(table.folder.iterdir())

    table.largest = size
    monkeypatch.setattr(play, "TOTAL", 3 * size)
    example = Clip("example", tmp_path / "a.png")
    table.clips["example"] = example
    ids = [put(table, tmp_path / "a.png") for _ in range(5)]
    assert list(table.clips) == ["example", *ids[-3:]] and len(list(table.folder.iterdir())) == 3
    assert (tmp_path / "a.png").is_file()  # an example is not ours to delete
    for frame, sound, says in (
        (ids[0], "silence", "no longer there"),
        ("x", "silence", "no longer there"),
        (ids[-1], ids[-1], "has no sound"),
        (ids[-1], "nonsense", "no longer there"),
    ):
        with pytest.raises(FastDMTError, match=says):
            table.look(frame, sound)
    soundfile.write(tmp_path / "a.wav", tone(4, 8000, 0.1), 8000)
    table.largest = 10**6
    monkeypatch.setattr(play, "TOTAL", 10**9)
    with pytest.raises(FastDMTError, match="has no picture"):
        table.look(put(table, tmp_path / "a.wav"), "silence")

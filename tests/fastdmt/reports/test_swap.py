"""One frame under several sounds: each marks its own object, silence marks nothing."""

import json

import numpy as np
import pytest
import soundfile
from PIL import Image
from tones import ToneModel, box, name, picture, tone, write_data, write_video

from fastdmt.errors import FastDMTError
from fastdmt.reports.swap import swap
from fastdmt_loaders import DataError


def test_each_sound_marks_its_own_object_and_silence_nothing(tmp_path):
    root = write_data(tmp_path / "data")
    sounds = [next((root / "audio").glob(f"{name(k)}.*")) for k in (1, 8)]
    written = swap(ToneModel(), root / "frames" / f"{name(4)}.jpg", sounds, tmp_path / "new" / "swap", source="A")
    assert written == [tmp_path / "new" / "swap.png", tmp_path / "new" / "swap.json"]
    found = json.loads(written[1].read_text())
    assert [row["sound"] for row in found["sounds"]] == [name(1), name(8), "silence"]
    for row, place in zip(found["sounds"], (1, 8)):
        assert np.abs(np.array(row["box"]) - box(place) * (120, 90, 120, 90)).max() <= 3
    assert found["sounds"][2]["box"] is None and found["sounds"][2]["share"] == 0

    image = np.asarray(Image.open(written[0])).astype(int)
    width, height = round(320 * 120 / 90), 320
    assert image.shape[1] == 12 + 4 * (width + 12)

    def patch(column, place):
        x, y = (box(place)[:2] + 0.14) * (width, height) + (12 + column * (width + 12), 84)
        return image[int(y) - 10 : int(y) + 10, int(x) - 10 : int(x) + 10].mean((0, 1))

    frame, first, second, silent = ({k: patch(c, k) for k in (1, 8)} for c in range(4))
    assert np.abs(first[1] - second[1]).max() > 60 and np.abs(first[8] - second[8]).max() > 60
    assert np.abs(first[1] - silent[1]).max() > 60 and np.abs(first[8] - silent[8]).max() < 10
    assert np.abs(frame[1] - picture(4)[13, 60]).max() < 12  # the frame itself comes first, as it is


def test_long_names_odd_files_and_no_silence(tmp_path):
    Image.fromarray(picture(0, 60, 200)).save(tmp_path / "high.png")
    soundfile.write(tmp_path / ("x" * 120 + ".wav"), tone(3, 8000, 0.5), 8000)
    film = write_video(tmp_path / "film.mp4", places=(6,), each=2)
    written = swap(ToneModel(), film, [tmp_path / ("x" * 120 + ".wav"), film], tmp_path / "a.jpg", silence=False)
    assert [row["box"] is None for row in json.loads(written[1].read_text())["sounds"]] == [False, False]
    swap(ToneModel(), tmp_path / "high.png", [film], tmp_path / "b.png")


@pytest.mark.parametrize(
    "frame, sounds, out, says",
    [
        ("a.png", [], "x.png", "nothing to swap"),
        ("none.png", ["a.wav"], "x.png", "none.png"),
        ("a.png", ["a.png"], "x.png", "a.png: "),
        ("a.png", ["a.wav"], "a.png/x.png", "cannot write"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, frame, sounds, out, says):
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", tone(3, 8000, 0.5), 8000)
    with pytest.raises((FastDMTError, DataError), match=says) as error:
        swap(ToneModel(), tmp_path / frame, [tmp_path / sound for sound in sounds], tmp_path / out)
    assert "\n" not in str(error.value)

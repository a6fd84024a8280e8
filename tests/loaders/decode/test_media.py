"""One clock a file: picture and sound of the same moment whatever starts late, stands still, or seeks late."""

import shutil

import numpy as np
import pytest
import soundfile
from films import RATE, second_of, second_shown, write_film

from fastdmt.drawing.video import sample_frames
from fastdmt_loaders.decode.clips import frame_at
from fastdmt_loaders.decode.sound import read_sound
from fastdmt_loaders.errors import DataError
from fastdmt_loaders.tools.prepare import prepare


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("starts", [{}, {"sound": 2.0}, {"pictures": 2.0}, {"pictures": 3.0, "sound": 1.0}])
def test_a_late_start_of_either_stream_keeps_the_pair_together(tmp_path, suffix, starts):
    path = write_film(tmp_path / f"x.{suffix}", **starts)
    # AAC begins with 0.064 s of lead-in, which MPEG-TS counts: hence 0.2 s.
    first = min(starts.get("sound", 0.0), starts.get("pictures", 0.0))  # second 0 of the file
    picture, moment = frame_at(path, 6.5 - first)
    assert moment == pytest.approx(6.5 - first, abs=0.05)
    assert second_shown(picture) == pytest.approx(6.5, abs=0.2)
    # 6.25 to 6.75 s: all of them in second 6
    assert second_of(read_sound(path, (RATE,), 3.0, moment)[RATE]) == pytest.approx(6.0, abs=0.2)
    for time, frame in sample_frames(path, 1.0):
        assert second_shown(frame) - first == pytest.approx(time, abs=0.2)
    (tmp_path / "in").mkdir()
    shutil.copy(path, tmp_path / "in" / path.name)
    report = prepare(tmp_path / "in", tmp_path / "out", moment=6.5 - first, workers=1)
    assert report.failed == []
    assert second_of(soundfile.read(tmp_path / "out" / "audio" / "x.flac")[0]) == pytest.approx(6.0, abs=0.2)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_hole_in_the_sound_is_silence_and_shifts_nothing(tmp_path, suffix):
    path = write_film(tmp_path / f"x.{suffix}", hole=(4.0, 6.0))
    assert second_of(read_sound(path, (RATE,), 3.0, 7.5)[RATE]) == pytest.approx(7.0, abs=0.2)
    assert second_of(read_sound(path, (RATE,), 3.0, 5.0)[RATE]) == pytest.approx(-1.0, abs=0.2)
    assert second_of(read_sound(path, (RATE,), 3.0, 3.5)[RATE]) == pytest.approx(3.0, abs=0.2)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("slides, shown", [([0.0], 0.0), ([0.0, 9.0], 0.0), ([0.0, 4.0, 6.0], 4.0), ([6.0, 9.0], 6.0)])
def test_the_slide_on_screen_is_taken_with_the_sound_of_the_moment(tmp_path, suffix, slides, shown):
    picture, moment = frame_at(write_film(tmp_path / f"x.{suffix}", slides=slides), 5.0)
    assert second_shown(picture) == pytest.approx(shown, abs=0.1)
    assert moment == pytest.approx(max(5.0, slides[0]), abs=0.01)


@pytest.mark.parametrize("gop", [25, 100, 250])
def test_mpeg_ts_is_read_at_the_moment_asked(tmp_path, gop):
    path = write_film(tmp_path / "x.ts", gop=gop)
    for moment in (0.0, 1.3, 5.0, 9.5):
        assert second_shown(frame_at(path, moment)[0]) == pytest.approx(moment, abs=0.2)
        # 0.5 s around it, clear of the ends and of the change of second
        heard = second_of(read_sound(path, (RATE,), 3.0, int(moment) + 0.5)[RATE])
        assert heard == pytest.approx(min(max(int(moment), 1), 8), abs=0.6)


def test_a_film_cut_off_before_the_moment_is_refused(tmp_path):
    path = write_film(tmp_path / "x.mkv")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(DataError, match="truncated"):
        frame_at(path, 8.0)


@pytest.mark.parametrize("name", ["12:30 talk.mp4", "http: x.mp4", "a%03d.mp4", "-i.mp4", "caf\udce9.mp4", "a#b?c.mp4"])
def test_every_name_is_a_file(tmp_path, monkeypatch, name):
    write_film(tmp_path / "x.mp4").rename(tmp_path / name)
    soundfile.write(tmp_path / "x.wav", np.zeros(RATE), RATE)
    (tmp_path / "x.wav").rename(tmp_path / f"{name}.wav")
    monkeypatch.chdir(tmp_path)
    assert second_shown(frame_at(name, 5.0)[0]) == pytest.approx(5.0, abs=0.1)
    assert len(read_sound(name, (RATE,))[RATE]) == len(read_sound(f"{name}.wav", (RATE,))[RATE]) == 3 * RATE


def test_a_playlist_opens_no_other_file(tmp_path):
    write_film(tmp_path / "secret.ts")
    for name, text in (
        ("hls.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.ts\n#EXT-X-ENDLIST\n"),
        ("concat.mp4", "ffconcat version 1.0\nfile secret.ts\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=name):
            frame_at(tmp_path / name)

"""Predictions on real files: pictures with sounds, folders, and videos whose source moves when the pitch changes."""

import json

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tones import PLACES, ToneModel, box, name, picture, pitch, tone, write_data, write_video

from fastdmt.drawing import video
from fastdmt.errors import FastDMTError
from fastdmt.reports.predict import Track, find_jobs, localize_batch, predict
from fastdmt_loaders import AVDataset, DataError, Pair, View, eval_batches, read_sound

CODECS = {".mp4": ("libx264", "aac"), ".webm": ("libvpx", "libopus"), ".avi": ("mjpeg", "pcm_s16le")}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {suffix: write_video(folder / f"clip{suffix}", codecs=codecs) for suffix, codecs in CODECS.items()}


def near(found, place, width, height, tolerance=3):
    return np.abs(np.array(found) - box(place) * (width, height, width, height)).max() <= tolerance


def test_a_frame_with_its_sound(root, tmp_path):
    frame, sound = root / "frames" / f"{name(5)}.jpg", root / "audio" / f"{name(5)}.wav"
    written = predict(ToneModel(), [frame, sound], tmp_path / "out", source="A")
    overlay, grey, text = written
    found = json.loads(text.read_text())
    assert found["size"] == [120, 90] and near(found["box"], 5, 120, 90) and found["peak"] == pytest.approx(0.95)
    p = np.asarray(Image.open(grey))
    x, y = ((box(5)[:2] + box(5)[2:]) / 2 * (120, 90)).astype(int)
    assert p.shape == (90, 120) and p[y, x] == round(255 * 0.95) and p[5, 5] == round(255 * 0.05)
    glow, plain = np.asarray(Image.open(overlay)).astype(int), picture(5).astype(int)
    assert np.abs(glow[y, x] - plain[y, x]).sum() > 90
    assert glow[2:8, 2:8].mean() < 0.85 * plain[2:8, 2:8].mean()  # dimmed where nothing sounds


def test_silence_gives_an_empty_map_and_no_box(root, tmp_path):
    frame, sound = root / "frames" / f"{name(0)}.jpg", root / "audio" / "silence.wav"
    written = predict(ToneModel(), [frame, sound], tmp_path)
    assert json.loads(written[-1].read_text())["box"] is None


def test_preparation_is_that_of_the_evaluation(root):
    seen = []

    class Spy(ToneModel):
        front_ends = ("logmel", "spectrogram", "waveform")

        def maps(self, frames, sound, source="teachers", size=224):
            seen.append((frames, sound))
            return torch.zeros(len(frames), size, size)

    dataset, view = AVDataset(root), View(size=64, front_ends=Spy.front_ends, augment=False)
    pairs = [Pair(name(k), name(k), True) for k in range(3)]
    batch = next(iter(eval_batches(dataset, pairs, view, 3)))
    frames = [np.asarray(Image.open(dataset.frame_path(p.video))) for p in pairs]
    sounds = [read_sound(dataset.sound_path(p.audio), view.rates) for p in pairs]
    localize_batch(Spy(), frames, sounds, "teachers", 64)
    mine, features = seen[0]
    assert torch.equal(mine, batch.frames)
    assert all(torch.equal(features[key], batch.sound[key]) for key in Spy.front_ends)


def test_folders(root, tmp_path):
    lists = 2  # predictions.csv and predictions.json
    assert len(predict(ToneModel(), [root], tmp_path / "field")) == 3 * (PLACES + 1) + lists
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    Image.fromarray(picture(1)).save(mixed / "a.png")
    soundfile.write(mixed / "a.flac", tone(1, 22050, 2.0), 22050)
    Image.fromarray(picture(2)).save(mixed / "lonely.png")
    (mixed / "notes.txt").write_text("not a picture")
    assert find_jobs([mixed]) == [(mixed / "a.png", mixed / "a.flac")]
    names = {path.name for path in predict(ToneModel(), [mixed, mixed], tmp_path / "twice")}
    assert {"a.json", "a-2.json"} <= names and len(names) == 6 + lists


@pytest.mark.parametrize("suffix", list(CODECS))
def test_a_video_keeps_its_sound_and_follows_it(clips, tmp_path, suffix):
    written = predict(ToneModel(), [clips[suffix]], tmp_path, source="A", fps=2)
    overlay, strip, text = written
    found = json.loads(text.read_text())
    assert [entry["second"] for entry in found["seconds"]] == list(range(8))
    assert near(found["seconds"][1]["box"], 0, 120, 90) and near(found["seconds"][6]["box"], 8, 120, 90)
    assert len(found["samples"]) == 16
    with av.open(str(overlay)) as container:
        pictures = [(f.time, f.to_ndarray(format="rgb24").astype(int)) for f in container.decode(video=0)]
    assert len(pictures) == 80 and pictures[0][1].shape == (90, 120, 3)
    assert np.allclose([t for t, _ in pictures], np.arange(80) / 10, atol=0.011)
    for time, here, there in ((10, 0, 8), (70, 8, 0)):
        image, plain = pictures[time][1], picture(0).astype(int)
        change = [
            np.abs(image[y, x] - plain[y, x]).sum()
            for x, y in (((box(k)[:2] + 0.14) * (120, 90)).astype(int) for k in (here, there))
        ]
        assert change[0] > change[1] + 40
    for centre, place in ((1.6, 0), (6.4, 8)):
        pcm = read_sound(overlay, (16000,), 2.0, centre=centre)[16000]
        assert np.abs(np.fft.rfft(pcm)).argmax() / 2 == pytest.approx(pitch(place), abs=2)
    original, kept = (read_sound(f, (16000,), 7.9)[16000] for f in (clips[suffix], overlay))
    assert np.abs(original).mean() == pytest.approx(np.abs(kept).mean(), rel=0.05)
    assert Image.open(strip).size[0] > 6 * 100


def test_tall_videos_are_scaled_and_moments_sampled(clips, tmp_path):
    overlay = video.rewrite(clips[".mp4"], tmp_path / "small", lambda frame, time: frame, max_height=45)
    assert (video.probe(overlay).width, video.probe(overlay).height) == (60, 44)
    times = [time for time, _ in video.sample_frames(clips[".mp4"], 4)]
    assert np.allclose(times, np.arange(32) / 4, atol=0.051)
    every = [time for time, _ in video.sample_frames(clips[".mp4"], 1000)]
    assert len(every) == 80


def test_track_is_linear_between_its_moments():
    track = Track([0.0, 1.0], [np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)])
    assert [float(track.at(t)[0, 0]) for t in (-1, 0, 0.25, 1, 9)] == [0, 0, 0.25, 1, 1]
    assert track.peaks.tolist() == track.shares.tolist() == [0, 1]


def test_bad_input_is_named(root, clips, tmp_path):
    frame, sound = root / "frames" / f"{name(0)}.jpg", root / "audio" / f"{name(0)}.wav"
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    fake = tmp_path / "fake.mp4"
    fake.write_bytes(b"not a video at all")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(frame.read_bytes()[:200])
    silent = tmp_path / "mute.mp4"
    with av.open(str(silent), "w") as out:
        stream = out.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    (tmp_path / "empty").mkdir()
    cases = [
        ([], "nothing to localize"),
        (["nowhere.jpg"], r"nowhere\.jpg: no such file"),
        ([frame], "needs a sound after it"),
        ([frame, frame], "no sound"),
        ([sound], "needs its frame"),
        ([text], "neither a picture nor a video"),
        ([fake], r"fake\.mp4: cannot be read as a video"),
        ([silent], r"mute\.mp4: holds no sound"),
        ([broken, sound], r"broken\.jpg"),
        ([tmp_path / "empty"], "holds no video"),
    ]
    for inputs, message in cases:
        with pytest.raises((FastDMTError, DataError), match=message) as error:
            predict(ToneModel(), inputs, tmp_path / "out")
        assert "\n" not in str(error.value)
    with pytest.raises(FastDMTError, match="fps"):
        predict(ToneModel(), [clips[".mp4"]], tmp_path / "out", fps=0)
    with pytest.raises(FastDMTError, match="cannot make the folder"):
        predict(ToneModel(), [frame, sound], text / "out")


def test_a_video_of_8k_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "large.avi"
    with av.open(str(path), "w") as out:
        film, voice = out.add_stream("mjpeg", rate=5), out.add_stream("pcm_s16le", rate=16000, layout="mono")
        film.width, film.height, film.pix_fmt = 7680, 4320, "yuvj420p"
        out.mux(film.encode(av.VideoFrame(7680, 4320, "yuvj420p")))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), format="s16", layout="mono")
        sound.sample_rate = 16000
        for packet in (*film.encode(None), *voice.encode(sound), *voice.encode(None)):
            out.mux(packet)
    with pytest.raises(FastDMTError, match=r"large\.avi: 7680 x 4320 pixels are too many \(at most 16,777,216"):
        predict(ToneModel(), [path], tmp_path / "out")
    assert not list(tmp_path.glob("out*/*"))

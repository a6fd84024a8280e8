"""Sound reading against known signals in odd files; front-ends against SciPy and a float64 definition."""

import math

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdmt_loaders.decode.sound import mono, read_sound, resample
from fastdmt_loaders.errors import DataError


def tone(rate, seconds, hz=440.0, channels=1):
    pcm = 0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)
    return np.repeat(pcm[:, None], channels, axis=1)


@pytest.mark.parametrize(
    "name, rate, seconds, channels, subtype",
    [
        ("a.wav", 5000, 4, 1, "PCM_16"),
        ("a.wav", 96000, 3.5, 6, "PCM_24"),
        ("a.wav", 44100, 60, 2, "FLOAT"),
        ("a.wav", 8000, 3, 1, "PCM_U8"),
        ("a.flac", 22050, 10, 2, "PCM_24"),
        ("a.ogg", 48000, 5, 1, "VORBIS"),
    ],
)
def test_middle_of_odd_files_is_the_analytic_tone(tmp_path, name, rate, seconds, channels, subtype):
    """A 440 Hz tone must come back with the phase that the middle of the file has: no delay, no shift, no gain."""
    path = tmp_path / name
    soundfile.write(path, tone(rate, seconds, channels=channels), rate, subtype=subtype)
    start = (round(rate * seconds) - math.ceil(3.0 * rate)) // 2 / rate
    sounds = read_sound(path, (16000, 22050))
    tolerance = {"PCM_U8": 0.012, "VORBIS": 0.05}.get(subtype, 3e-3)
    for new_rate, pcm in sounds.items():
        assert pcm.dtype == np.float32 and pcm.shape == (3 * new_rate,)
        truth = 0.5 * np.sin(2 * np.pi * 440 * (start + np.arange(len(pcm)) / new_rate))
        inside = slice(new_rate // 50, -new_rate // 50)  # the filter sees only part of its window at the ends
        assert np.abs(pcm - truth)[inside].max() < tolerance


def test_short_file_is_repeated(tmp_path):
    pcm = np.random.default_rng(0).uniform(-0.5, 0.5, 3200).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", pcm, 16000, subtype="FLOAT")
    np.testing.assert_array_equal(read_sound(tmp_path / "a.wav", (16000,))[16000], np.tile(pcm, 15))


def test_centre_is_a_moment_of_the_file_and_stays_inside(tmp_path):
    ramp = np.arange(10 * 8000, dtype=np.float32) / 80000
    soundfile.write(tmp_path / "a.wav", ramp, 8000, subtype="FLOAT")
    for centre, start in ((5.0, 3.5), (2.0, 0.5), (0.1, 0.0), (9.9, 7.0)):
        np.testing.assert_array_equal(
            read_sound(tmp_path / "a.wav", (8000,), centre=centre)[8000], ramp[int(start * 8000) :][:24000]
        )


@pytest.mark.parametrize("container, codec", [("mp4", "aac"), ("webm", "libopus"), ("mkv", "pcm_s16le")])
def test_ffmpeg_reads_the_same_middle(tmp_path, container, codec):
    """A tone whose pitch rises with time tells which stretch was read."""
    rate = 48000
    times = np.arange(20 * rate) / rate
    chirp = (0.5 * np.sin(2 * np.pi * (200 * times + 20 * times**2))).astype(np.float32)  # 200 + 40 t Hz
    path = tmp_path / f"a.{container}"
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(
            np.repeat(chirp[:, None], 2, 1).reshape(1, -1), format="flt", layout="stereo"
        )
        frame.sample_rate = rate
        fifo = av.AudioResampler(format=stream.format, layout="stereo", rate=rate, frame_size=stream.frame_size or 1024)
        for piece in [*fifo.resample(frame), *fifo.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    for centre in (None, 4.0):
        pcm = read_sound(path, (16000,), centre=centre)[16000]
        spectrum = np.abs(np.fft.rfft(pcm[22400:25600] * np.hanning(3200)))  # 0.2 s in the middle
        assert spectrum.argmax() * 5 == pytest.approx(200 + 40 * (centre or 10.0), abs=8)


def test_faults_name_the_file(tmp_path):
    def expect(name, words):
        with pytest.raises(DataError, match=words) as caught:
            read_sound(tmp_path / name, (16000,))
        assert name in str(caught.value) and "\n" not in str(caught.value)

    expect("missing.wav", "no such")
    (tmp_path / "empty.wav").write_bytes(b"")
    expect("empty.wav", "empty")
    (tmp_path / "text.wav").write_text("not a sound, whatever its name says")
    expect("text.wav", "cannot be decoded")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    expect("none.wav", "no sound samples")
    for value in (np.nan, np.inf):
        pcm = np.zeros(48000, np.float32)
        pcm[20000] = value
        soundfile.write(tmp_path / "nan.wav", pcm, 16000, subtype="FLOAT")
        expect("nan.wav", "NaN")
    soundfile.write(tmp_path / "whole.flac", np.random.default_rng(0).uniform(-1, 1, 160000), 16000)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "whole.flac").read_bytes()[:100000])
    expect("cut.flac", "truncated|decoded")


def test_silence_is_not_a_fault(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 8000)
    assert not read_sound(tmp_path / "a.wav", (16000,))[16000].any()


@settings(max_examples=30, deadline=None)
@given(rate=st.integers(2000, 192000), samples=st.integers(1, 20000), length=st.integers(1, 70000))
def test_resample_always_gives_the_length_asked(rate, samples, length):
    out = resample(np.full(samples, 0.25, np.float32), rate, 16000, length)
    assert out.shape == (length,) and out.dtype == np.float32 and np.isfinite(out).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_channels_are_averaged(channels):
    pcm = np.random.default_rng(channels).standard_normal((1000, channels)).astype(np.float32)
    before = pcm.copy()
    got = mono(pcm)
    assert got.dtype == np.float32 and got.shape == (1000,)
    np.testing.assert_allclose(got, pcm.astype(np.float64).mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(pcm, before)  # the caller's samples stay

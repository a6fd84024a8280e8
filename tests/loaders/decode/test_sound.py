"""Sound reading against known signals in odd files; front-ends against SciPy and a float64 definition."""

import math

import av
import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdmt_loaders.decode.sound import read_sound, resample
from fastdmt_loaders.errors import DataError
from fastdmt_loaders.frontends import FRONT_ENDS, logmel, mel_bands, spectrogram, waveform


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


def test_spectrogram_equals_scipy():
    pcm = torch.from_numpy(np.random.default_rng(0).normal(0.1, 0.2, (3, 48000))).float()
    _, _, density = scipy.signal.spectrogram(pcm.double().numpy(), 16000, nperseg=512, noverlap=274)
    ours = spectrogram(pcm)
    assert ours.shape == (3, 1, 257, 200)
    np.testing.assert_allclose(ours[:, 0].numpy(), np.log(density + 1e-7) / 12, atol=2e-5)


def test_logmel_equals_its_definition_in_float64():
    pcm = np.random.default_rng(1).normal(0, 0.2, (2, 48000))
    window = scipy.signal.get_window("hann", 400)
    rows = np.stack([pcm[:, i * 160 : i * 160 + 400] * window for i in range(288)], axis=1)
    _, _, stft = scipy.signal.stft(rows.reshape(-1, 400), nperseg=400, nfft=512, noverlap=0, window="boxcar",
                                   boundary=None, padded=False, scaling="spectrum")  # fmt: skip
    expected = np.log(np.abs(stft[:, :, 0]) * 400 @ mel_bands() + 0.01).reshape(2, 3, 1, 96, 64)
    ours = logmel(torch.from_numpy(pcm).float())
    assert ours.shape == (2, 3, 1, 96, 64)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("seconds, patches", [(0.5, 1), (0.96, 1), (2.88, 3), (3.0, 3), (10.0, 10)])
def test_logmel_patches(seconds, patches):
    assert logmel(torch.zeros(1, round(16000 * seconds))).shape == (1, patches, 1, 96, 64)
    assert torch.equal(logmel(torch.zeros(1, 16000)), torch.full((1, 1, 1, 96, 64), 0.01).log())


def test_mel_bands_are_triangles_at_the_right_places():
    bands = mel_bands()
    assert bands.shape == (257, 64) and bands.min() == 0 and bands.max() <= 1 and not bands[0].any()
    centres = np.arange(257) @ bands / bands.sum(axis=0) * 8000 / 256
    assert (np.diff(centres) > 0).all() and centres[0] > 125 and 7000 < centres[-1] < 7500
    # Neighbouring triangles overlap so that inside the range the bands of a bin sum to one.
    np.testing.assert_allclose(bands[8:230].sum(axis=1), 1, atol=1e-12)


def test_front_ends_keep_fp32_under_autocast_and_sizes_of_three_seconds():
    shapes = {"logmel": (2, 3, 1, 96, 64), "spectrogram": (2, 1, 257, 200), "waveform": (2, 1, 66150)}
    assert set(shapes) == set(FRONT_ENDS)
    for name, front_end in FRONT_ENDS.items():
        pcm = torch.rand(2, 3 * front_end.rate, generator=torch.Generator().manual_seed(0)) - 0.5
        with torch.autocast("cpu", torch.bfloat16):
            out = front_end.function(pcm)
        assert out.shape == shapes[name] and out.dtype == torch.float32
        torch.testing.assert_close(out, front_end.function(pcm), rtol=0, atol=0)
    assert torch.equal(waveform(torch.tensor([[0.5, -1.0]])), torch.tensor([[[128.0, -256.0]]]))

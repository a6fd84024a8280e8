"""Sound: the middle of any file as mono PCM, and the front-ends that the encoders of the field want.

`read_sound` runs on the host, one file at a time. The front-ends are batched torch functions of PCM [N, T] that run on
whatever device the PCM lies on, in fp32, without a synchronisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import soundfile
import torch
from torch import Tensor

from fastdmt_loaders.errors import DataError
from fastdmt_loaders.stored import stored

SNDFILE_SUFFIXES = frozenset({".wav", ".flac", ".ogg"})
MEND = "replace the file or take its id out of the list"
# A decoder that starts in mid-stream needs the packets before the first one wanted (MP3's bit reservoir, Opus' 80 ms).
PREROLL_SECONDS = 0.5


def read_sound(
    path: str | Path, rates: Sequence[int], seconds: float = 3.0, centre: float | None = None
) -> dict[int, np.ndarray]:
    """The middle of a sound file, or the stretch around a moment, at each of several rates.

    Only the needed stretch is decoded. Channels are averaged; a file shorter than `seconds` is repeated, as the
    public loaders of the field do.

    Args:
        path: wav, flac or ogg (libsndfile), or anything with a sound stream that FFmpeg reads.
        rates: wanted rates in Hz.
        seconds: length of the stretch.
        centre: its middle in seconds from the start of the file; None: the middle of the file.

    Returns:
        rate -> float32 [round(rate * seconds)], full scale = 1.

    Raises:
        DataError: the file is missing, empty, truncated, not a sound, or holds NaN or infinite samples.
    """
    path = Path(path)
    pcm, native = _decode(path, seconds, centre)
    return _at_rates(pcm, native, rates, seconds, str(path))


def fit_waveform(waveform: np.ndarray, rate: int, rates: Sequence[int], seconds: float = 3.0) -> dict[int, np.ndarray]:
    """`read_sound` for a sound already in memory: [T] or [T, channels], float in -1..1 or a signed integer type."""
    pcm = np.asarray(waveform)
    pcm = pcm.astype(np.float32) / (np.iinfo(pcm.dtype).max + 1 if pcm.dtype.kind == "i" else 1)
    pcm = pcm.mean(axis=1) if pcm.ndim == 2 else pcm
    need = math.ceil(seconds * rate)
    start = _first_sample(len(pcm), need, rate, None)
    return _at_rates(pcm[start : start + need], rate, rates, seconds, "the waveform")


def _at_rates(pcm: np.ndarray, native: int, rates: Sequence[int], seconds: float, name: str) -> dict[int, np.ndarray]:
    if len(pcm) == 0:
        raise DataError(f"{name}: holds no sound samples; {MEND}")
    # One sum finds every NaN and infinity without a temporary of the signal's size.
    if not math.isfinite(float(pcm.sum(dtype=np.float64))):
        raise DataError(f"{name}: holds NaN or infinite samples; {MEND}")
    need = math.ceil(seconds * native)
    if len(pcm) < need:
        pcm = np.tile(pcm, -(-need // len(pcm)))[:need]
    return {rate: resample(pcm, native, rate, round(rate * seconds)) for rate in rates}


def resample(pcm: np.ndarray, rate: int, new_rate: int, length: int) -> np.ndarray:
    """Mono float32 [n] at `rate` Hz -> float32 [length] at `new_rate` Hz (FFmpeg's polyphase filter, no delay)."""
    if rate != new_rate:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm[None]), format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=new_rate)
        # The second call flushes what the filter still holds: without it the last milliseconds are lost.
        parts = [out.to_ndarray()[0] for given in (frame, None) for out in resampler.resample(given)]
        pcm = np.concatenate(parts) if parts else np.zeros(1, np.float32)
    if len(pcm) < length:
        pcm = np.pad(pcm, (0, length - len(pcm)), mode="edge")
    return np.ascontiguousarray(pcm[:length], dtype=np.float32)


def _decode(path: Path, seconds: float, centre: float | None) -> tuple[np.ndarray, int]:
    """The stretch as mono float32 at the file's own rate: at most ceil(seconds * rate) samples."""
    source = stored(path)
    if path.suffix.lower() in SNDFILE_SUFFIXES:
        try:
            return _decode_sndfile(path, source, seconds, centre)
        except soundfile.LibsndfileError:
            source = stored(path)  # a codec that libsndfile lacks; FFmpeg decides
    try:
        return _decode_ffmpeg(path, source, seconds, centre)
    except (av.FFmpegError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be decoded as sound ({_reason(error)}); {MEND}") from error


def _decode_sndfile(path: Path, source: str | BytesIO, seconds: float, centre: float | None) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(source) as file:
        need = math.ceil(seconds * file.samplerate)
        start = _first_sample(file.frames, need, file.samplerate, centre)
        wanted = min(need, file.frames)
        file.seek(start)
        pcm = file.read(wanted, dtype="float32", always_2d=True)
        if len(pcm) < wanted:
            raise DataError(f"{path}: is truncated ({start + len(pcm)} of {file.frames} samples); {MEND}")
        return pcm.mean(axis=1) if pcm.shape[1] > 1 else pcm[:, 0], file.samplerate


def _decode_ffmpeg(path: Path, source: str | BytesIO, seconds: float, centre: float | None) -> tuple[np.ndarray, int]:
    with av.open(source) as container:
        if not container.streams.audio:
            raise DataError(f"{path}: has no sound stream; {MEND}")
        stream = container.streams.audio[0]
        rate = stream.rate
        need = math.ceil(seconds * rate)
        origin = float((stream.start_time or 0) * stream.time_base)
        if stream.duration is not None:
            total = round(float(stream.duration * stream.time_base) * rate)
        elif container.duration is not None:
            total = round(container.duration / av.time_base * rate)
        else:
            total = None  # a raw stream without a length: decode all of it
        start = 0 if total is None else _first_sample(total, need, rate, centre)
        if start > PREROLL_SECONDS * rate:
            container.seek(int((origin + start / rate - PREROLL_SECONDS) / stream.time_base), stream=stream)
        planar = av.AudioResampler(format="fltp")
        blocks, first, held = [], 0, 0
        for frame in container.decode(stream):
            if not blocks and frame.pts is not None:
                first = round((float(frame.pts * frame.time_base) - origin) * rate)
            for block in planar.resample(frame):
                blocks.append(block.to_ndarray().mean(axis=0))
                held += block.samples
            if total is not None and first + held >= start + need:
                break
        pcm = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
        if total is None:
            start = _first_sample(len(pcm), need, rate, centre)
        skip = min(max(0, start - first), max(0, len(pcm) - need))
        return pcm[skip : skip + need].astype(np.float32, copy=False), rate


def _first_sample(total: int, need: int, rate: int, centre: float | None) -> int:
    """Where a stretch of `need` samples starts, so that it lies inside the file wherever it can."""
    start = (total - need) // 2 if centre is None else round(centre * rate) - need // 2
    return max(0, min(start, total - need))


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0] if str(error) else type(error).__name__


# ------------------------------------------------------------------------------------------------- front-ends


def logmel(pcm: Tensor) -> Tensor:
    """VGGish's input: log-mel patches of 0.96 s that do not overlap.

    25 ms periodic Hann window, 10 ms hop, FFT 512, magnitudes, 64 HTK mel bands from 125 to 7500 Hz, log(x + 0.01).

    Args:
        pcm: [N, T] at 16 kHz, full scale = 1.

    Returns:
        [N, P, 1, 96, 64] fp32, P = max(1, T // 15360): 3 for 3 s. The last window of a patch may reach 15 ms past T;
        zeros stand there.
    """
    with torch.autocast(pcm.device.type, enabled=False):
        pcm = pcm.float()
        patches = max(1, pcm.shape[1] // (96 * 160))
        length = (96 * patches - 1) * 160 + 400
        pcm = torch.nn.functional.pad(pcm, (0, max(0, length - pcm.shape[1])))[:, :length]
        window, bands = _mel_tables(pcm.device)
        magnitude = _power(torch.fft.rfft(pcm.unfold(1, 400, 160) * window, n=512)).sqrt_()
        return torch.log(magnitude @ bands + 0.01).view(len(pcm), patches, 1, 96, 64)


def spectrogram(pcm: Tensor) -> Tensor:
    """EZ-VSL's and SLAVC's input: the log of `scipy.signal.spectrogram`'s density with SciPy's defaults.

    Tukey(0.25) window of 512, overlap 274, each segment's mean removed, one-sided power density; log(x + 1e-7) / 12.

    Args:
        pcm: [N, T] at 16 kHz, full scale = 1.

    Returns:
        [N, 1, 257, (T - 274) // 238] fp32: 257 x 200 for 3 s.
    """
    with torch.autocast(pcm.device.type, enabled=False):
        window, density = _tukey_tables(pcm.device)
        segments = pcm.float().unfold(1, 512, 238)
        segments = (segments - segments.mean(dim=2, keepdim=True)) * window
        spectrum = _power(torch.fft.rfft(segments))
        return (torch.log(spectrum * density + 1e-7) / 12).transpose(1, 2).unsqueeze(1)


def _power(spectrum: Tensor) -> Tensor:
    """|spectrum|^2; on a CPU a third of the time of abs() or of a sum over the last two numbers."""
    real, imaginary = torch.view_as_real(spectrum).unbind(-1)
    return torch.addcmul(real * real, imaginary, imaginary)


def waveform(pcm: Tensor) -> Tensor:
    """SoundNet's input: [N, T] at 22.05 kHz -> [N, 1, T] fp32 scaled to +-256."""
    return pcm.float().unsqueeze(1) * 256


class FrontEnd(NamedTuple):
    """A front-end: the rate in Hz of the PCM [N, T] that its function takes."""

    rate: int
    function: Callable[[Tensor], Tensor]


FRONT_ENDS = {
    "logmel": FrontEnd(16000, logmel),
    "spectrogram": FrontEnd(16000, spectrogram),
    "waveform": FrontEnd(22050, waveform),
}


def mel_bands() -> np.ndarray:
    """VGGish's mel matrix, float64 [257 bins, 64 bands]: triangles that are straight on the mel axis, no DC."""
    bins = 1127.0 * np.log1p(np.linspace(0, 8000, 257) / 700.0)
    edges = np.linspace(1127.0 * np.log1p(125 / 700.0), 1127.0 * np.log1p(7500 / 700.0), 66)
    low, mid, high = edges[:-2], edges[1:-1], edges[2:]
    bands = np.minimum((bins[:, None] - low) / (mid - low), (high - bins[:, None]) / (high - mid)).clip(min=0)
    bands[0] = 0
    return bands


@lru_cache(maxsize=8)
def _mel_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    return torch.from_numpy(window).float().to(device), torch.from_numpy(mel_bands()).float().to(device)


@lru_cache(maxsize=8)
def _tukey_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    # Periodic window: a cosine taper over the first and the last eighth of 512 samples.
    ramp = 0.5 * (1 - np.cos(np.pi * np.arange(65) / 64))
    window = np.ones(512)
    window[:65] = ramp
    window[448:] = ramp[:0:-1]
    density = np.full(257, 2.0 / (16000 * (window**2).sum()))
    density[[0, -1]] /= 2
    return torch.from_numpy(window).float().to(device), torch.from_numpy(density).float().to(device)

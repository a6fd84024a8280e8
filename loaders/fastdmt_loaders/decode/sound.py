"""Sound: the middle of any file as mono PCM, and the front-ends that the encoders of the field want.

`read_sound` runs on the host, one file at a time. The front-ends are batched torch functions of PCM [N, T] that run on
whatever device the PCM lies on, in fp32, without a synchronisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import soundfile

from fastdmt_loaders.dataset.stored import stored
from fastdmt_loaders.errors import DataError

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

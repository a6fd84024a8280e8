"""Sound: the middle of any file as mono PCM, and the front-ends that the encoders of the field want.

`read_sound` runs on the host, one file at a time. The front-ends are batched torch functions of PCM [N, T] that run on
whatever device the PCM lies on, in fp32, without a synchronisation.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import soundfile

from fastdmt_loaders.dataset.stored import stored
from fastdmt_loaders.decode.limits import MEND, Deadline, check_rate, decoding
from fastdmt_loaders.decode.media import frames_from, length_of, measured, open_media, pictures_of, zero_of
from fastdmt_loaders.errors import DataError

SNDFILE_SUFFIXES = frozenset({".wav", ".flac", ".ogg"})
# A decoder that starts in mid-stream needs the packets before the first one wanted (MP3's bit reservoir, Opus' 80 ms).
PREROLL_SECONDS = 0.5
JITTER = 0.02  # seconds: containers round times; what is off by more is a hole
TOLERANCE = 0.9  # of the promised length: what is shorter was cut off
NO_SIZE = 0x7F000000  # a WAV's size beyond this (about 2 and 4 GiB) was written by a program that could not seek back
# Formats without a length of their own: FFmpeg estimates it from the bit rate.
ESTIMATED = frozenset({"mp3", "aac", "mpeg", "mpegts", "flv", "ac3", "eac3", "dts"})


def read_sound(
    path: str | Path, rates: Sequence[int], seconds: float = 3.0, centre: float | None = None
) -> dict[int, np.ndarray]:
    """The middle of a sound file, or the stretch around a moment, at each of several rates.

    Only the needed stretch is decoded. Channels are averaged; a file shorter than `seconds` is repeated, as the
    public loaders of the field do. Where a file's sound starts late, ends early or has holes, there is silence.

    Args:
        path: wav, flac or ogg (libsndfile), or anything with a sound stream that FFmpeg reads.
        rates: wanted rates in Hz.
        seconds: length of the stretch.
        centre: its middle in seconds from the start of the file; None: the middle of the file.

    Returns:
        rate -> float32 [round(rate * seconds)], full scale = 1.

    Raises:
        DataError: the file is missing, empty, truncated, not a sound, holds NaN or infinite samples, or is beyond the
            limits.
    """
    return read_stretch(path, rates, seconds, centre)[0]


def read_stretch(
    path: str | Path, rates: Sequence[int], seconds: float = 3.0, centre: float | None = None
) -> tuple[dict[int, np.ndarray], float]:
    """`read_sound`, and the length of the file in seconds."""
    path = Path(path)
    with decoding(path, "sound"):
        pcm, native, length = _decode(path, seconds, centre)
        return _at_rates(pcm, native, rates, seconds, str(path)), length


def fit_waveform(waveform: np.ndarray, rate: int, rates: Sequence[int], seconds: float = 3.0) -> dict[int, np.ndarray]:
    """`read_sound` for a sound already in memory: [T] or [T, channels], float in -1..1 or a signed integer type."""
    pcm = np.asarray(waveform)
    pcm = pcm.astype(np.float32) / (np.iinfo(pcm.dtype).max + 1 if pcm.dtype.kind == "i" else 1)
    pcm = mono(pcm) if pcm.ndim == 2 else pcm
    need = math.ceil(seconds * rate)
    start = _first_sample(len(pcm), need, rate, None)
    return _at_rates(pcm[start : start + need], rate, rates, seconds, "the waveform")


def mono(pcm: np.ndarray) -> np.ndarray:
    """float32 [T, channels] -> their mean [T], column by column: NumPy's mean over short rows outlasts the decoding."""
    total = pcm[:, 0]
    for channel in range(1, pcm.shape[1]):
        total = total + pcm[:, channel]
    return total / np.float32(pcm.shape[1]) if pcm.shape[1] > 1 else total


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


def _decode(path: Path, seconds: float, centre: float | None) -> tuple[np.ndarray, int, float]:
    """The stretch as mono float32 at the file's own rate: at most ceil(seconds * rate) samples; the file's seconds."""
    if path.suffix.lower() in SNDFILE_SUFFIXES:
        try:
            return _decode_sndfile(path, seconds, centre)
        except soundfile.LibsndfileError:
            pass  # a codec that libsndfile lacks; FFmpeg decides
    return _decode_ffmpeg(path, seconds, centre)


def _decode_sndfile(path: Path, seconds: float, centre: float | None) -> tuple[np.ndarray, int, float]:
    source = stored(path)
    if path.suffix.lower() == ".wav":
        _check_size(path, source)
    # By bytes, since libsndfile's Python face refuses names that are not UTF-8.
    with soundfile.SoundFile(os.fsencode(source) if isinstance(source, str) else source) as file:
        check_rate(path, file.samplerate, file.channels, seconds)
        need = math.ceil(seconds * file.samplerate)
        start = _first_sample(file.frames, need, file.samplerate, centre)
        wanted = min(need, file.frames)
        file.seek(start)
        pcm = file.read(wanted, dtype="float32", always_2d=True)
        if len(pcm) < wanted:
            raise DataError(f"{path}: is truncated ({start + len(pcm)} of {file.frames} samples); {MEND}")
        return mono(pcm), file.samplerate, file.frames / file.samplerate


def _check_size(path: Path, source: str | BytesIO) -> None:
    """Refuses a WAV that holds less than its header promises: libsndfile takes what is there, with another middle."""
    with open(source, "rb") if isinstance(source, str) else BytesIO(source.getvalue()) as file:
        head = file.read(4096)
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            return
        end, place = file.seek(0, os.SEEK_END), 12
        while place + 8 <= end:
            if place + 8 > len(head):  # behind pictures and comments
                file.seek(place)
                name_size = file.read(8)
            else:
                name_size = head[place : place + 8]
            size = int.from_bytes(name_size[4:], "little")
            if name_size[:4] == b"data":
                if TOLERANCE * size > end - place - 8 and size < NO_SIZE:
                    raise DataError(f"{path}: is truncated ({end - place - 8:,} of {size:,} bytes of sound); {MEND}")
                return
            place += 8 + size + size % 2


def _decode_ffmpeg(path: Path, seconds: float, centre: float | None) -> tuple[np.ndarray, int, float]:
    with open_media(path) as container:
        if not container.streams.audio:
            raise DataError(f"{path}: has no sound stream; {MEND}")
        stream = container.streams.audio[0]
        film = pictures_of(container) is not None
        total = stream.duration * stream.time_base if stream.duration and not film else None
        length = float(total) if total else length_of(container, path)
        pcm, rate, end = _stretch(path, container, stream, length, seconds, centre)
        exact = container.format.name not in ESTIMATED
        promised = float(stream.duration * stream.time_base) if stream.duration else 0.0 if film else length
    if end is None or (film and not promised):
        return pcm, rate, length
    if exact and end < TOLERANCE * promised:
        raise DataError(f"{path}: is truncated ({end:.2f} of {promised:.2f} s); {MEND}")
    if film:
        return pcm, rate, length
    # The sound ended before the stretch did: an estimate was too long. Its real length is known now.
    if not exact and end < TOLERANCE * length:
        end = max(end, measured(path))
        with open_media(path) as container:
            pcm, rate, _ = _stretch(path, container, container.streams.audio[0], end, seconds, centre)
    return pcm[: max(0, round(min(end, seconds) * rate))] if end < seconds else pcm, rate, end


def _stretch(
    path: Path, container, stream, length: float, seconds: float, centre: float | None
) -> tuple[np.ndarray, int, float | None]:
    """Samples of a stretch placed by their times, zeros where there are none; rate; where the stream ends, if seen."""
    rate = stream.rate
    check_rate(path, rate, stream.channels, seconds)
    need, zero, deadline = math.ceil(seconds * rate), zero_of(container), Deadline(path)
    start = _first_sample(round(length * rate), need, rate, centre)
    planar = av.AudioResampler(format="fltp")
    out, place, end = np.zeros(min(need, max(1, round(length * rate))), np.float32), None, None
    for frame in frames_from(container, stream, zero + max(0.0, start / rate - PREROLL_SECONDS)):
        deadline.check()
        at = place if frame.pts is None else round((float(frame.pts * frame.time_base) - zero) * rate) - start
        for block in planar.resample(frame):
            if place is None or (at is not None and abs(at - place) > JITTER * rate):
                place = -start if at is None else at
            mono = block.to_ndarray().mean(axis=0)
            first, last = max(0, place), min(len(out), place + len(mono))
            if first < last:
                out[first:last] = mono[first - place : last - place]
            place += len(mono)
            at = place
        if place is not None and place >= len(out):
            break
    else:
        end = 0.0 if place is None else max(0.0, (start + place) / rate)
    return out, rate, end


def _first_sample(total: int, need: int, rate: int, centre: float | None) -> int:
    """Where a stretch of `need` samples starts, so that it lies inside the file wherever it can."""
    start = (total - need) // 2 if centre is None else round(centre * rate) - need // 2
    return max(0, min(start, total - need))

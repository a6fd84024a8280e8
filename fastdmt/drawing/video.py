"""Videos in and out: sampled frames, and the same video painted over with its sound kept. PyAV throughout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from fastdmt.errors import FastDMTError, first_line
from fastdmt_loaders import DataError
from fastdmt_loaders.dataset.stored import local
from fastdmt_loaders.decode.media import film_of, open_media, pictures_of, zero_of

# Encoder -> container suffix, sound codecs that stay as they are (those that players expect there), encoder for others.
ENCODERS = {
    "libx264": (".mp4", {"aac", "mp3", "ac3", "eac3", "alac"}, "aac"),
    "libopenh264": (".mp4", {"aac", "mp3", "ac3", "eac3", "alac"}, "aac"),
    "libvpx-vp9": (".webm", {"opus", "vorbis"}, "libopus"),
    "libvpx": (".webm", {"opus", "vorbis"}, "libopus"),
}


@dataclass(frozen=True)
class Info:
    """What a video holds: size in pixels as it is shown (turned as its metadata says), length in seconds."""

    width: int
    height: int
    duration: float
    codecs: tuple[str, str]  #: of the pictures and of the sound


def probe(path: str | Path) -> Info:
    """Size, length and codecs of a video with pictures and sound.

    Raises:
        FastDMTError: missing, not a video, without pictures or without sound.
    """
    with _open(path) as container:
        if pictures_of(container) is None:
            raise FastDMTError(f"{path}: holds no pictures; give a frame file together with this sound")
        if not container.streams.audio:
            raise FastDMTError(f"{path}: holds no sound, so there is nothing to localize; give a video with sound")
        pictures = film_of(container, path)
        first = next(container.decode(pictures), None)
        if first is None:
            raise FastDMTError(f"{path}: not one picture can be decoded; convert it, for example with ffmpeg")
        height, width = _upright(first).shape[:2]
        duration = container.duration / av.time_base if container.duration else 0.0
        return Info(width, height, duration, (_codec(pictures), _codec(container.streams.audio[0])))


def sample_frames(path: str | Path, fps: float) -> Iterator[tuple[float, np.ndarray]]:
    """(second of the file's clock, frame [H, W, 3] uint8 RGB), at most `fps` a second, from the first picture on."""
    with _open(path) as container:
        pictures = film_of(container, path)
        pictures.thread_type = "AUTO"
        zero, count, start = zero_of(container), 0, None
        for frame in container.decode(pictures):
            time = float(frame.time or 0.0) - zero
            start = time if start is None else start
            if time - start >= count / fps - 1e-3:
                yield time, _upright(frame)
                count = int((time - start) * fps + 1e-3) + 1


def rewrite(
    source: str | Path, target: str | Path, paint: Callable[[np.ndarray, float], np.ndarray], max_height: int = 720
) -> Path:
    """Write a video again with every picture painted; the sound is copied packet by packet where its codec fits.

    Args:
        target: file without suffix; the container follows from the encoder found (H.264 in mp4, else VP9 in webm).
        paint: (frame [H, W, 3] uint8 of the written size, second of the file's clock) -> frame of that size.
        max_height: taller videos are scaled down.

    Returns:
        The file written.

    Raises:
        FastDMTError: unreadable source, unwritable target, or no encoder.
    """
    codec = next((name for name in ENCODERS if name in av.codecs_available), None)
    if codec is None:
        raise FastDMTError("this build of PyAV has no video encoder; install it from PyPI: pip install av")
    suffix, copied, sound_codec = ENCODERS[codec]
    info = probe(source)
    scale = min(1.0, max_height / info.height)
    width, height = (max(2, round(side * scale) // 2 * 2) for side in (info.width, info.height))
    target = Path(f"{target}{suffix}")
    partial = target.with_name(f".{target.name}")
    try:
        # The writer outside the reader: what fails when it closes is no fault of the source.
        with av.open(local(str(partial)), "w", format=suffix[1:]) as writer, _open(source) as reader:
            pictures, sound = film_of(reader, source), reader.streams.audio[0]
            pictures.thread_type = "AUTO"
            out = _picture_stream(writer, codec, pictures, width, height)
            relay = (_copy if _codec(sound) in copied else _transcode)(writer, sound, sound_codec)
            zero, count = zero_of(reader), 0
            for packet in reader.demux(pictures, sound):
                if packet.stream is sound:
                    relay(packet)
                    continue
                for frame in packet.decode():
                    time = count / float(out.rate) if frame.time is None else float(frame.time)
                    count += 1
                    image = paint(_upright(frame.reformat(**_turned(frame, width, height))), time - zero)
                    painted = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                    painted.pts, painted.time_base = round(time / out.time_base), out.time_base
                    _put(writer, out, painted)
            _put(writer, out, None)
            relay(None)
        partial.replace(target)
    except (OSError, av.FFmpegError) as error:
        raise FastDMTError(f"cannot write {target}: {error.strerror}; give another --out or make room") from None
    finally:
        partial.unlink(missing_ok=True)
    return target


def _put(writer, out, frame) -> None:
    """Encode a frame (None: what is left) and write it; what fails here is the target's fault."""
    try:
        writer.mux(out.encode(frame))
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from None


def _codec(stream) -> str:
    """The format's name, whichever decoder reads it: av1, not libdav1d."""
    return stream.codec_context.codec.canonical_name


def _picture_stream(writer, codec: str, pictures, width: int, height: int):
    rate = pictures.average_rate or Fraction(25)
    options = {"crf": "20", "preset": "veryfast"} if "264" in codec else {"crf": "32", "cpu-used": "8", "b": "0"}
    out = writer.add_stream(codec, rate=rate.limit_denominator(1001), options=options)
    out.width, out.height, out.pix_fmt = width, height, "yuv420p"
    # A fine clock, so that pictures at uneven times keep them.
    out.codec_context.time_base = out.time_base = Fraction(1, 90000 if "264" in codec else 1000)
    return out


def _copy(writer, sound, _codec: str):
    out = writer.add_stream_from_template(sound)

    def relay(packet) -> None:
        if packet is not None and packet.dts is not None:
            packet.stream = out
            try:
                writer.mux(packet)
            except av.FFmpegError as error:
                raise OSError(error.errno, error.strerror) from None

    return relay


def _transcode(writer, sound, codec: str):
    rate = 48000 if codec == "libopus" else sound.codec_context.sample_rate
    layout = "mono" if sound.codec_context.channels == 1 else "stereo"
    out = writer.add_stream(codec, rate=rate, layout=layout)
    cutter = None

    def relay(packet) -> None:
        nonlocal cutter
        frames = [] if packet is None else packet.decode()
        for frame in [*frames, *([None] if packet is None else [])]:
            if cutter is None and frame is not None:
                cutter = av.AudioResampler(out.format, layout, rate, frame_size=out.frame_size or 1024)
            for piece in cutter.resample(frame) if cutter is not None else []:
                _put(writer, out, piece)
        if packet is None:
            _put(writer, out, None)

    return relay


def _turned(frame: av.VideoFrame, width: int, height: int) -> dict:
    """Size to scale a frame to before it is turned upright."""
    if round(frame.rotation / 90) % 2:
        width, height = height, width
    return {"width": width, "height": height, "format": "rgb24"}


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """RGB as it is shown: telephones store the turn beside the pictures."""
    image = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))


@contextmanager
def _open(path: str | Path):
    path = Path(path)
    if not path.is_file():
        raise FastDMTError(f"{path}: no such video; check the path")
    try:
        with open_media(path) as container:
            yield container
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise FastDMTError(f"{path}: cannot be read as a video ({first_line(error)}); replace or convert it") from None
    except DataError as error:
        raise FastDMTError(str(error)) from None

"""Frames straight out of videos, by PyAV: for `prepare`, and for data sets whose frames/ holds clips."""

from __future__ import annotations

import io
import math
from pathlib import Path

import av
from PIL import Image

from fastdmt_loaders.errors import DataError

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".flv", ".mpg", ".mpeg", ".ts", ".wmv")


def is_clip(name: str | Path) -> bool:
    """Whether a file is a video by its name."""
    return str(name).lower().endswith(VIDEO_SUFFIXES)


def frame_at(
    source: str | io.BytesIO, moment: float | None = None, name: str | Path | None = None
) -> tuple[Image.Image, float]:
    """The frame at `moment`, in the middle of a shorter video or without one, upright with square pixels; its time.

    Args:
        name: for messages, where `source` is not a path.

    Raises:
        DataError: no picture stream, or no frame in it.
    """
    with av.open(source) as container:
        if not container.streams.video:
            raise DataError(f"{name or source}: has no picture stream; replace it or move it away")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # every core has a file of its own
        origin = float((stream.start_time or 0) * stream.time_base)
        moment = middle(container) if moment is None or 0 < length_of(container) <= moment else moment
        # Half a frame early, so that rounding of timestamps does not step over the frame meant.
        wanted = origin + moment - 0.5 / float(stream.average_rate or 25)
        container.seek(max(0, int(wanted / stream.time_base)), stream=stream)
        frame = None
        for frame in container.decode(stream):
            if frame.time is None or frame.time >= wanted:
                break
        if frame is None:
            raise DataError(f"{name or source}: holds no frame that can be decoded; replace it or move it away")
        picture = frame.to_image()
        ratio = stream.sample_aspect_ratio
        if ratio and ratio != 1:
            picture = picture.resize((max(1, round(picture.width * ratio)), picture.height))
        if frame.rotation:
            picture = picture.rotate(frame.rotation, expand=True)
        return picture, moment if frame.time is None else frame.time - origin


def length_of(container: av.container.InputContainer) -> float:
    """Seconds; 0 where the file does not say."""
    return float(container.duration / av.time_base) if container.duration else 0.0


def middle(container: av.container.InputContainer) -> float:
    """The moment that the middle of the sound belongs to, in seconds."""
    return length_of(container) / 2


def middle_number(data: bytes, name: str) -> int:
    """Number of the middle frame of an encoded clip, as `frame_at` finds it at a constant rate; reads the header only.

    Raises:
        DataError: not a video, or one that a plain decoder would not show as it is meant.
    """
    try:
        with av.open(io.BytesIO(data)) as container:
            stream = container.streams.video[0]
            rate, square = stream.average_rate, stream.sample_aspect_ratio in (None, 0, 1)
            moment, frames = middle(container), stream.frames
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise DataError(f"{name}: cannot be decoded as a video ({error}); replace it") from error
    if not rate or not moment or not square:
        raise DataError(f"{name}: has no constant rate, no length or no square pixels; use `fastdmt data prepare`")
    number = max(0, math.ceil(moment * rate - 0.5))
    return min(number, frames - 1) if frames else number

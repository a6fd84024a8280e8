"""Frames straight out of videos, by PyAV: for `prepare`, and for data sets whose frames/ holds clips."""

from __future__ import annotations

import io
import math
import time
from pathlib import Path

import av
from PIL import Image

from fastdmt_loaders.decode.limits import MAX_ASPECT, MEND, Deadline, check_pixels, decoding
from fastdmt_loaders.decode.media import OPTIONS, film_of, frames_from, length_of, open_media, reaches, zero_of
from fastdmt_loaders.errors import DataError

VIDEO_SUFFIXES = (
    ".mp4",
    ".webm",
    ".mkv",
    ".avi",
    ".mov",
    ".m4v",
    ".flv",
    ".mpg",
    ".mpeg",
    ".ts",
    ".wmv",
    ".ogv",
    ".3gp",
)
ROUNDING = 2e-3  # seconds: containers round the times of frames to milliseconds


def is_clip(name: str | Path) -> bool:
    """Whether a file is a video by its name."""
    return str(name).lower().endswith(VIDEO_SUFFIXES)


def frame_at(path: str | Path, moment: float | None = None) -> tuple[Image.Image, float]:
    """The frame on screen at `moment`, in the middle of a shorter video or without one, upright with square pixels.

    Returns:
        The picture, and the moment that it belongs to, in seconds from the file's second 0: the one asked for, the
        middle, or that of the first frame where it comes later.

    Raises:
        DataError: no picture stream, no frame in it, cut off before the moment, or beyond the limits.
    """
    picture, at, _ = _find(path, moment)
    return picture, at


def effort(path: str | Path) -> tuple[int, float]:
    """Frames that are decoded for the one in the middle, and the seconds that it takes here. Raises DataError."""
    began = time.perf_counter()
    _, _, frames = _find(path, None)
    return frames, time.perf_counter() - began


def _find(path: str | Path, moment: float | None) -> tuple[Image.Image, float, int]:
    """What `frame_at` gives, and the number of frames decoded."""
    with decoding(path, "a video"), open_media(path) as container:
        stream = film_of(container, path)
        stream.codec_context.thread_count = 1  # every core has a file of its own
        zero, length, deadline = zero_of(container), length_of(container, path), Deadline(path)
        moment = length / 2 if moment is None or 0 < length <= moment else moment
        step, shown, at, count = 1 / float(stream.average_rate or 25), None, 0.0, 0
        for frame in frames_from(container, stream, zero + moment + ROUNDING):
            count += 1
            time_of = frame.time - zero if frame.time is not None else at + step if shown else 0.0
            if shown is not None and time_of > moment + ROUNDING:
                break
            shown, at = frame, time_of
            if time_of >= moment - ROUNDING:
                break
            deadline.check()
        if shown is None:
            raise DataError(f"{path}: holds no frame that can be decoded; {MEND}")
        if at < moment - 1 and not reaches(path, moment - 1):
            raise DataError(f"{path}: is truncated (nothing at {moment:.1f} of {length:.1f} s); {MEND}")
        return _upright(shown, stream.sample_aspect_ratio, path), max(moment, at - ROUNDING), count


def _upright(frame: av.VideoFrame, ratio, path: str | Path) -> Image.Image:
    check_pixels(path, frame.width, frame.height)
    picture = frame.to_image()
    if ratio and ratio != 1:
        if not 1 / MAX_ASPECT <= ratio <= MAX_ASPECT:
            raise DataError(f"{path}: pixels {ratio} times as wide as high are nonsense; {MEND}")
        width = max(1, round(picture.width * ratio))
        check_pixels(path, width, picture.height)
        picture = picture.resize((width, picture.height))
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture


def middle_number(data: bytes, name: str) -> int:
    """Number of the frame on screen in the middle of an encoded clip, at a constant rate; reads the header only.

    Raises:
        DataError: not a video, or one that a plain decoder would not show as it is meant.
    """
    with decoding(name, "a video"), av.open(io.BytesIO(data), container_options=OPTIONS) as container:
        stream = film_of(container, name)
        rate, square, frames = stream.average_rate, stream.sample_aspect_ratio in (None, 0, 1), stream.frames
        late = float((stream.start_time or 0) * stream.time_base) - zero_of(container)
        moment = (container.duration or 0) / av.time_base / 2
    if not rate or not moment or not square:
        raise DataError(f"{name}: has no constant rate, no length or no square pixels; use `fastdmt data prepare`")
    number = max(0, math.floor((moment - max(0.0, late) + ROUNDING) * rate))
    return min(number, frames - 1) if frames else number

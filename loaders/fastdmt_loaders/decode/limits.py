"""What a file may ask of a decoder, and how its failures are told; docs/data.md states the same figures.

A limit is no judgement of taste: without it one header of a few bytes takes gigabytes or hours of a whole job.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastdmt_loaders.errors import DataError, first_line
from fastdmt_loaders.files import refuse_machine

MAX_PIXELS = 1 << 27  # of a picture: 0.4 GiB as RGB
MAX_VIDEO_PIXELS = 1 << 24  # of a video's frame: 4096 x 4096; decoders keep up to 17 of them
MAX_SIDE = 1 << 15  # of a picture with square pixels
MAX_ASPECT = 16  # of one pixel
RATES = range(1000, 768_001)  # Hz
MAX_VALUES = 1 << 26  # sound samples of all channels held at a time: 0.25 GiB
DECODE_SECONDS = 60.0  # of this thread's own time, for one picture or one sound
WAIT_SECONDS = 60.0  # for a disk or network that does not answer
MEND = "replace the file or take its id out of the list"


@contextmanager
def decoding(path: str | Path, what: str) -> Iterator[None]:
    """Whatever a library raises inside becomes one line that names the file: damage can raise anything in a parser.

    Raises:
        DataError: the file is at fault.
        MachineError: the machine is.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        refuse_machine(path, error)
        raise DataError(f"{path}: cannot be decoded as {what} ({first_line(error)}); {MEND}") from error


def check_pixels(path: str | Path, width: int, height: int, most: int = MAX_PIXELS) -> None:
    """Raises DataError for a picture of more pixels or a longer side than a decoder should be asked for."""
    if width * height > most or max(width, height) > MAX_SIDE:
        raise too_many_pixels(path, f"{width} x {height}", most)


def too_many_pixels(path: str | Path, count: str, most: int = MAX_PIXELS) -> DataError:
    """The one line for them, whoever noticed."""
    limit = f"at most {most:,} in all, {MAX_SIDE:,} a side"
    return DataError(f"{path}: {count} pixels are too many ({limit}); make it smaller")


def check_rate(path: str | Path, rate: int, channels: int, seconds: float) -> None:
    """Raises DataError for a sound whose stretch of `seconds` no recorder writes and no memory should hold."""
    if rate not in RATES:
        raise DataError(f"{path}: a rate of {rate:,} Hz is no sound's ({RATES[0]:,} to {RATES[-1]:,}); {MEND}")
    if rate * seconds * max(1, channels) > MAX_VALUES:
        raise DataError(f"{path}: {channels} channels at {rate:,} Hz are too many; mix them down")


class Deadline:
    """The time that one decode may take; this thread's own, so that a busy machine condemns no file."""

    def __init__(self, path: str | Path, seconds: float = DECODE_SECONDS):
        self.path, self.end, self.seconds = path, time.thread_time() + seconds, seconds

    def check(self) -> None:
        """Raises DataError when the time is over."""
        if time.thread_time() > self.end:
            raise DataError(f"{self.path}: takes longer than {self.seconds:g} s to decode; convert it or {MEND}")

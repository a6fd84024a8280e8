"""Limits: on each side of every one, and how a library's failure is told."""

import errno
import time

import pytest

from fastdmt_loaders.decode import limits
from fastdmt_loaders.errors import DataError, MachineError


def test_pixels_on_both_sides_of_the_limit():
    limits.check_pixels("a.png", 1 << 14, 1 << 13)
    limits.check_pixels("a.png", limits.MAX_SIDE, 100)
    for width, height in ((1 << 14, (1 << 13) + 1), (limits.MAX_SIDE + 1, 1), (1, limits.MAX_SIDE + 1)):
        with pytest.raises(DataError, match=r"a\.png: .* pixels are too many"):
            limits.check_pixels("a.png", width, height)


@pytest.mark.parametrize("rate, channels, seconds", [(8000, 2, 10.0), (1000, 1, 1.0), (768_000, 1, 60.0)])
def test_sounds_of_recorders_pass(rate, channels, seconds):
    limits.check_rate("a.wav", rate, channels, seconds)


@pytest.mark.parametrize("rate, channels", [(999, 1), (768_001, 1), (1 << 29, 1), (0, 1), (48_000, 65_535)])
def test_sounds_of_no_recorder_do_not(rate, channels):
    with pytest.raises(DataError, match=r"a\.wav: "):
        limits.check_rate("a.wav", rate, channels, 3600.0 if channels > 1 else 3.0)


@pytest.mark.parametrize(
    "error", [ValueError("x"), MemoryError(), AttributeError("codec"), OSError(errno.EIO, "bad disk")]
)
def test_whatever_a_library_raises_names_the_file_in_one_line(error):
    with pytest.raises(DataError, match=r"a\.mp4: cannot be decoded as video \(.+\); replace") as caught:
        with limits.decoding("a.mp4", "video"):
            raise error
    assert not isinstance(caught.value, MachineError)


def test_too_many_open_files_are_no_files_fault():
    with pytest.raises(MachineError, match="ulimit -n"), limits.decoding("a.mp4", "video"):
        raise OSError(errno.EMFILE, "Too many open files")


def test_a_deadline_counts_this_threads_work_only():
    deadline = limits.Deadline("a.gif", 0.05)
    time.sleep(0.1)
    deadline.check()
    began = time.thread_time()
    while time.thread_time() - began < 0.06:
        pass
    with pytest.raises(DataError, match=r"a\.gif: takes longer than 0\.05 s"):
        deadline.check()

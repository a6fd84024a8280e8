"""What people hand to `localize`: files, PIL images, arrays or tensors, turned into one form and checked."""

from __future__ import annotations

import numbers
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from fastdmt.errors import FastDMTError, first_line
from fastdmt_loaders.decode import pictures as decode
from fastdmt_loaders.decode.limits import check_rate
from fastdmt_loaders.decode.sound import fit_waveform, read_sound

CHANNELS = 8  # the most that an array of sound is taken to have: more are samples
LOUDEST = 2.0  # of floats whose full scale is 1: what decoders overshoot; beyond it are integers in disguise
LARGEST = 4096  # pixels a side: maps are drawn on pictures at their own size, in float32
Frame = str | os.PathLike | Image.Image | np.ndarray | Tensor
Sound = str | os.PathLike | np.ndarray | Tensor


def read_picture(path: str | Path) -> np.ndarray:
    """A picture file as uint8 RGB [H, W, 3], as training reads it; sides of at most `LARGEST` pixels.

    Raises:
        DataError: missing, not a picture, or beyond the limits of the loaders.
    """
    return np.array(decode.read_picture(path, at_most=LARGEST))


def as_frame(frame: Frame) -> np.ndarray:
    """A frame as uint8 RGB [H, W, 3].

    Args:
        frame: a picture file, a PIL image, or [H, W, 3], [3, H, W] or grey [H, W], [H, W, 1] or [1, H, W] as an array
            or tensor: uint8, or float in 0..1.

    Raises:
        FastDMTError: unreadable, another shape or type, empty, or values outside of their range.
    """
    if isinstance(frame, (str, os.PathLike)):
        return read_picture(Path(frame))
    if isinstance(frame, Image.Image):
        return np.array(decode.upright_rgb(frame, "the picture"))
    given = array = _array(frame, "a frame")
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[..., 0] if array.shape[-1] == 1 else array[0]
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, -1)
    elif array.ndim == 3 and array.shape[-1] != 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] != 3 or not array.size:
        raise FastDMTError(f"a frame must be [H, W, 3] RGB, [3, H, W] or grey [H, W]; this one is {list(given.shape)}")
    if given.ndim == 3 and given.shape[0] == given.shape[-1] == 3:
        raise FastDMTError(f"a frame of {list(given.shape)} may be [H, W, 3] or [3, H, W]; give it more than 3 pixels")
    if array.dtype.kind == "f":
        # NaN fails both comparisons.
        if not (array.min() >= 0 and array.max() <= 1):
            raise FastDMTError("a frame of floats must lie in 0..1; divide by 255, or give uint8")
        return (255 * array.astype(np.float32)).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise FastDMTError(
            f"a frame must be uint8, or float in 0..1; this one is {array.dtype}: divide it by its full scale"
        )
    return np.array(array, order="C")  # torch warns of arrays that cannot be written


def _array(given: Any, what: str) -> np.ndarray:
    """Arrays, tensors of any device, and nested lists of numbers."""
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        given = given.float() if given.is_floating_point() else given
    try:
        array = np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:
        raise FastDMTError(f"{what} must be an array of numbers ({first_line(error)})") from None
    if array.dtype.kind not in "fiu":
        raise FastDMTError(f"{what} must be an array of numbers; this one is {type(given).__name__} of {array.dtype}")
    return array


def as_sound(sound: Sound, rate: int | None, rates: tuple[int, ...], seconds: float) -> dict[int, np.ndarray]:
    """The middle of a sound at every rate that a model needs: rate -> float32 [rate * seconds].

    Args:
        sound: a sound or video file, or [T], [T, channels] or [channels, T], at most 8 channels, as an array or
            tensor: float in -1..1, int16, or int32 or int8 of full scale.
        rate: samples a second of an array; a file knows its own.

    Raises:
        FastDMTError, DataError: unreadable, another shape, empty, not finite, or an array without its rate.
    """
    if isinstance(sound, (str, os.PathLike)):
        if not Path(sound).is_file():
            raise FastDMTError(f"{sound}: no such sound; check the path")
        return read_sound(Path(sound), rates, seconds)
    array = _array(sound, "a sound")
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or not float(rate).is_integer():
        raise FastDMTError("a sound given as an array needs its rate in Hz: localize(frame, sound, rate=44100)")
    if array.ndim not in (1, 2) or not array.size:
        raise FastDMTError(f"a sound must be [T] or [T, channels] and not empty; this one is {list(array.shape)}")
    if array.ndim == 2:
        low, high = sorted(array.shape)
        if not low <= CHANNELS < high:
            raise FastDMTError(
                f"a sound of {list(array.shape)} does not tell its channels from its samples; give [T], or "
                f"[T, channels] with at most {CHANNELS} of them"
            )
        array = array if array.shape[1] == low else array.T  # torchaudio's order
    check_rate("the sound", int(rate), array.shape[1] if array.ndim == 2 else 1, seconds)
    _check_scale(array)
    return fit_waveform(array, int(rate), rates, seconds)


def _check_scale(array: np.ndarray) -> None:
    """Raises FastDMTError for samples whose full scale nobody can tell."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "u":
        raise FastDMTError(
            f"a sound of {array.dtype} has its zero in the middle; give floats: for 8 bits (x.astype('f4') - 128) / 128"
        )
    if kind == "f" and not np.isfinite(array).all():
        raise FastDMTError("the sound holds values that are not finite; mend the recording")
    peak = max(float(array.max()), -float(array.min()))
    if kind == "f" and peak > LOUDEST:
        raise FastDMTError(f"a sound of floats must lie in -1..1; this one reaches {peak:g}: divide by its full scale")
    if kind == "i" and (size > 4 or (size == 4 and 0 < peak <= 1 << 15)):
        raise FastDMTError(
            f"a sound of {array.dtype} that reaches {peak:g} has no certain full scale; give int16, or float in -1..1"
        )

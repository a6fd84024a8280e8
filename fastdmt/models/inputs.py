"""What people hand to `localize`: files, PIL images, arrays or tensors, turned into one form and checked."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from fastdmt.errors import FastDMTError
from fastdmt_loaders.decode import pictures as decode
from fastdmt_loaders.decode.sound import fit_waveform, read_sound

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
        frame: a picture file, a PIL image, or [H, W, 3], [3, H, W] or grey [H, W] as an array or tensor: uint8, or
            float in 0..1.

    Raises:
        FastDMTError: unreadable, another shape or type, empty, or values outside of their range.
    """
    if isinstance(frame, (str, os.PathLike)):
        return read_picture(Path(frame))
    if isinstance(frame, Image.Image):
        return np.array(decode.upright_rgb(frame, "the picture"))
    if isinstance(frame, Tensor):
        frame = frame.detach().cpu().float().numpy() if frame.is_floating_point() else frame.detach().cpu().numpy()
    array = np.asarray(frame)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, -1)
    elif array.ndim == 3 and array.shape[-1] != 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] != 3 or not array.size:
        raise FastDMTError(f"a frame must be [H, W, 3] RGB, [3, H, W] or grey [H, W]; this one is {list(array.shape)}")
    if np.issubdtype(array.dtype, np.floating):
        # NaN fails both comparisons.
        if not (array.min() >= 0 and array.max() <= 1):
            raise FastDMTError("a frame of floats must lie in 0..1; divide by 255, or give uint8")
        return (255 * array).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise FastDMTError(f"a frame must be uint8, or float in 0..1; this one is {array.dtype}")
    return np.array(array, order="C")  # torch warns of arrays that cannot be written


def as_sound(sound: Sound, rate: int | None, rates: tuple[int, ...], seconds: float) -> dict[int, np.ndarray]:
    """The middle of a sound at every rate that a model needs: rate -> float32 [rate * seconds].

    Args:
        sound: a sound or video file, or [T], [T, channels] or [channels, T] as an array or tensor, float in -1..1 or
            an integer type.
        rate: samples a second of an array; a file knows its own.

    Raises:
        FastDMTError, DataError: unreadable, another shape, empty, not finite, or an array without its rate.
    """
    if isinstance(sound, (str, os.PathLike)):
        if not Path(sound).is_file():
            raise FastDMTError(f"{sound}: no such sound; check the path")
        return read_sound(Path(sound), rates, seconds)
    if isinstance(sound, Tensor):
        sound = sound.detach().cpu().float().numpy() if sound.is_floating_point() else sound.detach().cpu().numpy()
    array = np.asarray(sound)
    if rate is None or not rate > 0:
        raise FastDMTError("a sound given as an array needs its rate: localize(frame, sound, rate=44100)")
    if array.ndim == 2 and array.shape[0] <= 8 < array.shape[1]:  # torchaudio's order
        array = array.T
    if array.ndim not in (1, 2) or not array.size:
        raise FastDMTError(f"a sound must be [T] or [T, channels] and not empty; this one is {list(array.shape)}")
    if not np.isfinite(array).all():
        raise FastDMTError("the sound holds values that are not finite; mend the recording")
    return fit_waveform(array, rate, rates, seconds)

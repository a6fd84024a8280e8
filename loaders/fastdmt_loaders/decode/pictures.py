"""The one reader of pictures: for training, preparing, checking, predicting and reports."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn.functional import interpolate

from fastdmt_loaders.dataset.stored import read_bytes, stored
from fastdmt_loaders.decode.clips import frame_at, is_clip
from fastdmt_loaders.decode.limits import MEND, check_pixels, decoding, too_many_pixels
from fastdmt_loaders.errors import DataError

try:
    import simplejpeg  # the extra [fast]: libjpeg-turbo without PIL's copies
except ImportError:
    simplejpeg = None

DRAFT = 1.4  # a JPEG is decoded at a half, quarter or eighth that is at least so many times the wanted size
ORIENTATION = 0x0112  # EXIF's tag; 1: as stored
# By content, whatever the suffix says. Not those that run other programs (EPS) or build objects of any kind.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "PPM")
# Our own limit is stated in our own words, for every path alike.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_frame(path: str | Path, size: int) -> np.ndarray:
    """A picture as uint8 RGB [size, size, 3]: turned as its EXIF says, alpha ignored, bicubic with antialiasing.

    Of a video, the frame in its middle, where the middle of its sound belongs.

    Raises:
        DataError: missing, empty, truncated, not a picture, or beyond the limits.
    """
    with decoding(path, "a picture"):
        return resize(decoded(path, size), size)


def decoded(path: str | Path, size: int) -> np.ndarray:
    """What `read_frame` resizes: uint8 RGB [H, W, 3], a JPEG already halved by its decoder while it stays well above.

    Errors come as the library gives them; `read_frame` names the file.
    """
    if is_clip(path):
        return np.array(frame_at(path)[0])
    data = read_bytes(path)
    with _opened(io.BytesIO(data), path) as image:
        if image.format == "JPEG":
            # Halved by the decoder, it stays within 2 grey levels of the full picture.
            scale = min(image.width, image.height) / (DRAFT * size)
            wanted = tuple(-(-side // max(s for s in (1, 2, 4, 8) if s == 1 or s <= scale)) for side in image.size)
            if simplejpeg and image.mode in ("RGB", "L") and image.getexif().get(ORIENTATION, 1) == 1:
                try:
                    return simplejpeg.decode_jpeg(data, "RGB", min_width=wanted[0], min_height=wanted[1])
                except ValueError:
                    pass  # it refuses what PIL forgives: PIL decides
            image.draft("RGB", wanted)
        return np.array(upright_rgb(image, path))


def read_picture(path: str | Path, at_most: int = 0) -> Image.Image:
    """A picture, or the frame in the middle of a video, as RGB of 8 bits, upright.

    Args:
        at_most: a larger one is scaled to sides of at most so many pixels; 0: as it is.

    Raises:
        DataError: as in `read_frame`.
    """
    with decoding(path, "a picture"):
        if is_clip(path):
            picture = frame_at(path)[0]
        else:
            with _opened(stored(path), path) as image:
                picture = upright_rgb(image, path)
        if at_most and max(picture.size) > at_most:
            picture.thumbnail((at_most, at_most), Image.Resampling.LANCZOS)
        return picture


def _opened(source: str | io.BytesIO, path: str | Path) -> Image.Image:
    """The picture before it is decoded. Raises DataError: beyond the limits; what else PIL raises passes through."""
    try:
        image = Image.open(source, formats=FORMATS)
    except Image.DecompressionBombError as error:  # PIL's own limit, beyond ours
        raise too_many_pixels(path, f"more than {2 * Image.MAX_IMAGE_PIXELS:,}") from error
    check_pixels(path, *image.size)
    return image


def upright_rgb(image: Image.Image, path: str | Path) -> Image.Image:
    """Upright RGB of 8 bits; PIL itself would clip deeper pictures to white."""
    kind, image = image.format, ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise DataError(f"{path}: its 32-bit pixels have no known range; save it with 8 or 16 bits, or {MEND}")
    return image if image.mode == "RGB" else image.convert("RGB")


def resize(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, 3] -> [size, size, 3]: PIL's bicubic filter in a third of its time, mostly the same grey level."""
    frame = torch.from_numpy(picture)[None].permute(0, 3, 1, 2)
    frame = interpolate(frame, (size, size), mode="bicubic", antialias=True)
    return frame.permute(0, 2, 3, 1)[0].numpy()

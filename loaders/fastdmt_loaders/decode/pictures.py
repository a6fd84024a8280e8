"""The one reader of pictures: for training, preparing, checking, predicting and reports."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn.functional import interpolate

from fastdmt_loaders.dataset.stored import read_bytes, stored
from fastdmt_loaders.decode.clips import frame_at, is_clip
from fastdmt_loaders.errors import DataError

try:
    import simplejpeg  # the extra [fast]: libjpeg-turbo without PIL's copies
except ImportError:
    simplejpeg = None

DRAFT = 1.4  # a JPEG is decoded at a half, quarter or eighth that is at least so many times the wanted size
ORIENTATION = 0x0112  # EXIF's tag; 1: as stored
MEND = "replace the file or take its id out of the list"


def read_frame(path: str | Path, size: int) -> np.ndarray:
    """A picture as uint8 RGB [size, size, 3]: turned as its EXIF says, alpha ignored, bicubic with antialiasing.

    Of a video, the frame in its middle, where the middle of its sound belongs.

    Raises:
        DataError: missing, empty, truncated, or not a picture.
    """
    try:
        if is_clip(path):
            return resize(np.array(frame_at(stored(path), name=path)[0].convert("RGB")), size)
        data = read_bytes(path)
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "JPEG":
                # The decoder itself halves what stays well above the size: within 2 grey levels of the full picture.
                scale = min(image.width, image.height) / (DRAFT * size)
                wanted = tuple(-(-side // max(s for s in (1, 2, 4, 8) if s == 1 or s <= scale)) for side in image.size)
                if simplejpeg and image.mode in ("RGB", "L") and image.getexif().get(ORIENTATION, 1) == 1:
                    try:
                        decoded = simplejpeg.decode_jpeg(data, "RGB", min_width=wanted[0], min_height=wanted[1])
                        return resize(decoded, size)
                    except ValueError:
                        pass  # it refuses what PIL forgives: PIL decides
                image.draft("RGB", wanted)
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):  # PIL would clip 16 bits to white
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return resize(np.array(image.convert("RGB")), size)
    except (OSError, SyntaxError, ValueError, EOFError, av.FFmpegError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be decoded as a picture ({reason}); {MEND}") from error


def resize(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, 3] -> [size, size, 3]: PIL's bicubic filter in a third of its time, mostly the same grey level."""
    frame = torch.from_numpy(picture)[None].permute(0, 3, 1, 2)
    frame = interpolate(frame, (size, size), mode="bicubic", antialias=True)
    return frame.permute(0, 2, 3, 1)[0].numpy()

"""The one reader of pictures: for training, preparing, checking, predicting and reports."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps

from fastdmt_loaders.dataset.stored import stored
from fastdmt_loaders.decode.clips import frame_at, is_clip
from fastdmt_loaders.errors import DataError

MEND = "replace the file or take its id out of the list"


def read_frame(path: str | Path, size: int) -> np.ndarray:
    """A picture as uint8 RGB [size, size, 3]: turned as its EXIF says, alpha ignored, PIL's bicubic filter.

    Of a video, the frame in its middle, where the middle of its sound belongs.

    Raises:
        DataError: missing, empty, truncated, or not a picture.
    """
    try:
        if is_clip(path):
            picture = frame_at(stored(path), name=path)[0]
            return np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
        with Image.open(stored(path)) as image:
            # A JPEG of at least twice the size is decoded at a half, quarter or eighth of it.
            image.draft("RGB", (2 * size, 2 * size))
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):  # PIL would clip 16 bits to white
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = image.convert("RGB")
            return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    except (OSError, SyntaxError, ValueError, EOFError, av.FFmpegError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be decoded as a picture ({reason}); {MEND}") from error

"""Small text files of others, read whole: whatever is wrong with one becomes one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fastdmt_loaders.errors import DataError

MAX_BYTES = 1 << 28  # of a list or a JSON file: 256 MiB


def read_file(path: str | Path, what: str, most: int = MAX_BYTES) -> bytes:
    """All bytes of a file.

    Args:
        what: what it should be, for messages: "list", "annotation file".

    Raises:
        DataError: it is missing, no plain file, larger than `most`, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > most:
                raise DataError(f"{path}: is too large for a {what} (more than {most >> 20} MiB)")
            return file.read()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such {what}") from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: is no {what} that can be read ({getattr(error, 'strerror', None) or error})"
        ) from error


def read_json(path: str | Path, what: str) -> Any:
    """The content of a JSON file, with or without a byte order mark. Raises DataError."""
    try:
        return json.loads(read_file(path, what).decode("utf-8-sig"))
    except (ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{path}: is not JSON ({str(error)[:100]}); mend it, or download it again") from error

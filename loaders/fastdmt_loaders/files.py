"""Small text files of others, read whole: whatever is wrong with one becomes one line."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from fastdmt_loaders.errors import DataError, MachineError

MAX_BYTES = 1 << 28  # of a list or a JSON file: 256 MiB
MORE_FILES = "raise the limit with `ulimit -n 65536`, or use fewer --workers"
MACHINE = {
    errno.EMFILE: f"too many open files: {MORE_FILES}",
    errno.ENFILE: "too many open files on this machine: close other programs",
}


def refuse_machine(path: str | Path, error: BaseException) -> None:
    """Raises MachineError where an error is the machine's fault, so that no file is called broken for it."""
    if (number := getattr(error, "errno", None)) in MACHINE:
        raise MachineError(f"{path}: {MACHINE[number]}") from error


def read_file(path: str | Path, what: str, most: int = MAX_BYTES) -> bytes:
    """All bytes of a file.

    Args:
        what: what it should be, for messages: "list", "annotation file".

    Raises:
        DataError: it is missing, no plain file, larger than `most`, or cannot be read.
        MachineError: the machine is at fault.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode):
                data = file.read() if status.st_size <= most else None
            else:  # a pipe or a device has no size: it is read up to the limit
                data = file.read(most + 1)
            if data is None or len(data) > most:
                raise DataError(f"{path}: is too large for a {what} (more than {most >> 20} MiB); give a smaller one")
            return data
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such {what}") from error
    except (OSError, ValueError) as error:
        refuse_machine(path, error)
        raise DataError(
            f"{path}: is no {what} that can be read ({getattr(error, 'strerror', None) or error})"
        ) from error


def read_json(path: str | Path, what: str) -> Any:
    """The content of a JSON file, with or without a byte order mark. Raises DataError."""
    try:
        return json.loads(read_file(path, what).decode("utf-8-sig"))
    except (ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{path}: is not JSON ({str(error)[:100]}); mend it, or download it again") from error

"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path

from fastdmt.errors import FastDMTError, first_line

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What torch and safetensors say of a full disk in place of an error number.
FULL_SIGNS = ("No space left", "File too large", "enforce fail", "file write failed", "unexpected pos", "os error 28")


def write_json(path: Path, content: dict) -> None:
    """One key a line, one entry of a list a line, so that a person can read and compare the file."""
    lines = []
    for key, value in content.items():
        text = json.dumps(value, allow_nan=False)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n  " + ",\n  ".join(json.dumps(entry, allow_nan=False) for entry in value) + "\n ]"
        elif isinstance(value, dict):
            text = json.dumps(value, indent=1, allow_nan=False).replace("\n", "\n ")
        lines.append(f" {json.dumps(key)}: {text}")
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Whole or not at all.

    Args:
        durable: on the disk before this returns, so that it outlives a loss of power.

    Raises:
        FastDMTError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")  # names of files need not be UTF-8
        if durable:
            sync(partial)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise cannot_write(path, error, "give another place or make room") from None


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def cannot_write(path: Path | str, error: BaseException, advice: str) -> FastDMTError:
    """The one line for a file that could not be written, whoever noticed."""
    text = str(error).strip()
    full = getattr(error, "errno", None) in FULL or any(sign in text for sign in FULL_SIGNS)
    return FastDMTError(f"cannot write {path}: {'the disk is full' if full else first_line(error)}; {advice}")

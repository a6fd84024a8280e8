"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from fastdmt.errors import FastDMTError


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


def write_text(path: Path, text: str) -> None:
    """Whole or not at all.

    Raises:
        FastDMTError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")  # names of files need not be UTF-8
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise FastDMTError(f"cannot write {path}: {error.strerror}; give another place or make room") from None

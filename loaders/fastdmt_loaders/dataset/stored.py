"""Media files in folders and inside tar shards, under one kind of name: a member is TAR:offset+size/name."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

from fastdmt_loaders.errors import DataError, first_line
from fastdmt_loaders.files import read_file, refuse_machine

MAX_MEDIA = 1 << 29  # bytes of what is read into memory as a whole, a picture or a member of a tar: 512 MiB
MEMBER = re.compile(r"(.+\.tar):(\d+)\+(\d+)/([^/]+)", re.DOTALL)


def member(tar: str, offset: int | str, size: int | str, name: str) -> str:
    """The name under which a file inside a tar is opened without reading the tar's own directory."""
    return f"{tar}:{offset}+{size}/{name}"


def container_of(path: str) -> str:
    """The file on disk: the path itself, or the tar that a member lies in."""
    return found[1] if (found := MEMBER.fullmatch(path)) else path


def local(path: str) -> str:
    """A file's name in a form that FFmpeg takes for a file: in `12:30 talk.mp4` it would see a protocol `12`."""
    return f"file:{path}"


def stored(path: str | Path) -> str | io.BytesIO:
    """What to hand to a decoder: the path of a plain file, or the bytes of a member of a tar.

    Raises:
        DataError: it is missing, empty, larger than `MAX_MEDIA` in a tar, or the tar ends before it.
    """
    path = str(path)
    if (found := MEMBER.fullmatch(path)) is None:
        if not os.path.isfile(path):
            raise DataError(f"{path}: no such file; add it or take its id out of the list")
        if os.path.getsize(path) == 0:
            raise DataError(f"{path}: is empty (0 bytes); replace the file or take its id out of the list")
        return path
    tar, offset, size, _ = found.groups()
    if int(size) > MAX_MEDIA:
        raise DataError(
            f"{path}: is too large for a member of a tar (more than {MAX_MEDIA >> 20} MiB); pack a smaller one"
        )
    try:
        with open(tar, "rb", buffering=0) as file:
            file.seek(int(offset))
            data = file.read(int(size))
    except (OSError, OverflowError) as error:
        refuse_machine(path, error)
        raise DataError(f"{path}: cannot be read ({first_line(error)}); run `fastdmt data pack` again") from error
    if not data or len(data) < int(size):
        raise DataError(f"{path}: the tar ends before it; run `fastdmt data pack` again")
    return io.BytesIO(data)


def read_bytes(path: str | Path) -> bytes:
    """All of a picture's file or of a member. Raises DataError: as in `stored`, or larger than `MAX_MEDIA`."""
    source = stored(path)
    if isinstance(source, io.BytesIO):
        return source.getvalue()
    return read_file(source, "picture", MAX_MEDIA)

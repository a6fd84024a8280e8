"""One training in a run folder: a lock (flock) that the system takes back when its process ends, however it ends.

RUN/.lock   who trains there: process, machine, since when; empty after a training that ended as it should
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastdmt.errors import FastDMTError

NAME = ".lock"
LOG = logging.getLogger("fastdmt")
_held: dict[Path, int] = {}  # run folder -> descriptor, of this process
_running: set[Path] = set()


def take(run: Path) -> None:
    """Make an existing folder this process's own, until it releases it or ends; a second call changes nothing.

    Raises:
        FastDMTError: another process trains there (it is named), or the folder cannot be written.
    """
    run = run.resolve()
    if run in _held:
        return
    path = run / NAME
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise FastDMTError(f"cannot write {path}: {error.strerror}; mend access, or give another --run") from None
    refusal: OSError | None = None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        refusal = error
    before = _owner(file)
    # A file system without locks gives another error: what the file says must do.
    if refusal and (refusal.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES) or _alive(before)):
        os.close(file)
        who = _name(before) if before else "another process"
        raise FastDMTError(
            f"{run} is in use: {who} trains there; wait until it ends, or give another --run "
            f"(if it cannot be running any more, remove {path})"
        )
    if before:
        LOG.warning("note: %s did not end as it should; its lock on %s is taken over", _name(before), run)
    text = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    _write(file, json.dumps(text | {"command": " ".join(sys.argv)[:200]}) + "\n")
    _held[run] = file


def release(run: Path) -> None:
    """Let others train there."""
    file = _held.pop(run.resolve(), None)
    if file is not None:
        _write(file, "")
        os.close(file)


@contextlib.contextmanager
def held(run: Path, first: bool = True) -> Iterator[None]:
    """A training in a folder that this process has taken; it is released at the end.

    Args:
        first: this process writes; others hold nothing.
    """
    if not first:
        yield
        return
    take(run)
    run = run.resolve()
    if run in _running:
        raise FastDMTError(f"{run} is in use: this very process trains there; wait until it ends, or give another run")
    _running.add(run)
    try:
        yield
    finally:
        _running.discard(run)
        release(run)


def _write(file: int, text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk: the lock itself needs no room
        os.ftruncate(file, 0)
        os.pwrite(file, text.encode(), 0)


def _owner(file: int) -> dict[str, Any]:
    """Who wrote itself into the file and did not take itself out; nobody is {}."""
    try:
        found = json.loads(os.pread(file, 4096, 0))
        return found if isinstance(found, dict) and isinstance(found.get("pid"), int) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _name(owner: dict[str, Any]) -> str:
    host = owner.get("host")
    where = "" if host == socket.gethostname() else f" on {host!s:.100}"
    return f"process {owner['pid']}{where} (since {owner.get('since')!s:.40}: {owner.get('command')!s:.200})"


def _alive(owner: dict[str, Any]) -> bool:
    if not owner or owner.get("host") != socket.gethostname() or owner["pid"] == os.getpid():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # it is another user's
    return True


def _forget() -> None:
    """In a forked loader process: it outlives a killed training for a moment and must not hold its lock."""
    for file in _held.values():
        with contextlib.suppress(OSError):
            os.close(file)
    _held.clear()
    _running.clear()


os.register_at_fork(after_in_child=_forget)

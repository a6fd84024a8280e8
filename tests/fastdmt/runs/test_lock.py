"""Two trainings in one folder, in real processes: the second is refused and the dead leave nothing behind."""

import json
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fastdmt.errors import FastDMTError
from fastdmt.runs import lock

HOLD = """
import sys, time
from pathlib import Path
from fastdmt.runs import lock
lock.take(Path(sys.argv[1]))
print("taken", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def nothing_held():
    yield
    for run in list(lock._held):
        lock.release(run)


def holder(run: Path, code: str = HOLD) -> subprocess.Popen:
    """A process that has taken the folder."""
    process = subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "taken\n"
    return process


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_second_is_refused_by_name_until_the_first_is_dead(tmp_path, caplog, end):
    process = holder(tmp_path)
    with pytest.raises(FastDMTError, match=rf"{tmp_path} is in use: process {process.pid} \(since 20\d\d-") as caught:
        lock.take(tmp_path)
    assert "\n" not in str(caught.value)
    process.send_signal(end)
    process.wait()
    with caplog.at_level(logging.WARNING):
        lock.take(tmp_path)
    assert f"process {process.pid} " in caplog.text and "taken over" in caplog.text
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_children_of_a_killed_training_hold_nothing(tmp_path):
    """Loader processes are forked, and live on for a moment."""
    process = holder(tmp_path, HOLD.replace("print(", "import os\nchild = os.fork()\nif not child: print("))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    try:
        process.kill()
        process.wait()
        lock.take(tmp_path)
    finally:
        os.kill(int(children[0]), signal.SIGKILL)


def test_one_process_takes_a_folder_as_often_as_it_likes_but_trains_once(tmp_path):
    lock.take(tmp_path)
    lock.take(tmp_path / "." / "")
    with lock.held(tmp_path), pytest.raises(FastDMTError, match="this very process"), lock.held(tmp_path):
        pass
    assert (tmp_path / ".lock").read_text() == "" and not lock._held
    process = holder(tmp_path)
    process.kill()
    process.wait()


def test_who_does_not_write_holds_nothing(tmp_path):
    with lock.held(tmp_path, first=False):
        assert not os.listdir(tmp_path)


def test_a_lock_of_another_machine_is_taken_over_with_a_word(tmp_path, caplog):
    (tmp_path / ".lock").write_text(json.dumps({"pid": 7, "host": "node-of-long-ago", "since": "then", "command": "x"}))
    with caplog.at_level(logging.WARNING):
        lock.take(tmp_path)
    assert "process 7 on node-of-long-ago" in caplog.text


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[]", b'{"pid": "x"}', b"{" * 3000, b'{"pid": 99999999999999999999}']
)
def test_a_file_that_says_nothing_locks_nothing(tmp_path, content):
    (tmp_path / ".lock").write_bytes(content)
    lock.take(tmp_path)


def test_a_file_system_without_locks_goes_by_what_the_file_says(tmp_path, monkeypatch):
    def without(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", without)
    here = {"host": socket.gethostname(), "since": "now", "command": "x"}
    (tmp_path / ".lock").write_text(json.dumps(here | {"pid": os.getppid()}))
    with pytest.raises(FastDMTError, match=f"process {os.getppid()} "):
        lock.take(tmp_path)
    dead = multiprocessing.get_context("spawn").Process(target=int)
    dead.start()
    dead.join()
    (tmp_path / ".lock").write_text(json.dumps(here | {"pid": dead.pid}))
    lock.take(tmp_path)


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(FastDMTError, match="cannot write"):
        lock.take(tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "kept"

"""Small text files of others: read whole, or one line that names them."""

import errno
import os

import pytest

from fastdmt_loaders.errors import DataError, MachineError
from fastdmt_loaders.files import read_file, read_json


def test_a_byte_order_mark_changes_nothing(tmp_path):
    for name, head in (("plain.json", b""), ("marked.json", b"\xef\xbb\xbf")):
        (tmp_path / name).write_bytes(head + '{"k": ["ä", 1]}'.encode())
        assert read_json(tmp_path / name, "list") == {"k": ["ä", 1]}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b"1" * 5000, b"<html>"],
    ids=["empty", "cut", "utf-16", "deep", "5000 digits", "html"],
)
def test_what_is_not_json_is_named(tmp_path, content):
    path = tmp_path / "vggss.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"vggss\.json: is not JSON") as caught:
        read_json(path, "annotation file")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 + len(str(path))


def test_folders_absent_files_and_giants_are_named(tmp_path):
    with pytest.raises(DataError, match="no such list"):
        read_file(tmp_path / "absent.txt", "list")
    with pytest.raises(DataError, match="is no list that can be read"):
        read_file(tmp_path, "list")
    with open(tmp_path / "giant.txt", "wb") as file:
        os.truncate(file.fileno(), 1 << 21)  # a hole: takes no room
    with pytest.raises(DataError, match="too large for a list"):
        read_file(tmp_path / "giant.txt", "list", most=1 << 20)
    assert len(read_file(tmp_path / "giant.txt", "list")) == 1 << 21


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_too_many_open_files_are_no_files_fault(tmp_path, monkeypatch, number):
    (tmp_path / "a.txt").write_text("a")

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(MachineError, match=r"a\.txt: too many open files"):
        read_file(tmp_path / "a.txt", "list")
    monkeypatch.setattr("builtins.open", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "bad disk")))
    with pytest.raises(DataError, match="bad disk") as caught:
        read_file(tmp_path / "a.txt", "list")
    assert not isinstance(caught.value, MachineError)


def test_pipes_are_read_and_devices_without_end_are_not(tmp_path):
    """`--list <(grep ...)` is a pipe; /dev/zero would fill the memory."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        file.write(b"a\nb\n")
    try:
        assert read_file(f"/dev/fd/{reader}", "list", most=4) == b"a\nb\n"
    finally:
        os.close(reader)
    with pytest.raises(DataError, match="/dev/zero: is too large for a list"):
        read_file("/dev/zero", "list", most=1 << 20)
    (tmp_path / "four").write_bytes(b"1234")
    assert read_file(tmp_path / "four", "list", most=4) == b"1234"
    with pytest.raises(DataError, match="too large"):
        read_file(tmp_path / "four", "list", most=3)

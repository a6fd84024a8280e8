"""Files appear whole or not at all."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdmt.errors import FastDMTError
from fastdmt.files import write_json, write_text


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "first")
    write_text(path, "größer\n")
    assert path.read_text(encoding="utf-8") == "größer\n" and os.listdir(path.parent) == ["a.txt"]


def test_what_stood_there_survives_a_failure(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "kept")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(FastDMTError, match=r"cannot write .*a\.txt: the disk is full; give another place"):
        write_text(path, "lost")
    assert path.read_text() == "kept" and os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(FastDMTError, match=r"cannot write .*a\.txt"):
        write_text(tmp_path / "a.txt", "text")
    assert os.listdir(tmp_path) == ["a.txt"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(content=st.dictionaries(st.text(), VALUES, max_size=4))
def test_json_comes_back_as_it_was(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(path, content)
    assert json.loads(path.read_text(encoding="utf-8")) == content


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert not os.listdir(tmp_path)

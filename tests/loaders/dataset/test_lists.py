"""The one reader and the one writer of lists: what is written comes back, common forms are read as meant."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdmt_loaders import DataError, Pair, read_list, read_pairs
from fastdmt_loaders.dataset.lists import read_whole, write_list, write_pairs

IDS = st.text(st.characters(codec="utf-8", exclude_characters="/", min_codepoint=32), min_size=1, max_size=8).filter(
    lambda id: id.strip(" ") and not id.startswith("\ufeff")
)


@pytest.mark.parametrize(
    "text, ids",
    [
        ('"a1","0","dog, cat"\n', ["a1"]),
        ("id,start,label\na1,0,dog\n", ["a1"]),
        ("Video,Audio,Label\na,b,Sounding\n", ["a"]),
        ("video,audio,label,note\na,b,sounding,x\n", ["a"]),
        ("# mine\na1\n", ["a1"]),
        ("a1;0;dog\n", ["a1"]),
        ("a1\t0\tdog\nb1\t0\tcat\n", ["a1", "b1"]),
        ("a b\nc\u00a0d\ne\u2028f\n", ["a b", "c\u00a0d", "e\u2028f"]),
        ("\ufeffa1\r\nb1\r\n", ["a1", "b1"]),
    ],
)
def test_forms_of_lists(tmp_path, text, ids):
    (tmp_path / "l.csv").write_text(text, encoding="utf-8", newline="")
    assert read_list(tmp_path / "l.csv") == ids


def test_pairs_by_name_and_by_label(tmp_path):
    path = tmp_path / "l.csv"
    for text in (
        "label,video,audio\nnon-sounding,a,b\n",
        "a,b,non-sounding\n",
        "VIDEO;AUDIO;LABEL\na;b;Non_Sounding\n",
    ):
        path.write_text(text)
        assert read_pairs(path) == [Pair("a", "b", False)]


@pytest.mark.parametrize(
    "text", ["", "\n", "a,b\n,c\n", "video,audio\na,b\n", '"a\n', "\x00\x01", "video,audio,label\na,b,c\n"]
)
def test_what_is_no_list_is_refused(tmp_path, text):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(DataError, match=r"l\.csv"):
        read_whole(tmp_path / "l.csv")


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(IDS, min_size=1, max_size=5, unique=True))
def test_what_is_written_comes_back(tmp_path_factory, ids):
    path = tmp_path_factory.getbasetemp() / "ids.txt"
    write_list(path, ids)
    assert read_list(path) == ids
    pairs = [Pair(id, ids[0], k % 2 == 0) for k, id in enumerate(ids)]
    write_pairs(path, pairs)
    assert read_pairs(path) == pairs

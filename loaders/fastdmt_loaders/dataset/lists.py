"""Lists of ids and of pairs: the one reader and the one writer, by the csv module.

A line holds an id (.txt), an id in its first cell (.csv), or video, audio and label. Lines end with a line feed and
nothing else does, so ids may hold blanks of any kind; cells with commas, quotes or line feeds are quoted.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fastdmt_loaders.errors import DataError, first_line
from fastdmt_loaders.files import read_file

BLANKS = " \t\r"  # around a cell; other blanks belong to the id
QUOTED = re.compile(r'"(?:[^"]|"")*"')
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b]")
# Names of a first column, in the field's lists and in spreadsheets.
ID_NAMES = ("id", "ids", "video", "video_id", "videoid", "youtube_id", "ytid", "file", "filename", "clip", "clip_id")
PAIR_HEADER = ("video", "audio", "label")
LABELS = {"sounding": True, "non-sounding": False}


class Pair(NamedTuple):
    """The frame of one clip with the sound of a clip: another's when the source is off screen."""

    video: str
    audio: str
    sounding: bool


@dataclass
class List:
    """A list as it was read.

    Args:
        pairs: its items in order, repetitions kept.
        notes: how it was read where that is not plain, with counts.
    """

    pairs: list[Pair]
    notes: list[str] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """The frames' ids, repetitions dropped."""
        return list(dict.fromkeys(pair.video for pair in self.pairs))


def read_pairs(path: str | Path) -> list[Pair]:
    """The pairs of a list; lists of ids give Pair(id, id, True). Raises DataError, as `read_whole`."""
    return read_whole(path).pairs


def read_list(path: str | Path) -> list[str]:
    """The ids of a list in its order, repetitions dropped. Raises DataError, as `read_whole`."""
    return read_whole(path).ids


def read_whole(path: str | Path) -> List:
    """Reads a list: one id a line, an id in the first cell, or pairs with a label.

    Comma, semicolon or tab between cells, whichever the list uses throughout. Blank lines and lines that start with #
    are skipped, and so is a row of column names. Columns named video, audio and label are found by name, in any case
    and order; without names, a third cell that says `sounding` or `non-sounding` makes a pair.

    Raises:
        DataError: no such file, not text, no id in it, a row without an id, or a label of another kind.
    """
    # Names of files need not be UTF-8; `surrogateescape` is how Python writes those.
    text = read_file(path, "list of ids").decode("utf-8-sig", "surrogateescape")
    if CONTROL.search(text):
        raise DataError(f"{path}: is not a text list of ids; save it as plain UTF-8 text")
    rows, notes = cells_of(path, text)
    columns, labelled = _columns(path, rows, text, notes)
    if not rows:
        raise DataError(f"{path}: holds no ids; fill it or name another list")
    pairs, more = [], 0
    video, audio, label = columns
    for row in rows:
        more += labelled and len(row) > 3
        if not (id := row[video] if video < len(row) else ""):
            raise DataError(f"{path}: row {','.join(row)!r} has no id; mend or remove it")
        if not labelled:
            pairs.append(Pair(id, id, True))
            continue
        said = row[label].lower().replace("_", "-") if label < len(row) else ""
        if said not in LABELS or not (other := row[audio] if audio < len(row) else ""):
            raise DataError(f"{path}: row {','.join(row)!r} needs video,audio,sounding|non-sounding")
        pairs.append(Pair(id, other, LABELS[said]))
    if more:
        notes.append(f"{more:,} rows have more than video, audio and label: the rest is ignored")
    again = sum(count - 1 for count in Counter(pairs).values())
    if again:
        notes.append(f"{again:,} items are there more than once")
    return List(pairs, notes)


def cells_of(path: str | Path, text: str) -> tuple[list[list[str]], list[str]]:
    """Cells of the lines that hold something; notes on those left out. Raises DataError: quotes that do not fit."""
    if '"' not in text and "," not in text and ";" not in text and "\t" not in text and "#" not in text:
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")  # ids alone, as most lists are
        return [[cell] for line in lines if (cell := line.strip(BLANKS))], []
    notes = []
    delimiter = _delimiter(text)
    if delimiter != ",":
        notes.append(f"cells are parted by {'a tab' if delimiter == chr(9) else delimiter!r}")
    rows, comments = [], 0
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True):
            cells = [_cell(cell, text) for cell in row]
            if cells and cells[0].startswith("#") and not _is_quoted(row[0], text):
                comments += 1
            elif any(cells):
                rows.append(cells)
    except csv.Error as error:
        raise DataError(f"{path}: its quotes do not fit ({first_line(error)}); mend it") from error
    if comments:
        notes.append(f"{comments:,} lines that start with # are skipped")
    return rows, notes


def _delimiter(text: str) -> str:
    """Comma, unless every line has as many semicolons, or as many tabs (two at least: ids may hold one)."""
    lines = [QUOTED.sub("", line) for line in text.splitlines()[:1000]]
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    for mark, least in ((";", 1), ("\t", 2)):
        counts = {line.count(mark) for line in lines}
        if len(counts) == 1 and min(counts) >= least and not any("," in line for line in lines):
            return mark
    return ","


def _is_quoted(cell: str, text: str) -> bool:
    return '"' in text and '"' + cell.replace('"', '""') + '"' in text


def _cell(cell: str, text: str) -> str:
    bare = cell.strip(BLANKS)
    return cell if bare == cell or _is_quoted(cell, text) else bare


def _columns(path: str | Path, rows: list[list[str]], text: str, notes: list[str]) -> tuple[tuple[int, int, int], bool]:
    """Where video, audio and label stand, and whether there are labels; takes a row of names out of `rows`."""
    if not rows:
        return (0, 1, 2), False
    names = [cell.strip().lower() for cell in rows[0]]
    if {"video", "audio"} <= set(names):
        if "label" not in names:
            raise DataError(f"{path}: has columns video and audio but no label: sounding|non-sounding")
        rows.pop(0)
        if names[:3] != list(PAIR_HEADER) or len(names) > 3:
            notes.append(f"columns are taken by their names: {', '.join(names)}")
        return tuple(names.index(name) for name in PAIR_HEADER), True
    if names[0] in ID_NAMES and (len(names) > 1 or names[0] != "video"):
        rows.pop(0)
        notes.append(f"the first row names columns ({', '.join(names)}): skipped")
        return (0, 1, 2), False
    labelled = len(names) >= 3 and names[2].replace("_", "-") in LABELS
    return (0, 1, 2), labelled


def write_list(path: str | Path, ids: Iterable[str]) -> None:
    """Writes ids, one a line, so that `read_list` gives them back. Raises OSError."""
    _write(path, [(id,) for id in ids], header=("id",))


def write_pairs(path: str | Path, pairs: Sequence[Pair]) -> None:
    """Writes pairs so that `read_pairs` gives them back: as ids alone where each has its own sound. Raises OSError."""
    if all(pair.sounding and pair.video == pair.audio for pair in pairs):
        return write_list(path, [pair.video for pair in pairs])
    names = {True: "sounding", False: "non-sounding"}
    return _write(path, [PAIR_HEADER, *((pair.video, pair.audio, names[pair.sounding]) for pair in pairs)])


def _write(path: str | Path, rows: Sequence[tuple[str, ...]], header: tuple[str, ...] | None = None) -> None:
    if header and rows and rows[0][0].strip().lower() in (*ID_NAMES, "video"):
        rows = [header, *rows]  # or the first id would be taken for a name
    part = f"{path}.part"  # a list that was cut would be taken for a shorter one
    with open(part, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        for row in rows:
            file.write(",".join(map(_quoted, row)) + "\n")
    os.replace(part, path)


def _quoted(cell: str) -> str:
    if cell != cell.strip(BLANKS) or cell.startswith("#") or any(mark in cell for mark in ',;"\t\n\r'):
        return '"' + cell.replace('"', '""') + '"'
    return cell

"""One table, read back from a terminal and from a page."""

import xml.etree.ElementTree as ElementTree

import pytest
from rich.console import Console

from fastdmt.drawing.tables import Score, Table

TABLE = Table(
    ("rule", "CIoU@0.5", "AUC", "cap", "protocol"),
    [
        ("absolute", Score("51.3", "±2.9"), "49.0", "100.0 / 100.0", "P >= 0.5, <b>as it is</b>"),
        ("median [x]", Score("12.0"), "9.9", "0.0 / 2.5", "half of the frame"),
    ],
    title="<test> & more",
    caption="Percent.",
    strong={1},
    parted={1},
    left={4},
    fold=3,
)


def drawn(width: int) -> list[list[str]]:
    """Cells of each line of a terminal that holds some."""
    console = Console(width=width, record=True, file=open("/dev/null", "w"))
    console.print(TABLE)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    assert text.count("Percent.") == text.count("<test> & more") == 1
    lines = [line for line in text.splitlines() if line[:1] in "│┃"]
    return [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines]


def plain(row) -> list[str]:
    return [str(cell) for cell in row]


def test_a_wide_terminal_has_one_table():
    assert drawn(100) == [list(TABLE.heads), *map(plain, TABLE.rows)]


def test_a_narrow_terminal_has_the_rest_below_under_the_same_names():
    lines = drawn(60)
    assert lines[0] == ["rule", "CIoU@0.5", "AUC"] and lines[3] == ["rule", "cap", "protocol"]
    joined = [first + second[1:] for first, second in zip(lines[:3], lines[3:6])]
    assert joined == [list(TABLE.heads), *map(plain, TABLE.rows)]


def test_no_figure_is_cut_in_a_terminal_that_has_hardly_a_column():
    cells = {cell for line in drawn(33) for cell in line}
    assert {"51.3 ±2.9", "100.0 / 100.0", "49.0", "9.9"} <= cells


def test_a_page_has_the_same_cells_and_obeys_none():
    page = TABLE.page()
    assert "<b>" not in page and "<test>" not in page
    root = ElementTree.fromstring(f"<div>{page}</div>")
    rows = [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]
    assert rows == [list(TABLE.heads), *map(plain, TABLE.rows)]
    assert [row.get("class") for row in root.iter("tr")] == [None, None, "strong parted"]
    assert [td.get("class") for td in root.iter("td")][:5] == [None, "score", None, None, "words"]


def test_the_figure_that_matters_is_bold():
    console = Console(width=100, force_terminal=True, color_system="standard", record=True, file=open("/dev/null", "w"))
    console.print(TABLE)
    assert "\x1b[1m51.3\x1b[0m" in console.export_text(styles=True)


@pytest.mark.parametrize("score, text", [(Score("1.0"), "1.0"), (Score("1.0", "±0.1"), "1.0 ±0.1")])
def test_a_score_in_words(score, text):
    assert str(score) == text

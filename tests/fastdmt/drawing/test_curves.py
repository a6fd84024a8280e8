"""Charts read back from their SVG."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from fastdmt.drawing.curves import HEIGHT, WIDTH, chart, curves, mean, page, points, write_budgets

RUNS = {"<a & b>": [{"kept": [(0, 0.0), (10, 0.5)]}, {"kept": [(0, 0.2), (10, 0.7), (20, 0.9)]}], "dmt": [{}]}


def lines(svg: str) -> list[list[tuple[float, float]]]:
    found = ElementTree.fromstring(svg).iter("polyline")
    return [[tuple(map(float, xy.split(","))) for xy in line.get("points").split()] for line in found]


def test_the_thick_line_is_the_mean_at_the_steps_that_all_seeds_have():
    assert mean([seed["kept"] for seed in RUNS["<a & b>"]]) == [(0, pytest.approx(0.1)), (10, pytest.approx(0.6))]
    first, second, thick = lines(chart("kept", "share kept", RUNS))
    assert [len(x) for x in (first, second, thick)] == [2, 3, 2]
    for a, b, m in zip(first, second, thick):
        assert m[0] == a[0] == b[0] and m[1] == pytest.approx((a[1] + b[1]) / 2, abs=0.1)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for line in (first, second, thick) for x, y in line)
    assert chart("val_ciou", "what nobody logged", RUNS) == ""


def test_pages_need_nothing_else_and_show_names_as_they_are(tmp_path):
    text = page("Curves", curves(RUNS) + points({"<a & b>": [10.0, 20.0], "dmt": [30.0]}, "CIoU"))
    (tmp_path / "curves.html").write_text(text, encoding="utf-8")
    write_budgets(tmp_path / "budgets.html", {40: {"<a & b>": [10.0, 20.0]}, 160: {"<a & b>": [30.0, 34.0]}})
    for name in ("curves.html", "budgets.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "&lt;a &amp; b&gt;" in text and "<a & b>" not in text
        assert not re.search(r"https?:|@import|url\(", text)
    (line,) = lines(re.search(r"<svg.*</svg>", (tmp_path / "budgets.html").read_text(encoding="utf-8"))[0])
    assert line[0][0] < line[1][0] and line[0][1] > line[1][1], "more labels, a higher figure"


def test_every_chart_has_its_own_legend_inside():
    many = {f"{'a long name ' * 3}{k}": [{"kept": [(0, 0.1), (1, 0.2)]}] for k in range(5)}
    for rows in (RUNS, many):
        root = ElementTree.fromstring(chart("kept", "share kept", rows))
        colours = [rect.get("fill") for rect in root.iter("rect")]
        drawn = [line.get("stroke") for line in root.iter("polyline")]
        assert len(colours) == len(set(colours)) and set(colours) == set(drawn)
        for rect in root.iter("rect"):
            assert 0 <= float(rect.get("x")) <= WIDTH - 12 and 0 < float(rect.get("y")) < HEIGHT


def test_points_lie_where_their_values_are():
    seeds = {"supervised": [43.0, 42.0, 44.6], "dmt": [47.0, 49.5]}
    root = ElementTree.fromstring(points(seeds, "CIoU@0.5, percent"))
    dots = [(float(c.get("cx")), c.get("fill")) for c in root.iter("circle")]
    values = [value for row in seeds.values() for value in row]
    assert len(dots) == len(values) and len({fill for _, fill in dots}) == 2
    slope, offset = np.polyfit(values, [x for x, _ in dots], 1)
    assert slope > 0 and np.allclose(slope * np.array(values) + offset, [x for x, _ in dots], atol=0.1)
    bars = [line for line in root.iter("line") if line.get("stroke-width") == "2.5"]
    expected = [slope * np.mean(row) + offset for row in seeds.values()]
    assert [float(bar.get("x1")) for bar in bars] == pytest.approx(expected, abs=0.2)
    assert points({"one": [5.0]}, "x")  # a single value has a place too

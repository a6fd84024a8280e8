"""compare.html: one table with the terminal's, every seed, the same items under every row."""

import re

import pytest
from browser import Browser, needs_browser
from rich.console import Console
from tones import PLACES, ToneModel, name, write_data

from fastdmt.evaluation.evaluate import evaluate
from fastdmt.reports.comparison import COLUMNS, EXAMPLES, comparison_table, shown, values, write_comparison
from fastdmt_loaders import AVDataset, Pair

ROW = dict.fromkeys(COLUMNS, 0.25) | {"blind": 0.1, "cap": 0.9}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    dataset = AVDataset(write_data(tmp_path_factory.mktemp("tones")))
    pairs = [Pair(name(k), name(k), True) for k in range(PLACES)] + [Pair(name(0), "silence", False)]
    out = {}
    for row, wrong in (("<supervised>", (0, 1, 2)), ("dmt", ())):
        model = ToneModel(wrong=wrong)
        pictures = shown(model, dataset, evaluate(model, dataset, pairs, examples=0))
        curve = {"val_ciou": [(0, 0.1), (5, 0.2)], "kept": [(0, 0.5), (5, 0.6)]}
        out[row] = [ROW | {"ciou": 0.4 + s, "curves": curve, "examples": pictures} for s in (0.0, 0.02)]
    return out


def test_the_same_items_for_every_row(rows):
    first, second = (runs[0]["examples"] for runs in rows.values())
    assert len(first) == EXAMPLES and [e["id"] for e in first] == [e["id"] for e in second]
    assert [e["frame"] for e in first] == [e["frame"] for e in second]
    for a, b in zip(first, second):
        wrong = a["id"] in (name(0), name(1), name(2))
        assert (a["map"] != b["map"]) == wrong and (float(a["ciou"]) < 50) == wrong and float(b["ciou"]) > 50


def test_the_page_has_the_terminals_table_and_needs_nothing_else(rows, tmp_path):
    write_comparison(tmp_path / "compare.html", rows, "test")
    text = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert comparison_table(rows, "test").page() in text
    assert "<supervised>" not in text and "&lt;supervised&gt;" in text
    assert "dmt is 0.0 points above &lt;supervised&gt;, standard error 0.0 over 2 seeds" in text
    assert not re.search(r"https?:|@import|url\(|<script", text)
    assert text.count("<svg") == 2 + 2 and text.count("data:image/jpeg") == 3 * EXAMPLES
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(comparison_table(rows, "test"))
    said = console.export_text()
    assert "41.0 ± 1.4" in said and "over 2 seeds" in said and "cap 90.0" in said and "…" not in said
    for run in rows["dmt"]:
        run.pop("examples")  # of a version that kept none
    write_comparison(tmp_path / "old.html", rows, "val")
    assert "The same items" not in (tmp_path / "old.html").read_text(encoding="utf-8")
    assert values(rows["dmt"]) == pytest.approx([40, 42])


@needs_browser
def test_it_fits_a_phone(rows, tmp_path):
    write_comparison(tmp_path / "compare.html", rows, "test")
    with Browser((tmp_path / "compare.html").as_uri(), tmp_path / "profile") as browser:
        browser.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        browser.wait("document.title === 'FastDMT comparison' && document.readyState === 'complete'")
        assert browser.run("document.documentElement.scrollWidth") <= 390

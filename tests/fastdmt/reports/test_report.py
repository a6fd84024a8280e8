"""The report is one file that needs nothing else, shows what was measured, and cannot be broken by an odd id."""

import base64
import html
import io
import json
import re
from html.parser import HTMLParser

import av
import numpy as np
import pytest
from browser import Browser, needs_browser
from PIL import Image
from tones import PLACES, ToneModel, name, write_data

from fastdmt.drawing.tables import Table
from fastdmt.errors import FastDMTError
from fastdmt.evaluation.evaluate import evaluate
from fastdmt.evaluation.examples import HEADINGS
from fastdmt.reports.report import jpeg_uri, sound_uri, write_report, write_strip
from fastdmt_loaders import AVDataset, Pair


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    root = write_data(tmp_path_factory.mktemp("tones"))
    items = json.loads((root / "vggss.json").read_text())
    items = [item | {"class": f"<class {'ab'[k % 2]}>"} for k, item in enumerate(items)]
    (root / "vggss.json").write_text(json.dumps(items))
    dataset = AVDataset(root)
    pairs = [Pair(name(k), name(k), True) for k in range(PLACES)] + [Pair(name(0), "silence", False)]
    return evaluate(ToneModel(wrong=(2, 6)), dataset, pairs, name="test.csv", examples=2)


class Page(HTMLParser):
    VOID = ("meta", "img", "br", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.rows, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [attrs[key] for key in ("src", "href") if key in attrs]
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open) and data.strip():
            self.rows[-1].append(data.strip())
        if self.open[-1:] == ["b"] and "figcaption" in self.open:
            self.ids.append(data)


def test_report_is_self_contained_and_says_what_was_measured(result, tmp_path):
    write_report(
        result,
        tmp_path / "report.html",
        title="Evaluation of <runs/a & b>",
        facts={"weights": "best.safetensors"},
        published=Table(("method", "CIoU", "protocol"), [("EZ-VSL", "72.7", "median"), ("ours", "70.0", "median")]),
    )
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open and page.links and all(link.startswith("data:") for link in page.links)
    assert not re.search(r"https?:|@import|url\(", text)
    assert "$" not in text.replace("const $ =", "").replace('$("', "")  # every place of the template is filled
    assert "prefers-color-scheme: dark" in text
    s = result.summary["absolute"]
    row = next(r for r in page.rows if r[:1] == ["absolute"])
    assert result.sentence() in html.unescape(text)
    assert row[1] == f"{100 * s['ciou']:.1f}" and f"{100 * s['blind_ciou']:.1f} / {100 * s['blind_auc']:.1f}" in row
    assert ["EZ-VSL", "72.7", "median"] in page.rows
    assert page.ids == [p.pair.video for p in result.pictures]  # an id with < and > is shown, not obeyed
    pictures = [link for link in page.links if link.startswith("data:image/jpeg")]
    assert len(pictures) == len(HEADINGS) * len(result.pictures)


def rows(browser) -> list[list[str]]:
    """Cells of the drawn rows of the table of items."""
    return browser.run(
        "[...document.querySelectorAll('#items tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )


def find(browser, words: str) -> None:
    change = f"f.value = {words!r}; f.dispatchEvent(new Event('input'));"
    browser.run(f"(f => {{ {change} }})(document.getElementById('find'))")


def painted(browser) -> np.ndarray:
    """The result of the first item, as drawn by the page, [H, W, 3]."""
    script = "(c => [c.width, c.height, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]])"
    width, height, data = browser.run(f"{script}(document.querySelector('figure canvas'))")
    return np.array(data).reshape(height, width, 4)[..., :3]


READY = "document.readyState === 'complete' && document.querySelectorAll('#items tbody tr').length > 0"


@needs_browser
def test_items_are_found_and_sorted_and_the_threshold_moves(result, tmp_path):
    write_report(result, tmp_path / "report.html", title="Run <a>")
    with Browser((tmp_path / "report.html").as_uri(), tmp_path / "profile") as browser:
        browser.wait(READY)
        assert [row[0] for row in rows(browser)] == [pair.video for pair in result.pairs]
        assert rows(browser)[2][1:3] == ["<class a>", "0.0"] and rows(browser)[-1][2] == ""

        click = "document.querySelectorAll('#items th button')[2].click()"  # cIoU
        browser.run(click)
        values = [row[2] for row in rows(browser)]
        known = [float(v) for v in values if v]
        assert known == sorted(known, reverse=True) and known[0] > known[-1] == 0 and values[-1] == ""
        browser.run(click)
        assert [float(row[2]) for row in rows(browser) if row[2]] == known[::-1] and rows(browser)[-1][2] == ""

        find(browser, "CLIP<3>")
        assert [row[0] for row in rows(browser)] == [name(3)] and browser.text("count") == "1 items"
        find(browser, "class b")
        assert {row[0] for row in rows(browser)} == {name(k) for k in (1, 3, 5, 7)}
        find(browser, "")

        classes = "[...document.querySelectorAll('.sortable tbody tr')].map(r => r.cells[0].textContent)"
        assert browser.run(classes) == list(result.summary["classes"]) == ["<class b>", "<class a>"]
        browser.run("document.querySelector('.sortable th button').click()")
        assert browser.run(classes) == ["<class a>", "<class b>"]

        picture, said = result.pictures[0], "document.querySelector('figure output').textContent"
        assert browser.text("found") == f"P ≥ 0.50: finds {100 * result.summary['levels']['0.50']:.1f}% of the objects"
        assert browser.run(said) == f"cIoU {100 * picture.ciou['absolute']:.0f}% at P ≥ 0.50"
        browser.slide("level", 0.05)  # P is 0.05 at least everywhere: the whole frame is marked
        assert browser.text("found") == "P ≥ 0.05: finds 0.0% of the objects"
        assert browser.run(said) == f"cIoU {100 * result.levels[picture.row][0]:.0f}% at P ≥ 0.05"
        browser.slide("level", 0.5)
        part = painted(browser)
        height, width = part.shape[:2]
        x0, y0, _, y1 = (picture.boxes[0] * (width, height, width, height)).round().astype(int)
        border = part[(y0 + y1) // 2, max(0, x0 - 12) : x0 + 12].min(-1)
        assert (border == 255).any() and (part[:, 0].min(-1) < 250).all()


@needs_browser
@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_a_phone(result, tmp_path, width):
    write_report(result, tmp_path / "report.html", title="Evaluation of a run with a long name " * 3)
    with Browser((tmp_path / "report.html").as_uri(), tmp_path / "profile") as browser:
        phone = width < 800
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=phone)
        browser.wait(READY)
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run("document.querySelector('.tile img').getBoundingClientRect().width") > 150
        (tmp_path / "page.png").write_bytes(browser.png(whole=True))  # for whoever looks at a failure


def test_pictures_and_sounds_survive_their_encoding(result):
    picture = result.pictures[0]
    tile = picture.tiles(90)[0]
    data = jpeg_uri(tile).split(",")[1]
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert np.abs(decoded.astype(int) - tile).mean() < 5
    place = int(picture.pair.audio[5])
    with av.open(io.BytesIO(base64.b64decode(sound_uri(picture.sound).split(",")[1]))) as container:
        blocks = [frame.to_ndarray() for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    pcm = np.concatenate(blocks, 1)[0]
    spectrum = np.abs(np.fft.rfft(pcm))
    assert spectrum.argmax() * rate / len(pcm) == pytest.approx(500 + 375 * place, abs=5)
    assert len(pcm) / rate == pytest.approx(3, abs=0.1)


def test_strip_has_a_column_for_each_step(result, tmp_path):
    write_strip(result, tmp_path / "strip.png", rows=3, tile=120)
    strip = np.asarray(Image.open(tmp_path / "strip.png"))
    assert strip.shape[1] == 5 * 160 + 6 * 8  # 120 x 90 frames at height 120
    assert strip.shape[0] == pytest.approx(3 * 150 + 30, abs=10)
    assert (strip[:, :8] > 250).all() and (strip[60, 10:160] < 250).any()
    with pytest.raises(FastDMTError, match=r"strip\.png"):
        write_strip(result, tmp_path / "no" / "strip.png")

"""The report is one file that needs nothing else, shows what was measured, and cannot be broken by an odd id."""

import base64
import io
import re
from html.parser import HTMLParser

import av
import numpy as np
import pytest
from PIL import Image
from tones import PLACES, ToneModel, name, write_data

from fastdmt.errors import FastDMTError
from fastdmt.evaluation.evaluate import evaluate
from fastdmt.evaluation.examples import HEADINGS
from fastdmt.reports.report import jpeg_uri, sound_uri, write_report, write_strip
from fastdmt_loaders import AVDataset, Pair


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    dataset = AVDataset(write_data(tmp_path_factory.mktemp("tones")))
    pairs = [Pair(name(k), name(k), True) for k in range(PLACES)] + [Pair(name(0), "silence", False)]
    return evaluate(ToneModel(wrong=(2, 6)), dataset, pairs, name="test.csv", examples=2)


class Page(HTMLParser):
    VOID = ("meta", "img", "br")

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
        published=[("EZ-VSL", "72.7", "median"), ("ours", "70.0", "median")],
    )
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open and page.links and all(link.startswith("data:") for link in page.links)
    assert not re.search(r"https?:|@import|url\(", text)
    assert "$" not in re.sub(r"data:[^\"]*", "", text)
    assert "prefers-color-scheme: dark" in text
    s = result.summary["absolute"]
    row = next(r for r in page.rows if r[:1] == ["absolute"])
    assert row[1] == f"{100 * s['ciou']:.1f}" and f"{100 * s['blind_ciou']:.1f} / {100 * s['blind_auc']:.1f}" in row
    assert ["EZ-VSL", "72.7", "median"] in page.rows
    assert page.ids == [p.pair.video for p in result.pictures]  # an id with < and > is shown, not obeyed
    pictures = [link for link in page.links if link.startswith("data:image/jpeg")]
    assert len(pictures) == len(HEADINGS) * len(result.pictures)


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

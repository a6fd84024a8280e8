"""The report is one file that needs nothing else, shows what was measured, and cannot be broken by an odd id."""

import base64
import io
import re
from html.parser import HTMLParser

import av
import numpy as np
import pytest
from PIL import Image
from tones import PLACES, ToneModel, box, name, write_data

from fastdmt.drawing import draw
from fastdmt.errors import FastDMTError
from fastdmt.evaluation.evaluate import evaluate
from fastdmt.evaluation.examples import HEADINGS, choose
from fastdmt.reports.report import jpeg_uri, sound_uri, write_report, write_strip
from fastdmt.training.pictures import training_picture
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


def test_groups_are_what_they_say(result):
    groups = {g: [p for p in result.pictures if p.group == g] for g in ("best", "worst", "random", "non-sounding")}
    assert {p.pair.video for p in groups["worst"]} == {name(2), name(6)}
    assert all(p.ciou["absolute"] > 0.5 for p in groups["best"] + groups["random"])
    videos = [p.pair.video for p in result.pictures if p.ciou]
    assert len(videos) == len(set(videos)) == 6
    assert [p.pair.audio for p in groups["non-sounding"]] == ["silence"]
    none = choose({"mse": np.zeros(0), "ciou_absolute": np.zeros(0)}, np.zeros(0, bool), 3)
    assert not any(none.values())


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


def test_tiles_show_map_truth_and_agreement():
    frame = np.full((224, 224, 3), 100, np.uint8)
    p_a, p_b = np.zeros((224, 224), np.float32), np.zeros((224, 224), np.float32)
    p_a[40:120, 40:120], p_b[60:140, 40:120] = 0.9, 0.9
    both = draw.agreement(frame, p_a, p_b, 0.6).astype(int)
    assert (both[90, 80] == 100).all()  # agreed: the frame as it is
    assert both[50, 80, 2] > both[50, 80, 0] + 40 and both[130, 80, 0] > both[130, 80, 2] + 40  # A bluish, B orange
    assert (both[200, 200] < 60).all()
    assert (both[60, 80] == 255).all()  # white border of the intersection
    glow = draw.overlay(frame, p_a).astype(int)
    assert glow[80, 80].sum() > glow[200, 200].sum() + 150
    boxed = draw.boxes_outline(frame, box(4)[None]).astype(int)
    x0, y0 = (box(4)[:2] * 224).astype(int)
    assert (boxed == draw.GREEN).all(-1)[y0 : y0 + 3, x0 + 20].any() and (boxed[112, 112] == 100).all()
    assert (np.diff(draw.heat(np.linspace(0, 1, 64)).astype(float) @ (0.3, 0.59, 0.11)) > -1).all()  # reads in grey


def test_training_picture(tmp_path):
    from types import SimpleNamespace

    import torch
    from tones import tone

    from fastdmt_loaders.frontends import spectrogram

    sound = torch.from_numpy(np.stack([tone(k, 16000, 3.0) for k in range(4)])).float()
    batch = SimpleNamespace(
        frames_weak=torch.zeros(4, 3, 64, 64),
        sound={"spectrogram": spectrogram(sound)},
        boxes=torch.from_numpy(np.stack([np.stack([box(k) * 64, np.zeros(4)]) for k in range(4)])).float(),
        ids=[name(k) for k in range(4)],
        labelled=2,
    )
    image = training_picture(ToneModel(), batch, rows=3, tile=100)
    assert image.dtype == np.uint8 and image.shape[1] == 5 * 100 + 6 * 8
    # Unlabelled clips first: row 0 is clip 2, whose source is in the upper right.
    tile = image[30:130, 8 + 108 : 108 + 108].astype(int).sum(-1)
    assert tile[10:25, 75:92].mean() > tile[60:90, 10:40].mean() + 100

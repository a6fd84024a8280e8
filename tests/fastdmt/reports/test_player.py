"""The page of a video: self-contained, and working in a real browser (headless Chromium, where there is one)."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, needs_browser
from tones import ToneModel, box, write_video

from fastdmt.reports.predict import predict


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("player")
    clip = write_video(folder / "a & <b>.webm", codecs=("libvpx", "libopus"))
    return predict(ToneModel(), [clip], folder / "out", source="A", fps=4, player=True)[-1]


def test_page_needs_nothing_else(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\(|<link", text)
    assert re.findall(r'src="([a-z]+:[a-z]+/[a-z0-9]+)', text) == ["data:video/webm"]
    assert "<title>a &amp; &lt;b&gt;.webm</title>" in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S).group(1))
    maps = np.frombuffer(base64.b64decode(data["maps"]), np.uint8).reshape(-1, data["side"], data["side"])
    assert len(maps) == len(data["times"]) == len(data["peaks"]) == 32
    x, y = ((box(0)[:2] + 0.14) * data["side"]).astype(int)
    assert maps[4, y, x] > 230 and maps[-4, y, x] < 20


def test_video_of_a_form_that_browsers_do_not_play_is_converted(tmp_path):
    clip = write_video(tmp_path / "old.avi", places=(3,), each=2, codecs=("mjpeg", "pcm_s16le"))
    written = predict(ToneModel(), [clip], tmp_path / "out", player=True)
    assert re.search(r'src="data:video/(mp4|webm);base64', written[-1].read_text(encoding="utf-8"))


@needs_browser
def test_video_plays_and_sliders_change_what_is_seen(page, tmp_path):
    with Browser(page.as_uri(), tmp_path / "profile") as browser:
        browser.wait("document.readyState == 'complete' && document.querySelector('video').readyState > 1")
        seek = "new Promise(r => {{ const v = document.getElementById('video'); "
        seek += "v.addEventListener('seeked', () => setTimeout(r, 100), {{once: true}}); v.currentTime = {}; }})"
        stage = browser.run(
            "(r => [r.x, r.y, r.width, r.height])(document.querySelector('#stage').getBoundingClientRect())"
        )

        def patch(image, place):
            x, y = (box(place)[:2] + 0.14) * stage[2:] + stage[:2]
            return image[int(y) - 8 : int(y) + 8, int(x) - 8 : int(x) + 8]

        browser.run(seek.format(1))
        first = browser.picture()
        browser.run(seek.format(7))
        later = browser.picture()
        # The map moves from the upper left to the lower right with the pitch.
        for place in (0, 8):
            assert np.abs(patch(first, place) - patch(later, place)).mean() > 25

        def slide(name, value):
            browser.slide(name, value)
            return browser.picture()

        clear = slide("opacity", 0)
        assert np.abs(patch(later, 8) - patch(clear, 8)).mean() > 25
        slide("opacity", 1)
        strict = slide("threshold", 1)
        assert "0.0 % of the frame at or above 1.00" in browser.text("now")
        loose = slide("threshold", 0)
        assert "100.0 % of the frame at or above 0.00" in browser.text("now")
        assert np.abs(patch(loose, 4) - patch(strict, 4)).mean() > 25

        browser.run(seek.format(0.5))
        browser.run("document.getElementById('play').click()")
        browser.wait("(v => v.currentTime > 0.8 && !v.paused)(document.querySelector('video'))")
        assert browser.text("play") == "Pause"

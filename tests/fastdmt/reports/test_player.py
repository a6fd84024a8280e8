"""The page of a video: self-contained, and working in a real browser (headless Chromium, where there is one)."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tones import ToneModel, box, write_video

from fastdmt.reports.predict import predict

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


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


class Browser:
    """Chromium over its debugging pipe: NUL-separated JSON on file descriptors 3 and 4."""

    def __init__(self, page: Path, profile: Path) -> None:
        self.count = 0
        their_in, to_them = os.pipe()
        from_them, their_out = os.pipe()
        flags = "--headless=new --no-sandbox --disable-gpu --mute-audio --no-first-run --remote-debugging-pipe"
        flags += f" --autoplay-policy=no-user-gesture-required --window-size=900,900 --user-data-dir={profile}"
        command = f'exec "$0" {flags} about:blank 3<&{their_in} 4>&{their_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, CHROMIUM], pass_fds=(their_in, their_out), stderr=subprocess.DEVNULL
        )
        os.close(their_in), os.close(their_out)
        self.out, self.inp = os.fdopen(to_them, "wb"), os.fdopen(from_them, "rb")
        target = self.call("Target.createTarget", url=page.as_uri())["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **params):
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if hasattr(self, "session"):
            message["sessionId"] = self.session
        self.out.write(json.dumps(message).encode() + b"\0")
        self.out.flush()
        while True:
            text = b"".join(iter(lambda: self.inp.read(1), b"\0"))
            answer = json.loads(text)
            if answer.get("id") == self.count:
                return answer.get("result", answer)

    def run(self, script: str):
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "result" in answer and "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 30) -> None:
        """Until a condition holds; a page that is still being loaded has none."""
        end = time.monotonic() + seconds
        while True:
            answer = self.call("Runtime.evaluate", expression=condition, returnByValue=True)
            if answer.get("result", {}).get("value") is True:
                return
            assert time.monotonic() < end, f"{condition} did not come true: {answer}"
            time.sleep(0.05)

    def picture(self) -> np.ndarray:
        data = self.call("Page.captureScreenshot", format="png")["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.out.close(), self.inp.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_video_plays_and_sliders_change_what_is_seen(page, tmp_path):
    browser = Browser(page, tmp_path / "profile")
    try:
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
            change = f"s.value = {value}; s.dispatchEvent(new Event('input'));"
            browser.run(f"(s => {{ {change} }})(document.getElementById('{name}'))")
            return browser.picture()

        clear = slide("opacity", 0)
        assert np.abs(patch(later, 8) - patch(clear, 8)).mean() > 25
        slide("opacity", 1)
        strict = slide("threshold", 1)
        assert "0.0 % of the frame at or above 1.00" in browser.run("document.getElementById('now').textContent")
        loose = slide("threshold", 0)
        assert "100.0 % of the frame at or above 0.00" in browser.run("document.getElementById('now').textContent")
        assert np.abs(patch(loose, 4) - patch(strict, 4)).mean() > 25

        browser.run(seek.format(0.5))
        browser.run("document.getElementById('play').click()")
        browser.wait("(v => v.currentTime > 0.8 && !v.paused)(document.querySelector('video'))")
        assert browser.run("document.getElementById('play').textContent") == "Pause"
    finally:
        browser.close()

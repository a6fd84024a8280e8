"""Headless Chromium, where there is one, over its debugging pipe."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


class Browser:
    """One page; use as a context. NUL-separated JSON goes over file descriptors 3 and 4."""

    def __init__(self, address: str, profile: Path, flags: str = "", size: tuple[int, int] = (900, 900)) -> None:
        self.count = 0
        their_in, to_them = os.pipe()
        from_them, their_out = os.pipe()
        flags += " --headless=new --no-sandbox --disable-gpu --mute-audio --no-first-run --remote-debugging-pipe"
        flags += " --autoplay-policy=no-user-gesture-required"
        flags += f" --window-size={size[0]},{size[1]} --user-data-dir={profile}"
        command = f'exec "$0" {flags} about:blank 3<&{their_in} 4>&{their_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, CHROMIUM], pass_fds=(their_in, their_out), stderr=subprocess.DEVNULL
        )
        os.close(their_in), os.close(their_out)
        self.out, self.inp = os.fdopen(to_them, "wb"), os.fdopen(from_them, "rb")
        target = self.call("Target.createTarget", url=address)["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.out.close(), self.inp.close()

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

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Until a condition holds; a page that is still being loaded has none."""
        end = time.monotonic() + seconds
        while True:
            answer = self.call("Runtime.evaluate", expression=condition, returnByValue=True)
            if answer.get("result", {}).get("value") is True:
                return
            assert time.monotonic() < end, f"{condition} did not come true: {answer}"
            time.sleep(0.05)

    def slide(self, name: str, value: float) -> None:
        """Move a range input by its id, as a hand would."""
        change = f"s.value = {value}; s.dispatchEvent(new Event('input'));"
        self.run(f"(s => {{ {change} }})(document.getElementById('{name}'))")

    def text(self, name: str) -> str:
        return self.run(f"document.getElementById('{name}').textContent")

    def png(self, whole: bool = False) -> bytes:
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])

    def picture(self) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.png())).convert("RGB")).astype(int)

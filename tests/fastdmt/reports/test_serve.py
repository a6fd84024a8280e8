"""The page to play with, over real HTTP, and in a real browser (headless Chromium, where there is one)."""

import base64
import http.client
import json
import re
import socket
import threading
from urllib.parse import quote, urlsplit

import pytest
import soundfile
from browser import Browser, needs_browser
from PIL import Image
from tones import ToneModel, box, maps_of, marked, picture, tone, write_video

from fastdmt.errors import FastDMTError
from fastdmt.reports.play import Clip
from fastdmt.reports.serve import Server


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    Image.fromarray(picture(0, 240, 180)).save(folder / "scene.png")
    for place in (1, 5):
        soundfile.write(folder / f"tone{place}.wav", tone(place, 22050, 3.0), 22050)
    write_video(folder / "clip.webm", codecs=("libvpx", "libopus"))
    return folder


@pytest.fixture
def server(files):
    examples = [Clip("example <b>1</b>", files / "scene.png", files / "tone1.wav")]
    with Server(ToneModel(), examples, largest=2**20, title="</script>") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, method, route, body=None, headers=(), path=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request(method, path or urlsplit(server.address).path + route, body, dict(headers))
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, data, answer.headers


def add(server, file, **headers):
    return ask(server, "POST", f"add?name={quote(file.name)}", file.read_bytes(), headers)


def look(server, **question):
    status, data, _ = ask(server, "POST", "look", json.dumps(question))
    assert status == 200, data
    return json.loads(data)


def test_a_picture_and_two_sounds_over_http(server, files):
    status, data, _ = ask(server, "GET", "clips")
    [example] = json.loads(data)["clips"]
    assert status == 200 and example["name"] == "example <b>1</b>" and example["sound"]
    frame, sound = (json.loads(add(server, files / name)[1]) for name in ("scene.png", "tone5.wav"))
    assert frame["thumbnail"].startswith("data:image/jpeg") and not frame["sound"] and not sound["thumbnail"]
    for heard, place in ((sound["id"], 5), (example["id"], 1), ("silence", None)):
        assert marked(maps_of(look(server, frame=frame["id"], sound=heard))["result"]) == place
    film = json.loads(add(server, files / "clip.webm")[1])["id"]
    assert marked(maps_of(look(server, frame=film, sound=film, moment=7))["result"]) == 8


def test_the_page_needs_nothing_else_and_says_so(server):
    status, page, headers = ask(server, "GET", "")
    text = page.decode()
    assert status == 200 and not re.search(r"https?://|@import|url\(|<link|\ssrc=\"", text)
    assert "default-src 'none'" in headers["Content-Security-Policy"] and "unsafe" not in str(headers)
    assert headers["Referrer-Policy"] == "no-referrer" and headers["Cache-Control"] == "no-store"
    assert text.count("</script>") == 2  # the title cannot close one
    assert server.token not in text


def test_only_the_address_that_was_printed_opens_it(server):
    right = urlsplit(server.address).path
    assert ask(server, "GET", "", headers={"Host": "localhost:9"})[0] == 200  # the end of a tunnel
    for path in ("/", "/x/", right[:-2] + "/", right[:-1], right.upper(), "/%00/", f"/x{right}"):
        assert ask(server, "GET", "", path=path)[0] == 403, path
    with socket.create_connection(("127.0.0.1", server.port), 60) as raw:
        raw.sendall(b"GET /\xe9\xff/ HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert b" 403 " in raw.recv(99)
    for host in ("evil.example", "evil.example:80", f"127.0.0.1.evil.example:{server.port}", "", "[::2]:80"):
        for method in ("GET", "POST"):
            assert ask(server, method, "clips", headers={"Host": host})[0] == 403, host
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{server.port}"):
        assert ask(server, "POST", "look", b"{}", headers={"Origin": origin})[0] == 403
    assert ask(server, "GET", "nothing")[0] == 404 and ask(server, "POST", "nothing", b"")[0] == 404
    assert ask(server, "PUT", "clips")[0] == 501
    assert server.socket.getsockname()[0] == "127.0.0.1"  # no other interface


def test_what_cannot_be_is_one_line(server, files):
    bad = files / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff" + bytes(100))
    for status, (got, data, _) in (
        (422, add(server, bad)),
        (422, ask(server, "POST", "add?name=x.exe", b"MZ")),
        (413, ask(server, "POST", "add?name=x.png", b"", {"Content-Length": str(2**40)})),
        (413, ask(server, "POST", "look", b"{}", {"Content-Length": "99999"})),
        (411, ask(server, "POST", "look", headers={"Transfer-Encoding": "chunked"})),
        (411, ask(server, "POST", "look", b"", {"Content-Length": "-1"})),
        *((422, ask(server, "POST", "look", body)) for body in (b"", b"[]", b"{", b"[" * 4000, b"\xff", b"1")),
        (422, ask(server, "POST", "look", b'{"frame": "0", "sound": "0", "moment": -1}')),
        (422, ask(server, "POST", "look", b'{"frame": "0", "sound": "0", "moment": NaN}')),
        (422, ask(server, "POST", "look", b'{"frame": "no", "sound": "0"}')),
    ):
        assert got == status, data
        line = json.loads(data)["error"]
        assert line and "\n" not in line and "fastdmt-serve-" not in line
    assert not list(server.table.folder.iterdir())
    assert ask(server, "GET", "")[0] == 200  # it goes on


def test_a_taken_port_is_said_and_files_do_not_stay(files):
    with Server(ToneModel()) as server:
        folder = server.table.folder
        assert folder.is_dir()
        for port in (server.port, 99999):
            with pytest.raises(FastDMTError, match="give another --port"):
                Server(ToneModel(), port=port)
    assert not folder.exists()


# -- in a browser --------------------------------------------------------------------------------------------------

DROP = """(async () => {
  const data = new DataTransfer();
  for (const [name, text] of %s) data.items.add(new File([Uint8Array.from(atob(text), c => c.charCodeAt(0))], name));
  document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}));
})()"""


def drop(browser, *files):
    browser.run(DROP % json.dumps([(f.name, base64.b64encode(f.read_bytes()).decode()) for f in files]))


def glow(browser, place, canvas="result"):
    """Mean change against the darkened picture: the map's colour at a place, [R, G, B]."""
    x, y = box(place)[:2] + 0.14
    script = "(c => [...c.getContext('2d').getImageData(c.width * {} - 2, c.height * {} - 2, 4, 4).data])"
    data = browser.run(script.format(x, y) + f"(document.getElementById('{canvas}'))")
    return [sum(data[c::4]) / 16 for c in range(3)]


def after(browser, script):
    """Run a script and wait for the answer to the question that it leads to."""
    before = browser.run("Number(document.body.dataset.answered || 0)")
    browser.run(script) if isinstance(script, str) else script()
    browser.wait(f"Number(document.body.dataset.answered) > {before}")
    assert browser.text("error") == ""


@needs_browser
def test_a_drop_a_swap_and_a_threshold(server, files, tmp_path):
    with Browser(server.address, tmp_path / "profile") as browser:
        browser.wait("document.body.dataset.answered === '1'")  # the example is shown at once
        assert "of the picture at or above 0.50" in browser.text("facts")
        after(browser, lambda: drop(browser, files / "scene.png"))
        assert browser.run("document.querySelectorAll('#pictures button').length") == 2
        first = [glow(browser, place) for place in (1, 5)]

        after(browser, lambda: drop(browser, files / "tone5.wav"))  # another sound: the map moves
        second = [glow(browser, place) for place in (1, 5)]
        assert max(abs(a - b) for a, b in zip(first[0], second[0])) > 40
        assert max(abs(a - b) for a, b in zip(first[1], second[1])) > 40
        share = float(browser.text("facts").split()[0])
        assert 100 * 0.28**2 - 0.5 < share < 100 * 0.32**2 + 0.5  # A's square, B's is a little larger
        assert "highest P 0.95" in browser.text("facts") and "IoU 0.8" in browser.text("agree")

        after(
            browser, "[...document.querySelectorAll('#sounds button')].find(b => b.textContent === 'silence').click()"
        )
        assert browser.text("facts").startswith("0.0 %") and "IoU 0.00: not enough" in browser.text("agree")
        browser.slide("threshold", 0)
        assert browser.text("facts").startswith("100.0 %") and "IoU 1.00" in browser.text("agree")

        chosen = browser.call(
            "DOM.querySelector", nodeId=browser.call("DOM.getDocument")["root"]["nodeId"], selector="#files"
        )
        after(
            browser,
            lambda: browser.call("DOM.setFileInputFiles", nodeId=chosen["nodeId"], files=[str(files / "clip.webm")]),
        )
        browser.slide("threshold", 0.5)
        assert not browser.run("document.getElementById('moment').hidden")
        after(browser, lambda: browser.slide("moment", 1))
        early = glow(browser, 0)
        after(browser, lambda: browser.slide("moment", 7))
        assert max(abs(a - b) for a, b in zip(early, glow(browser, 0))) > 40

        bad = tmp_path / "bad.png"
        bad.write_bytes(b"no picture")
        drop(browser, bad)
        browser.wait("document.getElementById('error').textContent.startsWith('bad.png: cannot be decoded')")


@needs_browser
def test_webcam_and_microphone(server, tmp_path):
    fake = "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
    with Browser(server.address, tmp_path / "profile", fake) as browser:
        browser.wait("document.body.dataset.answered === '1'")
        after(browser, "document.getElementById('record').click()")
        assert browser.run("document.querySelector('#sounds button[aria-pressed=true]').title").startswith("webcam 1.")
        [clip] = [clip for clip in server.table.clips.values() if clip.name.startswith("webcam")]
        assert clip.frame == clip.sound and 1.5 < clip.seconds < 8

"""`fastdmt start`: sixty generated videos and a file of boxes end in a report without another word typed."""

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from fastdmt.cli.main import main

CLIPS, SIDE, RATE = 60, 64, 8000
TINY = "--size 32 --warmup-steps 2 --steps 2 --log-every 1 --logger jsonl"


def write_film(path: Path, k: int) -> list[float]:
    """A second of a bright square with a tone of its own; the square's box in pixels."""
    rng = np.random.default_rng(k)
    x, y = rng.integers(0, SIDE - 24, 2)
    picture = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
    picture[y : y + 24, x : x + 24] = (220, 200, 40 * (k % 5))
    with av.open(str(path), "w") as out:
        film = out.add_stream("mpeg4", rate=5)
        film.width, film.height, film.pix_fmt = SIDE, SIDE, "yuv420p"
        voice = out.add_stream("aac", rate=RATE, layout="mono")
        for i in range(5):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 5)
            out.mux(film.encode(frame))
        out.mux(film.encode(None))
        tone = (0.2 * np.sin(2 * np.pi * (300 + 200 * (k % 5)) * np.arange(RATE) / RATE)).astype(np.float32)
        for start in range(0, RATE, 1024):
            frame = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            out.mux(voice.encode(frame))
        out.mux(voice.encode(None))
    return [float(x), float(y), float(x + 24), float(y + 24)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> tuple[Path, dict[str, list[float]]]:
    folder = tmp_path_factory.mktemp("own videos")
    # One name in 64 of YouTube's begins with a dash.
    names = [f"{'-' if k == 7 else 'v'}ideo_{k:04d}" for k in range(CLIPS)]
    return folder, {name: write_film(folder / f"{name}.mp4", k) for k, name in enumerate(names)}


def coco(boxes: dict[str, list[float]]) -> dict:
    images = [{"id": k, "file_name": f"{n}.mp4", "width": SIDE, "height": SIDE} for k, n in enumerate(boxes)]
    corners = enumerate(boxes.values())
    items = [{"id": k, "image_id": k, "category_id": 1, "bbox": [x, y, u - x, v - y]} for k, (x, y, u, v) in corners]
    return {"images": images, "annotations": items, "categories": [{"id": 1, "name": "square"}]}


def vggss(boxes: dict[str, list[float]]) -> list[dict]:
    return [{"file": n, "class": "square", "bbox": [[v / SIDE for v in box]]} for n, box in boxes.items()]


def finished(out: Path) -> dict:
    """What a start must leave; the evaluation's summary."""
    assert (out / "run" / "eval" / "report.html").stat().st_size > 10_000
    assert len(list((out / "predictions").glob("*-overlay.*"))) == 3
    content = json.loads((out / "run" / "eval" / "metrics.json").read_text())
    assert content["summary"]["items"] == CLIPS // 5
    return content


def test_coco_boxes_end_in_a_report_and_a_second_call_repeats_nothing(videos, tmp_path, capsys):
    folder, boxes = videos
    (tmp_path / "boxes.json").write_text(json.dumps(coco(boxes)))
    words = ["start", str(folder), "--boxes", str(tmp_path / "boxes.json"), "--out", str(tmp_path / "out")]
    words += ["--preset", "demo", f"--train={TINY}"]
    assert main(words) == 0
    said = capsys.readouterr().out
    order = ["data prepare", "data boxes", "data index", "data check", "--plan", "train --preset", "eval", "predict"]
    lines = [line for line in said.splitlines() if "  fastdmt " in line and line[0].isdigit()]
    assert len(lines) == 8 and all(word in line for word, line in zip(order, lines))
    assert "time    about" in said and "60 of 60 clips" in said
    assert "--batch 36" in lines[5]  # the preset's 48 are more than sixty clips leave for training
    before = finished(tmp_path / "out")
    state = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.count("(is there)") == 6 and "60 were there" in said
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    kept = [path for path in state if "clean" not in path.parts]
    assert {path: again[path] for path in kept} == {path: state[path] for path in kept}
    assert finished(tmp_path / "out") == before


def test_vggss_boxes_beside_the_videos_are_found_and_a_killed_start_goes_on(videos, tmp_path):
    folder, boxes = videos
    own = tmp_path / "videos"
    own.mkdir()
    for path in folder.iterdir():
        os.link(path, own / path.name)
    (own / "vggss.json").write_text(json.dumps(vggss(boxes)))
    out = tmp_path / "out"
    words = [sys.executable, "-m", "fastdmt", "start", str(own), "--out", str(out), "--preset", "demo"]
    words += [f"--train={TINY} --batch 8 --steps 200 --save-every 1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as first:
        while first.poll() is None and not (out / "run" / "checkpoints" / "last").is_file():
            time.sleep(0.05)
        first.send_signal(signal.SIGTERM)
        rest = first.stdout.read()
    assert "saved; go on with" in rest and "call the same again" in rest and not (out / "run" / "eval").exists()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert f"train --run {out / 'run'} --resume" in done.stdout and "(is there)" in done.stdout
    finished(out)


def test_what_is_missing_is_said_at_once(videos, tmp_path, capsys):
    folder, _ = videos
    assert main(["start", str(folder), "--out", str(tmp_path / "out"), "--preset", "demo"]) == 2
    assert "--boxes FILE" in capsys.readouterr().err
    assert main(["start", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "no such file" in capsys.readouterr().err

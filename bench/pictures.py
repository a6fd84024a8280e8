"""The pictures of the documents, made anew.

    python bench/pictures.py RUN [--compare FOLDER] [--out docs]

strip.png    what an evaluation of RUN draws: frame, teachers, intersection, result
swap.png     a test clip's frame under its own sound, under another's, and under silence
player.png   the player of a video of RUN's data, in headless Chromium
curves.png   the curves of the comparison in FOLDER (what `fastdmt compare --run FOLDER` left), in headless Chromium

RUN is a run on the demo's files; FOLDER's runs are too. What cannot be made here is said and left as it is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import fastdmt
from fastdmt.cli.commands import evaluation
from fastdmt.data.run_data import open_files
from fastdmt.drawing import curves
from fastdmt.reports.predict import predict
from fastdmt.reports.report import write_strip
from fastdmt.reports.swap import swap

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FRAMES = 24  # of the evaluation's best that may show one frame with two sounds
EXAMPLES = 6  # items of the evaluation to choose from


def scene(model, dataset, result) -> tuple[Path, list[Path]]:
    """A test frame with two objects, and a sound for each: its own, and another clip's that marks the other object."""
    sounding = [i for i, pair in enumerate(result.pairs) if pair.sounding]
    order = sorted(sounding, key=lambda i: -result.arrays["ciou_absolute"][i])
    clearest = {}  # of every class
    for i in order:
        clearest.setdefault(result.classes.get(result.pairs[i].video), i)
    best, found = -1.0, (order[0], order[0])
    for i in order[:FRAMES]:
        frame = dataset.frame_path(result.pairs[i].video)
        maps = {
            j: np.asarray(model.localize(frame, dataset.sound_path(result.pairs[j].audio))) for j in clearest.values()
        }
        own = np.asarray(model.localize(frame, dataset.sound_path(result.pairs[i].audio)))
        for j, other in maps.items():
            both, either = (own >= 0.5) & (other >= 0.5), (own >= 0.5) | (other >= 0.5)
            alike = both.sum() / max(1, either.sum())
            sizes = [(m >= 0.5).mean() for m in (own, other)]
            score = min(own.max(), other.max()) * min(sizes) / max(*sizes, 1e-6) - alike
            if score > best:
                best, found = score, (i, j)
    return dataset.frame_path(result.pairs[found[0]].video), [dataset.sound_path(result.pairs[k].audio) for k in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--compare", type=Path, help="folder of `fastdmt compare`")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs")
    parser.add_argument("--moment", type=float, default=3.0, help="second of the video that the player shows")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = fastdmt.load(args.run)
    dataset, result = open_files(model.cfg), evaluation(model)

    write_strip(result, args.out / "strip.png", tile=180)
    shown(args.out / "strip.png")

    frame, sounds = scene(model, dataset, result)
    for path in swap(model, frame, sounds, args.out / "swap.png"):
        shown(path) if path.suffix == ".png" else path.unlink()

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    videos = sorted((model.cfg.data.root / "videos").glob("*"))[:1]
    if browser is None:
        sys.exit("no Chromium here: player.png and curves.png are left as they are")
    with tempfile.TemporaryDirectory() as folder:
        if videos:
            written = predict(model, videos, folder, player=True)
            page = next(path for path in written if path.name.endswith("-player.html"))
            text = page.read_text(encoding="utf-8").replace("</body>", f"{seeking(args.moment)}</body>")
            picture(browser, text, args.out / "player.png", (760, 900), folder)
        if args.compare:
            rows = json.loads((args.compare / "compare.json").read_text(encoding="utf-8"))["rows"]
            charts = curves.curves({name: [run["curves"] for run in runs] for name, runs in rows.items()})
            style = f"<style>body{{margin:12px;background:#fff;color:#181b20}}{curves.STYLE}</style>"
            page = f"<!doctype html><meta charset='utf-8'>{style}{charts}"
            picture(browser, page, args.out / "curves.png", (1010, 1200), folder)


def seeking(moment: float) -> str:
    """A script that shows one moment of the player's video, and says so by the page's title."""
    return f"<script>video.currentTime = {moment};</script>"


def picture(browser: str, page: str, target: Path, size: tuple[int, int], folder: str) -> None:
    """A page as the browser draws it, light, the empty rest below cut off."""
    source, raw = Path(folder) / "page.html", Path(folder) / "page.png"
    source.write_text(page, encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--mute-audio", "--no-first-run"]
    flags += [f"--user-data-dir={folder}/profile", f"--window-size={size[0]},{size[1]}", f"--screenshot={raw}"]
    flags += ["--virtual-time-budget=8000", "--force-device-scale-factor=1"]
    subprocess.run([browser, *flags, source.as_uri()], check=True, capture_output=True, timeout=200)
    image = np.asarray(Image.open(raw).convert("RGB"))
    used = np.flatnonzero((image != image[-1, -1]).any((1, 2)))
    Image.fromarray(image[: min(len(image), int(used[-1]) + 14)]).save(target, optimize=True)
    shown(target)


def shown(path: Path) -> None:
    with Image.open(path) as image:
        print(f"{path}: {image.width} x {image.height}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

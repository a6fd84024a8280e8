"""The command that makes the pictures of the documents, on a small run."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM
from PIL import Image, ImageColor
from tones import write_video

from fastdmt.drawing.curves import COLOURS

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "pictures.py"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "RGB", "no palette: nothing is dithered"
        return np.asarray(image).astype(int)


@pytest.mark.slow
def test_every_picture_is_made_and_whole(run, files, tmp_path, monkeypatch, capsys):
    data = shutil.copytree(files, tmp_path / "data", ignore=shutil.ignore_patterns("videos"))
    (data / "videos").mkdir()
    write_video(data / "videos" / "clip.mp4", each=1)
    mine = shutil.copytree(run, tmp_path / "run")
    settings = json.loads((mine / "config.json").read_text())
    settings["data"]["root"] = str(data)
    (mine / "config.json").write_text(json.dumps(settings))
    curve = {"val_ciou": [[0, 0.1], [5, 0.4], [10, 0.5]], "kept": [[0, 0.2], [10, 0.6]]}
    rows = {name: [{"curves": curve}] for name in ("supervised", "dmt")}
    (tmp_path / "compare.json").write_text(json.dumps({"rows": rows}))

    spec = importlib.util.spec_from_file_location("bench_pictures", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    words = [mine, "--compare", tmp_path, "--out", tmp_path / "docs", "--moment", "1"]
    monkeypatch.setattr(sys, "argv", ["pictures.py", *map(str, words)])
    if CHROMIUM is None:
        with pytest.raises(SystemExit, match=r"player\.png and curves\.png are left as they are"):
            module.main()
    else:
        module.main()

    for name in ("strip.png", "swap.png"):
        assert len(np.unique(pixels(tmp_path / "docs" / name).reshape(-1, 3), axis=0)) > 2000
    assert not list((tmp_path / "docs").glob("*.json"))
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: two of four pictures")

    player = pixels(tmp_path / "docs" / "player.png")
    assert (player[-10:] == player[-1, -1]).all() and player.shape[0] < 890, "not cut off below"
    # The video: discs of several greys, under a map.
    stage = player[60 : player.shape[0] // 2, 100:-100]
    assert len(np.unique(stage.reshape(-1, 3), axis=0)) > 500
    charts = pixels(tmp_path / "docs" / "curves.png")
    for colour in COLOURS[:2]:
        drawn = (np.abs(charts - ImageColor.getrgb(colour)).max(-1) < 3).nonzero()
        assert drawn[0].min() < 60, "the legend stands above the curves"
    assert (charts[:4] == charts[-1, -1]).all(), "cut above"

"""The documents: every command parses and runs, every example's output is right, every link and name exists."""

import dataclasses
import doctest
import importlib
import os
import re
import shlex
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from empty_files import touch
from rich.console import Console
from tones import name, write_data, write_video

from fastdmt import config, names, presets
from fastdmt.cli.main import COMMANDS, main, parse
from fastdmt.models.localizer import build_localizer
from fastdmt.presets import preset
from fastdmt.training.trainer import Trainer
from fastdmt_loaders import read_list
from fastdmt_loaders.tools.demo import make_demo

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
SMALL = "--size 32 --batch 8 --warmup-steps 2 --steps 2 --log-every 1 --eval-every 2".split()


def commands(page: Path) -> list[list[str]]:
    """Words of every `fastdmt` line in the page's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("fastdmt ")]
    return [shlex.split(line)[1:] for line in lines]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder as the documents assume it: data/demo and runs/demo, tiny; and the paths that the examples name."""
    home = tmp_path_factory.mktemp("home")
    make_demo(home / "data" / "demo", clips=48, labelled=10, seed=1)
    (home / "mine.yaml").write_text("labels: 5\n")
    base = preset("demo")
    data = dataclasses.replace(base.data, root=Path("data/demo"))
    optim = dataclasses.replace(base.optim, batch=8, warmup_steps=1, steps=1)
    before = os.getcwd()
    os.chdir(home)
    try:
        Trainer(dataclasses.replace(base, run=Path("runs/demo"), data=data, optim=optim), Console(quiet=True)).run()
    finally:
        os.chdir(before)
    return home


# ------------------------------------------------------------------ what takes seconds


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_command_parses(page, home, monkeypatch):
    monkeypatch.chdir(home)
    for words in commands(page):
        parse(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_options_and_presets_exist(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (page.parent / target).is_file(), target
    for script, options in re.findall(r"python (bench/\w+\.py)([^`\n]*)", text):
        source = (DOCS.parent / script).read_text(encoding="utf-8")
        for option in re.findall(r"--[a-z][a-z-]*", options):
            assert f'"{option}"' in source, (script, option)
    text = re.sub(r"python bench/\w+\.py[^`\n]*", "", text)
    known = set()
    for kind, _, _ in COMMANDS.values():
        known |= option_names(kind)
    for option in set(re.findall(r"--[a-z][a-z-]*", text)):
        assert option in known | {"--logdir"}, option
    for value in re.findall(r"--preset ([a-z0-9-]+)", text):
        assert value in presets.PRESETS
    for value in re.findall(r"--algorithm ([a-z-]+)", text):
        assert value in names.ALGORITHMS


def option_names(kind: type) -> set[str]:
    names = set()
    for f in dataclasses.fields(kind):
        value = f.default_factory() if f.default_factory is not dataclasses.MISSING else None
        if dataclasses.is_dataclass(value):
            names |= option_names(type(value))
        names.add("--" + {"root": "data"}.get(f.name, f.name).replace("_", "-"))
    return names


def test_every_box_of_the_figure_names_its_function():
    tree = ElementTree.parse(DOCS / "method.svg")
    space = "{http://www.w3.org/2000/svg}"
    groups = [g for g in tree.iter(f"{space}g") if g.get("data-function")]
    assert len(groups) == 12
    for group in groups:
        module, _, path = group.get("data-function").partition(":")
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        assert callable(found)
        shown = next(t.text for t in group.iter(f"{space}text") if t.get("class") == "code")
        assert f"{module.rpartition('.')[2]}.{path}".endswith(shown)
        # The name fits its box: 12 px monospace is 7.25 px a letter.
        assert 7.25 * len(shown) < float(group.find(f"{space}rect").get("width"))
    drawn = {(r.get("x"), r.get("y")) for r in tree.iter(f"{space}rect") if r.get("x")}
    assert len(drawn) == len(groups)


def test_defaults_quoted_by_the_method_page_are_those_of_the_program():
    text = (DOCS / "method.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"\| `--([a-z-]+)` \| `?([^,`|]+?)`?, ", text))
    pseudo, data = config.PseudoLabelConfig(), config.DataConfig()
    values = {"delta": pseudo.delta, "tau": pseudo.tau, "ignore-below": pseudo.ignore_below, "bn": pseudo.bn}
    values |= {"lambda-u": pseudo.lambda_u, "momentum": pseudo.momentum, "audio-augment": data.audio_augment}
    assert {k: rows[k] for k in values} == {k: f"{v:g}" if isinstance(v, float) else v for k, v in values.items()}


@pytest.mark.parametrize("page", ["python_api", "kernels"])
def test_examples_give_what_they_say(page, home, monkeypatch):
    monkeypatch.chdir(home)
    for run in ("runs/script", "runs/watched"):
        shutil.rmtree(run, ignore_errors=True)
    options = doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testfile(str(DOCS / f"{page}.md"), module_relative=False, optionflags=options)
    assert tried > 8 and not failed


def test_the_graph_runs_as_the_page_says(home, monkeypatch):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed (the extra [onnx])")
    monkeypatch.chdir(home)
    assert main(["export", "runs/demo", "released/onnx", "--format", "onnx"]) == 0
    shutil.copy(next(Path("data/demo/frames").iterdir()), "photo.jpg")
    soundfile.write("sound.wav", np.zeros(48000), 16000)
    failed, tried = doctest.testfile(str(DOCS / "sharing.md"), module_relative=False)
    assert tried > 8 and not failed


# ------------------------------------------------------------------ what trains


def run_page(page: str, monkeypatch, folder: Path) -> None:
    """Every command of a page in its order, trainings cut short."""
    monkeypatch.chdir(folder)
    for words in commands(DOCS / f"{page}.md"):
        words = [w for w in words]
        if words[0] == "start":  # the page has too few videos to split; its own test runs it
            continue
        if words[0] == "train" and "--resume" not in words:
            words += SMALL
        if words[0] == "compare":
            words = [w if w != "3" else "1" for w in words] + SMALL
            if "--labels" in words:  # of the ten that the small data set has
                words[words.index("--labels") + 1] = "5"
        if words[:2] == ["data", "demo"]:
            words += ["--clips", "48", "--labelled", "10"]
        assert main(words) == 0, words


@pytest.mark.slow
def test_quickstart_runs_from_an_empty_folder(tmp_path, monkeypatch):
    write_video(tmp_path / "clip.mp4")
    root = write_data(tmp_path / "own")
    shutil.copy(root / "frames" / f"{name(0)}.jpg", tmp_path / "photo.jpg")
    shutil.copy(root / "audio" / f"{name(0)}.wav", tmp_path / "sound.wav")
    run_page("quickstart", monkeypatch, tmp_path)
    for path in ("runs/demo/eval/report.html", "runs/compare/compare.html", "released/demo/README.md"):
        assert (tmp_path / path).is_file()
    assert {"photo-overlay.jpg", "clip-player.html"} <= set(os.listdir(tmp_path / "predictions"))


@pytest.mark.slow
@pytest.mark.parametrize("page", ["method", "metrics"])
def test_pages_that_start_from_the_demo(page, home, tmp_path, monkeypatch):
    folder = shutil.copytree(home, tmp_path / "home")
    run_page(page, monkeypatch, folder)


@pytest.mark.slow
def test_data_page_runs(home, metadata, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(home, tmp_path / "home"))
    (folder / "videos").mkdir()
    write_video(folder / "videos" / "first.mp4")
    write_video(folder / "videos" / "second.mp4", places=(3, 5))
    (folder / "boxes.csv").write_text("id,x0,y0,x1,y1\nfirst,0.1,0.1,0.5,0.5\nsecond,0.2,0.2,0.9,0.5\n")
    (folder / "lists").symlink_to(metadata)
    shutil.copytree(folder / "runs" / "demo", folder / "runs" / "mine")
    for kind, ids in (("vggsound", "vggss_test.csv"), ("flickr", "flickr_test.csv")):
        root = folder / "data" / kind
        root.mkdir()
        touch(root, read_list(metadata / ids)[::200], boxes=kind == "flickr")
    own = write_data(tmp_path / "own")
    for i in read_list(metadata / "vggss_test.csv")[::200]:  # real media under the official names
        shutil.copy(own / "frames" / f"{name(0)}.jpg", folder / "data" / "vggsound" / "frames" / f"{i}.jpg")
        shutil.copy(own / "audio" / f"{name(0)}.wav", folder / "data" / "vggsound" / "audio" / f"{i}.wav")
    theirs = build_localizer("ezvsl", "resnet18", "spectrogram", dim=32, output_stride=32).state_dict()
    names = {"visual.": "imgnet.", "visual_head.": "img_proj.", "audio.": "audnet.", "audio_head.": "aud_proj."}
    state = {b + k.removeprefix(a): t for k, t in theirs.items() for a, b in names.items() if k.startswith(a)}
    torch.save({"model": state}, folder / "best.pth")
    run_page("data", monkeypatch, folder)

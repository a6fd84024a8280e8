"""config.json as strangers write it: nothing is imported for its sake, and every wrong value is named."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from one_line import command, refused, refused_alone
from tiny_runs import tiny, train

import fastdmt
from fastdmt.config import TrainConfig, to_dict
from fastdmt.errors import FastDMTError
from fastdmt.runs.settings import from_dict, load_config
from fastdmt_loaders.tools.demo import make_demo

OWN = """
import os
from pathlib import Path
from fastdmt.models.localizer import Localizer
Path(os.environ.get("FASTDMT_TEST_MARK", "mark")).write_text("imported")
class Mine(Localizer):
    pass
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("settings")
    make_demo(folder / "data", clips=48, labelled=10, seed=1)
    cfg = tiny(folder / "data", folder / "run")
    train(dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, warmup_steps=1, steps=1)))
    return folder / "run"


@pytest.fixture
def hub(run, tmp_path, monkeypatch) -> Path:
    """The run as a stranger sends it: its config.json names a module that lies beside it."""
    folder = Path(shutil.copytree(run, tmp_path / "hub"))
    (folder / "evil_mod.py").write_text(OWN)
    rewritten(folder, lambda c: c["model"].update(localizer="evil_mod:Mine"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FASTDMT_TEST_MARK", str(tmp_path / "mark"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    sys.modules.pop("evil_mod", None)


def rewritten(folder: Path, change) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    changed = change(content)
    path.write_text(json.dumps(content if changed is None else changed))


def files(run: Path) -> list[Path]:
    data = run.parent / "data"
    return [next((data / name).iterdir()) for name in ("frames", "audio")]


# ------------------------------------------------------------------ a localizer that is code


@pytest.mark.parametrize("name", ["eval", "predict", "serve", "export", "train"])
def test_a_run_of_others_imports_no_module_of_the_current_folder(hub, run, tmp_path, name):
    more = {"predict": [".", *files(run)], "export": [".", tmp_path / "out"], "train": ["--run", ".", "--resume"]}
    line = refused(name, *more.get(name, ["."]))
    assert "evil_mod:Mine" in line and "--trust-localizer" in line
    assert not (tmp_path / "mark").exists() and "evil_mod" not in sys.modules
    assert "evil_mod:Mine" in refused(
        name, *more.get(name, ["."]), *["--trust-localizer", "other:Class"][: 2 * (name != "train")]
    )
    assert not (tmp_path / "mark").exists()


def test_load_imports_what_the_user_names_and_nothing_else(hub, tmp_path):
    with pytest.raises(FastDMTError, match="is code"):
        fastdmt.load(hub)
    with pytest.raises(FastDMTError, match="is code"):
        fastdmt.load(hub, trust_localizer="evil_mod:Other")
    assert not (tmp_path / "mark").exists()
    model = fastdmt.load(hub, trust_localizer="evil_mod:Mine")
    assert type(model.teachers[0]).__name__ == "Mine" and (tmp_path / "mark").read_text() == "imported"


@pytest.mark.slow
def test_a_hostile_current_folder_is_not_searched(hub, run, tmp_path):
    """Packages that are asked for and may not be installed, a module of the standard library, one of ours."""
    rewritten(hub, lambda c: c["model"].update(localizer="dmt"))
    for name in (
        "simplejpeg",
        "wandb",
        "amp_C",
        "apex",
        "onnx",
        "gradio",
        "json",
        "numpy",
        "torch",
        "tyro",
        "fastdmt_loaders",
    ):
        (hub / f"{name}.py").write_text(OWN)
    for words in (["--version"], ["predict", ".", *files(run), "--out", tmp_path / "out"]):
        done = command(*words, cwd=hub, FASTDMT_TEST_MARK=str(tmp_path / "mark"))
        assert done.returncode == 0, done.stderr
    assert "evil" in refused_alone("eval", ".", "--list", "evil.txt", cwd=hub)
    assert not (tmp_path / "mark").exists()


def test_ones_own_localizer_trains_resumes_evaluates_and_is_exported(run, tmp_path, monkeypatch):
    (tmp_path / "fastdmt_test_own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    own = ["--localizer", "fastdmt_test_own:Mine"]
    small = "--size 32 --batch 8 --warmup-steps 1 --steps 1 --logger jsonl --device cpu --workers 0".split()
    from fastdmt.cli.main import main

    assert main(["train", "--data", str(run.parent / "data"), "--run", "mine", *small, *own]) == 0
    assert "is code" in refused("train", "--run", "mine", "--resume")
    assert main(["train", "--run", "mine", "--resume", *own]) == 0
    trusted = ["--trust-localizer", own[1]]
    assert "is code" in refused("export", "mine", "out")
    assert main(["export", "mine", "out", *trusted]) == 0
    assert "is code" in refused("eval", "out", "--data", run.parent / "data")
    assert main(["eval", "out", "--data", str(run.parent / "data"), *trusted]) == 0


# ------------------------------------------------------------------ values


WRONG = {
    "a list": lambda c: [],
    "a number": lambda c: 3,
    "null": lambda c: {"model": None},
    "a group that is a list": lambda c: c.update(model=["dmt"]),
    "dim -1": lambda c: c["model"].update(dim=-1),
    "dim of terabytes": lambda c: c["model"].update(dim=1 << 40),
    "dim as text": lambda c: c["model"].update(dim="128"),
    "dim as a float": lambda c: c["model"].update(dim=128.0),
    "dim true": lambda c: c["model"].update(dim=True),
    "another encoder": lambda c: c["model"].update(visual="resnet19"),
    "an encoder that is a list": lambda c: c["model"].update(audio_a=["vggish"]),
    "stride 7": lambda c: c["model"].update(output_stride=7),
    "temperature NaN": lambda c: c["model"].update(temperature=float("nan")),
    "temperature 0": lambda c: c["model"].update(temperature=0),
    "affine of one": lambda c: c["model"].update(affine_init=[1.0]),
    "affine of texts": lambda c: c["model"].update(affine_init=["a", "b"]),
    "size 10**9": lambda c: c["data"].update(size=10**9),
    "seconds infinite": lambda c: c["data"].update(seconds=float("inf")),
    "seconds of a year": lambda c: c["data"].update(seconds=3e7),
    "root a dict": lambda c: c["data"].update(root={"a": 1}),
    "root with a null byte": lambda c: c["data"].update(root="a\0b"),
    "batch 2": lambda c: c["optim"].update(batch=2),
    "unknown": lambda c: c.update(nested={"a": 1}),
    "localizer unknown": lambda c: c["model"].update(localizer="nope"),
    "localizer a list": lambda c: c["model"].update(localizer=[":"]),
    "localizer of two lines": lambda c: c["model"].update(localizer="a:b\nc"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_one_line(tmp_path, name):
    content = to_dict(TrainConfig())
    changed = WRONG[name](content)
    (tmp_path / "config.json").write_text(json.dumps(content if changed is None else changed))
    assert "config.json" in refused("eval", tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"seed": 1' + "0" * 5000 + "}", "\xff\xfe", " " * (2 << 20)])
def test_what_is_no_json_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin1"))
    assert "config.json" in refused("export", tmp_path, tmp_path / "out")


def test_every_type_comes_back(tmp_path):
    cfg = TrainConfig(run=tmp_path, warm_from=Path("a"))
    cfg = dataclasses.replace(cfg, pseudo=dataclasses.replace(cfg.pseudo, ignore_below=None, tau=1))
    (tmp_path / "config.json").write_text(json.dumps(to_dict(cfg)))
    assert load_config(tmp_path) == cfg and from_dict(json.loads(json.dumps(to_dict(cfg)))) == cfg
    assert os.fspath(load_config(tmp_path).data.root) == "data/demo"

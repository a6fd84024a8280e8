"""Names that look like markup, protocols, options or nothing at all, and screens without UTF-8."""

import json
import os
import shutil
from pathlib import Path

import pytest
from one_line import command
from tiny_runs import tiny, train

from fastdmt.cli import commands
from fastdmt.cli.main import main
from fastdmt.console import one_line
from fastdmt_loaders.tools.demo import make_demo

SIZE = ["--size", "32", "--batch", "8", "--warmup-steps", "2", "--steps", "2", "--workers", "0", "--log-every", "1"]
NOT_UTF8 = os.fsdecode(b"\xff\xfe")
# All at once, because each costs a training; `slow` tells which it was.
ODD = "12:30 [bold][x] é\x1b[31m\n%s"
EACH = [
    "[bold] x",
    "[x]",
    "12:30 talk",
    NOT_UTF8,
    "a\nb",
    "a\x1b[31mb",
    " lead ",
    "{x} %s",
    "é\u2028 ü",
    "...",
    "concat:a|b",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "data"
    make_demo(root, clips=48, labelled=10, seed=1)
    return root


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    train(tiny(files, run))
    return run


def every_command(name: str, files: Path, capsys) -> None:
    """The whole way of a user whose folders have this name, by relative paths."""
    there = Path(name)
    data, run, out = there / "data", there / "run", there / "out"
    shutil.copytree(files, data)
    clip = (data / "labelled.txt").read_text().split()[0]
    frame, sound = (next((data / folder).glob(f"{clip}.*")) for folder in ("frames", "audio"))
    talk = there / f"talk {name.strip()}.mp4" if "/" not in name else there / "talk.mp4"
    shutil.copy(next((data / "videos").glob("*.mp4")), talk)
    for words, written in (
        (("train", "--data", data, "--run", run, *SIZE), run / "best.safetensors"),
        (("eval", run), run / "eval" / "report.html"),
        (("eval", run, "--data", data, "--out", out / "e"), out / "e" / "metrics.json"),
        (("predict", run, frame, sound, talk, "--out", out / "p", "--fps", "1"), out / "p" / f"{talk.stem}-strip.png"),
        (("predict", run, data, "--out", out / "p2"), out / "p2"),
        (("export", run, out / "hub"), out / "hub" / "model.safetensors"),
        (("data", "check", data, "--workers", "1"), data / "clean" / "train.txt"),
        (("data", "prepare", there, out / "from videos", "--workers", "1"), None),
        (("data", "prepare", data, out / "prepared", "--workers", "1"), out / "prepared" / "train.txt"),
        (("data", "pack", data, out / "shards", "--workers", "1"), out / "shards" / "shards.json"),
        (("data", "check", out / "shards", "--workers", "1"), None),
        (("slurm", out / "job.sh", "--run", run), out / "job.sh"),
    ):
        capsys.readouterr()
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        assert code == 0, (words, said)
        assert written is None or written.exists(), words
        if words[0] in ("train", "export", "slurm") or words[1] == "pack":
            last = {"train": run, "export": out / "hub", "slurm": out / "job.sh"}.get(words[0], out / "shards")
            assert one_line(str(last)) in said.out, (words, said.out)
    assert sorted(path.name for path in Path().iterdir()) == [name], "nothing is written beside"


def test_odd_names_everywhere(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    every_command(ODD, files, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_each_odd_name(files, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    every_command(name, files, capsys)


def test_ids_that_are_no_utf8_train(files, tmp_path):
    """Lists, the split, workers and reports carry the bytes of a file's name."""
    data = Path(shutil.copytree(files, tmp_path / "data"))
    for path in [*(data / "frames").iterdir(), *(data / "audio").iterdir(), *(data / "Annotations").iterdir()]:
        path.rename(path.with_name(NOT_UTF8 + path.name))
    for name in ("train.txt", "labelled.txt", "val.txt", "test.csv"):
        ids = (data / name).read_text().split()
        (data / name).write_bytes(b"".join(os.fsencode(NOT_UTF8 + i) + b"\n" for i in ids))
    (data / "vggss.json").unlink()
    run = tmp_path / "run"
    assert main(["train", "--data", str(data), "--run", str(run), *SIZE[:-2], "--workers", "1"]) == 0
    assert main(["eval", str(run)]) == 0
    items = json.loads((run / "eval" / "metrics.json").read_text())["items"]
    assert items and all(item["video"].startswith(NOT_UTF8) for item in items)
    assert (run / "lists" / "test.txt").read_bytes().startswith(os.fsencode(NOT_UTF8))


@pytest.mark.parametrize("stem", [".", "..", "...", ".hidden", "-", "a-overlay"])
def test_predictions_stay_in_their_folder(trained, files, tmp_path, monkeypatch, stem):
    monkeypatch.chdir(tmp_path)
    frame = next((files / "frames").iterdir())
    sound = next((files / "audio").glob(f"{frame.stem}.*"))
    shutil.copy(frame, f"{stem}.jpg")
    shutil.copy(sound, f"{stem}{sound.suffix}")
    before = set(tmp_path.rglob("*"))
    assert main(["predict", str(trained), f"./{stem}.jpg", f"./{stem}{sound.suffix}", "--out", "po"]) == 0
    new = set(tmp_path.rglob("*")) - before - {tmp_path / "po"}
    assert len(new) == 3 and all(path.parent == tmp_path / "po" for path in new), new


# ------------------------------------------------------------------ screens


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_screen_without_utf8_shows_what_it_can(trained, tmp_path, encoding):
    done = command("eval", trained, "--out", tmp_path / "é", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "é" / "metrics.json").read_text())["items"]
    assert "threshold" in done.stdout and ("?" in done.stdout) == (encoding == "ascii")


def test_nothing_computed_is_lost_to_a_screen(trained, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise UnicodeEncodeError("ascii", "±", 0, 1, "a screen that fails")

    monkeypatch.setattr(commands.CONSOLE, "print", broken)
    with pytest.raises(UnicodeEncodeError):
        main(["eval", str(trained), "--out", str(tmp_path / "e")])
    assert {p.name for p in (tmp_path / "e").iterdir()} == {"metrics.json", "report.html", "strip.png"}

"""`fastdmt data`: every command ends with one that can be typed next, and that next one runs."""

import json
import shlex
from pathlib import Path

import pytest

from fastdmt.cli.main import main
from fastdmt_loaders.tools.demo import make_demo


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Frames and sounds as a person has them: no boxes, no lists, a blank in the folder's name."""
    root = tmp_path_factory.mktemp("my data") / "tree"
    make_demo(root, clips=24, labelled=8, seed=1, videos=0)
    boxes = json.loads((root / "vggss.json").read_text())
    lines = [",".join([b["file"], *map(str, b["bbox"][0])]) for b in boxes]
    (root.parent / "boxes.csv").write_text("id,x0,y0,x1,y1\n" + "\n".join(lines))
    for path in [*root.glob("*.txt"), *root.glob("*.csv"), root / "vggss.json", *(root / "Annotations").iterdir()]:
        path.unlink()
    (root / "Annotations").rmdir()
    return root


def typed(capsys, words: list[str]) -> list[str]:
    """Run a command; the words of the one that it names next."""
    assert main(words) == 0
    line = capsys.readouterr().out.strip().splitlines()[-1]
    return shlex.split(line.removeprefix("next: ").strip())


def test_from_a_tree_of_files_to_training_by_typing_what_is_said(tree, tmp_path, capsys):
    data = tmp_path / "my data"
    said = typed(capsys, ["data", "prepare", str(tree), str(data), "--side", "64"])
    assert said == ["fastdmt", "data", "boxes", "FILE", str(data)]
    said[said.index("FILE")] = str(tree.parent / "boxes.csv")
    said = typed(capsys, said[1:])
    assert said == ["fastdmt", "data", "index", str(data), "--own"]
    said = typed(capsys, said[1:])
    assert said == ["fastdmt", "data", "check", str(data)]
    said = typed(capsys, said[1:])
    assert said == ["fastdmt", "train", "--data", str(data)]
    shards = tmp_path / "shards"
    assert typed(capsys, ["data", "pack", str(data), str(shards)]) == ["fastdmt", "train", "--data", str(shards)]


def test_after_a_check_that_fails_training_on_the_clean_lists_is_next(tree, tmp_path, capsys):
    data = tmp_path / "data"
    assert main(["data", "prepare", str(tree), str(data), "--side", "64"]) == 0
    assert main(["data", "boxes", str(tree.parent / "boxes.csv"), str(data)]) == 0
    assert main(["data", "index", str(data), "--own"]) == 0
    (data / "audio" / f"{(data / 'labelled.txt').read_text().split()[0]}.flac").write_bytes(b"")
    capsys.readouterr()
    assert main(["data", "check", str(data)]) == 1
    said = shlex.split(capsys.readouterr().out.strip().splitlines()[-1])
    assert said[:3] == ["next:", "fastdmt", "train"]
    short = ["--run", str(tmp_path / "run"), "--size", "32", "--batch", "8", "--warmup-steps", "1", "--steps", "1"]
    assert main([*said[2:], *short]) == 0


def test_index_wants_to_know_whose_lists(tmp_path, capsys):
    for words in (
        [],
        ["--own", "--dataset", "flickr"],
        ["--own", "--dataset", "flickr", "--lists", "x"],
        ["--lists", "x"],
    ):
        assert main(["data", "index", str(tmp_path), *words]) == 2
        assert "--own" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "one/two", "1/0"])
def test_a_part_that_is_none_is_one_line(tree, tmp_path, capsys, part):
    assert main(["data", "prepare", str(tree), str(tmp_path / "out"), "--part", part]) == 2
    assert f"--part {part}" in capsys.readouterr().err and not (tmp_path / "out").exists()

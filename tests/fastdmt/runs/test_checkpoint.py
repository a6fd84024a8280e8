"""Checkpoints that were damaged after they were written: an older one is taken, and somebody is told."""

import contextlib
import io
import os
import shutil
from pathlib import Path

import pytest
import torch
from one_line import refused
from safetensors.torch import load_file, save_file
from tiny_runs import final, tiny, train

from fastdmt.cli.main import main
from fastdmt.distributed.processes import World
from fastdmt.errors import FastDMTError
from fastdmt.runs import checkpoint
from fastdmt.runs.checkpoint import DIGESTS, Saver
from fastdmt_loaders.tools.demo import make_demo

FILES = ("state.pt", ".metadata", "__0_0.distcp", DIGESTS)


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {"students.0.w": torch.full((40, 3), float(step)), "teachers.0.w": torch.full((7,), float(-step))}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Checkpoints of steps 1 to 4, of which 3 and 4 are kept."""
    run = tmp_path_factory.mktemp("saved")
    saver = Saver(run, 2, World(torch.device("cpu")))
    for step in range(1, 5):
        saver.save(step, tensors(step), {"done": step})
    saver.close()
    assert sorted(os.listdir(run / "checkpoints")) == ["last", "step-0000003", "step-0000004"]
    assert sorted(os.listdir(run / "checkpoints" / "step-0000004")) == sorted(FILES)
    return run


@pytest.fixture
def run(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


def holds(folder: Path, step: int) -> bool:
    loaded = checkpoint.load_tensors(folder)
    state = checkpoint.read_state(folder)["done"]
    return state == step and all(torch.equal(loaded[k], t) for k, t in tensors(step).items())


def flip(at: float):
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[min(int(at * len(content)), len(content) - 1)] ^= 16
        path.write_bytes(content)

    return change


def cut(share: float, less: int = 0):
    return lambda path: os.truncate(path, max(int(share * path.stat().st_size) - less, 0))


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


WAYS = {
    "missing": Path.unlink,
    "empty": cut(0),
    "cut in half": cut(0.5),
    "cut by two bytes": cut(1, 2),
    "a bit in the middle": flip(0.5),
    "a bit at the end": flip(1),
    "text": lambda path: path.write_text("not what it was"),
    "a folder": folder_instead,
}
DAMAGE = [(file, way) for file in FILES for way in WAYS if (file, way) != (DIGESTS, "missing")]


@pytest.mark.parametrize(("file", "way"), DAMAGE)
def test_the_older_one_is_taken(run, file, way):
    WAYS[way](run / "checkpoints" / "step-0000004" / file)
    folder, (note,) = checkpoint.newest(run)
    assert folder.name == "step-0000003" and holds(folder, 3)
    assert "step-0000004 is damaged" in note and "going on from step-0000003" in note and "\n" not in note


def test_one_of_an_older_version_has_no_digests(run):
    folder = run / "checkpoints" / "step-0000004"
    (folder / DIGESTS).unlink()
    assert checkpoint.newest(run) == (folder, []) and holds(folder, 4)
    for name in ("state.pt", ".metadata", "__0_0.distcp"):
        content = (folder / name).read_bytes()
        os.truncate(folder / name, len(content) // 2)
        assert checkpoint.newest(run)[0].name == "step-0000003"
        (folder / name).write_bytes(content)


POINTERS = {
    "empty": b"",
    "text": b"hello\n",
    "bytes": b"\xff\xfe\x00",
    "elsewhere": b"../../step-0000003",
    "a number": b"4",
    "one that is gone": b"step-0000009",
}


@pytest.mark.parametrize("name", [*POINTERS, "a folder", "missing"])
def test_a_pointer_to_nothing_finds_the_newest(run, name):
    path = run / "checkpoints" / "last"
    path.unlink()
    if name == "a folder":
        path.mkdir()
    elif name != "missing":
        path.write_bytes(POINTERS[name])
    folder, notes = checkpoint.newest(run)
    assert folder.name == "step-0000004" and holds(folder, 4)
    assert len(notes) == (name != "missing")


def test_the_pointer_wins_over_a_later_folder(run):
    """A crash between the renaming and the pointer, or a person who went back."""
    (run / "checkpoints" / "last").write_text("step-0000003")
    assert checkpoint.newest(run) == (run / "checkpoints" / "step-0000003", [])


def test_nothing_whole_is_refused_with_advice_that_works(run):
    for step in (3, 4):
        (run / "checkpoints" / f"step-000000{step}" / "state.pt").unlink()
    with pytest.raises(FastDMTError, match=r"no checkpoint .* is whole; .*remove .*checkpoints and --resume") as caught:
        checkpoint.newest(run)
    assert "\n" not in str(caught.value)
    shutil.rmtree(run / "checkpoints")
    assert checkpoint.newest(run) == (None, []) and checkpoint.last_step(run) is None


def test_what_goes_on_from_an_older_one_removes_the_damaged(run):
    flip(0.5)(run / "checkpoints" / "step-0000004" / "state.pt")
    saver = Saver(run, 2, World(torch.device("cpu")))
    saver.save(3, tensors(3), {"done": 3})
    saver.close()
    assert sorted(os.listdir(run / "checkpoints")) == ["last", "step-0000003"]
    assert holds(checkpoint.newest(run)[0], 3)


def test_weights_that_are_not_finite_are_named(run):
    saver = Saver(run, 2, World(torch.device("cpu")))
    saver.save(5, tensors(5) | {"teachers.0.w": torch.tensor([1.0, float("nan")])}, {"done": 5})
    saver.close()
    for read in (checkpoint.load_tensors, lambda f: checkpoint.load_into(f, {"teachers.0.w": torch.zeros(2)})):
        with pytest.raises(FastDMTError, match=r"step-0000005: teachers\.0\.w is not finite \(1 of 2"):
            read(run / "checkpoints" / "step-0000005")


# ------------------------------------------------------------------ a full disk, in the middle of a checkpoint


@pytest.mark.parametrize("failing", ["_write_state", "dcp.save", "publish", "write_text"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(27, "File too large")])
def test_a_full_disk_leaves_no_part_behind(run, monkeypatch, failing, error):
    def full(*args, **kwargs):
        raise error

    saver = Saver(run, 2, World(torch.device("cpu")))
    with monkeypatch.context() as patch:
        patch.setattr(f"fastdmt.runs.checkpoint.{failing}", full)
        saver.save(5, tensors(5), {"done": 5})
        with pytest.raises(FastDMTError, match=r"step-0000005: the disk is full; the checkpoint of step 4 is whole"):
            saver.wait()
    assert not [name for name in os.listdir(run / "checkpoints") if name.startswith(".")]
    assert holds(checkpoint.newest(run)[0], 4)


# ------------------------------------------------------------------ whole runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    make_demo(folder / "data", clips=48, labelled=10, seed=1)
    train(tiny(folder / "data", folder / "run"))
    return folder / "run"


def test_a_run_goes_on_from_the_older_one_to_the_same_bits(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    cut(0.5)(run / "checkpoints" / "step-0000010" / "__0_0.distcp")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["train", "--run", str(run), "--resume"]) == 0
    expected, mine = final(whole), final(run)
    assert all(torch.equal(t, mine[k]) for k, t in expected.items())
    assert "going on from step-0000008" in (run / "train.log").read_text()
    assert (run / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_commands_take_the_older_one_or_refuse_in_one_line(whole, tmp_path, caplog):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    flip(0.5)(run / "checkpoints" / "step-0000010" / "__0_0.distcp")
    assert main(["export", str(run), str(tmp_path / "out"), "--weights", "last"]) == 0
    assert "going on from step-0000008" in caplog.text
    for step in (run / "checkpoints").glob("step-*"):
        (step / ".metadata").write_bytes(b"")
    for words in (["eval", run, "--weights", "last"], ["train", "--run", run, "--resume"]):
        assert "no checkpoint of" in refused(*words)
    (run / "best.safetensors").unlink()
    assert "no checkpoint of" in refused("eval", run)


def test_spoiled_weights_are_refused_by_every_command(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    best = load_file(run / "best.safetensors")
    best["teachers.0.affine"] *= float("nan")
    save_file(best, run / "best.safetensors")
    data = whole.parent / "data"
    frame, sound, video = (next((data / name).iterdir()) for name in ("frames", "audio", "videos"))
    for words in (["eval", run], ["predict", run, frame, sound], ["predict", run, video], ["export", run, "out"]):
        line = refused(*words)
        assert "best.safetensors" in line and "teachers.0.affine is not finite" in line


PROGRESS = {
    "stage": "unbiased",
    "done": 4,
    "best": 0.5,
    "best_warmup": [0.1, 0.2],
    "rng": [{"cpu": torch.get_rng_state()}],
}


@pytest.mark.parametrize(
    "change",
    [
        {"stage": None},
        {"done": "4"},
        {"best": None},
        {"best_warmup": 0.1},
        {"best_warmup": ["a"]},
        {"rng": []},
        {"rng": [{"gpu": 1}]},
        {"rng": [{"cpu": [1, 2]}]},
        {"rng": None},
    ],
)
def test_a_state_that_is_no_progress_is_named(tmp_path, change):
    torch.save(PROGRESS, tmp_path / "state.pt")
    assert checkpoint.read_progress(tmp_path)["done"] == 4
    for state in (PROGRESS | change, {k: v for k, v in PROGRESS.items() if k not in change}, [1], 3):
        torch.save(state, tmp_path / "state.pt")
        with pytest.raises(FastDMTError, match=r"state\.pt holds no progress of a training"):
            checkpoint.read_progress(tmp_path)

"""Hostile and broken indexes of checkpoints: nothing of them runs, and every command says so in one line."""

import io
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from one_line import refused
from tiny_runs import tiny, train
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from fastdmt.errors import FastDMTError
from fastdmt.runs import checkpoint
from fastdmt.runs.checkpoint import DIGESTS
from fastdmt.runs.index import NAME, read_index
from fastdmt_loaders.tools.demo import make_demo

RAN = "fastdmt_test_payload_ran"


class Payload:
    """Leaves a mark in this process's environment when it is unpickled."""

    def __reduce__(self):
        return exec, (f"import os; os.environ[{RAN!r}] = '1'",)


@pytest.fixture(autouse=True)
def nothing_ran():
    os.environ.pop(RAN, None)
    yield
    assert os.environ.pop(RAN, None) is None, "code of a file ran"


def test_the_payload_works():
    pickle.loads(pickle.dumps(Payload()))
    assert os.environ.pop(RAN) == "1"


TENSORS = {
    "a": torch.arange(12.0).reshape(3, 4),
    "b": torch.arange(5, dtype=torch.bfloat16),
    "c": torch.tensor(7),
    "empty": torch.zeros(0, 3),
    "half": torch.ones(2, dtype=torch.float16),
    "flag": torch.tensor([True, False]),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "step-0000001"
    dcp.save(dict(TENSORS), checkpoint_id=path, no_dist=True)
    return path


def test_what_a_saver_wrote_is_read_as_torch_reads_it(folder):
    with open(folder / NAME, "rb") as file:
        theirs = pickle.load(file)
    mine = read_index(folder)
    assert mine.state_dict_metadata == theirs.state_dict_metadata and mine.storage_data == theirs.storage_data
    loaded = checkpoint.load_tensors(folder, ("",))
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[k], t) and loaded[k].dtype == t.dtype for k, t in TENSORS.items())


def swapped(folder: Path, change) -> None:
    """Replace the index by a changed one, written as torch writes it."""
    with open(folder / NAME, "rb") as file:
        index = pickle.load(file)
    changed = change(index)
    (folder / NAME).write_bytes(pickle.dumps(index if changed is None else changed))


def as_bytes(index):
    """torch unpickles the content of an entry that is no tensor, with nothing restricted."""
    index.state_dict_metadata["a"] = BytesStorageMetadata()
    index.storage_data[MetadataIndex("a")] = _StorageInfo("evil.distcp", 0, 10_000)


HOSTILE = {
    "code alone": lambda index: Payload(),
    "in a list": lambda index: [index, Payload()],
    "as a key": lambda index: index.state_dict_metadata.update({Payload(): None}),
    "in the planner's data": lambda index: setattr(index, "planner_data", {"a": Payload()}),
    "in what is read last": lambda index: setattr(index, "storage_meta", Payload()),
    "in a type": lambda index: setattr(index.state_dict_metadata["a"].properties, "dtype", Payload()),
    "bytes": as_bytes,
    "a builtin": lambda index: print,
    "a class of torch": lambda index: torch.nn.Linear(2, 2),
    "a tensor": lambda index: torch.zeros(2),
    "a lookup": lambda index: getattr,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_code_in_an_index_never_runs(folder, name):
    if name == "bytes":
        held = io.BytesIO()
        torch.save(Payload(), held)
        (folder / "evil.distcp").write_bytes(held.getvalue().ljust(10_000, b"\0"))
    swapped(folder, HOSTILE[name])
    for read in (lambda: checkpoint.load_tensors(folder, ("",)), lambda: checkpoint.load_into(folder, dict(TENSORS))):
        with pytest.raises(FastDMTError, match="refused"):
            read()


def without_file(index):
    for info in index.storage_data.values():
        info.relative_path = "__9_0.distcp"


def outside(index):
    for info in index.storage_data.values():
        info.relative_path = "../step-0000001/__0_0.distcp"


def beyond(index):
    next(iter(index.storage_data.values())).offset = 1 << 40


BROKEN = {
    "nothing in it": (b"", ""),
    "text": (b"<html>not found</html>", ""),
    "an empty dict": (lambda index: {}, ""),
    "no tensors": (lambda index: setattr(index, "state_dict_metadata", None), ""),
    "a file that is missing": (without_file, "__9_0.distcp is missing"),
    "a file outside": (outside, "no file of its folder"),
    "a place behind the end": (beyond, "cut off"),
    "larger than memory": (
        lambda index: setattr(index.state_dict_metadata["a"], "size", torch.Size([1 << 40, 1 << 10])),
        "larger than its files",
    ),
    "a negative size": (lambda index: setattr(index.state_dict_metadata["a"], "size", torch.Size([-1])), "no size"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_index_is_named(folder, name):
    change, reason = BROKEN[name]
    if isinstance(change, bytes):
        (folder / NAME).write_bytes(change)
    else:
        swapped(folder, change)
    with pytest.raises(FastDMTError, match=reason) as caught:
        checkpoint.load_tensors(folder, ("",))
    assert str(folder / NAME) in str(caught.value) and "\n" not in str(caught.value)


def test_every_cut_of_an_index_is_refused(folder):
    whole = (folder / NAME).read_bytes()
    for length in range(0, len(whole), 7):
        (folder / NAME).write_bytes(whole[:length])
        with pytest.raises(FastDMTError):
            read_index(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    make_demo(folder / "data", clips=48, labelled=10, seed=1)
    train(tiny(folder / "data", folder / "run"))
    (folder / "run" / "best.safetensors").unlink()
    for step in (folder / "run" / "checkpoints").glob("step-*"):
        (step / NAME).write_bytes(pickle.dumps(Payload()))
        (step / DIGESTS).unlink()  # whoever sends it makes it fit, or leaves it out
    return folder / "run"


@pytest.mark.parametrize("command", ["eval", "eval --weights last", "export", "export --weights last", "predict"])
def test_no_command_runs_code_of_a_checkpoint(run, tmp_path, command):
    name, *more = command.split()
    if name == "export":
        more.append(tmp_path / "out")
    if name == "predict":
        more = [next((run.parent / "data" / folder).iterdir()) for folder in ("frames", "audio")]
    assert "refused" in refused(name, run, *more)


def test_resuming_runs_no_code_of_a_checkpoint(run, tmp_path):
    again = Path(shutil.copytree(run, tmp_path / "run"))
    assert "refused" in refused("train", "--run", again, "--resume")
    assert RAN not in os.environ and "fastdmt_test_payload" not in sys.modules

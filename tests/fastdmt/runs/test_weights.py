"""Weight files under damage: what loads is what was written, or one line says what is wrong with it."""

import hashlib
import os
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fastdmt.errors import FastDMTError
from fastdmt.runs.weights import digest, looks_like, read_weights, write_weights

TENSORS = {
    "teachers.0.affine": torch.tensor([10.0, -5.0]),
    "a.weight": torch.arange(24.0).reshape(2, 3, 4),
    "half": torch.ones(5, dtype=torch.float16),
    "brain": torch.arange(5, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "flags": torch.tensor([True, False, True]),
    "nothing": torch.zeros(0, 3),
}


@pytest.fixture
def file(tmp_path) -> Path:
    write_weights(tmp_path / "w.safetensors", TENSORS)
    return tmp_path / "w.safetensors"


def same(mine, theirs) -> bool:
    return mine.keys() == theirs.keys() and all(
        torch.equal(t, theirs[k]) and t.dtype == theirs[k].dtype for k, t in mine.items()
    )


def test_others_read_the_file_and_the_digest_is_of_what_it_says(file):
    assert same(load_file(file), TENSORS) and same(read_weights(file, ""), TENSORS)
    total = hashlib.sha256()
    for name in sorted(TENSORS):
        tensor = TENSORS[name]
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(bytes(tensor.contiguous().flatten().view(torch.uint8).tolist()))
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"format": "pt", "sha256": total.hexdigest()}
    assert os.listdir(file.parent) == [file.name]


def test_no_flipped_bit_gives_other_weights(file):
    """Header and values alike: what still loads is what was written."""
    whole, draw = file.read_bytes(), random.Random(0)
    refused = 0
    for bit in draw.sample(range(8 * len(whole)), 600):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        file.write_bytes(broken)
        try:
            assert same(read_weights(file, ""), TENSORS), bit
        except FastDMTError as error:
            refused += 1
            assert str(file) in str(error) and "\n" not in str(error)
    assert refused > 300


def test_no_cut_file_loads(file):
    whole = file.read_bytes()
    for length in range(0, len(whole), 5):
        file.write_bytes(whole[:length])
        with pytest.raises(FastDMTError, match="mend it"):
            read_weights(file, "mend it")


def test_a_file_of_another_program_loads(tmp_path):
    save_file(TENSORS, tmp_path / "plain.safetensors")
    assert same(read_weights(tmp_path / "plain.safetensors", ""), TENSORS)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.float8_e5m2]
)
def test_no_value_that_is_not_finite_is_written_or_read(tmp_path, kind, value):
    spoiled = torch.zeros(6)
    spoiled[4] = value
    tensors = TENSORS | {"visual.bn1.running_var": spoiled.to(kind)}
    path = tmp_path / "w.safetensors"
    with pytest.raises(FastDMTError, match=r"w\.safetensors: visual\.bn1\.running_var is not finite \(1 of 6"):
        write_weights(path, tensors)
    assert not os.listdir(tmp_path)
    save_file(tensors, path)
    with pytest.raises(FastDMTError, match=r"w\.safetensors: visual\.bn1\.running_var is not finite \(1 of 6"):
        read_weights(path, "")


def test_a_file_that_cannot_be_written_leaves_what_stood_there(file, monkeypatch):
    def full(*args, **kwargs):
        Path(args[1]).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastdmt.runs.weights.save_file", full)
    with pytest.raises(FastDMTError, match=r"cannot write .*w\.safetensors: the disk is full; make room"):
        write_weights(file, {"a": torch.zeros(2)})
    assert same(read_weights(file, ""), TENSORS) and os.listdir(file.parent) == [file.name]


def test_the_digest_depends_on_everything_but_the_order():
    changed = [
        {k: t for k, t in TENSORS.items() if k != "nothing"},
        TENSORS | {"nothing": torch.zeros(0, 4)},
        TENSORS | {"count": torch.tensor(7.0)},
        TENSORS | {"a.weight": TENSORS["a.weight"].reshape(3, 2, 4)},
        TENSORS | {"a.weight": -TENSORS["a.weight"]},
        {("b.weight" if k == "a.weight" else k): t for k, t in TENSORS.items()},
    ]
    assert len({digest(t) for t in [TENSORS, *changed]}) == 7
    assert digest(dict(reversed(TENSORS.items()))) == digest(TENSORS)


PAGES = {
    b"<!DOCTYPE html><html><head>": "web page",
    b"\n  <html lang='en'>": "web page",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n": "git lfs pull",
    b'{"error":"Repository not found"}': "error message",
    b"": "empty",
}


@pytest.mark.parametrize("content", PAGES)
def test_what_is_often_taken_for_weights_is_called_by_its_name(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    assert PAGES[content] in looks_like(tmp_path / "w.safetensors")
    with pytest.raises(FastDMTError, match=PAGES[content]):
        read_weights(tmp_path / "w.safetensors", "")

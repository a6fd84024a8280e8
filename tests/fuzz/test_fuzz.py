"""Damaged files of every kind that the project reads: one line that names the file, or a sane result; nothing else."""

import hashlib
from pathlib import Path

import pool
import pytest
import readers
from seeds import write_all

from fastdmt.errors import FastDMTError
from fastdmt_loaders.errors import DataError, MachineError

ORDINARY, MANY = 300, 5000


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("fuzz") / "seeds"
    write_all(root)
    return root


def digest(root: Path) -> str:
    content = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            content.update(str(path).encode() + path.read_bytes())
    return content.hexdigest()


def check(seeds: Path, numbers: list[int]) -> None:
    before = digest(seeds)
    outcome = pool.run(seeds, numbers)
    for name in readers.TARGETS:
        print(f"{name:12s}", dict(outcome.counts.get(name, {})))
    told = "\n".join(f"{number} {target} {text}" for number, target, text in outcome.faults[:40])
    assert not outcome.faults, f"{len(outcome.faults)} of {len(numbers)}: python tests/fuzz/pool.py NUMBER\n{told}"
    assert sum(map(lambda c: sum(c.values()), outcome.counts.values())) == len(numbers)
    assert digest(seeds) == before, "readers leave files alone"


def test_every_reader_takes_its_seeds(seeds):
    """Undamaged they are all read: else a mutant's refusal would say nothing."""
    readers.SEEDS = seeds
    for name, target in readers.TARGETS.items():
        files = sorted(seeds.glob(target.files))
        assert files, name
        for file in files:
            work = seeds.parent / "good"
            if target.whole:
                pool.link_tree(seeds / file.relative_to(seeds).parts[0], work)
                target.read(work)
            else:
                work.mkdir()
                copy = work / file.name
                copy.write_bytes(file.read_bytes())
                target.read(copy)
            pool.remove(work)


def test_what_the_pool_calls_a_fault(seeds, tmp_path, monkeypatch):
    """An exception of another class, a message without the file, or one of several lines."""
    for say, expected in (
        (lambda path: ValueError(f"{path}: x"), "fault"),
        (lambda path: FastDMTError("no name"), "fault"),
        (lambda path: DataError(f"{path}: two\nlines"), "fault"),
        (lambda path: MachineError(f"{path}: x"), "fault"),
        (lambda path: DataError(f"{path}: x"), "refused"),
        (lambda path: None, "sane"),
    ):

        def read(path, say=say):
            if error := say(path):
                raise error

        monkeypatch.setattr(readers, "TARGETS", {"list": readers.Target("texts/*.txt", read)})
        assert pool.one(seeds, tmp_path, 0)[1] == expected


def test_mutants(seeds):
    check(seeds, list(range(ORDINARY)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_mutants(seeds):
    check(seeds, list(range(ORDINARY, ORDINARY + MANY)))

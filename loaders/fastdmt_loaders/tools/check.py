"""Read every file that the lists name, before a run of hours does.

Results are kept in ROOT/.fastdmt-check.json by size and time of change, so that a second check reads only what is new.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fastdmt_loaders.dataset.dataset import DEFAULT_LISTS, AVDataset
from fastdmt_loaders.dataset.lists import Pair, read_whole, write_pairs
from fastdmt_loaders.dataset.stored import container_of
from fastdmt_loaders.decode.limits import MEND
from fastdmt_loaders.decode.pictures import read_frame
from fastdmt_loaders.decode.sound import read_stretch
from fastdmt_loaders.errors import DataError, MachineError
from fastdmt_loaders.parallel import Progress, parallel_map

CACHE = ".fastdmt-check.json"
SIDE, RATE = 256, 16000  # what is asked of the readers; any other size and rate meets the same faults
LISTS = (*DEFAULT_LISTS.values(), "test_plus_silent.csv")
TRAINING = ("train.txt", "labelled.txt")
# What each kind means, in the order of the report. Those that stop a run come first.
KINDS = {
    "missing": "no such frame or sound",
    "empty": "0 bytes, or no samples",
    "truncated": "cut off",
    "undecodable": "not a picture or a sound that can be read",
    "annotation": "an annotation file that cannot be read",
    "list": "a list without one usable id",
    "leak": "validation or test ids in a training list: a run drops them",
    "box": "broken boxes: clipped or dropped",
    "vote": "boxes that make no pixel truth: not used as labels",
    "short": "sounds shorter than asked: repeated until they fill it",
}
FATAL = frozenset({"missing", "empty", "truncated", "undecodable", "annotation", "list"})
DROPPED = FATAL | {"leak"}


class Problem(NamedTuple):
    """One finding: its kind (a key of KINDS), the id or list it concerns, and one line for the user."""

    kind: str
    id: str
    message: str


@dataclass
class Report:
    """What a check found.

    Args:
        root: the folder.
        ids: distinct ids in the lists.
        read, cached: files decoded now, and files whose earlier result still holds.
        problems: every finding.
        lists: list's name -> (items before, items that are sound).
        clean: the lists without the items that would stop a run or leak, as written.
        notes: what else the user should know.
    """

    root: Path
    ids: int = 0
    read: int = 0
    cached: int = 0
    problems: list[Problem] = field(default_factory=list)
    lists: dict[str, tuple[int, int]] = field(default_factory=dict)
    clean: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Kind -> how many, in the order of KINDS, without zeros."""
        found = Counter(problem.kind for problem in self.problems)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    @property
    def fatal(self) -> bool:
        """Whether a run on these lists would stop."""
        return any(problem.kind in FATAL for problem in self.problems)

    def lines(self, each: int = 5) -> list[str]:
        """The report for a terminal, at most `each` examples of a kind."""
        out = [f"{self.root}: {self.ids:,} ids in {len(self.lists)} lists; {self.read:,} files read, "
               f"{self.cached:,} unchanged since an earlier check"]  # fmt: skip
        for kind, count in self.counts.items():
            out.append(f"{count:,} {kind}: {KINDS[kind]}")
            examples = [problem.message for problem in self.problems if problem.kind == kind]
            out += [f"  {message}" for message in examples[:each]]
            if count > each:
                out.append(f"  and {count - each:,} more")
        for name, (before, after) in self.lists.items():
            out.append(f"{name}: {after:,} of {before:,} items are sound")
        if self.clean:
            out.append(f"lists without the others: {self.clean[0].parent}")
        return out + self.notes


def check_root(
    root: str | Path,
    lists: Mapping[str, str | Path] | None = None,
    *,
    annotations: str | None = "auto",
    seconds: float = 3.0,
    out: str | Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Decode every frame and sound that the lists name, read their boxes, and write lists of what is sound.

    Args:
        root: folder in the field's layout.
        lists: name -> file; None: those of LISTS that exist in root, or all ids when none does. Names in TRAINING
            must hold no id of the other lists.
        annotations: as in `AVDataset`.
        seconds: sounds shorter than this are reported.
        out: folder for the clean lists; None: ROOT/clean.
        workers: processes; None: one a core.
        progress: called with (files read, files to read).

    Raises:
        DataError: no such folder, no frames/ or audio/ in it, or a list that cannot be read.
    """
    dataset = AVDataset(root, annotations)
    report = Report(dataset.root)
    if lists is None:
        lists = {name: dataset.root / name for name in LISTS if (dataset.root / name).is_file()}
    whole = {name: read_whole(path) for name, path in lists.items()}
    items = {name: found.pairs for name, found in whole.items()}
    report.notes += [f"{lists[name]}: {note}" for name, found in whole.items() for note in found.notes]
    if not items:
        items = {"all.txt": [Pair(id, id, True) for id in dataset.ids]}
        report.notes.append(f"{dataset.root}: holds none of {', '.join(LISTS)}; all ids were checked")
    frames = dict.fromkeys(pair.video for pairs in items.values() for pair in pairs)
    sounds = dict.fromkeys(pair.audio for pairs in items.values() for pair in pairs)
    report.ids = len(frames | sounds)

    bad: dict[str, set[str]] = {}
    for what, ids, files, folder in (
        ("frame", frames, dataset.frames, dataset.frame_folder),
        ("sound", sounds, dataset.sounds, dataset.sound_folder),
    ):
        bad[what] = {id for id in ids if id not in files}
        report.problems += [
            Problem("missing", id, f"{id}: no {what} in {folder}; add it or take the id out of the list")
            for id in ids
            if id in bad[what]
        ]
    wanted = [("frame", id, str(dataset.frame_path(id))) for id in frames if id not in bad["frame"]]
    wanted += [("sound", id, str(dataset.sound_path(id))) for id in sounds if id not in bad["sound"]]
    cache = _Cache(dataset.root / CACHE, seconds)
    fresh = cache.outdated([(what, path) for what, _, path in wanted])
    report.read, report.cached = len(fresh), len(wanted) - len(fresh)
    try:
        files = [(what, path, seconds) for what, path in fresh]
        for (_, path), result in zip(fresh, parallel_map(_read, files, workers, progress)):
            cache.store(path, result)
    finally:  # an interrupted check goes on where it was
        if note := cache.save():
            report.notes.append(note)
    for what, id, path in wanted:
        kind, detail = cache.result(path)
        if kind == "seconds":
            if float(detail) < seconds:
                report.problems.append(Problem("short", id, f"{path}: {float(detail):.2f} s"))
        elif kind:
            bad[what].add(id)
            report.problems.append(Problem(kind, id, f"{path}: {detail}; replace it or take its id out of the list"))
    _check_boxes(dataset, frames, bad["frame"], report)

    held_out = {id for name, pairs in items.items() if name not in TRAINING for p in pairs for id in (p.video, p.audio)}
    for name, pairs in items.items():
        training = name in TRAINING
        sound = [p for p in pairs if p.video not in bad["frame"] and p.audio not in bad["sound"]]
        if training:
            leaks = [pair.video for pair in pairs if pair.video in held_out]
            report.problems += [Problem("leak", id, f"{name}: {id} is a validation or test id") for id in leaks]
            sound = [pair for pair in sound if pair.video not in held_out]
        report.lists[name] = (len(pairs), len(sound))
        if not sound:
            report.problems.append(Problem("list", name, f"{name}: no usable id is left; mend the files named above"))
        items[name] = sound
    _write_lists(items, Path(out) if out else dataset.root / "clean", report)
    return report


def _check_boxes(dataset: AVDataset, ids: Iterable[str], bad: set[str], report: Report) -> None:
    """Boxes of the listed ids; of vggss.json all, since one file is read as a whole."""
    for id in dict.fromkeys([*ids, *(dataset.annotated if dataset.rule == "vggss" else ())]):
        try:
            annotation = dataset.annotation(id)
        except DataError as error:
            bad.add(id)
            report.problems.append(Problem("annotation", id, str(error)))
            continue
        if annotation is not None and annotation.broken:
            report.problems.append(Problem("box", id, f"{id}: {'; '.join(annotation.broken)}"))
        if annotation is not None and not annotation.agrees:
            why = (
                f"{len(annotation.boxes)} box, two annotators must agree"
                if len(annotation.boxes) == 1
                else ("its boxes agree nowhere" if len(annotation.boxes) else "no box is left")
            )
            report.problems.append(Problem("vote", id, f"{id}: {why}"))


def _write_lists(items: Mapping[str, list[Pair]], folder: Path, report: Report) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, pairs in items.items():
            path = folder / Path(name).name
            write_pairs(path, pairs)
            report.clean.append(path)
    except OSError as error:
        report.notes.append(f"{folder}: clean lists were not written ({error.strerror}); give another folder")


class _Cache:
    """Path below the folder -> [size, time of change in ns, kind, detail]; kind "" or "seconds" means sound.

    Results for another length of sound, and files that are no such cache, count as nothing.
    """

    def __init__(self, path: Path, seconds: float):
        self.path, self.seconds, self.changed = path, seconds, False
        self.stats: dict[str, list[int]] = {}
        self.known: dict[str, list] = {}
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            if held["seconds"] == seconds:
                self.known = {name: entry for name, entry in held["files"].items() if self._sane(entry)}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass

    @staticmethod
    def _sane(entry) -> bool:
        if not isinstance(entry, list) or [type(value) for value in entry] != [int, int, str, str]:
            return False
        return entry[2] in ("", *KINDS) or (entry[2] == "seconds" and re.fullmatch(r"\d+\.\d+", entry[3]) is not None)

    def _name(self, path: str) -> str:
        return path.removeprefix(f"{self.path.parent}{os.sep}")

    def outdated(self, files: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those of `files` (what, path) that no result exists for, or that changed since."""
        out = {}
        for what, path in files:
            try:
                stat = os.stat(container_of(path))
                self.stats[path] = [stat.st_size, stat.st_mtime_ns]
            except OSError:
                self.stats[path] = [-1, -1]  # reading it tells why
            held = self.known.get(self._name(path))
            if held is None or held[:2] != self.stats[path]:
                out[path] = what
        return [(what, path) for path, what in out.items()]

    def store(self, path: str, result: tuple[str, str]) -> None:
        self.known[self._name(path)] = [*self.stats[path], *result]
        self.changed = True

    def result(self, path: str) -> tuple[str, str]:
        return self.known[self._name(path)][2], self.known[self._name(path)][3]

    def save(self) -> str | None:
        """Writes what changed; a line for the user where that is not possible."""
        if not self.changed:
            return None
        part = self.path.with_suffix(".part")
        try:
            text = json.dumps({"seconds": self.seconds, "files": self.known}, separators=(",", ":"))
            part.write_text(text, encoding="utf-8")
            part.replace(self.path)
        except OSError as error:
            return f"{self.path}: results were not kept ({error.strerror}); the next check reads every file again"
        return None


# ------------------------------------------------------------------------------------------------ reading one file


def _read(file: tuple[str, str, float]) -> tuple[str, str]:
    """(kind, detail) of one file (what, path, seconds), read by the very readers of training."""
    what, path, seconds = file
    try:
        if what == "frame":
            read_frame(path, SIDE)
            return "", ""
        return "seconds", f"{read_stretch(path, (RATE,), seconds)[1]:.3f}"
    except MachineError:
        raise
    except DataError as error:
        detail = str(error).removeprefix(f"{path}: ").removesuffix(f"; {MEND}")
        kinds = (
            ("is truncated", "truncated"),
            ("truncated)", "truncated"),
            ("is empty", "empty"),
            ("holds no sound", "empty"),
        )
        return next((kind for words, kind in kinds if words in detail), "undecodable"), detail

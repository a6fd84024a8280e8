"""Read every file that the lists name, before a run of hours does.

Results are kept in ROOT/.fastdmt-check.json by size and time of change, so that a second check reads only what is new.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import soundfile
from PIL import Image

from fastdmt_loaders.batch import Pair
from fastdmt_loaders.dataset.dataset import DEFAULT_LISTS, AVDataset, read_pairs
from fastdmt_loaders.decode.clips import frame_at, is_clip
from fastdmt_loaders.decode.sound import SNDFILE_SUFFIXES
from fastdmt_loaders.errors import DataError
from fastdmt_loaders.parallel import Progress, parallel_map

CACHE = ".fastdmt-check.json"
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
    items = {name: read_pairs(path) for name, path in lists.items()}
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
    cache = _Cache(dataset.root / CACHE)
    wanted = [(f"frames/{dataset.frames[id]}", id) for id in frames if id not in bad["frame"]]
    wanted += [(f"audio/{dataset.sounds[id]}", id) for id in sounds if id not in bad["sound"]]
    fresh = cache.outdated([name for name, _ in wanted])
    report.read, report.cached = len(fresh), len(wanted) - len(fresh)
    try:
        paths = [os.path.join(dataset.root, name) for name in fresh]
        for name, result in zip(fresh, parallel_map(_read, paths, workers, progress)):
            cache.store(name, result)
    finally:  # an interrupted check goes on where it was
        if note := cache.save():
            report.notes.append(note)
    for name, id in wanted:
        kind, detail = cache.result(name)
        if kind == "seconds":
            if float(detail) < seconds:
                report.problems.append(Problem("short", id, f"{dataset.root / name}: {float(detail):.2f} s"))
        elif kind:
            bad["frame" if name.startswith("frames/") else "sound"].add(id)
            report.problems.append(
                Problem(kind, id, f"{dataset.root / name}: {detail}; replace it or take its id out of the list")
            )
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


def _write_lists(items: Mapping[str, list[Pair]], folder: Path, report: Report) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, pairs in items.items():
            path = folder / Path(name).name
            if all(pair.sounding and pair.video == pair.audio for pair in pairs):
                lines = [pair.video for pair in pairs]
            else:
                label = {True: "sounding", False: "non-sounding"}
                lines = ["video,audio,label", *(f"{p.video},{p.audio},{label[p.sounding]}" for p in pairs)]
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            report.clean.append(path)
    except OSError as error:
        report.notes.append(f"{folder}: clean lists were not written ({error.strerror}); give another folder")


class _Cache:
    """File name -> [size, time of change in ns, kind, detail]; kind "" or "seconds" (detail: length) means sound."""

    def __init__(self, path: Path):
        self.path, self.changed = path, False
        try:
            self.known: dict[str, list] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = {}

    def outdated(self, names: list[str]) -> list[str]:
        """Those of `names` that no result exists for, or that changed since."""
        root, self.stats, out = f"{self.path.parent}{os.sep}", {}, []
        for name in names:
            stat = os.stat(root + name)
            self.stats[name] = [stat.st_size, stat.st_mtime_ns]
            held = self.known.get(name)
            if held is None or held[0] != stat.st_size or held[1] != stat.st_mtime_ns:
                out.append(name)
        return list(dict.fromkeys(out))

    def store(self, name: str, result: tuple[str, str]) -> None:
        self.known[name] = [*self.stats[name], *result]
        self.changed = True

    def result(self, name: str) -> tuple[str, str]:
        return self.known[name][2], self.known[name][3]

    def save(self) -> str | None:
        """Writes what changed; a line for the user where that is not possible."""
        if not self.changed:
            return None
        part = self.path.with_suffix(".part")
        try:
            part.write_text(json.dumps(self.known, separators=(",", ":")), encoding="utf-8")
            part.replace(self.path)
        except OSError as error:
            return f"{self.path}: results were not kept ({error.strerror}); the next check reads every file again"
        return None


# ------------------------------------------------------------------------------------------------ reading one file


def _read(path: str) -> tuple[str, str]:
    """(kind, detail) of one file, all of it decoded."""
    try:
        if os.path.getsize(path) == 0:
            return "empty", "is empty (0 bytes)"
        if os.path.basename(os.path.dirname(path)) == "frames":
            return _read_frame(path)
        return _read_sound(path)
    except OSError as error:
        return "undecodable", f"cannot be opened ({error.strerror or error})"


def _read_frame(path: str) -> tuple[str, str]:
    try:
        if is_clip(path):
            frame_at(path)
            return "", ""
        with Image.open(path) as picture:
            picture.load()
    except Exception as error:  # a damaged file can raise anything inside Pillow's parsers
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "truncated" in reason:
            return "truncated", "is truncated"
        return "undecodable", "is not a picture" if "cannot identify" in reason else f"cannot be decoded ({reason})"
    return "", ""


def _read_sound(path: str) -> tuple[str, str]:
    if os.path.splitext(path)[1].lower() in SNDFILE_SUFFIXES:
        try:
            return _read_sndfile(path)
        except soundfile.LibsndfileError:
            pass  # FFmpeg decides, as in read_sound
    return _read_ffmpeg(path)


def _read_sndfile(path: str) -> tuple[str, str]:
    with soundfile.SoundFile(path) as file:
        rate, promised, got = file.samplerate, _promised_frames(path, file), 0
        for block in file.blocks(1 << 18, dtype="float32"):
            got += len(block)
            if not math.isfinite(float(block.sum(dtype=np.float64))):
                return "undecodable", "holds NaN or infinite samples"
    return _judge(got, promised, rate)


def _read_ffmpeg(path: str) -> tuple[str, str]:
    try:
        with av.open(path) as container:
            if not container.streams.audio:
                return "undecodable", "has no sound stream"
            stream = container.streams.audio[0]
            got = sum(frame.samples for frame in container.decode(stream))
            # Lengths in containers are estimates: only a clear lack counts.
            promised = 0.9 * float(stream.duration * stream.time_base) * stream.rate if stream.duration else 0
            return _judge(got, int(promised), stream.rate)
    except (av.FFmpegError, ValueError, EOFError) as error:
        return "undecodable", f"cannot be decoded as sound ({getattr(error, 'strerror', None) or error})"


def _judge(got: int, promised: int, rate: int) -> tuple[str, str]:
    if got < promised:
        return "truncated", f"is truncated ({got:,} of {promised:,} samples)"
    if got == 0:
        return "empty", "holds no sound samples"
    return "seconds", f"{got / rate:.3f}"


def _promised_frames(path: str, file: soundfile.SoundFile) -> int:
    """Samples per channel by the header. For WAV libsndfile tells what is there, so the header is read here."""
    if file.format != "WAV":
        return file.frames
    with open(path, "rb") as raw:
        end = os.path.getsize(path)
        raw.seek(12)
        block = 0
        while len(head := raw.read(8)) == 8:
            name, size = head[:4], int.from_bytes(head[4:], "little")
            if name == b"fmt ":
                block = int.from_bytes(raw.read(16)[12:14], "little")
                raw.seek(size - 16 + size % 2, os.SEEK_CUR)
            elif name == b"data":
                # Sizes near 4 GiB mean "unknown", as written by a program that could not seek back.
                return size // block if block and size < 0xFFFFFF00 and raw.tell() + size > end else file.frames
            else:
                raw.seek(size + size % 2, os.SEEK_CUR)
    return file.frames

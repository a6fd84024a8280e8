"""The field's folders on disk: which files an id has, its boxes, the id lists, and the seeded split.

ROOT/frames/<id>.jpg   ROOT/audio/<id>.wav   ROOT/Annotations/<id>.xml or ROOT/vggss.json   ROOT/*.txt, *.csv
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from fastdmt_loaders.batch import pad_boxes
from fastdmt_loaders.dataset.annotations import (
    MIN_AGREE,
    Annotation,
    packed_annotation,
    read_classes,
    read_flickr_xml,
    read_vggss,
)
from fastdmt_loaders.dataset.lists import read_whole
from fastdmt_loaders.dataset.sampler import philox
from fastdmt_loaders.dataset.stored import member
from fastdmt_loaders.decode.clips import VIDEO_SUFFIXES
from fastdmt_loaders.errors import DataError, first_line
from fastdmt_loaders.files import read_json

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
FRAME_SUFFIXES = (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)  # a clip stands for the frame in its middle
SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a")
DEFAULT_LISTS = {"train": "train.txt", "labelled": "labelled.txt", "validation": "val.txt", "test": "test.csv"}
CATALOGUE, BOXES = "shards.json", "boxes.json"  # what `pack` writes beside the shards
VALIDATION, TEST = 500, 250  # drawn where no list decides, or a fifth of what is there
SPLITTING = 16  # Philox purpose, apart from the training streams


@dataclass
class Table:
    """A few compact arrays for n items instead of n Python objects, so that forked workers share the memory.

    Args:
        ids: n ids (numpy unicode).
        frames, sounds: n file names inside `frame_folder` and `sound_folder`.
        boxes: float32 [n, K, 4] xyxy in 0..1, zero rows as padding.
        known: bool [n], whether an item has boxes.
    """

    ids: np.ndarray
    frames: np.ndarray
    sounds: np.ndarray
    boxes: np.ndarray
    known: np.ndarray
    frame_folder: Path
    sound_folder: Path

    def __len__(self) -> int:
        return len(self.ids)

    def frame_path(self, index: int) -> str:
        return os.path.join(self.frame_folder, str(self.frames[index]))

    def sound_path(self, index: int) -> str:
        return os.path.join(self.sound_folder, str(self.sounds[index]))


class AVDataset:
    """Frames, sounds and boxes under one folder: the field's layout, or the shards that `pack` wrote.

    Args:
        root: the folder.
        annotations: "flickr" (ROOT/Annotations/<id>.xml), "vggss" (ROOT/vggss.json), None, or "auto": the first of
            them that is there, else None.

    Raises:
        DataError: no such folder, no frames or no audio in it, or the asked annotations missing.
    """

    def __init__(self, root: str | Path, annotations: str | None = "auto"):
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; name the folder that holds frames/ and audio/")
        if (self.root / CATALOGUE).is_file():
            self._open_shards(annotations)
            return
        self.frame_folder, self.sound_folder = self.root / "frames", self.root / "audio"
        self.frames = _files(self.frame_folder, FRAME_SUFFIXES)
        self.sounds = _files(self.sound_folder, SOUND_SUFFIXES)
        has = {"flickr": (self.root / "Annotations").is_dir(), "vggss": (self.root / "vggss.json").is_file()}
        found = next((rule for rule, there in has.items() if there), None)
        if annotations == "auto":
            annotations = found
        elif annotations is not None and not has.get(annotations):
            wanted = {"vggss": "vggss.json", "flickr": "Annotations/<id>.xml"}.get(annotations, "'vggss' or 'flickr'")
            mend = f", or --annotations auto: {found}'s are there" if found else ""
            raise DataError(f"{self.root}: no {annotations} annotations; {wanted} is needed{mend}")
        self.rule = annotations
        self._annotations: dict[str, Annotation] = {}
        if self.rule == "vggss":
            self._annotations = read_vggss(self.root / "vggss.json")

    def _open_shards(self, annotations: str | None) -> None:
        """Members of the tar shards in place of files: their places from the index files, boxes from boxes.json."""
        self.frame_folder = self.sound_folder = self.root
        self.frames, self.sounds = {}, {}
        try:
            shards = read_json(self.root / CATALOGUE, "catalogue of shards")
            for tar in (str(shard["file"]) for shard in shards):
                lines = (self.root / tar).with_suffix(".idx").read_text(encoding="utf-8").splitlines()[1:]
                for line in lines:
                    parts = line.split(" ")
                    for suffix, offset, size, name in zip(parts[::4], parts[1::4], parts[2::4], parts[3::4]):
                        kind = self.frames if f".{suffix}" in FRAME_SUFFIXES else self.sounds
                        if suffix != "json":
                            kind[name[: -len(suffix) - 1]] = member(tar, offset, size, name)
            labels = read_json(self.root / BOXES, "file of boxes")
            found = {
                rule: {id: packed_annotation(boxes, rule) for id, boxes in by_id.items()}
                for rule, by_id in labels.items()
                if rule in MIN_AGREE
            }
        except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, DataError) as error:
            raise DataError(
                f"{self.root}: incomplete shards ({first_line(error)}); run `fastdmt data pack` again"
            ) from error
        if annotations not in ("auto", None, *found):
            held = " and ".join(found) or "no"
            raise DataError(
                f"{self.root}: packed with {held} annotations, not {annotations}; pack again, or --annotations auto"
            )
        self.rule = next((rule for rule in MIN_AGREE if rule in found), None) if annotations == "auto" else annotations
        self._annotations = found.get(self.rule, {})

    @cached_property
    def ids(self) -> list[str]:
        """Ids that have both a frame and a sound, sorted."""
        return sorted(self.frames.keys() & self.sounds.keys())

    @cached_property
    def classes(self) -> dict[str, str]:
        """Id -> what sounds, where ROOT/vggss.json says it, whichever boxes are read."""
        path = self.root / "vggss.json"
        return read_classes(path) if path.is_file() else {}

    @cached_property
    def annotated(self) -> set[str]:
        """Ids that have annotations, on disk or not."""
        if self.rule == "flickr" and self.frame_folder != self.root:
            with os.scandir(self.root / "Annotations") as entries:
                return {entry.name[:-4] for entry in entries if entry.name.endswith(".xml") and not entry.is_dir()}
        return set(self._annotations)

    @property
    def min_agree(self) -> int:
        """Boxes that must cover a pixel for it to be truth in training."""
        return MIN_AGREE.get(self.rule, 1)

    def annotation(self, id: str) -> Annotation | None:
        """Boxes of an id, or None. Raises DataError for an unreadable XML file."""
        if id not in self._annotations and self.rule == "flickr" and id in self.annotated:
            self._annotations[id] = read_flickr_xml(self.root / "Annotations" / f"{id}.xml")
        return self._annotations.get(id)

    def teaches(self, id: str) -> bool:
        """Whether an id's boxes make any pixel truth in training: not if they are broken or no two annotators agree."""
        try:
            annotation = self.annotation(id)
        except DataError:
            return False
        return annotation is not None and annotation.agrees

    def frame_path(self, id: str) -> Path:
        return self.frame_folder / self._file(id, self.frames, "frame", self.frame_folder)

    def sound_path(self, id: str) -> Path:
        return self.sound_folder / self._file(id, self.sounds, "sound", self.sound_folder)

    @staticmethod
    def _file(id: str, files: Mapping[str, str], kind: str, folder: Path) -> str:
        if id not in files:
            raise DataError(f"{id}: no {kind} in {folder}; add {folder / id}.* or take the id out of the list")
        return files[id]

    def table(self, ids: Sequence[str], max_boxes: int) -> Table:
        """The compact form of some ids that loaders work with.

        Raises:
            DataError: an id without a frame or a sound.
        """
        frames = [self._file(id, self.frames, "frame", self.frame_folder) for id in ids]
        sounds = [self._file(id, self.sounds, "sound", self.sound_folder) for id in ids]
        boxes = np.zeros((len(ids), max_boxes, 4), np.float32)
        known = np.zeros(len(ids), bool)
        annotated = self.annotated
        for row, id in enumerate(ids):
            if id in annotated and self.teaches(id):
                boxes[row] = pad_boxes(self.annotation(id).boxes, max_boxes).numpy()
                known[row] = True
        text = [np.array(values, dtype=np.str_) for values in (list(ids), frames, sounds)]
        return Table(text[0], text[1], text[2], boxes, known, self.frame_folder, self.sound_folder)


def _files(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """id -> file name, for files of the given suffixes; the first suffix wins where an id has several."""
    found: dict[str, tuple[int, str]] = {}
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{folder}: no such folder; the data set needs frames/ and audio/") from error
    with entries:
        for entry in entries:
            stem, _, suffix = entry.name.rpartition(".")  # os.path.splitext takes three times as long
            suffix = f".{suffix.lower()}"
            if suffix in suffixes:
                choice = (suffixes.index(suffix), entry.name)
                found[stem] = min(choice, found.get(stem, choice))
    if not found:
        raise DataError(f"{folder}: holds no file of {', '.join(suffixes)}")
    return {stem: name for stem, (_, name) in found.items()}


ROLES = ("train_labelled", "train_unlabelled", "validation", "test")


@dataclass
class Split:
    """Disjoint lists of ids; written beside every run, because published splits cannot be reconstructed."""

    train_labelled: list[str]
    train_unlabelled: list[str]
    validation: list[str]
    test: list[str]
    seed: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """what was taken out of a list, in words -> how many ids"""
    notes: list[str] = field(default_factory=list)
    """how lists and boxes were read where that is not plain, with counts"""

    @property
    def warnings(self) -> list[str]:
        return [f"dropped {count:,} {what}" for what, count in self.dropped.items() if count] + self.notes

    def save(self, path: str | Path) -> None:
        """Whole or not at all. Raises OSError."""
        part = Path(f"{path}.part")
        part.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Split:
        """What `save` wrote. Raises DataError."""
        held = read_json(path, "split file")
        kinds = dict.fromkeys(ROLES, list) | {"seed": int, "dropped": dict, "notes": list}
        for name, kind in kinds.items():
            value = held.get(name, None if name in ROLES else kind()) if isinstance(held, dict) else None
            inner = value if kind is list else value.values() if isinstance(value, dict) else ()
            if not isinstance(value, kind) or not all(isinstance(v, str if kind is list else int) for v in inner or ()):
                raise DataError(f"{path}: is not a split file ({name}); restore it, or remove it")
        return cls(**{name: held[name] for name in kinds if name in held})


def make_split(
    dataset: AVDataset,
    *,
    seed: int = 0,
    labels: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    lists: Mapping[str, str | Path | None] | None = None,
) -> Split:
    """Training, validation and test ids.

    Lists decide where they exist: train.txt (training ids), labelled.txt (ids whose boxes may be used), val.txt and
    test.csv in the data set's folder, or others by `lists`. What no list decides is drawn from the annotated ids in
    one seeded order: first test, then validation, then the labelled ids. So a smaller label budget is a subset of a
    larger one, and neither test nor validation depends on it. Ids of validation or test found in a training list
    are dropped and counted.

    Args:
        labels: budget of labelled ids; None: all. The labelled ids left over join the unlabelled ones.
        validation, test: how many to draw where no list names them; None: 500 and 250, but at most a fifth each of
            the ids that there are.
        lists: "train" | "labelled" | "validation" | "test" -> file, or None to ignore the default file.

    Raises:
        DataError: too few annotated ids for what is asked.
    """
    files = {name: dataset.root / file for name, file in DEFAULT_LISTS.items() if (dataset.root / file).is_file()}
    for name, file in (lists or {}).items():
        if name not in DEFAULT_LISTS:
            raise DataError(f"unknown list {name!r}; use {', '.join(DEFAULT_LISTS)}")
        files.pop(name, None)
        if file is not None:
            files[name] = Path(file)
    read = {name: read_whole(file) for name, file in files.items()}
    given = {name: found.ids for name, found in read.items() if name != "test"}
    notes = [f"{files[name]}: {note}" for name, found in read.items() for note in found.notes]
    dropped: dict[str, int] = {}

    def without(ids: Iterable[str], held_out: set[str], what: str) -> list[str]:
        ids = list(ids)
        kept = [id for id in ids if id not in held_out]
        dropped[what] = dropped.get(what, 0) + len(ids) - len(kept)
        return kept

    held_out: set[str] = set()
    test_ids: list[str] | None = None
    if "test" in files:
        pairs = read["test"].pairs
        test_ids = list(dict.fromkeys(pair.video for pair in pairs))
        held_out |= set(test_ids) | {pair.audio for pair in pairs}
    validation_ids = given.get("validation")
    if validation_ids is not None:
        validation_ids = without(validation_ids, held_out, "test ids from the validation list")
        held_out |= set(validation_ids)

    usable = {id for id in dataset.annotated if id in dataset.frames and id in dataset.sounds}
    if "labelled" in given:
        pool = without(given["labelled"], held_out, "validation or test ids from the labelled list")
        unboxed = {id for id in pool if id not in usable}
        pool = without(pool, unboxed, "ids without boxes or files from the labelled list")
    else:
        pool = [id for id in usable if id not in held_out]
    silent = {id for id in pool if not dataset.teaches(id)}
    pool = without(pool, silent, "labelled ids whose boxes are broken or agree nowhere: no pixel would be truth")
    pool = sorted(pool)
    pool = [pool[i] for i in philox(seed, 0, SPLITTING).permutation(len(pool))]
    fifth = max(len(pool) // 5, int(len(pool) > 2))
    test = min(TEST, fifth) if test is None else test
    validation = min(VALIDATION, fifth) if validation is None else validation
    wanted = {"test": 0 if test_ids is not None else test, "val": 0 if validation_ids is not None else validation}
    if sum(wanted.values()) + (labels or 0) > len(pool):
        counts = ", ".join(f"--{name} {count}" for name, count in (wanted | {"labels": labels or 0}).items() if count)
        raise DataError(f"{dataset.root}: {len(pool)} ids with boxes are left for {counts}; ask for fewer")
    if test_ids is None:
        test_ids, pool = pool[:test], pool[test:]
    if validation_ids is None:
        validation_ids, pool = pool[:validation], pool[validation:]
    held_out |= set(test_ids) | set(validation_ids)
    labelled = pool if labels is None else pool[:labels]

    if "train" in given:
        train = without(given["train"], held_out, "validation or test ids from the training list")
    else:
        train = [id for id in dataset.ids if id not in held_out]
    chosen = set(labelled)
    unlabelled = [id for id in train if id not in chosen]
    return Split(labelled, unlabelled, validation_ids, test_ids, seed, {k: n for k, n in dropped.items() if n}, notes)

"""Tar shards for network disks: frame, sound and boxes of an item in one record, read in long runs.

Written by the webdataset library as <id>.jpg, <id>.wav or .flac, <id>.json, each shard with the index that DALI's
webdataset reader takes (format v1.2: a line per record of `suffix offset size name` for each of its files).
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastdmt_loaders.dataset.annotations import MIN_AGREE
from fastdmt_loaders.dataset.dataset import BOXES, CATALOGUE, AVDataset
from fastdmt_loaders.dataset.stored import MAX_MEDIA
from fastdmt_loaders.errors import DataError
from fastdmt_loaders.files import read_file
from fastdmt_loaders.parallel import Progress, parallel_map


@dataclass(frozen=True)
class Shards:
    """Shards on disk.

    Args:
        root: their folder.
        files: names of the tar files; the index of x.tar is x.idx.
        ids: ids of each, in the order of their records.
    """

    root: Path
    files: list[str]
    ids: list[list[str]]

    @property
    def tars(self) -> list[str]:
        return [str(self.root / name) for name in self.files]

    @property
    def indices(self) -> list[str]:
        return [str((self.root / name).with_suffix(".idx")) for name in self.files]


def pack(
    root: str | Path,
    out: str | Path,
    ids: Sequence[str] | None = None,
    *,
    annotations: str | None = "auto",
    per_shard: int = 1000,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Shards:
    """Write shard-000000.tar and .idx, ... and `shards.json`; the lists of `root` are copied beside them.

    A record's json holds {"id", "boxes": [[x0, y0, x1, y1] in 0..1, ...] or null, "rule": "flickr"|"vggss" or null};
    boxes.json holds them by rule and id, so that opening the set reads no record; with "auto" those of every rule
    that the folder has, so that the packed set serves whatever the folder serves.
    The same input gives the same bytes. `shards.json` is written last: without it the folder is not complete.

    Args:
        root: folder in the field's layout.
        out: another folder.
        ids: in the order wanted; None: every id that has a frame and a sound. Shuffle them for random reading order,
            since a reader shuffles only within a window.
        annotations: as in `AVDataset`.
        per_shard: records in a shard.
        workers: processes; None: one a core.
        progress: called with (shards done, shards).

    Raises:
        DataError: webdataset is not installed, an id without a file or with a dot, or `out` cannot be written.
    """
    try:
        import webdataset  # noqa: F401 - optional, asked for before the work starts
    except ImportError as error:
        raise DataError("packing needs the webdataset library: pip install 'fastdmt[shards]'") from error
    dataset, out = AVDataset(root, annotations), Path(out)
    ids = dataset.ids if ids is None else list(ids)
    if dotted := next((id for id in ids if "." in id), None):
        raise DataError(f"{dotted}: a record's id must have no dot, where its suffix would begin; rename its files")
    jobs = []
    for number, first in enumerate(range(0, len(ids), per_shard)):
        records = [_Record.of(dataset, id) for id in ids[first : first + per_shard]]
        jobs.append((f"shard-{number:06d}.tar", records))
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / CATALOGUE).unlink(missing_ok=True)
        for _ in parallel_map(partial(_write_shard, str(out)), jobs, workers, progress, chunk=1):
            pass
        for path in dataset.root.iterdir():
            if path.suffix in (".txt", ".csv"):
                shutil.copyfile(path, out / path.name)
        (out / BOXES).write_text(json.dumps(_labels(dataset, ids, annotations)), encoding="utf-8")
        catalogue = [{"file": name, "ids": [record.id for record in records]} for name, records in jobs]
        (out / CATALOGUE).write_text(json.dumps(catalogue), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{error.filename or out}: {error.strerror}; mend that and pack again") from error
    return read_shards(out)


def _labels(dataset: AVDataset, ids: Sequence[str], annotations: str | None) -> dict[str, dict[str, list]]:
    """rule -> id -> boxes; the data set's own rule first."""
    sets = {dataset.rule: dataset} if dataset.rule else {}
    if annotations == "auto":
        for rule in MIN_AGREE:
            if rule not in sets:
                with suppress(DataError):  # the folder has none of that kind
                    sets[rule] = AVDataset(dataset.root, rule)
    return {
        rule: {id: one.annotation(id).boxes.tolist() for id in ids if id in one.annotated} for rule, one in sets.items()
    }


def read_shards(root: str | Path) -> Shards:
    """The shards of a folder that `pack` wrote.

    Raises:
        DataError: no complete set of shards there.
    """
    root = Path(root)
    try:
        catalogue = json.loads((root / CATALOGUE).read_text(encoding="utf-8"))
        shards = Shards(root, [entry["file"] for entry in catalogue], [entry["ids"] for entry in catalogue])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{root}: holds no complete shards ({CATALOGUE}); run `fastdmt data pack` again") from error
    for path in (*shards.tars, *shards.indices):
        if not os.path.isfile(path):
            raise DataError(f"{path}: named in {CATALOGUE} but missing; run `fastdmt data pack` again")
    return shards


@dataclass(frozen=True)
class _Record:
    id: str
    frame: str
    sound: str
    label: dict

    @classmethod
    def of(cls, dataset: AVDataset, id: str) -> _Record:
        annotation = dataset.annotation(id)
        label = {
            "id": id,
            "boxes": None if annotation is None else annotation.boxes.tolist(),
            "rule": None if annotation is None else annotation.rule,
        }
        return cls(id, str(dataset.frame_path(id)), str(dataset.sound_path(id)), label)


def _write_shard(out: str, job: tuple[str, list[_Record]]) -> None:
    import webdataset

    name, records = job
    path = os.path.join(out, name)
    with open(f"{path}.part", "wb") as file, webdataset.TarWriter(file, encoder=False, mtime=0) as writer:
        for record in records:
            item = {"__key__": record.id, "json": json.dumps(record.label).encode()}
            for source in (record.frame, record.sound):
                item[os.path.splitext(source)[1][1:].lower()] = read_file(source, "member of a shard", MAX_MEDIA)
            writer.write(item)
    lines: dict[str, list[str]] = {}
    with tarfile.open(f"{path}.part") as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            lines.setdefault(key, []).append(f"{suffix} {member.offset_data} {member.size} {member.name}")
    with open(os.path.splitext(path)[0] + ".idx", "w", encoding="utf-8") as index:
        index.write(f"v1.2 {len(lines)}\n" + "".join(" ".join(parts) + "\n" for parts in lines.values()))
    os.replace(f"{path}.part", path)

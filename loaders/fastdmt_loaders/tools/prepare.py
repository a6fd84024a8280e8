"""Videos, or an existing tree of frames and sounds, into files that a loader reads fast.

Frames of a short side of 256 and mono FLAC at the rate of the encoder: a loader that must resample while training is
tens of times slower than one that need not. Every file is written under another name first, so a run that was stopped
leaves nothing half done, and the next one does only what is missing.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from PIL import Image

from fastdmt_loaders.dataset.dataset import AVDataset
from fastdmt_loaders.decode.clips import VIDEO_SUFFIXES, frame_at
from fastdmt_loaders.decode.pictures import read_picture
from fastdmt_loaders.decode.sound import read_sound
from fastdmt_loaders.errors import DataError, MachineError
from fastdmt_loaders.parallel import Progress, parallel_map

QUALITY = 93
PART = re.compile(r"(.+)\.part(\d+)")  # what a file is called while it is written, and by which process
# Of the target's errors, those that another item would not meet.
OWN = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)


class Target(NamedTuple):
    """What every item is turned into.

    Args:
        out: folder that receives frames/<id>.jpg and audio/<id>.flac.
        seconds: of sound.
        rate: of sound, in Hz.
        side: shorter side of a frame in pixels; smaller frames are left as they are.
        moment: where in a video the frame is taken, in seconds; the middle where a video ends before.
    """

    out: Path
    seconds: float
    rate: int
    side: int
    moment: float


@dataclass
class Prepared:
    """What `prepare` did: new items, items that an earlier run had done, and one line for every failure."""

    done: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    seconds: float = 3.0,
    rate: int = 16000,
    side: int = 256,
    moment: float = 5.0,
    part: tuple[int, int] = (1, 1),
    workers: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Write frames/<id>.jpg and audio/<id>.flac (mono, 16 bit) for every video, or for every id of a tree.

    From a video: the frame at `moment`, or in the middle of a shorter video, and the sound around that frame. From a
    folder that holds frames/ and audio/: its frames, and the middle of its sounds; lists and boxes are copied (boxes
    are relative to the frame, so they stay right). Items that exist in `out` are left alone. A broken item is
    reported and the others go on.

    Args:
        source: folder of videos (searched in depth; a file's name without its suffix is the id), or such a tree.
        out: another folder.
        seconds, rate, side, moment: see `Target`.
        part: (i, n): the i-th of n parts of the items, 1 to n; each item is in one of them, so that n machines may
            work on one `out`. The first part copies lists and boxes.
        workers: processes; None: one a core.
        progress: called with (items done, items to do).

    Raises:
        DataError: nothing to do in `source`, two videos of one name, or `out` that cannot be written.
        ValueError: no such part.
    """
    if not 1 <= part[0] <= part[1]:
        raise ValueError(f"part {part[0]} of {part[1]}; parts are counted from 1")
    source, target = Path(source), Target(Path(out), seconds, rate, side, moment)
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; name a folder of videos, or one that holds frames/ and audio/")
    if target.out.resolve() == source.resolve():
        raise DataError(f"{out}: is the source itself; give another folder")
    make: Callable[[Target, tuple], tuple[Image.Image, np.ndarray]]
    if (source / "frames").is_dir() and (source / "audio").is_dir():
        dataset = AVDataset(source, annotations=None)
        items = [(id, str(dataset.frame_path(id)), str(dataset.sound_path(id))) for id in dataset.ids]
        make = _convert
    else:
        items, make = _videos(source), _extract
    items = items[part[0] - 1 :: part[1]]
    ids = {item[0] for item in items}
    try:
        for folder in ("frames", "audio"):
            (target.out / folder).mkdir(parents=True, exist_ok=True)
            _remove_parts(target.out / folder, ids if part[1] > 1 else None)
        if make is _convert and part[0] == 1:
            _copy_lists(source, target.out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}); give another folder") from error

    todo = [item for item in items if not all(path.is_file() for path in _paths(target, item[0]))]
    report = Prepared(skipped=len(items) - len(todo))
    for fault in parallel_map(partial(_guarded, make, target), todo, workers, progress, chunk=4):
        if fault is None:
            report.done += 1
        else:
            report.failed.append(fault)
    return report


def _videos(source: Path) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for path in _files_below(source):
        if path.suffix.lower() in VIDEO_SUFFIXES:
            if path.stem in found:
                if os.path.samefile(path, found[path.stem]):
                    continue  # a link to it
                raise DataError(f"{path}: has the same id as {found[path.stem]}; rename or move one of them")
            found[path.stem] = str(path)
    if not found:
        raise DataError(f"{source}: holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}) and no frames/ and audio/")
    return list(found.items())


def _files_below(folder: Path) -> Iterator[Path]:
    """Files in depth, in order, through links, every folder once: links may lead in circles."""
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        stat = os.stat(parent)
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders.sort()
        yield from (path for name in sorted(files) if (path := Path(parent, name)).is_file())


def _remove_parts(folder: Path, ids: set[str] | None) -> None:
    """What a process that was killed had begun: of these items, where other machines work on the others."""
    for path in folder.iterdir():
        found = PART.fullmatch(path.name)
        if found and (ids is None or found[1] in ids) and not _alive(int(found[2])):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _copy_lists(source: Path, out: Path) -> None:
    for path in source.iterdir():
        if path.suffix in (".txt", ".csv") or path.name == "vggss.json":
            shutil.copyfile(path, out / path.name)
    if (source / "Annotations").is_dir():
        shutil.copytree(source / "Annotations", out / "Annotations", dirs_exist_ok=True)


def _paths(target: Target, id: str) -> tuple[Path, Path]:
    return target.out / "frames" / f"{id}.jpg", target.out / "audio" / f"{id}.flac"


def _guarded(
    read: Callable[[Target, tuple], tuple[Image.Image, np.ndarray]], target: Target, item: tuple
) -> str | None:
    """None, or what is wrong with the item in one line. A full disk is not the item's fault and stops all."""
    try:
        picture, pcm = read(target, item)
        _write(target, item[0], picture, pcm)
    except MachineError:
        raise
    except DataError as error:
        return str(error)
    except OSError as error:
        if error.errno in OWN:
            return f"{item[1]}: cannot be written as {_paths(target, item[0])[0]} ({error.strerror}); rename it"
        raise DataError(
            f"{target.out}: {error.strerror or error}; make room or mend access, then run it again"
        ) from error
    return None


def _extract(target: Target, item: tuple[str, str]) -> tuple[Image.Image, np.ndarray]:
    picture, time = frame_at(item[1], target.moment)
    return picture, _sound(target, item[1], time)


def _convert(target: Target, item: tuple[str, str, str]) -> tuple[Image.Image, np.ndarray]:
    return read_picture(item[1]), _sound(target, item[2], None)


def _sound(target: Target, path: str, centre: float | None) -> np.ndarray:
    return read_sound(path, (target.rate,), target.seconds, centre)[target.rate]


def _write(target: Target, id: str, picture: Image.Image, pcm: np.ndarray) -> None:
    scale = target.side / min(picture.size)
    if scale < 1:
        size = tuple(max(1, round(length * scale)) for length in picture.size)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    frame_path, sound_path = _paths(target, id)
    part = sound_path.with_name(f"{id}.part{os.getpid()}")
    try:
        with open(part, "wb") as file:  # opened here: libsndfile and Pillow name no cause when they cannot
            soundfile.write(file, pcm, target.rate, subtype="PCM_16", format="FLAC")
        part.replace(sound_path)
        with open(part, "wb") as file:
            picture.convert("RGB").save(file, "JPEG", quality=QUALITY)
        part.replace(frame_path)
    finally:
        part.unlink(missing_ok=True)

"""`fastdmt data index`: a folder against the field's official lists, and DMT's split of it.

The paper's split, 4,250 labelled, 500 validation and 250 test clips, was never published. Here it is drawn from the
official ids in one seeded order, before anybody looks at what is on disk: two people who lack different clips still
agree on every clip's role. Flickr-SoundNet keeps its official test list, VGG-SS has none of that size.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from fastdmt.config import require
from fastdmt_loaders import AVDataset, DataError, Split, make_split, read_list, read_vggss
from fastdmt_loaders.dataset.lists import write_list

LABELLED, VALIDATION, TEST = 4250, 500, 250
BUDGETS = (256, 2000)  #: nested label budgets of the paper beside the whole
FILES = {"train": "train.txt", "labelled": "labelled.txt", "validation": "val.txt", "test": "test.csv"}
#: official lists of training ids, the largest first; the first that exists is used
TRAIN = {"flickr": ("flickr_144k.txt", "flickr_10k.txt"), "vggss": ("vggss_144k.txt", "vggss_10k.txt")}
OTHERS = {
    "flickr": ("flickr_10k.txt", "flickr_test_plus_silent.csv"),
    "vggss": ("vggss_10k.txt", "vggss_heard.txt", "vggss_heard_test.csv", "vggss_unheard_test.csv"),
}


@dataclass
class Index:
    """What is on disk, and the lists made of it.

    Attributes:
        split: roles of the official ids, whether on disk or not.
        present: role -> ids on disk, with boxes where the role needs them.
        missing: (id, list, what it lacks: frame, sound or boxes), of every official list.
        budgets: label budget -> its ids.
        written, kept: files.
    """

    split: Split
    present: dict[str, list[str]]
    missing: list[tuple[str, str, str]] = field(default_factory=list)
    budgets: dict[int, list[str]] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def index(
    root: Path,
    kind: str,
    lists: Path,
    *,
    seed: int = 0,
    counts: tuple[int, int, int] = (LABELLED, VALIDATION, TEST),
    train_list: str | None = None,
    force: bool = False,
) -> Index:
    """Compare a folder with the official lists and write labelled.txt, train.txt, val.txt and test.csv where absent.

    A list that is there already decides its role, as in `make_split`; `force` writes it anew.

    Args:
        root: frames/ and audio/, for Flickr-SoundNet Annotations/; vggss.json is copied from `lists` when absent.
        kind: "flickr" or "vggss".
        lists: folder of the official lists.
        seed: of the draw.
        counts: labelled, validation and test clips to draw; Flickr-SoundNet's test clips are its official ones.
        train_list: official training list; default: the larger one that exists.

    Raises:
        DataError: a folder or a list is missing, or too few ids are left for the counts.
    """
    dataset, official = _open(root, kind, lists)
    train = lists / (train_list or next((n for n in TRAIN[kind] if (lists / n).is_file()), TRAIN[kind][0]))
    given: dict[str, Path | None] = {
        role: path if (path := root / file).is_file() and not force else None for role, file in FILES.items()
    }
    roles: dict[str, Path | None] = dict(given)
    roles["train"] = roles["train"] or train
    if kind == "flickr":
        roles["test"] = roles["test"] or lists / "flickr_test.csv"
    # Every official id counts as present here, so that the draw does not depend on the disk.
    everything = dict.fromkeys(official)
    whole = SimpleNamespace(
        root=root,
        ids=list(official),
        annotated=set(official),
        frames=everything,
        sounds=everything,
        teaches=lambda _: True,
    )
    labelled, validation, test = counts
    drawn = None if roles["labelled"] else labelled
    split = make_split(whole, seed=seed, labels=drawn, validation=validation, test=test, lists=roles)
    have = set(dataset.frames) & set(dataset.sounds)
    boxed = have & dataset.annotated
    present = {
        "train": [i for i in split.train_unlabelled if i in have],
        "labelled": [i for i in split.train_labelled if i in boxed],
        "validation": [i for i in split.validation if i in boxed],
        "test": [i for i in split.test if i in boxed],
    }
    found = Index(split, present)
    _compare(found, dataset, lists, kind, train, official)
    _write(found, root, given)
    _budgets(found, dataset, root, seed)
    return found


def _open(root: Path, kind: str, lists: Path) -> tuple[AVDataset, list[str]]:
    """The folder, and the official ids that have boxes: what roles are drawn from."""
    if kind == "vggss":
        boxes = root / "vggss.json"
        source = boxes if boxes.is_file() else lists / "vggss.json"
        official = list(read_vggss(source))
        require(root.is_dir(), f"{root}: no such folder; name the folder that holds frames/ and audio/")
        if source != boxes:
            shutil.copyfile(source, boxes)
        return AVDataset(root, kind), official
    official = read_list(lists / "flickr_sup_train.txt") + read_list(lists / "flickr_test.csv")
    return AVDataset(root, kind), list(dict.fromkeys(official))


def _compare(found: Index, dataset: AVDataset, lists: Path, kind: str, train: Path, official: list[str]) -> None:
    """Lines on every official list, and its missing ids."""
    names = {train.name: read_list(train), "boxes": official}
    names |= {n: read_list(lists / n) for n in OTHERS[kind] if n not in names and (lists / n).is_file()}
    for name, ids in names.items():
        lacking: dict[str, int] = {}
        here = 0
        for i in ids:
            lacks = _lacks(dataset, i, boxes=name == "boxes")
            here += not lacks
            for what in lacks:
                lacking[what] = lacking.get(what, 0) + 1
                found.missing.append((i, name, what))
        title = "clips with official boxes" if name == "boxes" else name
        detail = ", ".join(f"{n:,} lack {what}" for what, n in lacking.items())
        found.lines.append(f"{title}: {len(ids):,} listed, {here:,} on disk" + (f" ({detail})" if detail else ""))
    listed = set(names[train.name])
    held = set(found.split.validation) | set(found.split.test)
    found.lines.append(
        f"{train.name} holds {len(listed & set(official)):,} clips with official boxes, "
        f"{len(listed & held):,} of them validation or test clips of this split: dropped"
    )
    found.lines += [f"note: {line}" for line in found.split.warnings]


def _lacks(dataset: AVDataset, i: str, boxes: bool) -> list[str]:
    there = {
        "a frame": i in dataset.frames,
        "a sound": i in dataset.sounds,
        "boxes": i in dataset.annotated or not boxes,
    }
    return [what for what, has in there.items() if not has]


def _write(found: Index, root: Path, given: dict[str, Path | None]) -> None:
    for role, file in FILES.items():
        path, ids = root / file, found.present[role]
        total = len(getattr(found.split, {"train": "train_unlabelled", "labelled": "train_labelled"}.get(role, role)))
        if given[role]:
            found.kept.append(path)
            found.lines.append(
                f"{path} is there and decides: {total:,} ids, {len(ids):,} on disk; --force draws it anew"
            )
            continue
        if not ids:
            found.lines.append(f"{path} is not written: none of its {total:,} ids is on disk")
            continue
        _ids(path, ids)
        found.written.append(path)
        found.lines.append(f"{path}: {len(ids):,} of {total:,} ids are on disk")
    if found.missing:
        path = root / "missing.csv"
        rows = [f"{i},{name},{what}" for i, name, what in found.missing]
        path.write_text("id,list,lacks\n" + "".join(f"{row}\n" for row in rows), "utf-8", "surrogateescape")
        found.written.append(path)
        found.lines.append(f"{path}: {len({i for i, _, _ in found.missing}):,} ids that lack something")


def _budgets(found: Index, dataset: AVDataset, root: Path, seed: int) -> None:
    """What `train --labels N` will take of the labelled list: nested, and written for people to read."""
    if not all((root / file).is_file() for file in FILES.values()):
        return
    for n in BUDGETS:
        if n < len(found.present["labelled"]):
            found.budgets[n] = make_split(dataset, seed=seed, labels=n).train_labelled
            path = root / f"labelled-{n}.txt"
            _ids(path, found.budgets[n])
            found.written.append(path)
            found.lines.append(f"{path}: the clips that --labels {n} uses")


def _ids(path: Path, ids: list[str]) -> None:
    try:
        write_list(path, ids)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; make room, or take another folder") from None

"""`fastdmt data index --own`: the lists of a folder that no official list knows, drawn from what is on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fastdmt.config import require
from fastdmt_loaders import AVDataset, Split, make_split
from fastdmt_loaders.dataset.dataset import DEFAULT_LISTS
from fastdmt_loaders.dataset.lists import write_list

ROLES = {"train": "train_unlabelled", "labelled": "train_labelled", "validation": "validation", "test": "test"}


@dataclass
class Drawn:
    """What was drawn; `lines` says it for a terminal."""

    split: Split
    written: list[Path] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def draw_lists(
    root: Path,
    *,
    seed: int = 0,
    labelled: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    force: bool = False,
) -> Drawn:
    """Write labelled.txt, train.txt, val.txt and test.csv where absent, by the rules of `make_split`.

    Args:
        root: frames/, audio/ and boxes.
        seed: of the draw.
        labelled: clips whose boxes may be used; None: all that are neither validation nor test.
        validation, test: clips to draw; None: a fifth each, at most 500 and 250.
        force: write lists anew that are there.

    Raises:
        DataError: no such folder, or too few clips with boxes for the counts.
        FastDMTError: no clip has boxes.
    """
    dataset = AVDataset(root)
    require(
        bool(dataset.annotated & set(dataset.ids)),
        f"{root}: no clip has boxes; make them from a file that you have with: fastdmt data boxes FILE {root}",
    )
    given = {role: path for role, file in DEFAULT_LISTS.items() if (path := root / file).is_file() and not force}
    split = make_split(
        dataset,
        seed=seed,
        labels=labelled,
        validation=validation,
        test=test,
        lists={role: given.get(role) for role in DEFAULT_LISTS},
    )
    drawn = Drawn(split, lines=[f"note: {line}" for line in split.warnings])
    for role, file in DEFAULT_LISTS.items():
        ids = getattr(split, ROLES[role])
        path = root / file
        if role in given:
            drawn.lines.append(f"{path} is there and decides: {len(ids):,} clips; --force draws it anew")
        elif not ids:
            drawn.lines.append(f"{path} is not written: no clip is left for it")
        else:
            write_list(path, ids)
            drawn.written.append(path)
            drawn.lines.append(f"{path}: {len(ids):,} clips")
    return drawn

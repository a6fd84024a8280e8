"""The literature's test lists as suites: our figures beside published ones, every row marked with its protocol."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Group
from rich.text import Text

from fastdmt.config import require
from fastdmt.drawing.tables import Table
from fastdmt.errors import FastDMTError
from fastdmt.evaluation import metrics
from fastdmt.evaluation.evaluate import evaluate
from fastdmt.evaluation.result import Result
from fastdmt.names import SUITES
from fastdmt_loaders import AVDataset, Pair, read_pairs

MEDIAN, ABSOLUTE, ADAPTIVE = (f"{rule} threshold" for rule in ("median", "absolute", "adaptive"))


class Published(NamedTuple):
    """A figure of a paper: CIoU@0.5 in percent, trained on 144k clips of the same data set."""

    method: str
    ciou: float
    protocol: str = MEDIAN
    note: str = ""


FLICKR = (
    Published("Attention10k", 66.0),
    Published("LVS", 69.9),
    Published("EZ-VSL", 72.69),
    Published("EZ-VSL", 83.13, note="with object guidance"),
    Published("SLAVC", 73.84),
    Published("SSPL", 75.9),
    Published("SSL-TIE", 81.5),
    Published("best semi-supervised before DMT", 85.8),
    Published("Alignment", 86.0),
    Published("DMT", 90.4, note="on 250 clips that are not known"),
    Published("ACL-SSL", 80.8, ABSOLUTE, "best of a grid of thresholds"),
)
VGGSS = (
    Published("Attention10k", 18.5),
    Published("LVS", 34.4),
    Published("EZ-VSL", 34.38),
    Published("EZ-VSL", 38.85, note="with object guidance"),
    Published("SLAVC", 39.2),
    Published("SSPL", 33.9),
    Published("SSL-TIE", 38.6),
    Published("Alignment", 41.4),
    Published("best semi-supervised before DMT", 42.4),
    Published("DMT", 48.8, note="on 250 clips that are not known"),
    Published("ACL-SSL", 49.46, ABSOLUTE, "best of a grid of thresholds"),
)
PUBLISHED = {"flickr": FLICKR, "vggss": VGGSS}


@dataclass
class SuiteResult:
    """An evaluation on a suite.

    Attributes:
        name: of the suite.
        result: measures of the items on disk.
        listed: items of the official list.
        leaked: rows [items] bool whose frame or sound the model was trained on.
    """

    name: str
    result: Result
    listed: int
    leaked: np.ndarray

    @property
    def missing(self) -> int:
        """Listed items that lack a frame, a sound or boxes."""
        return self.listed - len(self.result.pairs)

    @property
    def warnings(self) -> list[str]:
        """What forbids a plain comparison with published figures."""
        out = []
        if self.missing:
            out.append(
                f"{len(self.result.pairs):,} of {self.listed:,} listed items are on disk: "
                "these figures are of another set than the published ones"
            )
        return out + leak_notes(self.result, self.leaked)

    def rows(self) -> list[tuple[str, str, str]]:
        """(method, CIoU@0.5 and, of ours, AUC, protocol), grouped by protocol; ours, cap and blind disc in each."""
        summary, out = self.result.summary, []
        for rule, protocol in (("median", MEDIAN), ("absolute", ABSOLUTE), ("adaptive", ADAPTIVE)):
            others = [row for row in PUBLISHED.get(self.name, ()) if row.protocol == protocol]
            out += [(row.method, f"{row.ciou:.2f}", ", ".join(filter(None, (protocol, row.note)))) for row in others]
            out += [
                (who, f"{100 * summary[rule][f'{k}ciou']:.2f} (AUC {100 * summary[rule][f'{k}auc']:.2f})", note)
                for k, who, note in (
                    ("", "ours", ", ".join((protocol, *self.result.options))),
                    ("blind_", "blind disc", protocol),
                    ("cap_", "attainable cap", protocol),
                )
            ]
        return out

    def published(self) -> Table:
        """The literature's table; sections never mix protocols."""
        rows = self.rows()
        kinds = [protocol.split(",")[0] for _, _, protocol in rows]
        return Table(
            ("method", "CIoU@0.5", "protocol"),
            rows,
            title=f"suite {self.name}",
            caption="Compare only figures of one protocol.",
            strong={i for i, row in enumerate(rows) if row[0] == "ours"},
            parted={i for i in range(1, len(rows)) if kinds[i] != kinds[i - 1]},
            left={2},
        )

    def table(self) -> Group:
        """For a terminal: the literature's table, what forbids a comparison, and our own."""
        return Group(self.published(), *(Text(f"note: {line}") for line in self.warnings), self.result.table())


def leaks(pairs: Iterable[Pair], trained: Iterable[str]) -> np.ndarray:
    """bool [items]: whether the model was trained on an item's frame or sound."""
    seen: Collection[str] = set(trained)
    return np.array([pair.video in seen or pair.audio in seen for pair in pairs], bool)


def leak_notes(result: Result, leaked: np.ndarray) -> list[str]:
    """How many items the model was trained on, and the figures of the others; nothing where there are none."""
    if not leaked.any():
        return []
    clean = ~leaked & result.sounding
    if not clean.any():
        return [f"all {int(result.sounding.sum()):,} sounding items were in the training lists: no figure is left"]
    rest = ", ".join(
        f"{rule} {100 * metrics.success(result.arrays[f'ciou_{rule}'][clean]):.1f}" for rule in metrics.RULES
    )
    return [
        f"{int(leaked.sum()):,} items were in the training lists; CIoU@0.5 on the other {int(clean.sum()):,}: {rest}"
    ]


def suite_pairs(dataset: AVDataset, name: str, lists: str | Path | None = None) -> tuple[list[Pair], int]:
    """Items of a suite that are on disk, and how many the official list has.

    Args:
        dataset: with the suite's kind of annotations.
        lists: folder of the official lists; the data folder by default.

    Raises:
        FastDMTError: unknown suite, other annotations, or no listed item on disk.
        DataError: a list is missing or unreadable.
    """
    require(name in SUITES, f"unknown suite {name!r}: choose one of {', '.join(SUITES)}")
    suite = SUITES[name]
    require(
        dataset.rule == suite.rule,
        f"{dataset.root}: suite {name} needs {suite.rule} annotations, found {dataset.rule or 'none'}; "
        + ("add vggss.json" if suite.rule == "vggss" else "add Annotations/<id>.xml, or move vggss.json away"),
    )
    folder = Path(lists) if lists is not None else dataset.root
    listed = [pair for file in suite.lists for pair in read_pairs(folder / file)]
    here = [
        pair
        for pair in listed
        if pair.video in dataset.frames
        and pair.audio in dataset.sounds
        and (not pair.sounding or pair.video in dataset.annotated)
    ]
    if not any(pair.sounding for pair in here):
        raise FastDMTError(
            f"{dataset.root}: none of the {len(listed):,} items of {' + '.join(suite.lists)} is on disk with boxes; "
            "check that files are named by the lists' ids"
        )
    return here, len(listed)


def run_suite(
    model,
    dataset: AVDataset,
    name: str,
    *,
    lists: str | Path | None = None,
    trained: Iterable[str] = (),
    **options,
) -> SuiteResult:
    """Evaluate on a suite.

    Args:
        model, dataset: as for `evaluate`.
        name: one of `fastdmt.names.SUITES`.
        lists: folder of the official lists; the data folder by default.
        trained: ids of the run's training lists; items among them are counted, and figures given without them.
        options: for `evaluate`.

    Raises:
        FastDMTError, DataError: see `suite_pairs` and `evaluate`.
    """
    pairs, listed = suite_pairs(dataset, name, lists)
    return SuiteResult(name, evaluate(model, dataset, pairs, name=name, **options), listed, leaks(pairs, trained))

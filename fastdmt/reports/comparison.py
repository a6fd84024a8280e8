"""compare.html: the table, every seed, what differences are worth, curves, and the same items under every row."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from fastdmt.drawing import curves
from fastdmt.drawing.tables import Score, Table
from fastdmt.evaluation import differences, examples
from fastdmt.evaluation.evaluate import view_of
from fastdmt.evaluation.result import Result
from fastdmt.files import write_text
from fastdmt.reports.report import jpeg_uri

EXAMPLES, TILE = 6, 150  # items that all rows show, height of a picture in pixels
COLUMNS = {
    "ciou": "CIoU@0.5",
    "auc": "AUC",
    "ciou_adaptive": "CIoU adaptive",
    "ciou_one": "teacher A alone",
    "ciou_students": "students",
    "ciou_shuffled": "sounds shuffled",
    "silence": "silence marks",
}

Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # name of a row -> measures of every seed


def values(runs: Sequence[Mapping[str, Any]], key: str = "ciou") -> list[float]:
    """One measure of every seed, in percent."""
    return [100 * run[key] for run in runs]


def comparison_table(rows: Rows, split: str) -> Table:
    """Mean and standard deviation over seeds, in percent."""
    seeds = next(iter(rows.values()))
    spread = f"mean and standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    table = Table(
        ("", *COLUMNS.values()),
        title=f"{split} items, absolute threshold, {spread}",
        caption=f"Percent. Blind disc {100 * seeds[0]['blind']:.1f}, cap {100 * seeds[0]['cap']:.1f}.",
        fold=4,
    )
    for name, runs in rows.items():
        cells = [differences.mean_and_deviation(values(runs, key)) for key in COLUMNS]
        table.rows.append([name, Score(cells[0]), *cells[1:]])
    return table


def shown(model, dataset, result: Result) -> list[dict[str, str]]:
    """A few items, the same for every run on these items: id, frame with its boxes, map; pictures as data URIs."""
    sounding = np.flatnonzero(result.sounding)
    rows = np.random.default_rng(0).permutation(sounding)[:EXAMPLES].tolist()
    pictures = examples.take(
        model,
        dataset,
        result.pairs,
        result.arrays,
        {"random": rows},
        view=view_of(model),
        source=result.source,
        device=model.device,
    )
    out = []
    for picture in pictures:
        tiles = picture.tiles(TILE)
        out.append(
            {
                "id": picture.pair.video,
                "ciou": f"{100 * picture.ciou['absolute']:.0f}",
                "frame": jpeg_uri(tiles[0], 80),
                "map": jpeg_uri(tiles[-1], 80),
            }
        )
    return out


def write_comparison(path: Path, rows: Rows, split: str) -> None:
    """Write the page.

    Args:
        path: html file.
        rows: what `fastdmt compare` keeps of every run: `COLUMNS`, "blind", "cap", "curves", perhaps "examples".
        split: whose items, "test" or "val".

    Raises:
        FastDMTError: the file cannot be written.
    """
    page = Template(resources.files("fastdmt.reports").joinpath("templates/compare.html").read_text(encoding="utf-8"))
    table = comparison_table(rows, split)
    said = differences.sentences({name: values(runs) for name, runs in rows.items()})
    text = page.substitute(
        style=curves.STYLE,
        table=table.page(),
        sentences="".join(f"<li>{html.escape(line)}</li>" for line in said),
        points="".join(
            curves.points({name: values(runs, key) for name, runs in rows.items()}, f"{COLUMNS[key]}, percent")
            for key in ("ciou", "auc")
        ),
        curves=curves.curves({name: [run["curves"] for run in runs] for name, runs in rows.items()}),
        examples=_examples(rows),
    )
    write_text(path, text)


def _examples(rows: Rows) -> str:
    """Items in rows: the frame, then what the first seed of each row makes of it."""
    first = {name: runs[0].get("examples", []) for name, runs in rows.items()}
    count = min(map(len, first.values()))
    figures = []
    for i in range(count):
        item = next(iter(first.values()))[i]
        tiles = [(item["frame"], "frame and truth")]
        tiles += [(found[i]["map"], f"{name}, cIoU {found[i]['ciou']}%") for name, found in first.items()]
        pictures = "".join(
            f'<div class="tile"><img src="{html.escape(uri)}" alt="{html.escape(text)}">'
            f"<span>{html.escape(text)}</span></div>"
            for uri, text in tiles
        )
        caption = f"<figcaption>{html.escape(item['id'])}</figcaption>"
        figures.append(f'<figure><div class="row">{pictures}</div>{caption}</figure>')
    return f"<h2>The same items, first seed</h2>{''.join(figures)}" if figures else ""

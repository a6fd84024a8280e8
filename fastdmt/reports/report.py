"""report.html, one file that needs nothing else, and the picture strip of an evaluation."""

from __future__ import annotations

import base64
import html
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template

import av
import numpy as np
from PIL import Image

from fastdmt.drawing import draw
from fastdmt.drawing.tables import Score, Table
from fastdmt.errors import FastDMTError
from fastdmt.evaluation.examples import GROUPS, HEADINGS, SOUND_RATE, Picture
from fastdmt.evaluation.result import LEVELS, RULES, Result, confusion
from fastdmt.files import write_text

TILE = 200  # height of a picture in the report, pixels
SIDE = 56  # side of the maps that the page draws anew when the threshold moves
GROUP_TITLES = {
    "best": "Best items",
    "worst": "Worst items",
    "random": "Random items, of the rest",
    "non-sounding": "Items whose sound has no source in the frame",
}
# Columns of the table of items: title, measure, factor to percent.
MEASURES = (
    ("cIoU", "ciou_absolute"),
    ("cIoU adaptive", "ciou_adaptive"),
    ("cIoU median", "ciou_median"),
    ("with the other sound", "other_absolute"),
    ("marked", "active"),
    ("marked in silence", "active_silence"),
)


def write_report(
    result: Result,
    path: str | Path,
    *,
    title: str = "Evaluation",
    facts: Mapping[str, str] | None = None,
    published: Table | None = None,
) -> None:
    """Tables with their context, classes, all items, and some with their maps and sounds under a movable threshold.

    Args:
        title: first line.
        facts: what a reader should know of the run, for example {"weights": "best by validation"}.
        published: figures of the literature, ours among them (`SuiteResult.published`).

    Raises:
        FastDMTError: the file cannot be written.
    """
    summary = result.summary
    heard = "every frame with another item's sound" if result.shuffled else "each frame with its own sound"
    silent = summary["items"] - summary["sounding"]
    subtitle = [result.name, f"{summary['sounding']:,} sounding items", heard, f"map: {result.map}"]
    subtitle.insert(2, f"{silent:,} without a source" if silent else "")
    level = result.pictures[0].level if result.pictures else 0.5
    page = Template(resources.files("fastdmt.reports").joinpath("templates/report.html").read_text(encoding="utf-8"))
    main = result.main_table()
    main.title = ""
    text = page.substitute(
        title=html.escape(title),
        subtitle=html.escape(" · ".join(part for part in subtitle if part)),
        sentence=f'<p class="sentence">{html.escape(result.sentence())}</p>' if result.sentence() else "",
        facts=f"<dl>{_definitions(facts)}</dl>" if facts else "",
        main=main.page(),
        details=_definitions(result.details()),
        published=f"<h2>Published figures</h2>{published.page()}" if published else "",
        classes=_classes(summary),
        level=f"{level:g}",
        gallery=_gallery(result.pictures),
        data=_script(_data(result)),
    )
    write_text(Path(path), text)


def write_strip(result: Result, path: str | Path, rows: int = 4, tile: int = 240) -> None:
    """A PNG of labelled columns: frame | teacher A | teacher B | intersection | result.

    Shows one of the best items, random ones, and one of the worst, and says which is which.

    Raises:
        FastDMTError: the evaluation kept no pictures, or the file cannot be written.
    """
    # Rows of one shape make columns of one width: frames of another shape stay in the report.
    shapes = Counter(_shape(p) for p in result.pictures)
    alike = [p for p in result.pictures if _shape(p) == shapes.most_common(1)[0][0]]
    by_group = {group: [p for p in alike if p.group == group] for group in GROUPS}
    chosen = [*by_group["best"][:1], *by_group["random"][: max(0, rows - 2)], *by_group["worst"][:1]]
    chosen = (chosen or alike)[:rows]
    if not chosen:
        raise FastDMTError(f"{path}: there is no item to draw; evaluate with examples=1 or more")
    captions = [f"{p.group} item {p.pair.video}{_score(p)}" for p in chosen]
    image = draw.strip([p.tiles(tile) for p in chosen], HEADINGS, captions)
    try:
        image.save(path)
    except OSError as error:
        raise FastDMTError(f"cannot write {path}: {error.strerror or error}; give another place") from None


def _shape(picture: Picture) -> float:
    return round(picture.frame.shape[1] / picture.frame.shape[0], 1)


def _score(picture: Picture) -> str:
    return f", cIoU {100 * picture.ciou['absolute']:.0f}%" if picture.ciou else ""


def _classes(summary: dict) -> str:
    """Results by class, best first, and which sounds are taken for which objects."""
    if not summary.get("classes"):
        return ""
    table = Table(
        ("class", "items", "CIoU@0.5", "AUC"),
        [
            (name, f"{row['items']:,}", Score(_percent(row["ciou"])), _percent(row["auc"]))
            for name, row in summary["classes"].items()
        ],
        caption="Absolute threshold; the best class first. Click a column's name to sort by it.",
    )
    confused = "".join(f"<li>{html.escape(confusion(row))}</li>" for row in summary["confused"])
    said = (
        f"<h3>What is confused</h3><ul>{confused}</ul>"
        '<p class="note">Every object was also shown with a sound of another clip: where that finds it as well, '
        "its own sound tells little.</p>"
    )
    return f'<h2>By class</h2><div class="sortable tall">{table.page()}</div>{said if confused else ""}'


def _data(result: Result) -> dict:
    """What the page's script draws: items by row, and the curve of CIoU over the threshold, in percent."""
    measures = [(name, key) for name, key in MEASURES if key in result.arrays]
    items = []
    for i, pair in enumerate(result.pairs):
        values = [None if np.isnan(v := result.arrays[key][i]) else round(100 * float(v), 1) for _, key in measures]
        items.append([pair.video, result.classes.get(pair.video, ""), *values])
    curve = result.summary.get("levels", {})
    return {
        "columns": ["item", "class" if result.classes else "", *(name for name, _ in measures)],
        "items": items,
        "levels": list(LEVELS) if curve else [],
        "curve": [round(100 * value, 1) for value in curve.values()],
        "side": SIDE,
        "colours": base64.b64encode(draw.HEAT_TABLE.astype(np.uint8).tobytes()).decode(),
        "pictures": [_drawn(p, result) for p in result.pictures],
    }


def _drawn(picture: Picture, result: Result) -> dict:
    """The map of an item, and its cIoU in percent at every threshold."""
    p = draw.resize(picture.maps["result"], SIDE, SIDE)
    known = picture.ciou and result.levels is not None
    return {
        "map": base64.b64encode((255 * p).round().clip(0, 255).astype(np.uint8).tobytes()).decode(),
        "ciou": [round(100 * float(v)) for v in result.levels[picture.row]] if known else [],
    }


def _script(data: dict) -> str:
    """JSON that no name of a file can end."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _gallery(pictures: Sequence[Picture]) -> str:
    parts: list[str] = []
    heads = '<div class="heads">' + "".join(f"<span>{name}</span>" for name in HEADINGS) + "</div>"
    for group in GROUPS:
        members = [p for p in pictures if p.group == group]
        if members:
            figures = (_figure(p, k) for k, p in enumerate(pictures) if p.group == group)
            parts += [f"<section><h2>{GROUP_TITLES[group]}</h2>", heads, *figures, "</section>"]
    return "\n".join(parts)


def _figure(picture: Picture, number: int) -> str:
    tiles = "".join(
        f'<div class="tile"><img src="{jpeg_uri(tile)}" width="{tile.shape[1]}" height="{tile.shape[0]}" '
        f'alt="{html.escape(f"{name} of {picture.pair.video}")}"><span>{name}</span></div>'
        for name, tile in zip(HEADINGS, picture.tiles(TILE))
    )
    pair = picture.pair
    caption = [f"<b>{html.escape(pair.video)}</b>"]
    if pair.audio != pair.video:
        caption.append(f"sound of {html.escape(pair.audio)}")
    if picture.ciou:
        caption.append(f"<output>cIoU {100 * picture.ciou['absolute']:.0f}% at P ≥ 0.50</output>")
    caption += [f"{rule} cIoU {100 * picture.ciou[rule]:.0f}%" for rule in RULES[1:] if rule in picture.ciou]
    spans = "".join(f"<span>{text}</span>" for text in caption)
    audio = f'<audio controls preload="none" src="{sound_uri(picture.sound)}"></audio>'
    below = f"<figcaption>{spans}{audio}</figcaption>"
    return f'<figure data-picture="{number}"><div class="row">{tiles}</div>{below}</figure>'


def jpeg_uri(image: np.ndarray, quality: int = 88) -> str:
    """A picture [H, W, 3] uint8 as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def sound_uri(pcm: np.ndarray, rate: int = SOUND_RATE) -> str:
    """A sound, float [T] at 16 kHz, as a data URI: Opus, about 10 kB for 3 s."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=rate, layout="mono", bit_rate=24000)
        whole = (np.clip(pcm, -1, 1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(whole[None], format="s16", layout="mono")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return "data:audio/ogg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _definitions(facts: Mapping[str, str]) -> str:
    return "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in facts.items())


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"

"""report.html, one file that needs nothing else, and the picture strip of an evaluation."""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template

import av
import numpy as np
from PIL import Image

from fastdmt.drawing import draw
from fastdmt.errors import FastDMTError
from fastdmt.evaluation.examples import GROUPS, HEADINGS, SOUND_RATE, Picture
from fastdmt.evaluation.result import RULES, Result
from fastdmt.files import write_text

TILE = 200  # height of a picture in the report, pixels
GROUP_TITLES = {
    "best": "Best items",
    "worst": "Worst items",
    "random": "Random items, of the rest",
    "non-sounding": "Items whose sound has no source in the frame",
}


def write_report(
    result: Result,
    path: str | Path,
    *,
    title: str = "Evaluation",
    facts: Mapping[str, str] | None = None,
    published: Sequence[tuple[str, str, str]] = (),
) -> None:
    """Tables with their context, and the best, the worst and random items with their maps and sounds.

    Args:
        title: first line.
        facts: what a reader should know of the run, for example {"weights": "best by validation"}.
        published: rows (method, CIoU@0.5, protocol), ours among them (`SuiteResult.rows`).

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
    text = page.substitute(
        title=html.escape(title),
        subtitle=html.escape(" · ".join(part for part in subtitle if part)),
        facts=f"<dl>{_definitions(facts)}</dl>" if facts else "",
        main=_main_table(summary),
        details=_details(summary),
        extended=_extended(summary),
        published=_published(published),
        level=f"{level:g}",
        gallery=_gallery(result.pictures),
        foot="All values in percent unless said otherwise. Maps and truth are compared on a grid of 224 × 224.",
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
    return f", cIoU {picture.ciou['absolute']:.2f}" if picture.ciou else ""


def _main_table(summary: dict) -> str:
    other = "other_ciou" in summary["absolute"]
    heads = ["threshold", "CIoU@0.5", "AUC", "attainable cap", "blind disc"]
    heads += ["another item's sound", "drop without the right sound"] if other else []
    rows = []
    for rule in RULES:
        r = summary[rule]
        error = (r["ciou"] * (1 - r["ciou"]) / max(1, summary["sounding"])) ** 0.5
        cells = [
            f"<td>{rule}</td>",
            f'<td class="score">{_percent(r["ciou"])} <small>± {100 * error:.1f}</small></td>',
            f'<td class="score">{_percent(r["auc"])}</td>',
        ]
        cells += [f"<td>{_percent(r[f'{k}_ciou'])} / {_percent(r[f'{k}_auc'])}</td>" for k in ("cap", "blind")]
        if other:
            drops = [r[k] - r[f"other_{k}"] for k in ("ciou", "auc")]
            cells.append(f"<td>{_percent(r['other_ciou'])} / {_percent(r['other_auc'])}</td>")
            cells.append(f"<td><b>{_percent(drops[0])}</b> / {_percent(drops[1])}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    caption = (
        "Pairs are CIoU@0.5 / AUC; ± is one standard error. <b>absolute</b>: P ≥ 0.5; <b>adaptive</b>: as many pixels "
        "as the truth has; <b>median</b>: the upper half of the map, as most of the literature does. The <b>cap</b> is "
        "the best that any map can reach on these items, the <b>blind disc</b> what a disc in the middle of every "
        "frame gets. A model that ignores the sound loses nothing with another item's sound."
    )
    return _table(heads, rows, caption)


def _details(summary: dict) -> str:
    names = {
        "own_sound": "its own sound",
        "other_sound": "another item's sound",
        "silence": "silence",
        "noise": "white noise",
        "sourceless_clips": "the list's clips without a source",
        "foreign_sounds": "the list's foreign sounds",
    }
    pia = ", ".join(f"{names[key]} {_percent(value)}" for key, value in summary["pia"].items())
    sizes = [
        f"{name} {_percent(row['absolute'])} / {_percent(row['adaptive'])} / {_percent(row['median'])}"
        f' <span class="soft">({row["items"]} items)</span>'
        for name, row in summary["sizes"].items()
        if row["items"]
    ]
    return _definitions(
        {
            "Share of the frame marked (pIA)": pia,
            "CIoU by size of the truth": ", ".join(sizes) + ' <span class="soft">absolute / adaptive / median</span>',
            "Mean squared error of P": f"{summary['mse']:.4f}",
        },
        escape=False,
    )


def _extended(summary: dict) -> str:
    if "extended" not in summary:
        return ""
    rows = [
        f"<tr><td>{rule}</td>" + "".join(f"<td>{_percent(r[k])}</td>" for k in ("ap", "max_f1", "loc_acc")) + "</tr>"
        for rule, r in summary["extended"].items()
    ]
    caption = (
        "Confidence: mean of the top quarter of (cosine + 1) / 2. A detection on a silent or off-screen item is wrong."
    )
    heads = ["threshold", "AP", "max-F1", "LocAcc"]
    return f"<h2>With items that do not sound</h2>{_table(heads, rows, caption)}"


def _published(published: Sequence[tuple[str, str, str]]) -> str:
    rows = [
        f"<tr{' class=ours' if method == 'ours' else ''}><td>{html.escape(method)}</td><td>{html.escape(score)}</td>"
        f"<td>{html.escape(protocol)}</td></tr>"
        for method, score, protocol in published
    ]
    if not rows:
        return ""
    caption = "Compare only figures of one protocol."
    return f"<h2>Published figures</h2>{_table(['method', 'CIoU@0.5', 'protocol'], rows, caption)}"


def _gallery(pictures: Sequence[Picture]) -> str:
    parts = []
    heads = '<div class="heads">' + "".join(f"<span>{name}</span>" for name in HEADINGS) + "</div>"
    for group in GROUPS:
        members = [p for p in pictures if p.group == group]
        if members:
            parts += [f"<section><h2>{GROUP_TITLES[group]}</h2>", heads, *map(_figure, members), "</section>"]
    return "\n".join(parts)


def _figure(picture: Picture) -> str:
    tiles = "".join(
        f'<img src="{jpeg_uri(tile)}" width="{tile.shape[1]}" height="{tile.shape[0]}" '
        f'alt="{html.escape(f"{name} of {picture.pair.video}")}" loading="lazy">'
        for name, tile in zip(HEADINGS, picture.tiles(TILE))
    )
    pair = picture.pair
    caption = [f"<b>{html.escape(pair.video)}</b>"]
    if pair.audio != pair.video:
        caption.append(f"sound of {html.escape(pair.audio)}")
    caption += [f"{rule} cIoU {picture.ciou[rule]:.2f}" for rule in RULES if rule in picture.ciou]
    spans = "".join(f"<span>{text}</span>" for text in caption)
    audio = f'<audio controls preload="none" src="{sound_uri(picture.sound)}"></audio>'
    return f'<figure><div class="row">{tiles}</div><figcaption>{spans}{audio}</figcaption></figure>'


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


def _definitions(facts: Mapping[str, str], escape: bool = True) -> str:
    clean = html.escape if escape else str
    return "".join(f"<dt>{html.escape(key)}</dt><dd>{clean(value)}</dd>" for key, value in facts.items())


def _table(heads: Sequence[str], rows: Sequence[str], caption: str) -> str:
    top = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="scroll">{table}</div><p class="note">{caption}</p>'


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"

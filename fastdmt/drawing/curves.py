"""Training curves of several methods and seeds as one self-contained page of inline SVG."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#3ca951", "#a463f2", "#6cc5b0")
TITLES = {
    "val_ciou": "validation CIoU@0.5 of the teachers' mean",
    "kept": "share of unlabelled clips kept",
    "teachers_iou": "IoU of the two teachers",
    "pseudo_iou": "IoU of kept pseudo-labels with the truth",
    "mask_area": "area of kept pseudo-labels (dashed: of the truth)",
}
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 460, 260, 44, 28, 26

Series = Mapping[str, Sequence[tuple[int, float]]]


def write_curves(path: Path, methods: Mapping[str, Sequence[Series]]) -> None:
    """Write one chart per quantity; thin lines are seeds, the thick one their mean.

    Args:
        path: html file.
        methods: method -> one mapping of quantity -> [(step, value)] per seed.
    """
    key = " ".join(
        f'<span><i style="background:{colour}"></i>{html.escape(name)}</span>' for name, colour in _coloured(methods)
    )
    charts = "\n".join(chart(name, title, methods) for name, title in TITLES.items())
    path.write_text(
        "<!doctype html><meta charset='utf-8'><title>FastDMT compare</title><style>"
        ":root{color-scheme:light dark}body{font:15px system-ui;margin:2rem;max-width:1000px}"
        "svg{margin:.5rem;overflow:visible}text{font:11px system-ui;fill:currentColor}"
        "i{display:inline-block;width:1em;height:.6em;margin:0 .4em 0 1em}</style>"
        f"<h1>Training curves</h1><p>{key}</p>{charts}",
        encoding="utf-8",
    )


def chart(name: str, title: str, methods: Mapping[str, Sequence[Series]]) -> str:
    """One quantity over steps as an SVG element; an empty string when no method logged it."""
    lines = [
        (colour, [seed[name] for seed in methods[method] if seed.get(name)]) for method, colour in _coloured(methods)
    ]
    points = [point for _, seeds in lines for seed in seeds for point in seed]
    if not points:
        return ""
    first, last = min(p[0] for p in points), max(p[0] for p in points)
    top = max(p[1] for p in points) * 1.05 or 1.0

    def xy(step: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT) * (step - first) / max(1, last - first)
        return f"{x:.1f},{TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top):.1f}"

    def line(series, style: str) -> str:
        return f'<polyline fill="none" {style} points="{" ".join(xy(*p) for p in series)}"/>'

    body = [f'<text x="{LEFT}" y="14">{html.escape(title)}</text>']
    for share in (0, 0.5, 1):
        y = xy(first, top * share).split(",")[1]
        body.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y}" y2="{y}" stroke="currentColor" opacity=".15"/>')
        body.append(f'<text x="0" y="{y}">{top * share:.2f}</text>')
    body.append(f'<text x="{LEFT}" y="{HEIGHT - 8}">step {first}</text>')
    body.append(f'<text x="{WIDTH}" y="{HEIGHT - 8}" text-anchor="end">{last}</text>')
    for colour, seeds in lines:
        body += [line(seed, f'stroke="{colour}" opacity=".35"') for seed in seeds]
        if seeds:
            body.append(line(mean(seeds), f'stroke="{colour}" stroke-width="2.5"'))
    if name == "mask_area":
        truth = [seed["truth_area"] for seeds in methods.values() for seed in seeds if seed.get("truth_area")]
        if truth:
            body.append(line(mean(truth), 'stroke="currentColor" stroke-dasharray="5 4"'))
    return f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{html.escape(title)}">{"".join(body)}</svg>'


def mean(seeds: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Mean over seeds at the steps that all of them have."""
    by_step = [dict(seed) for seed in seeds]
    steps = sorted(set.intersection(*(set(seed) for seed in by_step)))
    return [(step, sum(seed[step] for seed in by_step) / len(by_step)) for step in steps]


def _coloured(methods: Mapping[str, Sequence[Series]]) -> list[tuple[str, str]]:
    return [(name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(methods)]

"""Training curves of several algorithms and seeds as one self-contained page of inline SVG."""

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


def write_curves(path: Path, algorithms: Mapping[str, Sequence[Series]]) -> None:
    """Write one chart per quantity; thin lines are seeds, the thick one their mean.

    Args:
        path: html file.
        algorithms: algorithm -> one mapping of quantity -> [(step, value)] per seed.
    """
    key = " ".join(
        f'<span><i style="background:{colour}"></i>{html.escape(name)}</span>' for name, colour in _coloured(algorithms)
    )
    charts = "\n".join(chart(name, title, algorithms) for name, title in TITLES.items())
    path.write_text(page("Training curves", f"<p>{key}</p>{charts}"), encoding="utf-8", errors="surrogateescape")


def write_budgets(path: Path, budgets: Mapping[int, Mapping[str, Sequence[float]]]) -> None:
    """Write CIoU over the number of labels, one line a row, dots for seeds.

    Args:
        path: html file.
        budgets: labels -> row -> CIoU of every seed, in percent.
    """
    names = list(next(iter(budgets.values())))
    top = max(value for rows in budgets.values() for seeds in rows.values() for value in seeds) * 1.05 or 1.0
    steps = {budget: i for i, budget in enumerate(budgets)}

    def xy(budget: int, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT) * (steps[budget] + 0.5) / len(steps)
        return round(x, 1), round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top), 1)

    body = [f'<text x="{LEFT}" y="14">CIoU@0.5 (absolute) over labelled clips</text>']
    for share in (0, 0.5, 1):
        y = xy(next(iter(budgets)), share * top)[1]
        body.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y}" y2="{y}" stroke="currentColor" opacity=".15"/>')
        body.append(f'<text x="0" y="{y}">{share * top:.1f}</text>')
    body += [f'<text x="{xy(b, 0)[0]}" y="{HEIGHT - 8}" text-anchor="middle">{b}</text>' for b in budgets]
    key = []
    for i, name in enumerate(names):
        colour = COLOURS[i % len(COLOURS)]
        key.append(f'<span><i style="background:{colour}"></i>{html.escape(name)}</span>')
        for budget, rows in budgets.items():
            places = [xy(budget, value) for value in rows[name]]
            body += [f'<circle cx="{x}" cy="{y}" r="2" fill="{colour}" opacity=".5"/>' for x, y in places]
        means = [xy(budget, sum(rows[name]) / len(rows[name])) for budget, rows in budgets.items()]
        points = " ".join(f"{x},{y}" for x, y in means)
        body.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2.5" points="{points}"/>')
    svg = f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="CIoU over labels">{"".join(body)}</svg>'
    path.write_text(page("Labels", f"<p>{' '.join(key)}</p>{svg}"), encoding="utf-8", errors="surrogateescape")


def page(title: str, content: str) -> str:
    """A self-contained page."""
    return (
        f"<!doctype html><meta charset='utf-8'><title>FastDMT {title}</title><style>"
        ":root{color-scheme:light dark}body{font:15px system-ui;margin:2rem;max-width:1000px}"
        "svg{margin:.5rem;overflow:visible}text{font:11px system-ui;fill:currentColor}"
        f"i{{display:inline-block;width:1em;height:.6em;margin:0 .4em 0 1em}}</style><h1>{title}</h1>{content}"
    )


def chart(name: str, title: str, algorithms: Mapping[str, Sequence[Series]]) -> str:
    """One quantity over steps as an SVG element; an empty string when no algorithm logged it."""
    lines = [
        (colour, [seed[name] for seed in algorithms[algorithm] if seed.get(name)])
        for algorithm, colour in _coloured(algorithms)
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
        truth = [seed["truth_area"] for seeds in algorithms.values() for seed in seeds if seed.get("truth_area")]
        if truth:
            body.append(line(mean(truth), 'stroke="currentColor" stroke-dasharray="5 4"'))
    return f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{html.escape(title)}">{"".join(body)}</svg>'


def mean(seeds: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Mean over seeds at the steps that all of them have."""
    by_step = [dict(seed) for seed in seeds]
    steps = sorted(set.intersection(*(set(seed) for seed in by_step)))
    return [(step, sum(seed[step] for seed in by_step) / len(by_step)) for step in steps]


def _coloured(algorithms: Mapping[str, Sequence[Series]]) -> list[tuple[str, str]]:
    return [(name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(algorithms)]

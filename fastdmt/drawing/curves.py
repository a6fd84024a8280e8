"""Charts of several rows and seeds as inline SVG: curves over steps, points of seeds, figures over labels."""

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
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 460, 276, 44, 28, 42
LETTER, ROW = 6.3, 26  # width of a letter in a legend, height of a row of points, pixels
# Of a page with charts: they shrink with a narrow screen.
STYLE = "svg{margin:.5rem;max-width:100%;height:auto}text{font:11px system-ui,sans-serif;fill:currentColor}"

Series = Mapping[str, Sequence[tuple[int, float]]]


def curves(rows: Mapping[str, Sequence[Series]]) -> str:
    """One chart per quantity, each with its legend; thin lines are seeds, the thick one their mean.

    Args:
        rows: name -> one mapping of quantity -> [(step, value)] per seed.
    """
    return "\n".join(chart(name, title, rows) for name, title in TITLES.items())


def points(rows: Mapping[str, Sequence[float]], title: str) -> str:
    """A line of points for each row: a dot a seed, a bar at their mean.

    Args:
        rows: name -> percent of every seed.
        title: what is measured.
    """
    values = [value for seeds in rows.values() for value in seeds]
    low, high = min(values), max(values)
    room = max(0.1 * (high - low), 0.5)
    low, high = max(0.0, low - room), min(100.0, high + room)
    left = max(LEFT, min(WIDTH // 2, int(LETTER * max(map(len, rows))) + 12))
    height = TOP - 12 + ROW * len(rows) + BOTTOM

    def x(value: float) -> float:
        return round(left + (WIDTH - left - 24) * (value - low) / max(high - low, 1e-9), 1)

    body = [f'<text x="{left}" y="14">{html.escape(title)}</text>']
    for share in (0, 0.5, 1):
        value = low + share * (high - low)
        body.append(
            f'<line x1="{x(value)}" x2="{x(value)}" y1="{TOP - 18}" y2="{height - BOTTOM}" stroke="currentColor" '
            'opacity=".15"/>'
        )
        body.append(f'<text x="{x(value)}" y="{height - 10}" text-anchor="middle">{value:.1f}</text>')
    for i, (name, colour) in enumerate(_coloured(rows)):
        y, seeds = TOP - 6 + ROW * i, rows[name]
        mean_x = x(sum(seeds) / len(seeds))
        body.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{html.escape(name)}</text>')
        body += [f'<circle cx="{x(value)}" cy="{y}" r="4" fill="{colour}" opacity=".65"/>' for value in seeds]
        body.append(
            f'<line x1="{mean_x}" x2="{mean_x}" y1="{y - 9}" y2="{y + 9}" stroke="{colour}" stroke-width="2.5"/>'
        )
    return _svg(body, title, height)


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
    body += _legend(_coloured(dict.fromkeys(names)))
    for i, name in enumerate(names):
        colour = COLOURS[i % len(COLOURS)]
        for budget, rows in budgets.items():
            places = [xy(budget, value) for value in rows[name]]
            body += [f'<circle cx="{x}" cy="{y}" r="2" fill="{colour}" opacity=".5"/>' for x, y in places]
        means = [xy(budget, sum(rows[name]) / len(rows[name])) for budget, rows in budgets.items()]
        points = " ".join(f"{x},{y}" for x, y in means)
        body.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2.5" points="{points}"/>')
    path.write_text(page("Labels", _svg(body, "CIoU over labels")), encoding="utf-8", errors="surrogateescape")


def page(title: str, content: str) -> str:
    """A self-contained page."""
    return (
        f"<!doctype html><meta charset='utf-8'><title>FastDMT {title}</title><style>"
        f":root{{color-scheme:light dark}}body{{font:15px system-ui;margin:2rem;max-width:1000px}}{STYLE}</style>"
        f"<h1>{title}</h1>{content}"
    )


def _svg(body: Sequence[str], title: str, height: int = HEIGHT) -> str:
    return (
        f'<svg width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{html.escape(title)}">{"".join(body)}</svg>'
    )


def _legend(coloured: Sequence[tuple[str, str]]) -> list[str]:
    """Names beside their colours in one line under the title; what does not fit is cut."""
    body, x, y = [], LEFT, 30
    room = (WIDTH - LEFT) / max(1, len(coloured))
    for name, colour in coloured:
        most = max(1, int((room - 24) / LETTER))
        text = name if len(name) <= most else name[: most - 1] + "…"
        body.append(f'<rect x="{x:.0f}" y="{y - 7}" width="12" height="6" fill="{colour}"/>')
        body.append(f'<text x="{x + 16:.0f}" y="{y}">{html.escape(text)}</text>')
        x += min(room, 16 + LETTER * len(text) + 14)
    return body


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
    body += _legend([(n, colour) for (n, colour), (_, seeds) in zip(_coloured(algorithms), lines) if seeds])
    for share in (0, 0.5, 1):
        y = xy(first, top * share).split(",")[1]
        body.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y}" y2="{y}" stroke="currentColor" opacity=".15"/>')
        body.append(f'<text x="0" y="{y}">{100 * top * share:.0f}%</text>')
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
    return _svg(body, title)


def mean(seeds: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Mean over seeds at the steps that all of them have."""
    by_step = [dict(seed) for seed in seeds]
    steps = sorted(set.intersection(*(set(seed) for seed in by_step)))
    return [(step, sum(seed[step] for seed in by_step) / len(by_step)) for step in steps]


def _coloured(algorithms: Mapping[str, object]) -> list[tuple[str, str]]:
    return [(name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(algorithms)]

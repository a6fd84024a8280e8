"""What a difference between two rows of a table is worth: per-seed differences and their standard error, in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Difference(NamedTuple):
    """Of two rows with the same seeds, in the unit of the values."""

    mean: float
    error: float | None  #: standard error of the mean; None for a single seed
    seeds: int


def difference(row: Sequence[float], first: Sequence[float]) -> Difference:
    """Mean over seeds of row - first, seed by seed: what data and initialisation share cancels out."""
    apart = [a - b for a, b in zip(row, first, strict=True)]
    error = statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else None
    return Difference(statistics.mean(apart), error, len(apart))


def words(name: str, first: str, found: Difference) -> str:
    """One sentence: how far apart, and whether that is more than chance (two standard errors)."""
    way = "above" if found.mean >= 0 else "below"
    text = f"{name} is {abs(found.mean):.1f} points {way} {first}"
    if found.error is None:
        return f"{text} in one seed: one seed cannot say whether that is chance"
    text += f", standard error {found.error:.1f} over {found.seeds} seeds"
    more = abs(found.mean) > 2 * found.error
    verdict = "more than chance (two standard errors)" if more else "not more than chance (two standard errors)"
    return f"{text}: {verdict}" + (", as far as two seeds can say" if found.seeds == 2 else "")


def sentences(rows: Mapping[str, Sequence[float]]) -> list[str]:
    """A sentence for every row but the first, which it is compared with."""
    names = list(rows)
    return [words(name, names[0], difference(rows[name], rows[names[0]])) for name in names[1:]]


def mean_and_deviation(values: Sequence[float]) -> str:
    """Write values as "25.3 ± 1.2"; the mean alone for a single one."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"

"""Bilinear up-sampling inside a kernel (align_corners=False), a band of rows at a time.

Band k is the run of output rows whose source coordinate lies between the low-resolution rows k and k + 1, for k = -1
(above the first row's centre) to h - 1 (below the last one's). All its rows mix the same two source rows, so these are
mixed horizontally once a band, and every output row is then one vertical mix. The arithmetic and its order are those
of F.interpolate: horizontal first, weights 1 - t and t, coordinates max(0, (i + 0.5) h / H - 0.5) in float32.
"""

from __future__ import annotations

import functools

from .backend import cdiv, jit, power_of_2, tl
from .masks import WORD


@jit
def band_start(k, CELLS: tl.constexpr, PIXELS: tl.constexpr):
    """The first output row (or column) of band k, in exact integers; PIXELS for k = CELLS."""
    return tl.minimum(tl.maximum(((2 * k + 1) * PIXELS + CELLS - 1) // (2 * CELLS), 0), PIXELS)


@jit
def row_share(y, k, CELLS: tl.constexpr, PIXELS: tl.constexpr):
    """The share t of source row k + 1 in output row y of band k."""
    t = (y.to(tl.float32) + 0.5) * (CELLS / PIXELS) - 0.5 - k
    return tl.where(k < 0, 0.0, tl.minimum(tl.maximum(t, 0.0), 1.0))


@jit
def column_sources(x, CELLS: tl.constexpr, PIXELS: tl.constexpr):
    """The left and right source columns of output column x, and the right one's share."""
    source = tl.maximum((x.to(tl.float32) + 0.5) * (CELLS / PIXELS) - 0.5, 0.0)
    left = tl.minimum(source.to(tl.int32), CELLS - 1)
    return left, tl.minimum(left + 1, CELLS - 1), source - left.to(tl.float32)


@jit
def mixed_row(s, row, left, right, t, scale, bias, WIDTH: tl.constexpr):
    """Row `row` of the map scale * s + bias, mixed horizontally."""
    a = tl.load(s + row * WIDTH + left).to(tl.float32) * scale + bias
    b = tl.load(s + row * WIDTH + right).to(tl.float32) * scale + bias
    return (1.0 - t) * a + t * b


@functools.cache
def plan(cells: tuple[int, int], size: tuple[int, int], tile: int) -> dict[str, int]:
    """Compile-time sizes of a kernel that walks the bands: (h, w), (H, W), and blocks of about `tile` pixels."""
    height, width = size
    words = cdiv(width, WORD)
    block_words = power_of_2(words)
    starts = [max(0, min(height, ((2 * k + 1) * height + cells[0] - 1) // (2 * cells[0]))) for k in range(-1, cells[0])]
    rows = max(after - before for before, after in zip(starts, [*starts[1:], height], strict=True))
    block_rows = max(1, min(power_of_2(rows), tile // (block_words * WORD)))
    return {
        "h": cells[0],
        "w": cells[1],
        "H": height,
        "W": width,
        "WORDS": words,
        "BLOCK_WORDS": block_words,
        "BLOCK_ROWS": block_rows,
        "CHUNKS": cdiv(rows, block_rows),
    }

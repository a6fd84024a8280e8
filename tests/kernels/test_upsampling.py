"""The sizes of the kernels' bands, counted pixel by pixel; the values are tested through consensus and loss."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdmt_kernels.upsampling import plan

SIDES = st.integers(1, 40)


def rows_of_bands(cells: int, pixels: int) -> dict[int, int]:
    """Band k -> output rows whose source coordinate lies between rows k and k + 1 of the map, in exact fractions."""
    rows: dict[int, int] = {}
    for y in range(pixels):
        band = (Fraction(2 * y + 1, 2) * cells / pixels - Fraction(1, 2)).__floor__()
        rows[band] = rows.get(band, 0) + 1
    assert set(rows) <= set(range(-1, cells))
    return rows


@given(h=SIDES, height=st.integers(1, 300), width=st.integers(1, 300), tile=st.sampled_from([64, 512, 4096]))
def test_blocks_hold_the_tallest_band_and_the_widest_row(h, height, width, tile):
    sizes = plan((h, 3), (height, width), tile)
    tallest = max(rows_of_bands(h, height).values())
    assert sizes["CHUNKS"] * sizes["BLOCK_ROWS"] >= tallest > (sizes["CHUNKS"] - 1) * sizes["BLOCK_ROWS"]
    assert 32 * sizes["BLOCK_WORDS"] >= 32 * sizes["WORDS"] >= width > 32 * (sizes["WORDS"] - 1)
    for block in (sizes["BLOCK_ROWS"], sizes["BLOCK_WORDS"]):
        assert block & (block - 1) == 0, "Triton's blocks are powers of two"
    assert sizes["BLOCK_ROWS"] == 1 or sizes["BLOCK_ROWS"] * 32 * sizes["BLOCK_WORDS"] <= tile


@pytest.mark.parametrize("h, height", [(7, 224), (14, 224), (16, 256)])
def test_the_usual_sizes_by_hand(h, height):
    rows = rows_of_bands(h, height)
    assert rows[-1] == rows[h - 1] == height // h // 2 and rows[0] == height // h
    assert sum(rows.values()) == height

"""Probability maps against scipy's bilinear sampling in float64."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from fastdmt.models.probability import probability_map

AFFINE = torch.tensor([7.0, -3.0])


def sampled(s: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixel centres of a grid of `size` in a map of cells, edges repeated."""
    axes = [(np.arange(n) + 0.5) * cells / n - 0.5 for n, cells in zip(size, s.shape)]
    return map_coordinates(s, np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")


@pytest.mark.parametrize("size", [(24, 40), (7, 5)])
@pytest.mark.parametrize("kind", ["sigmoid", "clamp", "minmax"])
def test_every_kind_against_its_formula(kind, size):
    s = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    up = np.stack([sampled(one, size) for one in s.numpy()])
    if kind == "sigmoid":
        expected = 1 / (1 + np.exp(-(7 * up - 3)))
    elif kind == "clamp":
        expected = np.clip(up, 0, 1)
    else:
        low, high = up.min((1, 2), keepdims=True), up.max((1, 2), keepdims=True)
        expected = (up - low) / (high - low)
    p = probability_map(s.float(), AFFINE, size, kind)
    assert p.dtype == torch.float32 and p.shape == (3, *size)
    np.testing.assert_allclose(p.numpy(), expected, atol=2e-6)


def test_a_flat_map_is_no_division_by_zero():
    assert torch.equal(probability_map(torch.ones(1, 4, 4), AFFINE, (8, 8), "minmax"), torch.zeros(1, 8, 8))

"""The pixels of both views: a row at a time and all at once, against SciPy and against each other."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdmt_loaders import augment, views


def pictures(seed: int, n: int, side: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8))


def test_both_blurs_equal_scipys_gaussian():
    frames = torch.rand(5, 29, 29, 3, generator=torch.Generator().manual_seed(0)) * 255
    sigma = np.array([0.1, 0.3, 0.8, 1.4, 2.0])
    taps = augment.gaussian(sigma, 5)
    at_once = views.blur(frames.permute(0, 3, 1, 2), torch.from_numpy(taps).float()).permute(0, 2, 3, 1)
    for row, s in enumerate(sigma):
        radius = int(np.ceil(2.5 * s))
        want = scipy.ndimage.gaussian_filter(frames[row].double().numpy(), (s, s, 0), mode="mirror", radius=radius)
        np.testing.assert_allclose(at_once[row].numpy(), want, atol=2e-3)
        alone = views.blur_rows(frames[row].clone(), taps[row, 5 - radius : 6 + radius].tolist())
        np.testing.assert_allclose(alone.numpy(), want, atol=2e-3)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(24, 75))
def test_rows_one_by_one_equal_the_whole_batch_at_once(seed, size):
    n, side = 12, round(1.1 * size)
    frames, recipe = pictures(seed, n, side), augment.recipe(augment.draw(seed, 1, n), side, size)
    weak, strong = (torch.zeros(n, size, size, 3, dtype=torch.uint8) for _ in range(2))
    views.by_row(frames, recipe, range(5), weak, strong)
    views.by_row(frames, recipe, range(5, n), weak, strong)
    other_weak, other_strong = views.by_batch(frames, recipe, size)
    assert torch.equal(weak, other_weak)
    difference = (strong.int() - other_strong.int()).abs()
    # Sums in another order may fall on the other side of a half.
    assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-3
    assert not torch.equal(weak, strong)


@pytest.mark.gpu
def test_a_device_shows_the_same_pixels():
    n, size = 64, 224
    frames, recipe = pictures(0, n, 246), augment.recipe(augment.draw(0, 1, n), 246, size)
    weak, strong = (torch.zeros(n, size, size, 3, dtype=torch.uint8) for _ in range(2))
    views.by_row(frames, recipe, range(n), weak, strong)
    other_weak, other_strong = (view.cpu() for view in views.by_batch(frames.cuda(), recipe, size))
    assert torch.equal(weak, other_weak)
    difference = (strong.int() - other_strong.int()).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-3

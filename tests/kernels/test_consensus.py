"""consensus against the definition and against small sums done by hand; differing pixels are counted."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdmt_kernels import consensus, pack_mask, unpack_mask

AFFINE = torch.tensor([10.0, -1.0]), torch.tensor([8.0, -2.0])


def teachers(n, h, w, device, dtype=torch.float32):
    common = torch.randn(n, h, w, device=device) * 0.5
    return tuple((common + 0.1 * torch.randn(n, h, w, device=device)).to(dtype) for _ in range(2))


def brute_force(s_a, s_b, delta, tau, size, probability, soft, ignore_below):
    """float64, a map at a time: (iou, keep, mask, valid, confidence), and the pixels of mask or valid within 1e-6."""
    rows = []
    for maps in zip(s_a.double().cpu(), s_b.double().cpu(), strict=True):
        p = []
        for s, (w, b) in zip(maps, AFFINE, strict=True):
            logits = w.double() * s + b.double() if probability == "sigmoid" else s
            up = F.interpolate(logits[None, None], size=size, mode="bilinear", align_corners=False)[0, 0].numpy()
            if probability == "sigmoid":
                up = 1 / (1 + np.exp(-up))
            elif probability == "clamp":
                up = up.clip(0, 1)
            else:
                up = (up - up.min()) / (up.max() - up.min())
            p.append(up)
        m = [x >= delta for x in p]
        inter, union = (m[0] & m[1]), (m[0] | m[1])
        iou = inter.sum() / max(union.sum(), 1)
        near = np.logical_or.reduce([np.abs(x - level) < 1e-6 for x in p for level in (delta, ignore_below or delta)])
        valid = inter | (p[0] < ignore_below) & (p[1] < ignore_below) if ignore_below else None
        joint = p[0] * p[1] if soft == "product" else np.minimum(*p)
        rows.append((iou, iou >= tau and inter.any(), inter, union.sum(), valid, np.where(inter, joint * 255, 0), near))
    return rows


def compare(n, cells, size, probability, soft, ignore_below, device, dtype=torch.float32):
    """Equal to brute_force everywhere, but for pixels that float32 cannot decide; how many of those differ."""
    s_a, s_b = teachers(n, *cells, device, dtype)
    affine = [x.to(device, torch.promote_types(dtype, torch.float32)) for x in AFFINE]
    got = consensus(s_a, s_b, *affine, 0.6, 0.5, size, probability=probability, soft=soft, ignore_below=ignore_below)
    mask = unpack_mask(got.mask, size[1]).cpu().numpy()
    flipped = 0
    for i, row in enumerate(brute_force(s_a, s_b, 0.6, 0.5, size, probability, soft, ignore_below)):
        iou, keep, inter, union, valid, joint, near = row
        assert np.array_equal(mask[i] | near, inter | near), "a pixel differs that is not within 1e-6 of the threshold"
        flipped += int((mask[i] != inter).sum())
        # Each undecided pixel moves intersection and union by at most one.
        slack = 2 * int(near.sum()) / max(int(union), 1)
        assert math.isclose(got.iou[i].item(), iou, rel_tol=1e-6, abs_tol=1e-7 + slack)
        assert bool(got.keep[i]) == keep or abs(iou - 0.5) < 1e-6 + slack or (slack and inter.sum() <= near.sum())
        if ignore_below:
            known = unpack_mask(got.valid, size[1])[i].cpu().numpy()
            assert np.array_equal(known | near, valid | near)
            flipped += int((known != valid).sum())
        if soft != "none":
            assert np.abs(got.confidence[i].cpu().numpy() - joint)[~near].max(initial=0) <= 0.51
    empty = [not m.any() for m in mask]
    assert math.isclose(got.empty_share.item(), sum(empty) / n, rel_tol=1e-6)
    assert (got.valid is None) == (ignore_below is None) and (got.confidence is None) == (soft == "none")
    return flipped


OPTIONS = [("sigmoid", "none", None), ("sigmoid", "product", 0.25), ("clamp", "minimum", 0.3), ("minmax", "none", None),
           ("minmax", "product", 0.3)]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
def test_a_training_size(kernels, device, options):
    compare(2, (7, 7), (224, 224), *options, device)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 6), st.integers(1, 6), st.integers(1, 90), st.integers(1, 90), st.sampled_from(OPTIONS[:3]),
    st.sampled_from((torch.float32, torch.bfloat16)),
)  # fmt: skip
def test_any_shape(kernels, device, h, w, height, width, options, dtype):
    compare(1, (h, w), (height, width), *options, device, dtype)


@pytest.mark.parametrize("cells,size", [((2, 3), (61, 45)), ((5, 4), (4, 7)), ((1, 6), (3, 100))])
def test_minmax_takes_the_extremes_of_the_pixels(kernels, device, cells, size):
    compare(2, cells, size, "minmax", "minimum", None, device)


@pytest.mark.parametrize("options", OPTIONS)
def test_reference_agrees_with_brute_force(device, options):
    compare(8, (14, 14), (224, 224), *options, device)
    assert compare(8, (14, 14), (224, 224), *options, device, torch.float64) == 0


@pytest.mark.parametrize("mode", ["kernels", "poisoned_memory"])
def test_broken_and_constant_maps_are_rejected(request, device, mode):
    request.getfixturevalue(mode)
    s = torch.randn(4, 3, 3, device=device)
    s[3, 1, 1] = 1.0  # of a whole row: one draw in thirty has no sounding pixel
    other = s.clone()
    s[0, 1, 1] = float("nan")
    other[1, 2, 0] = float("inf")
    s[2] = 0.3
    affine = torch.tensor([10.0, 0.0], device=device)
    for probability in ("sigmoid", "clamp", "minmax"):
        got = consensus(s, other, affine, affine, 0.5, 0.0, (20, 40), probability=probability, ignore_below=0.2)
        rejected = 3 if probability == "minmax" else 2
        assert not got.keep[:rejected].any() and got.keep[3]
        assert (got.iou[:2] == 0).all() and (got.mask[:2] == 0).all()
        assert torch.isfinite(got.iou).all()


@pytest.mark.parametrize("mode", ["kernels", "poisoned_memory"])
def test_by_hand(request, device, mode):
    request.getfixturevalue(mode)
    # 1 x 4 cells to 1 x 4 pixels: no mixing. Logits 2 s - 1 >= log(.6 / .4) = .405 means s >= .703.
    s_a = torch.tensor([[[0.8, 0.71, 0.70, 0.9]], [[0.0, 0.0, 0.0, 0.0]]], device=device)
    s_b = torch.tensor([[[0.8, 0.60, 0.90, 0.9]], [[1.0, 1.0, 1.0, 1.0]]], device=device)
    affine = torch.tensor([2.0, -1.0], device=device)
    got = consensus(s_a, s_b, affine, affine, 0.6, 0.5, (1, 4))
    assert got.mask.flatten().tolist() == [0b1001, 0]
    assert got.iou.tolist() == [0.5, 0.0] and got.keep.tolist() == [True, False]
    assert got.empty_share.item() == 0.5


def test_an_iou_of_exactly_tau_is_kept(kernels, device):
    # 7 of 10 cells: 0.7 in float32 must not lose to 0.7 by a fast division.
    s_a, s_b = -torch.ones(1, 1, 10, device=device), -torch.ones(1, 1, 10, device=device)
    s_a[..., :10], s_b[..., :7] = 1, 1
    affine = torch.tensor([1.0, 0.0], device=device)
    assert consensus(s_a, s_b, affine, affine, 0.5, 0.7, (1, 10)).keep.item()


def test_the_mask_is_a_target_of_the_loss():
    mask = torch.rand(2, 5, 70) > 0.5
    assert torch.equal(unpack_mask(pack_mask(mask), 70), mask)

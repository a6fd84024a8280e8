"""localization_loss against the float64 definition: every kind of truth, gradients to the map and the affine pair."""

import math

import pytest
import torch
from closeness import assert_close, gradients
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdmt_kernels import localization_loss, pack_mask, reference

KINDS = ("mask", "uint8")


def truth_of(kind, n, height, width, device):
    if kind == "mask":
        return pack_mask(torch.rand(n, height, width, device=device) > 0.5)
    return torch.randint(0, 256, (n, height, width), dtype=torch.uint8, device=device)


def compare(n, cells, size, kind, masked, device, dtype=torch.float32, scale=10.0):
    s = torch.randn(n, *cells, device=device).to(dtype)
    affine = torch.tensor([scale, -1.0], device=device)
    weight = torch.rand(n, device=device)
    extra = {"size": size}
    if masked:
        weight[0] = 0
        extra["valid"] = pack_mask(torch.rand(n, *size, device=device) > 0.3)
        extra["total"] = torch.tensor(1.7, device=device)
    target = truth_of(kind, n, *size, device)
    value, grads = gradients(
        lambda s, c: localization_loss(s, c, target, weight, **extra), (s, affine), torch.ones_like
    )
    truth, wanted = gradients(
        lambda s, c: reference.localization_loss(s, c, target, weight, **extra),
        (s.double(), affine.double()),
        torch.ones_like,
    )
    assert value.dtype == torch.float32 and grads[0].dtype == dtype
    assert_close(value, truth)
    # The floors: of one pixel, P - G may cancel to nothing but the rounding of P.
    assert_close(grads[0], wanted[0], dtype, floor=3e-6)
    assert_close(grads[1], wanted[1], floor=3e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_size(kernels, device, kind, masked):
    compare(2, (7, 7), (224, 224), kind, masked, device)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 2), st.integers(1, 6), st.integers(1, 6), st.integers(1, 90), st.integers(1, 90),
    st.sampled_from(KINDS), st.booleans(), st.sampled_from((torch.float32, torch.bfloat16)),
)  # fmt: skip
def test_any_shape(kernels, device, n, h, w, height, width, kind, masked, dtype):
    compare(n, (h, w), (height, width), kind, masked, device, dtype)


@pytest.mark.parametrize("scale", [1e-3, 100.0])
def test_extreme_logits(kernels, device, scale):
    compare(1, (3, 4), (30, 40), "mask", False, device, scale=scale)


def test_confident_and_right_is_a_small_loss_and_not_zero(kernels, device):
    # log1p(exp(-12)) = 6.1e-6 is lost when 1 + e is rounded before the logarithm.
    s = torch.full((1, 2, 2), 12.0, device=device)
    affine, weight = torch.tensor([1.0, 0.0], device=device), torch.ones(1, device=device)
    loss = localization_loss(
        s, affine, pack_mask(torch.ones(1, 8, 8, dtype=torch.bool, device=device)), weight, size=(8, 8)
    )
    assert math.isclose(loss.item(), math.log1p(math.exp(-12)), rel_tol=1e-5)


@pytest.mark.parametrize("mode", ["kernels", "poisoned_memory"])
def test_a_row_of_weight_zero_may_hold_anything(request, device, mode):
    request.getfixturevalue(mode)
    s = torch.randn(3, 3, 3, device=device)
    affine, weight = torch.tensor([5.0, 0.0], device=device), torch.tensor([1.0, 0.0, 2.0], device=device)
    target = truth_of("mask", 3, 20, 20, device)
    rows = [0, 2]
    alone = gradients(
        lambda s, c: localization_loss(s, c, target[rows], weight[rows], size=(20, 20)),
        (s[rows], affine),
        torch.ones_like,
    )
    s[1] = float("nan")
    value, (ds, dc) = gradients(
        lambda s, c: localization_loss(s, c, target, weight, size=(20, 20)), (s, affine), torch.ones_like
    )
    torch.testing.assert_close(value, alone[0])
    torch.testing.assert_close(ds[rows], alone[1][0])
    torch.testing.assert_close(dc, alone[1][1])
    assert (ds[1] == 0).all()


@pytest.mark.parametrize("mode", ["kernels", "poisoned_memory"])
@pytest.mark.parametrize("total", [None, 1.0])
def test_a_weight_that_is_nan_shows(request, device, mode, total):
    request.getfixturevalue(mode)
    s, affine = torch.randn(2, 3, 3, device=device), torch.tensor([5.0, 0.0], device=device)
    weight = torch.tensor([1.0, float("nan")], device=device)
    total = None if total is None else torch.tensor(total, device=device)
    value, (ds, _) = gradients(
        lambda s, c: localization_loss(s, c, truth_of("mask", 2, 16, 16, device), weight, size=(16, 16), total=total),
        (s, affine),
        torch.ones_like,
    )
    assert value.isnan() and ds[1].isnan().all()


@pytest.mark.parametrize("mode", ["kernels", "poisoned_memory"])
def test_no_weight_at_all_is_a_loss_of_zero(request, device, mode):
    request.getfixturevalue(mode)
    s, affine = torch.randn(2, 3, 3, device=device), torch.tensor([5.0, 0.0], device=device)
    target = truth_of("mask", 2, 16, 16, device)
    value, grads = gradients(
        lambda s, c: localization_loss(s, c, target, torch.zeros(2, device=device), size=(16, 16)),
        (s, affine),
        torch.ones_like,
    )
    assert value == 0 and all((g == 0).all() for g in grads)


def test_runs_are_identical_and_scaled_by_the_upstream_gradient(kernels, device):
    s, affine = torch.randn(2, 5, 5, device=device), torch.tensor([5.0, 0.0], device=device)
    target, weight = truth_of("mask", 2, 50, 50, device), torch.rand(2, device=device)

    def run(factor):
        return gradients(
            lambda s, c: localization_loss(s, c, target, weight, size=(50, 50)), (s, affine),
            lambda loss: torch.full_like(loss, factor),
        )[1]  # fmt: skip

    first, second, four = run(1.0), run(1.0), run(4.0)
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    torch.testing.assert_close(four[0], 4 * first[0])


def test_nothing_of_a_frames_size_is_allocated(kernels, monkeypatch):
    # The gradient's way back included: what is saved has the maps' size.
    sizes = []
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        inner = getattr(owner, name)

        def spy(*args, inner=inner, **kwargs):
            out = inner(*args, **kwargs)
            sizes.append(out.numel())
            return out

        monkeypatch.setattr(owner, name, spy)
    target = torch.zeros(2, 64, 2, dtype=torch.int32)
    s = torch.randn(2, 4, 4, requires_grad=True)
    localization_loss(s, torch.tensor([5.0, 0.0]), target, torch.ones(2), size=(64, 64)).backward()
    assert 32 in sizes and max(sizes) <= 32

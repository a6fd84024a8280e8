"""localize against the float64 definitions of its two halves: values, gradients, whose sound is whose, one op."""

import pytest
import torch
from closeness import assert_close, features
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdmt_kernels import localize, mil_logits, reference, similarity_map

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def run(function, v, a, upstream, **options):
    """Both outputs and the gradients of v and a."""
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in (v, a)]
    outputs = function(*leaves, **options)
    return *outputs, *torch.autograd.grad(outputs, leaves, upstream)


def halves(v, a, tau=0.03, first_own=0):
    """Written apart: all cosines, at the own sound for the map and at the best cell for the logits."""
    unit_v, unit_a = (x / (x.square().sum(1, keepdim=True) + 1e-12).sqrt() for x in (v.flatten(2), a))
    cosine = torch.einsum("ndp,md->nmp", unit_v, unit_a)
    rows = torch.arange(len(v), device=v.device)
    return cosine[rows, rows + first_own].unflatten(1, v.shape[2:]), cosine.amax(2) / tau


def compare(n, m, d, h, w, dtype, layout, device, first_own=0):
    v, a = features(n, d, h, w, dtype, layout, device), torch.randn(m, d, device=device, dtype=dtype)
    upstream = [torch.randn(n, h, w, device=device) * 3, torch.randn(n, m, device=device)]
    got = run(localize, v, a, upstream, first_own=first_own)
    want = run(halves, v.double(), a.double(), [g.double() for g in upstream], first_own=first_own)
    assert [x.dtype for x in got] == [torch.float32, torch.float32, dtype, dtype]
    for x, truth, precision in zip(got, want, (torch.float32, torch.float32, dtype, dtype), strict=True):
        assert_close(x, truth, precision)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 3), st.integers(0, 70), st.integers(0, 70), st.integers(2, 140), st.integers(1, 10),
    st.integers(1, 10), st.sampled_from(DTYPES), st.sampled_from(("contiguous", "channels_last", "transposed")),
)  # fmt: skip
def test_any_shape_and_any_place_of_the_own_sounds(kernels, device, n, before, after, d, h, w, dtype, layout):
    compare(n, before + n + after, d, h, w, dtype, layout, device, before)


def test_several_tiles_of_cells_channels_and_sounds(kernels, device):
    compare(2, 131, 260, 12, 12, torch.float32, "channels_last", device, 127)


@pytest.mark.parametrize("wanted", ["v", "a"])
@pytest.mark.parametrize("output", [0, 1])
def test_one_gradient_of_one_output(kernels, device, wanted, output):
    v, a = torch.randn(2, 9, 4, 5, device=device), torch.randn(3, 9, device=device)
    leaf = (v if wanted == "v" else a).requires_grad_()
    got = torch.autograd.grad(localize(v, a, first_own=1)[output].square().sum(), leaf)[0]
    alone = similarity_map(v, a[1:]) if output == 0 else mil_logits(v, a)
    torch.testing.assert_close(got, torch.autograd.grad(alone.square().sum(), leaf)[0], rtol=1e-4, atol=1e-5)


def test_the_definition_is_its_two_halves():
    v, a = torch.randn(2, 5, 3, 2, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    for x, want in zip(localize(v, a, 0.3, first_own=2), halves(v, a, 0.3, 2), strict=True):
        torch.testing.assert_close(x, want)
    v.requires_grad_(), a.requires_grad_()
    assert torch.autograd.gradcheck(lambda v, a: reference.localize(v, a, 0.3, first_own=1), (v, a))


def test_nan_and_broken_norms_show_in_both(kernels, device):
    v, a = torch.randn(2, 8, 3, 3, device=device), torch.randn(3, 8, device=device)
    v[0, 3, 1, 2] = 3e19
    s, logits = localize(v, a)
    assert s[0, 1, 2].isnan() and s.isnan().sum() == 1
    assert torch.equal(logits.isnan().any(1), torch.tensor([True, False], device=device))


def test_a_learned_temperature_and_the_same_gradients_in_every_run(kernels, device):
    v, a = torch.randn(3, 20, 6, 6, device=device), torch.randn(9, 20, device=device)
    tau = torch.tensor(0.07, device=device, requires_grad=True)
    upstream = [torch.ones(3, 6, 6, device=device), torch.ones(3, 9, device=device)]
    first, second = (run(localize, v, a, upstream, tau=tau) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    slope = torch.autograd.grad(localize(v, a, tau)[1].sum(), tau)[0]
    assert_close(slope, -(halves(v.double(), a.double(), 0.07)[1] / 0.07).sum())


@pytest.mark.parametrize("first_own", [-1, 2])
def test_every_frame_wants_a_sound_of_its_own(first_own):
    with pytest.raises(ValueError, match=f"first_own is {first_own}; every one of 2 frames wants a sound"):
        localize(torch.randn(2, 4, 3, 3), torch.randn(3, 4), first_own=first_own)

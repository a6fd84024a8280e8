"""mil_logits against the float64 definition: values, ties, gradients."""

import pytest
import torch
from closeness import assert_close, features, gradients
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from fastdmt_kernels import mil_logits, reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def compare(n, m, d, h, w, dtype, layout, device):
    v, a = features(n, d, h, w, dtype, layout, device), torch.randn(m, d, device=device, dtype=dtype)
    g = torch.randn(n, m, device=device)
    value, grads = gradients(mil_logits, (v, a), lambda _: g)
    truth, wanted = gradients(reference.mil_logits, (v.double(), a.double()), lambda _: g.double())
    assert value.dtype == torch.float32 and [x.dtype for x in grads] == [dtype, dtype]
    assert_close(value, truth)
    for grad, want in zip(grads, wanted, strict=True):
        assert_close(grad, want, dtype)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 3), st.integers(1, 80), st.integers(2, 140), st.integers(1, 10), st.integers(1, 10),
    st.sampled_from(DTYPES), st.sampled_from(("contiguous", "channels_last", "transposed")),
)  # fmt: skip
def test_any_shape(kernels, device, n, m, d, h, w, dtype, layout):
    compare(n, m, d, h, w, dtype, layout, device)


@pytest.mark.parametrize("size", [(2, 3, 512, 7, 7), (1, 2, 513, 16, 16), (1, 2, 128, 33, 47)])
def test_sizes_of_real_encoders(kernels, device, size):
    compare(*size, torch.float32, "channels_last", device)


def test_of_equal_cells_the_first_wins_and_takes_the_gradient(kernels, device):
    # 12 x 12 cells are several tiles: equal cells lie within one tile and in different ones. Whole numbers, so that
    # every order of summation gives the same sum.
    v = torch.randint(-3, 4, (1, 16, 12, 12), device=device).float()
    a = torch.randint(-3, 4, (3, 16), device=device).float()
    flat = v.flatten(2)
    for m, places in enumerate(((5, 9), (7, 140), (66, 67))):
        for p in places:
            flat[0, :, p] = 3 * a[m]
    value, (dv, _) = gradients(mil_logits, (v, a), torch.ones_like)
    assert_close(value, torch.full((1, 3), 1 / 0.03, dtype=torch.float64, device=device))
    best = torch.ops.fastdmt.localize(v, a, 0.03, 1e-6, None)[2]
    assert best.tolist() == [[5, 7, 66]]
    moved = dv.flatten(2).abs().sum(1)[0]
    assert (moved[[9, 140, 67]] == 0).all()


def test_gradients_reach_only_the_chosen_cells(kernels, device):
    v, a = torch.randn(2, 8, 5, 4, device=device), torch.randn(3, 8, device=device)
    _, (dv, _) = gradients(mil_logits, (v, a), torch.ones_like)
    best = torch.ops.fastdmt.localize(v, a, 0.03, 1e-6, None)[2]
    touched = dv.flatten(2).abs().sum(1) > 0
    for n in range(2):
        assert set(touched[n].nonzero().flatten().tolist()) == set(best[n].tolist())


class Layouts(TorchDispatchMode):
    """The strides in which the op gets its features."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if "localize" in op.name():
            self.seen.append(args[0].stride())
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize(("wanted", "copied"), [("a", True), ("v", False), ("", False)])
def test_cells_are_gathered_from_channels_last(kernels, device, wanted, copied):
    """A gradient of the sounds picks single cells: in NCHW each would touch a sector of memory a channel."""
    v, a = torch.randn(2, 8, 4, 4, device=device), torch.randn(3, 8, device=device)
    (v if wanted == "v" else a).requires_grad_(wanted != "")
    with Layouts() as layouts:
        mil_logits(v, a)
    assert layouts.seen == [(128, 1, 32, 8) if copied else (128, 16, 4, 1)]


def test_tiny_gradients_survive_half_precision(kernels, device):
    # A contrastive loss over thousands of pairs sends 1e-7; float16's least number is 6e-8.
    v = torch.randn(1, 16, 4, 4, device=device, dtype=torch.float16)
    a = torch.randn(5, 16, device=device, dtype=torch.float16)
    g = torch.rand(1, 5, device=device) * 1e-3 + 1e-4
    large = gradients(mil_logits, (v, a), lambda _: g)[1][0]
    v32 = gradients(mil_logits, (v.float(), a.float()), lambda _: g)[1][0]
    assert_close(large, v32.double(), torch.float16)
    a[2] = 0  # its inverse norm, 1e6, is beyond float16
    assert all(torch.isfinite(x).all() for x in gradients(mil_logits, (v, a), lambda _: g)[1])


@pytest.mark.parametrize("where", ["v", "a"])
def test_nan_is_not_hidden_by_the_maximum(kernels, device, where):
    v, a = torch.randn(2, 8, 3, 3, device=device), torch.randn(4, 8, device=device)
    (v[1, 3, 2] if where == "v" else a[2]).fill_(float("nan"))
    nan = mil_logits(v, a).isnan()
    assert torch.equal(nan, reference.mil_logits(v, a).isnan())
    assert nan.any() and not nan.all()


def test_gradients_are_the_same_in_every_run(kernels, device):
    v, a = torch.randn(3, 20, 6, 6, device=device), torch.randn(9, 20, device=device)
    first, second = (gradients(mil_logits, (v, a), torch.ones_like)[1] for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_gradient_of_the_reference():
    v, a = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 5, 3, 2), (3, 5)))
    assert torch.autograd.gradcheck(lambda v, a: reference.mil_logits(v, a, 0.3), (v, a))


def test_a_learned_temperature(kernels, device):
    v, a = torch.randn(2, 8, 3, 3, device=device), torch.randn(3, 8, device=device)
    tau = torch.tensor(0.07, device=device)
    value, grads = gradients(mil_logits, (v, a, tau), torch.ones_like)
    truth, wanted = gradients(reference.mil_logits, (v.double(), a.double(), tau.double()), torch.ones_like)
    assert_close(value, truth)
    for grad, want in zip(grads, wanted, strict=True):
        assert_close(grad, want)

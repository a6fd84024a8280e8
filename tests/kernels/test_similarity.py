"""similarity_map against the float64 definition, over shapes, strides and types."""

import pytest
import torch
from closeness import assert_close, features, gradients
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdmt_kernels import reference, similarity_map
from fastdmt_kernels.similarity import dense

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "channels_last", "transposed")


def compare(n, d, h, w, dtype, layout, device):
    v, a = features(n, d, h, w, dtype, layout, device), torch.randn(n, d, device=device, dtype=dtype)
    g = torch.randn(n, h, w, device=device)
    value, grads = gradients(similarity_map, (v, a), lambda _: g)
    truth, wanted = gradients(reference.similarity_map, (v.double(), a.double()), lambda _: g.double())
    assert value.dtype == torch.float32 and [x.dtype for x in grads] == [dtype, dtype]
    # A cosine is a sum of products of unit vectors: its rounding is a share of 1, however small the sum comes out.
    assert_close(value, truth, floor=4 * 2**-24 * value.numel() ** 0.5)
    # With one channel the cosine is +-1 and its gradient is the rounding of g / |x| - g / |x|.
    for x, grad, want in zip((v, a), grads, wanted, strict=True):
        floor = 1e-5 * g.norm().double().cpu() * max(1.0, float(1 / x.abs().min())) if d == 1 else 0.0
        assert_close(grad, want, dtype, floor=floor)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 3), st.integers(1, 140), st.integers(1, 20), st.integers(1, 20),
    st.sampled_from(DTYPES), st.sampled_from(LAYOUTS),
)  # fmt: skip
def test_any_shape(kernels, device, n, d, h, w, dtype, layout):
    compare(n, d, h, w, dtype, layout, device)


@pytest.mark.parametrize("cells", [(7, 7), (14, 14), (16, 16), (20, 20), (1, 1), (33, 47)])
@pytest.mark.parametrize("channels", [128, 512, 513])
def test_sizes_of_real_encoders(kernels, device, cells, channels):
    layout = "channels_last" if channels == 513 else "contiguous"
    compare(1, channels, *cells, torch.bfloat16 if channels == 512 else torch.float32, layout, device)


def test_zero_vectors_have_similarity_zero_and_finite_gradients(kernels, device):
    v, a = torch.randn(2, 8, 3, 3, device=device), torch.randn(2, 8, device=device)
    v[0, :, 1, 1] = 0
    a[1] = 0
    value, grads = gradients(similarity_map, (v, a), torch.ones_like)
    assert value[0, 1, 1] == 0 and (value[1] == 0).all()
    assert all(torch.isfinite(g).all() for g in grads)
    truth = gradients(reference.similarity_map, (v.double(), a.double()), torch.ones_like)[1]
    for grad, want in zip(grads, truth, strict=True):
        assert_close(grad, want)


@pytest.mark.parametrize("wanted", [0, 1])
def test_a_frozen_side_costs_no_gradient(kernels, device, wanted):
    tensors = [torch.randn(2, 9, 4, 5, device=device), torch.randn(2, 9, device=device)]
    both = gradients(similarity_map, tensors, torch.ones_like)[1]
    tensors[wanted].requires_grad_()
    similarity_map(*tensors).sum().backward()
    assert torch.equal(tensors[wanted].grad, both[wanted]) and tensors[1 - wanted].grad is None


@pytest.mark.parametrize(
    ("dtype", "cells", "layout", "copied"),
    [
        (torch.bfloat16, 7, "channels_last", False),
        (torch.float16, 14, "contiguous", False),
        (torch.float32, 7, "contiguous", False),
        (torch.bfloat16, 1, "contiguous", False),
        (torch.bfloat16, 7, "contiguous", True),
        (torch.float32, 6, "transposed", True),
    ],
)
def test_a_copy_is_made_where_a_thread_would_load_two_bytes(kernels, device, dtype, cells, layout, copied):
    v = features(2, 8, cells, cells, dtype, layout, device)
    read = dense(v)
    assert (read is not v) == copied and torch.equal(read, v)
    assert read.is_contiguous(memory_format=torch.channels_last) or not copied
    compare(2, 8, cells, cells, dtype, layout, device)


def test_the_gradient_of_channels_last_is_channels_last(kernels, device):
    last = features(2, 8, 3, 5, torch.float32, "channels_last", device)
    grads = gradients(similarity_map, (last, torch.randn(2, 8, device=device)), torch.ones_like)[1]
    assert grads[0].is_contiguous(memory_format=torch.channels_last)


def test_gradient_of_the_reference():
    v, a = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 5, 3, 2), (2, 5)))
    assert torch.autograd.gradcheck(reference.similarity_map, (v, a))


def test_cosine_by_hand():
    v = torch.zeros(1, 2, 1, 3)
    v[0, :, 0] = torch.tensor([[3.0, 0.0, -1.0], [4.0, 2.0, 0.0]])
    expected = torch.tensor([[[0.6, 0.0, -1.0]]])  # with the sound (5, 0)
    torch.testing.assert_close(similarity_map(v, torch.tensor([[5.0, 0.0]])), expected)

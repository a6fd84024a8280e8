"""similarity_map: cosine of every cell of a frame with its sound, from unnormalised features, V read once.

r_p = (sum_d v_dp^2 + eps^2)^-1/2     q = (sum_d a_d^2 + eps^2)^-1/2     s_p = q r_p sum_d a_d v_dp
dv_dp = g_p r_p (q a_d - s_p r_p v_dp)
da_d  = q (sum_p g_p r_p v_dp - q a_d sum_p g_p s_p)

In the kernel `weighted` is the first sum of da and `radial` the second, what the normalisation takes out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks, reference
from .backend import DEVICES, cdiv, jit, launch, launches, tl
from .tuning import config


@jit
def inverse_norm(squares, eps):
    """NaN, not 0, where the sum of squares overflows: a similarity of 0 would look sound."""
    return tl.where(squares < float("inf"), 1.0 / tl.sqrt(squares + eps * eps), float("nan"))


@jit
def place(n, d, p, D: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr):
    """Offset of channel d, cell p of frame n. Constant strides tell the compiler how wide a load of 14x14 cells is."""
    if LAST:
        return n * (D * P) + p * D + d
    else:
        return n * (D * P) + d * P + p


@jit
def similarity_forward(
    v, a, s, rv, ra, eps,
    D: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    tiles: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    n = tl.program_id(0).to(tl.int64) // tiles
    p = tl.program_id(0) % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    # Sums stay spread over the whole tile until the end: one reduction between threads instead of one a step.
    dot = tl.zeros((BLOCK_D, BLOCK_P), tl.float32)
    square = tl.zeros((BLOCK_D, BLOCK_P), tl.float32)
    square_a = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        inside = (d < D)[:, None] & (p < P)[None, :]
        x = tl.load(v + place(n, d[:, None], p[None, :], D, P, LAST), inside, other=0.0).to(tl.float32)
        y = tl.load(a + n * D + d, d < D, other=0.0).to(tl.float32)
        dot += x * y[:, None]
        square += x * x
        square_a += y * y
    r, q = inverse_norm(tl.sum(square, 0), eps), inverse_norm(tl.sum(square_a, 0), eps)
    tl.store(s + n * P + p, tl.sum(dot, 0) * r * q, p < P)
    tl.store(rv + n * P + p, r, p < P)
    if tl.program_id(0) % tiles == 0:
        tl.store(ra + n, q)


@jit
def similarity_backward(
    g, v, a, s, rv, ra, dv, da,
    D: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, NEED_V: tl.constexpr, NEED_A: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    tiles: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    n = tl.program_id(0).to(tl.int64) // tiles
    d = tl.program_id(0) % tiles * BLOCK_D + tl.arange(0, BLOCK_D)
    y = tl.load(a + n * D + d, d < D, other=0.0).to(tl.float32)
    q = tl.load(ra + n)
    weighted = tl.zeros((BLOCK_D, BLOCK_P), tl.float32)
    radial = tl.zeros((BLOCK_P,), tl.float32)
    for start in range(0, P, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        grad = tl.load(g + n * P + p, p < P, other=0.0)
        sim = tl.load(s + n * P + p, p < P, other=0.0)
        r = tl.load(rv + n * P + p, p < P, other=0.0)
        inside = (d < D)[:, None] & (p < P)[None, :]
        offset = place(n, d[:, None], p[None, :], D, P, LAST)
        x = tl.load(v + offset, inside, other=0.0).to(tl.float32)
        if NEED_V:
            slope = q * y[:, None] - (sim * r)[None, :] * x
            tl.store(dv + offset, ((grad * r)[None, :] * slope).to(dv.dtype.element_ty), inside)
        weighted += (grad * r)[None, :] * x
        radial += grad * sim
    if NEED_A:
        grad_a = q * (tl.sum(weighted, 1) - q * tl.sum(radial, 0) * y)
        tl.store(da + n * D + d, grad_a.to(da.dtype.element_ty), d < D)


def forward(v: Tensor, a: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    n, channels, height, width = v.shape
    s = torch.empty((n, height, width), dtype=torch.float32, device=v.device)
    rv = torch.empty_like(s)
    ra = torch.empty((n,), dtype=torch.float32, device=v.device)
    options = config("similarity_forward", v.device)
    launch(
        similarity_forward, n * cdiv(height * width, options["BLOCK_P"]),
        v, a.contiguous(), s, rv, ra, float(eps),
        device=v.device, D=channels, P=height * width, LAST=channels_last(v), **options,
    )  # fmt: skip
    return s, rv, ra


def backward(
    g: Tensor, v: Tensor, a: Tensor, s: Tensor, rv: Tensor, ra: Tensor, need_v: bool, need_a: bool
) -> tuple[Tensor, Tensor]:
    n, channels, height, width = v.shape
    dv, da = _gradients_like(v, a, need_v, need_a)
    options = config("similarity_backward", v.device)
    launch(
        similarity_backward, n * cdiv(channels, options["BLOCK_D"]),
        g.contiguous(), v, a.contiguous(), s, rv, ra, dv, da,
        device=v.device, D=channels, P=height * width, LAST=channels_last(v), NEED_V=need_v, NEED_A=need_a, **options,
    )  # fmt: skip
    return dv, da


def _gradients_like(v: Tensor, a: Tensor, need_v: bool, need_a: bool) -> tuple[Tensor, Tensor]:
    dv = torch.empty_like(v) if need_v else v.new_empty(0)
    da = torch.empty_like(a, memory_format=torch.contiguous_format) if need_a else a.new_empty(0)
    return dv, da


_forward = torch.library.custom_op("fastdmt::similarity_map", forward, mutates_args=(), device_types=DEVICES)
_backward = torch.library.custom_op("fastdmt::similarity_map_backward", backward, mutates_args=(), device_types=DEVICES)


@_forward.register_fake
def _(v, a, eps):
    n, _, height, width = v.shape
    s = v.new_empty((n, height, width), dtype=torch.float32)
    return s, torch.empty_like(s), v.new_empty((n,), dtype=torch.float32)


@_backward.register_fake
def _(g, v, a, s, rv, ra, need_v, need_a):
    return _gradients_like(v, a, need_v, need_a)


def _save(ctx, inputs, output):
    v, a, _ = inputs
    s, rv, ra = output
    ctx.mark_non_differentiable(rv, ra)
    ctx.save_for_backward(v, a, s, rv, ra)


def _derive(ctx, g, *_):
    v, a, s, rv, ra = ctx.saved_tensors
    need_v, need_a, _ = ctx.needs_input_grad
    dv, da = _backward(g, v, a, s, rv, ra, need_v, need_a)
    return dv if need_v else None, da if need_a else None, None


_forward.register_autograd(_derive, setup_context=_save)


def similarity_map(v: Tensor, a: Tensor, eps: float = 1e-6) -> Tensor:
    """Cosine of every cell of each frame with the frame's own sound: the localizer's map S (before the affine pair).

    v [N, D, h, w] frames' features and a [N, D] sounds' embeddings, neither normalised; float32, bfloat16, float16
    (float64 runs the reference). channels_last is the fast layout; contiguous is read as it is, except in half
    precision with an odd number of cells; that and other strides are copied. Returns [N, h, w] float32 in [-1, 1].
    eps is added as sqrt(|x|^2 + eps^2), so a zero vector has similarity 0 and a finite gradient. Differentiable once in
    v and a; sums run in float32; deterministic.

    Raises TypeError for a dtype, ValueError for a shape or device, naming the argument.
    Source: cosine maps of LVS (Chen et al. 2021) and EZ-VSL (Mo & Morgado 2022); the paper's localization network.
    """
    checks.tensor("v", v, "[N, D, h, w]")
    checks.tensor("a", a, "[N, D]")
    checks.not_empty("v", v, 1, 2, 3)
    checks.same_size("channels", "v", v.shape[1], "a", a.shape[1])
    checks.same_size("rows", "v", v.shape[0], "a", a.shape[0])
    checks.same_device("v", v, a=a)
    checks.number("eps", eps, 0, float("inf"), "a positive number")
    if not launches(v, a):
        return reference.similarity_map(v, a, eps)
    return _forward(dense(v), a, float(eps))[0]


def channels_last(v: Tensor) -> bool:
    """How the kernels walk a dense v: channels within a cell, or cells within a channel."""
    return not v.is_contiguous()


def dense(v: Tensor, gathered: bool = False) -> Tensor:
    """v itself where a thread loads at least four bytes at once; otherwise a copy in channels_last, made once.

    Half-precision NCHW of an odd number of cells (7x7) has no two channels at the same alignment: every element would
    be a load of its own. `gathered`: single cells are picked out, each of which NCHW spreads over D sectors.
    """
    if v.is_contiguous(memory_format=torch.channels_last):
        return v
    whole = v.is_contiguous() and not gathered and v.shape[2] * v.shape[3] * v.element_size() % 4 == 0
    return v if whole else v.contiguous(memory_format=torch.channels_last)

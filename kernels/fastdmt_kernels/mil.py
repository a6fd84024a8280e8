"""mil_logits: the best cell of every frame for every sound, without the [N, M, h, w] volume; localize: the map too.

    c_nmp = r_np q_m sum_d v_ndp a_md      L_nm = max_p c_nmp / tau      P_nm = the lowest p that attains it
    dv_ndp = r_np (sum_m [P_nm = p] G_nm q_m a_md / tau - r_np v_ndp sum_m [P_nm = p] G_nm L_nm)
    da_md  = q_m (sum_n G_nm r_nP v_ndP / tau - q_m a_md sum_n G_nm L_nm)

r and q are the inverse norms, as in similarity_map. Both gradients gather: no atomics, every sum in a fixed order. In
the kernels `weighted` is the first sum of a gradient and `radial` the second: what a vector's gradient has along the
vector itself, which the normalisation takes out.

The map of frame n, s_np = c_nmp for its own sound m = n + first_own, is a column of that volume (MAP in the kernels):
forward it costs a store; backward its gradient g adds g_np q_m a_md to the first sum of dv and g_np s_np to the second,
and to da the same sums over cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks, reference
from .backend import DEVICES, INTERPRET, cdiv, jit, launch, launches, power_of_2, tl
from .similarity import channels_last, dense, inverse_norm, place
from .tuning import config

#: The interpreter multiplies the raw bits of bfloat16 operands (triton-lang/triton#11584).
AS_FLOAT = INTERPRET


@jit(do_not_specialize=["M"])
def row_norms(a, ra, eps, M, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """The sounds' inverse norms, a program a sound: within mil_forward every frame would take them again."""
    m = tl.program_id(0).to(tl.int64)
    square = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        y = tl.load(a + m * D + d, d < D, other=0.0).to(tl.float32)
        square += y * y
    tl.store(ra + m, inverse_norm(tl.sum(square, 0), eps))


@jit(do_not_specialize=["M", "first_own"])
def mil_forward(
    v, a, logits, best, rv, ra, s, tau, eps, M, first_own,
    D: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, MAP: tl.constexpr, PRECISION: tl.constexpr,
    FLOAT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    tiles = (M + BLOCK_M - 1) // BLOCK_M
    n = tl.program_id(0).to(tl.int64) // tiles
    tile = tl.program_id(0) % tiles
    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    GROUP: tl.constexpr = BLOCK_D if v.dtype.element_ty == tl.float32 else 8
    top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    where = tl.zeros((BLOCK_M,), tl.int32)
    broken = tl.zeros((BLOCK_P,), tl.int32)
    own = n + first_own
    for first in range(0, P, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P)
        dot = tl.zeros((BLOCK_P, BLOCK_M), tl.float32)
        # Squares stay spread over the tile's threads, eight neighbours in one: a single reduction between threads a
        # tile, not one a step. Float32 tiles have no registers left for that on sm_80.
        squares = tl.zeros((BLOCK_P, BLOCK_D // GROUP), tl.float32)
        for start in range(0, D, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            in_v = (p < P)[:, None] & (d < D)[None, :]
            in_a = (m < M)[None, :] & (d < D)[:, None]
            x = tl.load(v + place(n, d[None, :], p[:, None], D, P, LAST), in_v, other=0.0)
            y = tl.load(a + m[None, :].to(tl.int64) * D + d[:, None], in_a, other=0.0)
            if FLOAT:
                x, y = x.to(tl.float32), y.to(tl.float32)
            dot = tl.dot(x, y, dot, input_precision=PRECISION)
            square = x.to(tl.float32) * x.to(tl.float32)
            squares += tl.sum(tl.reshape(square, (BLOCK_P, BLOCK_D // GROUP, GROUP)), 2)
        square = tl.sum(squares, 1)
        r = 1.0 / tl.sqrt(square + eps * eps)
        if tile == 0:
            tl.store(rv + n * P + p, r, p < P)
        broken |= tl.where(square < float("inf"), 0, 1)
        cosine = tl.where((p < P)[:, None], dot * r[:, None], float("-inf"))
        if MAP:
            if tile == own // BLOCK_M:
                # Each thread stores what it has of the column: no reduction, whose registers sm_80 does not have.
                column = tl.where((square < float("inf"))[:, None], cosine * tl.load(ra + own), float("nan"))
                cells = tl.broadcast_to(s + n * P + p[:, None], (BLOCK_P, BLOCK_M))
                tl.store(cells, column, (p < P)[:, None] & (m == own)[None, :])
        high, at = tl.max(cosine, 0, return_indices=True, return_indices_tie_break_left=True)
        # Strictly greater: of equal cells the first one wins, across tiles as within one.
        where = tl.where(high > top, first + at, where)
        top = tl.maximum(top, high)
    q = tl.load(ra + m, m < M, other=0.0)
    # The hardware's maximum drops NaN; a frame that holds one must not look sound.
    top = tl.where(tl.max(broken, 0) > 0, float("nan"), top)
    out = n * M + m
    tl.store(logits + out, top * q / tau, m < M)
    tl.store(best + out, where.to(best.dtype.element_ty), m < M)


@jit(do_not_specialize=["M", "first_own"])
def mil_backward_v(
    g, v, a, logits, best, rv, ra, gs, s, parts, dv, tau, M, first_own,
    D: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, MAP: tl.constexpr, NEED_V: tl.constexpr,
    PRECISION: tl.constexpr, FLOAT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    tiles_p: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    tiles_d: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    n = tl.program_id(0).to(tl.int64) // (tiles_p * tiles_d)
    tile = tl.program_id(0) % (tiles_p * tiles_d)
    p = tile // tiles_d * BLOCK_P + tl.arange(0, BLOCK_P)
    d = tile % tiles_d * BLOCK_D + tl.arange(0, BLOCK_D)
    if NEED_V:
        HALF: tl.constexpr = a.dtype.element_ty == tl.float16
        unit = 1.0
        if HALF:
            # float16 has no room for gradients of 1e-7: they are divided by the greatest of their frame.
            most = tl.full((BLOCK_M,), 1e-30, tl.float32)
            for start in range(0, M, BLOCK_M):
                m = start + tl.arange(0, BLOCK_M)
                most = tl.maximum(most, tl.abs(tl.load(g + n * M + m, m < M, other=0.0)))
            unit = tl.max(most, 0)
        weighted = tl.zeros((BLOCK_P, BLOCK_D), tl.float32)
        # Spread over the threads until the end: one reduction between them instead of one a step.
        radials = tl.zeros((BLOCK_P, BLOCK_M), tl.float32)
        for start in range(0, M, BLOCK_M):
            m = start + tl.arange(0, BLOCK_M)
            grad = tl.load(g + n * M + m, m < M, other=0.0)
            value = tl.load(logits + n * M + m, m < M, other=0.0)
            at = tl.load(best + n * M + m, m < M, other=-1).to(tl.int32)
            q = tl.load(ra + m, m < M, other=0.0)
            y = tl.load(a + m[:, None].to(tl.int64) * D + d[None, :], (m < M)[:, None] & (d < D)[None, :], other=0.0)
            chosen = at[None, :] == p[:, None]
            radials += tl.where(chosen, (grad * value)[None, :], 0.0)
            # A one-hot matrix times the gradients: the scatter becomes a product of matrices.
            if HALF:
                share = tl.where(chosen, (grad / unit)[None, :], 0.0)
                y = (y.to(tl.float32) * q[:, None]).to(tl.float16)
            else:
                share = tl.where(chosen, (grad * q)[None, :], 0.0)
            if FLOAT:
                y = y.to(tl.float32)
            weighted = tl.dot(share.to(y.dtype), y, weighted, input_precision=PRECISION)
        radial = tl.sum(radials, 1)
        weighted *= unit / tau
    r = tl.load(rv + n * P + p, p < P, other=0.0)
    inside = (p < P)[:, None] & (d < D)[None, :]
    offset = place(n, d[None, :], p[:, None], D, P, LAST)
    x = tl.load(v + offset, inside, other=0.0).to(tl.float32)
    if MAP:
        own = n + first_own
        grad_s = tl.load(gs + n * P + p, p < P, other=0.0)
        radial_s = grad_s * tl.load(s + n * P + p, p < P, other=0.0)
        # The own sound's gradient is a sum over all cells: this tile's part of it, and in column D of its radial sum.
        row = parts + (n * tiles_p + tile // tiles_d) * (D + 1)
        tl.store(row + d, tl.sum((grad_s * r)[:, None] * x, 0), d < D)
        if tile % tiles_d == 0:
            tl.store(row + D, tl.sum(radial_s, 0))
        if NEED_V:
            y_own = tl.load(a + own * D + d, d < D, other=0.0).to(tl.float32) * tl.load(ra + own)
            weighted += grad_s[:, None] * y_own[None, :]
            radial += radial_s
    if NEED_V:
        tl.store(dv + offset, (r[:, None] * (weighted - (r * radial)[:, None] * x)).to(dv.dtype.element_ty), inside)


@jit(do_not_specialize=["N", "M", "first_own"])
def mil_backward_a(
    g, v, a, logits, best, rv, ra, parts, da, tau, N, M, first_own,
    D: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, PARTS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # Neighbouring programs are neighbouring sounds of one slice of channels: they read the same rows of v.
    m = (tl.program_id(0) % M).to(tl.int64)
    d = tl.program_id(0) // M * BLOCK_D + tl.arange(0, BLOCK_D)
    weighted = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    radials = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, N, BLOCK_N):
        n = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        grad = tl.load(g + n * M + m, n < N, other=0.0)
        value = tl.load(logits + n * M + m, n < N, other=0.0)
        at = tl.load(best + n * M + m, n < N, other=0).to(tl.int64)
        r = tl.load(rv + n * P + at, n < N, other=0.0)
        row = place(n[:, None], d[None, :], at[:, None], D, P, LAST)
        x = tl.load(v + row, (n < N)[:, None] & (d < D)[None, :], other=0.0).to(tl.float32)
        weighted += (grad * r)[:, None] * x
        radials += grad * value
    q = tl.load(ra + m)
    y = tl.load(a + m * D + d, d < D, other=0.0).to(tl.float32)
    weight, radial = tl.sum(weighted, 0) * (1.0 / tau), tl.sum(radials, 0)
    if PARTS > 0:
        frame = m - first_own
        is_own = (frame >= 0) & (frame < N)
        for part in range(PARTS):
            row = parts + (frame * PARTS + part) * (D + 1)
            weight += tl.load(row + d, is_own & (d < D), other=0.0)
            radial += tl.load(row + D, is_own, other=0.0)
    slope = q * (weight - q * radial * y)
    tl.store(da + m * D + d, slope.to(da.dtype.element_ty), d < D)


def _precision(v: Tensor) -> str:
    """float32 operands: three passes of the tensor core where there is one for it, which keeps float32's accuracy."""
    if v.is_cuda and torch.version.hip is None and torch.cuda.get_device_capability(v.device)[0] >= 8:
        return "tf32x3"
    return "tf32x3" if v.is_meta else "ieee"


def _options(kernel: str, v: Tensor) -> dict:
    """Configurations differ by the operands' size: a float32 tile takes twice the shared memory."""
    return config(f"{kernel}_{'float' if v.dtype == torch.float32 else 'half'}", v.device)


def _outputs(v: Tensor, a: Tensor, first_own: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (n, _, height, width), m = v.shape, a.shape[0]
    s = v.new_empty((0,) if first_own is None else (n, height, width), dtype=torch.float32)
    logits = s.new_empty((n, m))
    best = v.new_empty((n, m), dtype=torch.int16 if height * width <= 2**15 else torch.int32)
    return s, logits, best, s.new_empty((n, height * width)), s.new_empty((m,))


def forward(
    v: Tensor, a: Tensor, tau: float, eps: float, first_own: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Map, logits, best cells, inverse norms of cells and sounds; no map without `first_own`."""
    s, *outputs = _outputs(v, a, first_own)
    options = _options("mil_forward", v)
    if v.shape[0] == 0 or a.shape[0] == 0:
        outputs[2].zero_()  # without sounds no program writes the frames' norms
    a = a.contiguous()
    launch(
        row_norms, a.shape[0], a, outputs[3], float(eps), a.shape[0],
        device=v.device, D=v.shape[1], BLOCK_D=min(1024, power_of_2(v.shape[1])), num_warps=1,
    )  # fmt: skip
    launch(
        mil_forward, v.shape[0] * cdiv(a.shape[0], options["BLOCK_M"]),
        v, a, *outputs, s, float(tau), float(eps), a.shape[0], first_own or 0,
        device=v.device, D=v.shape[1], P=outputs[2].shape[1], LAST=channels_last(v), MAP=first_own is not None,
        PRECISION=_precision(v), FLOAT=AS_FLOAT, **options,
    )  # fmt: skip
    return s, *outputs


def _gradients_like(v: Tensor, a: Tensor, need_v: bool, need_a: bool) -> tuple[Tensor, Tensor]:
    dv = torch.empty_like(v) if need_v else v.new_empty(0)
    da = torch.empty_like(a, memory_format=torch.contiguous_format) if need_a else a.new_empty(0)
    return dv, da


def backward(
    gs: Tensor, g: Tensor, v: Tensor, a: Tensor, s: Tensor, logits: Tensor, best: Tensor, rv: Tensor, ra: Tensor,
    tau: float, first_own: int | None, need_v: bool, need_a: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients from those of the map, gs, and of the logits, g."""
    dv, da = _gradients_like(v, a, need_v, need_a)
    n, channels = v.shape[:2]
    m, cells = a.shape[0], rv.shape[1]
    saved = (g.contiguous(), v, a.contiguous(), logits, best, rv, ra)
    sizes = {"device": v.device, "D": channels, "P": cells, "LAST": channels_last(v)}
    options = _options("mil_backward_v", v)
    tiles = cdiv(cells, options["BLOCK_P"])
    has_map = first_own is not None
    parts = rv.new_empty((n, tiles, channels + 1) if has_map else (0,))
    if need_v or has_map:
        launch(
            mil_backward_v, n * tiles * cdiv(channels, options["BLOCK_D"]),
            *saved, gs.contiguous(), s, parts, dv, float(tau), m, first_own or 0,
            MAP=has_map, NEED_V=need_v, PRECISION=_precision(v), FLOAT=AS_FLOAT, **sizes, **options,
        )  # fmt: skip
    if need_a:
        options = config("mil_backward_a", v.device)
        launch(
            mil_backward_a, m * cdiv(channels, options["BLOCK_D"]),
            *saved, parts, da, float(tau), n, m, first_own or 0, PARTS=tiles if has_map else 0, **sizes, **options,
        )  # fmt: skip
    return dv, da


_forward = torch.library.custom_op("fastdmt::localize", forward, mutates_args=(), device_types=DEVICES)
_backward = torch.library.custom_op("fastdmt::localize_backward", backward, mutates_args=(), device_types=DEVICES)


@_forward.register_fake
def _(v, a, tau, eps, first_own):
    return _outputs(v, a, first_own)


@_backward.register_fake
def _(gs, g, v, a, s, logits, best, rv, ra, tau, first_own, need_v, need_a):
    return _gradients_like(v, a, need_v, need_a)


def _save(ctx, inputs, output):
    v, a, ctx.tau, _, ctx.first_own = inputs
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(v, a, *output)


def _derive(ctx, gs, g, *_):
    need_v, need_a = ctx.needs_input_grad[:2]
    dv, da = _backward(gs, g, *ctx.saved_tensors, ctx.tau, ctx.first_own, need_v, need_a)
    return dv if need_v else None, da if need_a else None, None, None, None


_forward.register_autograd(_derive, setup_context=_save)


def mil_logits(v: Tensor, a: Tensor, tau: float | Tensor = 0.03, eps: float = 1e-6) -> Tensor:
    """How well each sound fits each frame: the cosine of its best cell, over the temperature.

    v [N, D, h, w] frames' features and a [M, D] sounds' embeddings, neither normalised; float32, bfloat16, float16
    (float64 runs the reference). channels_last is the fast layout; contiguous is copied where a wants a gradient, and
    as in similarity_map; other strides are copied. If the types differ, a takes v's. Returns [N, M] float32, max over
    cells of cosine / tau. Of equal cells the lowest index wins, and gets the gradient. eps as in similarity_map.
    Differentiable once in v and a; deterministic. Memory beyond the inputs is 6 bytes a pair of frame and sound.

    tau may be a tensor of one element on the frames' device: a schedule then recompiles nothing under torch.compile, a
    CUDA graph's replay follows it, and it receives a gradient (a learned temperature). It is divided by afterwards, in
    a pass of its own over the [N, M] logits.

    Raises TypeError for a dtype, ValueError for a shape or device, naming the argument.
    Source: EZ-VSL (Mo & Morgado 2022), multiple-instance contrastive logits; its tau is 0.03.
    """
    _check(v, a, tau, eps)
    if isinstance(tau, Tensor):
        return mil_logits(v, a, 1.0, eps) / tau
    if not launches(v, a):
        return reference.mil_logits(v, a, tau, eps)
    return _run(v, a, tau, eps, None)[1]


def localize(
    v: Tensor, a: Tensor, tau: float | Tensor = 0.03, eps: float = 1e-6, *, first_own: int = 0
) -> tuple[Tensor, Tensor]:
    """`similarity_map` of every frame with its own sound and `mil_logits` of all pairs, in one pass over v.

    v [N, D, h, w] and a [M, D] as in mil_logits; frame n's own sound is a[n + first_own], so M >= N + first_own (with
    sounds gathered from several ranks, first_own is the row where this rank's begin).

    Returns:
        [N, h, w] float32 maps in [-1, 1] and [N, M] float32 logits. Differentiable once in v and a (and in tau, where
        it is a tensor, through the logits); deterministic.

    Raises TypeError for a dtype, ValueError for a shape, device or first_own, naming the argument.
    Source: as similarity_map and mil_logits.
    """
    _check(v, a, tau, eps)
    if not 0 <= first_own <= a.shape[0] - v.shape[0]:
        raise ValueError(
            f"first_own is {first_own}; every one of {v.shape[0]} frames wants a sound of its own among {a.shape[0]}"
        )
    if isinstance(tau, Tensor):
        s, logits = localize(v, a, 1.0, eps, first_own=first_own)
        return s, logits / tau
    if not launches(v, a):
        return reference.localize(v, a, tau, eps, first_own=first_own)
    return _run(v, a, tau, eps, first_own)[:2]


def _check(v: Tensor, a: Tensor, tau: float | Tensor, eps: float) -> None:
    checks.tensor("v", v, "[N, D, h, w]")
    checks.tensor("a", a, "[M, D]")
    checks.not_empty("v", v, 1, 2, 3)
    checks.same_size("channels", "v", v.shape[1], "a", a.shape[1])
    checks.same_device("v", v, a=a)
    if isinstance(tau, Tensor):
        checks.scalar("tau", tau)
    else:
        checks.number("tau", tau, 0, float("inf"), "a positive number")
    checks.number("eps", eps, 0, float("inf"), "a positive number")


def _run(v: Tensor, a: Tensor, tau: float, eps: float, first_own: int | None) -> tuple[Tensor, ...]:
    picked = torch.is_grad_enabled() and a.requires_grad
    return _forward(dense(v, picked), a.to(v.dtype), float(tau), float(eps), first_own)

"""localization_loss: weighted mean of the pixel-wise BCE between sigmoid(w up(S) + b) and masks.

    z = up(w S + b)      l_n = sum_p valid (max(z, 0) - z G + log(1 + exp(-|z|))) / sum_p valid
    loss = sum_n weight_n l_n / total        dl_n/dz_p = valid (sigmoid(z) - G) / sum_p valid, carried back through up

One program a sample. It forms the gradient to the low-resolution logits in the same pass that forms the loss, since
both need z; the backward pass only scales it. Every sum has a fixed order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks, reference
from .backend import DEVICES, jit, launch, launches, power_of_2, tl
from .tuning import config
from .upsampling import band_start, column_sources, mixed_row, plan, row_share


@jit
def log1p(e):
    """log(1 + e) for 0 <= e <= 1, relative error below 1.5e-6: e times a polynomial, minimax by Lawson's iteration.

    The GPU's fast logarithm has no relative accuracy near 1, which all pixels of a confident and right map need.
    """
    p = -0.06640178710222244 + e * 0.014141020365059376
    p = -0.23503859341144562 + e * (0.14922386407852173 + e * p)
    p = -0.4998696446418762 + e * (0.3310944736003876 + e * p)
    return e * (0.9999987483024597 + e * p)


@jit
def truth_tile(target, line, x, inside, SOFT: tl.constexpr, W: tl.constexpr, WORDS: tl.constexpr):
    """G of a tile: bits of a packed mask, or a uint8 confidence."""
    if SOFT:
        return tl.load(target + line[:, None] * W + x[None, :], inside, other=0).to(tl.float32) * (1.0 / 255.0)
    else:
        word = tl.load(target + line[:, None] * WORDS + (x // 32)[None, :], inside, other=0)
        return ((word >> (x % 32)[None, :]) & 1).to(tl.float32)


@jit(do_not_specialize=["N"])
def loss_forward(
    s, affine, target, valid, weight, total, part, dz, sums, coefficient, N,
    GRAD: tl.constexpr, SOFT: tl.constexpr,
    HAS_VALID: tl.constexpr, HAS_TOTAL: tl.constexpr,
    h: tl.constexpr, w: tl.constexpr, H: tl.constexpr, W: tl.constexpr, WORDS: tl.constexpr,
    BLOCK_WORDS: tl.constexpr, BLOCK_ROWS: tl.constexpr, CHUNKS: tl.constexpr,
    BLOCK_J: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    BLOCK_X: tl.constexpr = BLOCK_WORDS * 32
    n = tl.program_id(0).to(tl.int64)
    s += n * h * w
    dz += n * h * w
    scale, bias = tl.load(affine).to(tl.float32), tl.load(affine + 1).to(tl.float32)
    x = tl.arange(0, BLOCK_X)
    left, right, tx = column_sources(x, w, W)
    loss = tl.zeros((BLOCK_ROWS, BLOCK_X), tl.float32)
    count = tl.zeros((BLOCK_ROWS, BLOCK_X), tl.int32)
    carry = tl.zeros((BLOCK_X,), tl.float32)
    sum_s = tl.zeros((BLOCK_J,), tl.float32)
    sum_1 = tl.zeros((BLOCK_J,), tl.float32)
    for k in range(-1, h):
        top = mixed_row(s, tl.maximum(k, 0), left, right, tx, scale, bias, w)
        bottom = mixed_row(s, tl.minimum(k + 1, h - 1), left, right, tx, scale, bias, w)
        start, end = band_start(k, h, H), band_start(k + 1, h, H)
        upper = tl.zeros((BLOCK_ROWS, BLOCK_X), tl.float32)
        lower = tl.zeros((BLOCK_ROWS, BLOCK_X), tl.float32)
        for chunk in range(CHUNKS):
            y = start + chunk * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
            line = n * H + y
            t = row_share(y, k, h, H)[:, None]
            z = (1.0 - t) * top[None, :] + t * bottom[None, :]
            inside = (y < end)[:, None] & (x < W)[None, :]
            g = truth_tile(target, line, x, inside, SOFT, W, WORDS)
            counts = inside
            if HAS_VALID:
                word = tl.load(valid + line[:, None] * WORDS + (x // 32)[None, :], inside, other=0)
                counts = inside & (((word >> (x % 32)[None, :]) & 1) == 1)
                count += counts.to(tl.int32)
            e = tl.exp(-tl.abs(z))
            loss += tl.where(counts, tl.maximum(z, 0.0) - z * g + log1p(e), 0.0)
            if GRAD:
                # sigmoid(z) - G, written so that a confident and right pixel keeps its small gradient's digits.
                rest = e / (1.0 + e)
                slope = tl.where(counts, tl.where(z >= 0.0, (1.0 - g) - rest, rest - g), 0.0)
                upper += (1.0 - t) * slope
                lower += t * slope
        if GRAD:
            # Row k takes its share from the band above it (carried) and from the one below; the first and last band
            # have one source row only.
            to_row, to_next = tl.sum(upper, 0), tl.sum(lower, 0)
            if k >= 0:
                slope_k = carry + to_row + tl.where(k == h - 1, to_next, 0.0)
                for first in range(0, w, BLOCK_J):
                    j = first + tl.arange(0, BLOCK_J)
                    share = tl.where(left[:, None] == j[None, :], 1.0 - tx[:, None], 0.0)
                    share += tl.where(right[:, None] == j[None, :], tx[:, None], 0.0)
                    slope_j = tl.sum(share * slope_k[:, None], 0)
                    tl.store(dz + k * w + j, slope_j, j < w)
                    sum_s += slope_j * tl.load(s + k * w + j, j < w, other=0.0).to(tl.float32)
                    sum_1 += tl.where(j < w, slope_j, 0.0)
            carry = tl.where(k < 0, to_row + to_next, to_next)

    pixels = float(H * W)
    if HAS_VALID:
        pixels = tl.maximum(tl.sum(tl.sum(count, 1), 0), 1).to(tl.float32)
    if HAS_TOTAL:
        weight_sum = tl.load(total)
    else:
        weights = tl.zeros((BLOCK_N,), tl.float32)
        for first in range(0, N, BLOCK_N):
            i = first + tl.arange(0, BLOCK_N)
            weights += tl.load(weight + i, i < N, other=0.0)
        weight_sum = tl.sum(weights, 0)
    own = tl.load(weight + n)
    factor = own / tl.where(weight_sum <= 0.0, 1.0, weight_sum) / pixels
    # Selected, not multiplied: a row of weight 0 may hold a NaN map.
    tl.store(part + n, tl.where(own <= 0.0, 0.0, factor * tl.sum(tl.sum(loss, 1), 0)))
    if GRAD:
        tl.store(coefficient + n, tl.where(own <= 0.0, 0.0, factor))
        tl.store(sums + 2 * n, tl.sum(sum_s, 0))
        tl.store(sums + 2 * n + 1, tl.sum(sum_1, 0))


@jit(do_not_specialize=["N"])
def loss_backward(
    g, affine, dz, sums, coefficient, ds, daffine, N, stride_g,
    CELLS: tl.constexpr, BLOCK_CELLS: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    if n < N:
        factor = tl.load(coefficient + n)
        scale = tl.load(affine).to(tl.float32) * tl.load(g + n * stride_g) * factor
        for first in range(0, CELLS, BLOCK_CELLS):
            i = first + tl.arange(0, BLOCK_CELLS)
            slope = tl.load(dz + n * CELLS + i, i < CELLS, other=0.0)
            slope = tl.where(factor == 0.0, 0.0, slope * scale)
            tl.store(ds + n * CELLS + i, slope.to(ds.dtype.element_ty), i < CELLS)
    else:
        # The last program: the affine pair's gradient, over all samples in their order.
        sum_s = tl.zeros((BLOCK_N,), tl.float32)
        sum_1 = tl.zeros((BLOCK_N,), tl.float32)
        for first in range(0, N, BLOCK_N):
            i = first + tl.arange(0, BLOCK_N)
            factor = tl.load(coefficient + i, i < N, other=0.0)
            scale = factor * tl.load(g + i * stride_g, i < N, other=0.0)
            sum_s += tl.where(factor == 0.0, 0.0, scale * tl.load(sums + 2 * i, i < N, other=0.0))
            sum_1 += tl.where(factor == 0.0, 0.0, scale * tl.load(sums + 2 * i + 1, i < N, other=0.0))
        tl.store(daffine, tl.sum(sum_s, 0).to(daffine.dtype.element_ty))
        tl.store(daffine + 1, tl.sum(sum_1, 0).to(daffine.dtype.element_ty))


def _outputs(s: Tensor, grad: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    part = s.new_empty((s.shape[0],), dtype=torch.float32)
    dz = s.new_empty(s.shape if grad else (0,), dtype=torch.float32)
    return part, dz, part.new_empty((s.shape[0], 2) if grad else (0,)), part.new_empty((s.shape[0],) if grad else (0,))


def forward(
    s: Tensor, affine: Tensor, target: Tensor, weight: Tensor, valid: Tensor | None, total: Tensor | None,
    height: int, width: int, grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    n, h, w = s.shape
    outputs = _outputs(s, grad)
    options = config("localization_loss", s.device)
    tile = options.pop("TILE")
    sizes = plan((h, w), (height, width), tile)
    if torch.version.hip is None:
        # Left to itself the assembler of some sizes fits one block more on a multiprocessor, and spills for it.
        options["maxnreg"] = min(240, 2048 // options.get("num_warps", 4))
    weight = weight.float().contiguous()
    launch(
        loss_forward, n,
        s.contiguous(), affine.contiguous(), target.contiguous(), weight if valid is None else valid.contiguous(),
        weight, weight if total is None else total.float(), *outputs, n,
        device=s.device, GRAD=grad, SOFT=target.dtype == torch.uint8,
        HAS_VALID=valid is not None, HAS_TOTAL=total is not None,
        BLOCK_J=max(1, min(power_of_2(w), 2 * tile // (sizes["BLOCK_WORDS"] * 32))), BLOCK_N=1024,
        **sizes, **options,
    )  # fmt: skip
    return outputs


def backward(
    g: Tensor, s: Tensor, affine: Tensor, dz: Tensor, sums: Tensor, coefficient: Tensor
) -> tuple[Tensor, Tensor]:
    ds = torch.empty_like(s, memory_format=torch.contiguous_format)
    daffine = torch.empty_like(affine, memory_format=torch.contiguous_format)
    cells = s.shape[1] * s.shape[2]
    launch(
        loss_backward, s.shape[0] + 1,
        g, affine.contiguous(), dz, sums, coefficient, ds, daffine, s.shape[0], g.stride(0),
        device=s.device, CELLS=cells, BLOCK_CELLS=min(1024, power_of_2(cells)), BLOCK_N=1024, num_warps=4,
    )  # fmt: skip
    return ds, daffine


_forward = torch.library.custom_op("fastdmt::localization_loss", forward, mutates_args=(), device_types=DEVICES)
_backward = torch.library.custom_op(
    "fastdmt::localization_loss_backward", backward, mutates_args=(), device_types=DEVICES
)


@_forward.register_fake
def _(s, affine, target, weight, valid, total, height, width, grad):
    return _outputs(s, grad)


@_backward.register_fake
def _(g, s, affine, dz, sums, coefficient):
    contiguous = torch.contiguous_format
    return torch.empty_like(s, memory_format=contiguous), torch.empty_like(affine, memory_format=contiguous)


def _save(ctx, inputs, output):
    _, dz, sums, coefficient = output
    ctx.mark_non_differentiable(dz, sums, coefficient)
    ctx.save_for_backward(inputs[0], inputs[1], dz, sums, coefficient)


def _derive(ctx, g, *_):
    s, affine, dz, sums, coefficient = ctx.saved_tensors
    return *_backward(g, s, affine, dz, sums, coefficient), *(None,) * 7


_forward.register_autograd(_derive, setup_context=_save)


def localization_loss(
    s: Tensor,
    affine: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    size: tuple[int, int],
    valid: Tensor | None = None,
    total: Tensor | None = None,
) -> Tensor:
    """Weighted mean over samples of the pixel-wise binary cross-entropy between P = sigmoid(w S + b) and the truth.

    s [N, h, w] similarity maps (float32, bfloat16, float16; float64 runs the reference), affine [2] the pair (w, b),
    weight [N] (0 or less takes a row out, whatever it holds; a NaN shows in the loss). The logits are up-sampled to
    `size` = (H, W) pixels (bilinear, align_corners=False) before the sigmoid. Truth, by the dtype of `target`:

    int32   packed masks [N, H, ceil(W/32)] (of boxes: `boxes_to_mask`)
    uint8   confidences [N, H, W], 255 = certain

    valid   packed mask [N, H, ceil(W/32)] of the pixels that count; all do when it is None
    total   [] divides the weighted sum in place of the sum of weights (for a mean over ranks or micro-batches)

    Returns [] float32; 0 where the total is not positive. Differentiable once in s and affine; stable at any logit;
    deterministic. Raises TypeError for a dtype, ValueError for a shape, a device, or a weight or total that wants a
    gradient, naming the argument.
    Source: Guo et al. 2023 (Dual Mean-Teacher), supervised loss, on labels and on pseudo-labels.
    """
    checks.tensor("s", s, "[N, h, w]")
    checks.not_empty("s", s, 1, 2)
    checks.affine("affine", affine)
    checks.tensor("weight", weight, "[N]", (*checks.FLOATS, torch.bool))
    checks.frame_size("size", size)
    if not isinstance(target, Tensor) or target.dtype not in (torch.int32, torch.uint8):
        came = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise TypeError(f"target is {came}; int32 packed masks or uint8 confidences are wanted (boxes: boxes_to_mask)")
    n, words = s.shape[0], -(-size[1] // 32)
    wanted = (n, size[0], words if target.dtype == torch.int32 else size[1])
    for name, value, shape in (("target", target, wanted), ("valid", valid, (n, size[0], words))):
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"{name} has shape {list(value.shape)}; {list(shape)} is wanted for {n} maps and {size}")
    if valid is not None:
        checks.tensor("valid", valid, "[N, H, ceil(W/32)]", (torch.int32,))
    if total is not None and (not isinstance(total, Tensor) or total.numel() != 1):
        raise TypeError("total is not a tensor with one element; a 0-d tensor on the maps' device is wanted")
    checks.same_size("rows", "s", n, "weight", weight.shape[0])
    checks.same_device("s", s, affine=affine, target=target, weight=weight, valid=valid, total=total)
    for name, value in (("weight", weight), ("total", total)):
        if value is not None and value.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name} requires a gradient, and the loss has one in s and affine alone; detach it")
    if not launches(s, affine):
        return reference.localization_loss(s, affine, target, weight, size=size, valid=valid, total=total)
    grad = torch.is_grad_enabled() and (s.requires_grad or affine.requires_grad)
    part = _forward(s, affine, target, weight, valid, total, *size, grad)[0]
    return part.sum()

"""consensus: from the low-resolution maps of two teachers to the verdict and the packed intersection of their masks.

    U = w upsample(S) + b      M = U >= log(delta / (1 - delta))      iou = |M_A & M_B| / |M_A | M_B|
    keep = iou >= tau          mask = M_A & M_B

One program a sample; a full-resolution map exists only in registers, a band of rows at a time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import checks, reference
from .backend import DEVICES, jit, launch, launches, power_of_2, tl
from .masks import WORD
from .reference import Consensus
from .tuning import config
from .upsampling import band_start, column_sources, mixed_row, plan, row_share

PROBABILITIES = ("sigmoid", "clamp", "minmax")
SOFT = ("none", "product", "minimum")


@jit
def not_finite(s, CELLS: tl.constexpr, BLOCK: tl.constexpr):
    broken = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, CELLS, BLOCK):
        i = first + tl.arange(0, BLOCK)
        value = tl.load(s + i, i < CELLS, other=0.0).to(tl.float32)
        broken |= tl.where(tl.abs(value) < float("inf"), 0, 1)
    return tl.max(broken, 0) > 0


@jit
def varies(s, CELLS: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.load(s).to(tl.float32)
    differs = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, CELLS, BLOCK):
        i = first + tl.arange(0, BLOCK)
        value = tl.load(s + i, i < CELLS, other=0.0).to(tl.float32)
        differs |= tl.where((i < CELLS) & (value != start), 1, 0)
    return tl.max(differs, 0) > 0


@jit
def extremes(s, h: tl.constexpr, w: tl.constexpr, H: tl.constexpr, W: tl.constexpr, BLOCK_EDGES: tl.constexpr):
    """Least and greatest value of the up-sampled map.

    Between four cell centres the map is bilinear, so its extremes over the pixel grid lie at the first or last pixel
    of a band, in both directions; the low-resolution extremes are not pixels at all.
    """
    i = tl.arange(0, BLOCK_EDGES)
    band = i // 2 - 1
    start, end = band_start(band, w, W), band_start(band + 1, w, W)
    known = (band < w) & (start < end)
    x = tl.where(known, tl.where(i % 2 == 0, start, end - 1), 0)
    left, right, tx = column_sources(x, w, W)
    low = tl.full((BLOCK_EDGES,), float("inf"), tl.float32)
    high = tl.full((BLOCK_EDGES,), float("-inf"), tl.float32)
    for k in range(-1, h):
        top = mixed_row(s, tl.maximum(k, 0), left, right, tx, 1.0, 0.0, w)
        bottom = mixed_row(s, tl.minimum(k + 1, h - 1), left, right, tx, 1.0, 0.0, w)
        first, last = band_start(k, h, H), band_start(k + 1, h, H) - 1
        use = known & (first <= last)
        for edge in tl.static_range(2):
            t = row_share(first if edge == 0 else last, k, h, H)
            u = (1.0 - t) * top + t * bottom
            low = tl.where(use, tl.minimum(low, u), low)
            high = tl.where(use, tl.maximum(high, u), high)
    return tl.min(low, 0), tl.max(high, 0)


@jit
def probability(u, low, high, MODE: tl.constexpr):
    if MODE == 0:
        return 1.0 / (1.0 + tl.exp(-u))
    elif MODE == 1:
        return tl.minimum(tl.maximum(u, 0.0), 1.0)
    else:
        return (u - low) / (high - low)


@jit
def consensus_kernel(
    s_a, s_b, affine_a, affine_b, levels, keep, iou, mask, valid, confidence, empty, delta, quiet_level, tau,
    ON_DEVICE: tl.constexpr, MODE: tl.constexpr, SOFT: tl.constexpr, HAS_VALID: tl.constexpr,
    h: tl.constexpr, w: tl.constexpr, H: tl.constexpr, W: tl.constexpr, WORDS: tl.constexpr,
    BLOCK_WORDS: tl.constexpr, BLOCK_ROWS: tl.constexpr, CHUNKS: tl.constexpr,
    BLOCK_CELLS: tl.constexpr, BLOCK_EDGES: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    s_a += n * h * w
    s_b += n * h * w
    broken_a, broken_b = not_finite(s_a, h * w, BLOCK_CELLS), not_finite(s_b, h * w, BLOCK_CELLS)
    broken = broken_a | broken_b
    scale_a, bias_a, scale_b, bias_b = 1.0, 0.0, 1.0, 0.0
    low_a, low_b, high_a, high_b = 0.0, 0.0, 1.0, 1.0
    if MODE == 0:
        scale_a, bias_a = tl.load(affine_a).to(tl.float32), tl.load(affine_a + 1).to(tl.float32)
        scale_b, bias_b = tl.load(affine_b).to(tl.float32), tl.load(affine_b + 1).to(tl.float32)
    if MODE == 2:
        low_a, high_a = extremes(s_a, h, w, H, W, BLOCK_EDGES)
        low_b, high_b = extremes(s_b, h, w, H, W, BLOCK_EDGES)
        # A constant or broken map has no normalisation: a threshold that nothing reaches rejects it.
        high_a = tl.where(broken_a | (varies(s_a, h * w, BLOCK_CELLS) == 0), float("inf"), high_a)
        high_b = tl.where(broken_b | (varies(s_b, h * w, BLOCK_CELLS) == 0), float("inf"), high_b)
    if ON_DEVICE:
        delta, quiet_level, tau = tl.load(levels), tl.load(levels + 1), tl.load(levels + 2)
    level_a, level_b = low_a + delta * (high_a - low_a), low_b + delta * (high_b - low_b)

    word = tl.arange(0, BLOCK_WORDS)
    bit = tl.arange(0, 32)
    x = word[:, None] * 32 + bit[None, :]
    left, right, tx = column_sources(x, w, W)
    n_inter = tl.zeros((BLOCK_ROWS, BLOCK_WORDS, 32), tl.int32)
    n_union = tl.zeros((BLOCK_ROWS, BLOCK_WORDS, 32), tl.int32)
    for k in range(-1, h):
        row, below = tl.maximum(k, 0), tl.minimum(k + 1, h - 1)
        top_a = mixed_row(s_a, row, left, right, tx, scale_a, bias_a, w)
        bottom_a = mixed_row(s_a, below, left, right, tx, scale_a, bias_a, w)
        top_b = mixed_row(s_b, row, left, right, tx, scale_b, bias_b, w)
        bottom_b = mixed_row(s_b, below, left, right, tx, scale_b, bias_b, w)
        start, end = band_start(k, h, H), band_start(k + 1, h, H)
        for chunk in range(CHUNKS):
            y = start + chunk * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
            t = row_share(y, k, h, H)[:, None, None]
            u_a = (1.0 - t) * top_a[None, :, :] + t * bottom_a[None, :, :]
            u_b = (1.0 - t) * top_b[None, :, :] + t * bottom_b[None, :, :]
            inside = (y < end)[:, None, None] & (x < W)[None, :, :]
            m_a, m_b = (u_a >= level_a) & inside, (u_b >= level_b) & inside
            inter = m_a & m_b
            n_inter += inter.to(tl.int32)
            n_union += (m_a | m_b).to(tl.int32)
            inter = tl.where(broken, 0, inter.to(tl.int32))
            line = n * H + y
            offset = line[:, None] * WORDS + word[None, :]
            within = (y < end)[:, None] & (word < WORDS)[None, :]
            tl.store(mask + offset, tl.sum(inter << bit[None, None, :], 2), within)
            if HAS_VALID:
                loud_a = u_a >= low_a + quiet_level * (high_a - low_a)
                loud_b = u_b >= low_b + quiet_level * (high_b - low_b)
                quiet = tl.where((loud_a | loud_b) | (inside == 0), 0, 1)
                tl.store(valid + offset, tl.sum((inter | quiet) << bit[None, None, :], 2), within)
            if SOFT > 0:
                p_a, p_b = probability(u_a, low_a, high_a, MODE), probability(u_b, low_b, high_b, MODE)
                joint = p_a * p_b if SOFT == 1 else tl.minimum(p_a, p_b)
                level = tl.where(inter > 0, tl.floor(joint * 255.0 + 0.5), 0.0)
                tl.store(confidence + line[:, None, None] * W + x[None, :, :], level.to(tl.uint8), inside)

    total_inter = tl.sum(tl.sum(tl.sum(n_inter, 2), 1), 0)
    total_union = tl.sum(tl.sum(tl.sum(n_union, 2), 1), 0)
    ratio = tl.div_rn(total_inter.to(tl.float32), tl.maximum(total_union, 1).to(tl.float32))
    ratio = tl.where(broken, 0.0, ratio)
    some = tl.where(broken, 0, total_inter) > 0
    tl.store(iou + n, ratio)
    tl.store(keep + n, (ratio >= tau) & some)
    tl.store(empty + n, tl.where(some, 0.0, 1.0))


Six = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _outputs(s: Tensor, height: int, width: int, soft: str, ignore_below: float | None) -> Six:
    n, words = s.shape[0], -(-width // WORD)
    mask = s.new_empty((n, height, words), dtype=torch.int32)
    valid = s.new_empty((0,) if ignore_below is None else (n, height, words), dtype=torch.int32)
    confidence = s.new_empty((0,) if soft == "none" else (n, height, width), dtype=torch.uint8)
    iou = s.new_empty((n,), dtype=torch.float32)
    return s.new_empty((n,), dtype=torch.bool), iou, mask, valid, confidence, torch.empty_like(iou)


def agree(
    s_a: Tensor, s_b: Tensor, affine_a: Tensor, affine_b: Tensor, levels: Tensor | None, delta: float, tau: float,
    height: int, width: int, probability: str, soft: str, ignore_below: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    outputs = _outputs(s_a, height, width, soft, ignore_below)
    options = config("consensus", s_a.device)
    sizes = plan((s_a.shape[1], s_a.shape[2]), (height, width), options.pop("TILE"))
    quiet = 0.5 if ignore_below is None else ignore_below
    if probability == "sigmoid" and levels is None:
        delta, quiet = reference.logit(delta), reference.logit(quiet)
    elif probability == "sigmoid":
        levels = torch.cat([levels[:2].logit(), levels[2:]])
    launch(
        consensus_kernel, s_a.shape[0],
        s_a.contiguous(), s_b.contiguous(), affine_a.contiguous(), affine_b.contiguous(),
        affine_a if levels is None else levels, *outputs, float(delta), float(quiet), float(tau),
        device=s_a.device, ON_DEVICE=levels is not None, MODE=PROBABILITIES.index(probability),
        SOFT=SOFT.index(soft), HAS_VALID=ignore_below is not None,
        BLOCK_CELLS=min(1024, power_of_2(sizes["h"] * sizes["w"])), BLOCK_EDGES=power_of_2(2 * sizes["w"] + 2),
        **sizes, **options,
    )  # fmt: skip
    return outputs


_agree = torch.library.custom_op("fastdmt::consensus", agree, mutates_args=(), device_types=DEVICES)


@_agree.register_fake
def _(s_a, s_b, affine_a, affine_b, levels, delta, tau, height, width, probability, soft, ignore_below):
    return _outputs(s_a, height, width, soft, ignore_below)


def consensus(
    s_a: Tensor,
    s_b: Tensor,
    affine_a: Tensor,
    affine_b: Tensor,
    delta: float | Tensor = 0.6,
    tau: float | Tensor = 0.7,
    size: tuple[int, int] = (224, 224),
    *,
    probability: str = "sigmoid",
    soft: str = "none",
    ignore_below: float | Tensor | None = None,
) -> Consensus:
    """Where two teachers agree, and whether they agree enough: the noise filter and the intersection of pseudo-labels.

    s_a, s_b [N, h, w] similarity maps (float32, bfloat16, float16; float64 runs the reference), affine_a, affine_b
    [2] the pair (w, b) of P = sigmoid(w S + b). The maps are up-sampled to `size` = (H, W) pixels (bilinear,
    align_corners=False) and thresholded at P >= delta; a sample is kept when its IoU reaches tau and its intersection
    is not empty. Samples with a NaN or an infinity are rejected with IoU 0 and an empty mask. No gradient.

    probability  "sigmoid"; "clamp": P = S limited to 0..1; "minmax": P = S spread over 0..1 by the extremes of its own
                 up-sampled map (a constant map is rejected). The last two do not read the affine pairs.
    soft         "none"; "product" or "minimum" of the two P within the intersection, as `confidence`, uint8 0..255.
    ignore_below a P: `valid` then holds the intersection and the pixels where both P are lower; loss elsewhere is
                 not to be counted.

    delta, tau and ignore_below may be tensors of one element on the maps' device: a schedule then recompiles nothing
    under torch.compile, and a CUDA graph's replay follows it. The host does not read them, and does not check them.

    Raises TypeError for a dtype, ValueError for a shape, a device, or a level outside its range, naming the argument.
    Source: Guo et al. 2023 (Dual Mean-Teacher), noise filter by consensus and intersection of pseudo-labels.
    """
    checks.tensor("s_a", s_a, "[N, h, w]")
    checks.tensor("s_b", s_b, "[N, h, w]")
    if s_a.shape != s_b.shape:
        raise ValueError(f"s_b has shape {list(s_b.shape)}, s_a {list(s_a.shape)}; the same shape is wanted")
    checks.not_empty("s_a", s_a, 1, 2)
    checks.affine("affine_a", affine_a)
    checks.affine("affine_b", affine_b)
    checks.same_device("s_a", s_a, s_b=s_b, affine_a=affine_a, affine_b=affine_b)
    checks.frame_size("size", size)
    checks.one_of("probability", probability, PROBABILITIES)
    checks.one_of("soft", soft, SOFT)
    levels = {"delta": delta, "ignore_below": ignore_below, "tau": tau}
    for name, value in levels.items():
        if isinstance(value, Tensor):
            checks.scalar(name, value)
        elif name == "tau":
            checks.number(name, value, -math.inf, math.inf, "an IoU from 0 to 1")
        elif value is not None:
            checks.number(name, value, 0, 1, "a probability between 0 and 1, both excluded,")
    on_device = {name: value for name, value in levels.items() if isinstance(value, Tensor)}
    checks.same_device("s_a", s_a, **on_device)
    s_a, s_b, affine_a, affine_b = s_a.detach(), s_b.detach(), affine_a.detach(), affine_b.detach()
    if not launches(s_a, s_b, affine_a, affine_b):
        return reference.consensus(
            s_a, s_b, affine_a, affine_b, delta, tau, size,
            probability=probability, soft=soft, ignore_below=ignore_below,
        )  # fmt: skip
    together = None
    if on_device:
        numbers = (0.5 if value is None else value for value in levels.values())
        together = torch.stack([
            x.detach().float().reshape(()) if isinstance(x, Tensor) else torch.full((), x, device=s_a.device)
            for x in numbers
        ])  # fmt: skip
        delta, tau, ignore_below = 0.5, 0.5, None if ignore_below is None else 0.5
    band = None if ignore_below is None else float(ignore_below)
    keep, iou, mask, valid, confidence, empty = _agree(
        s_a, s_b, affine_a, affine_b, together, float(delta), float(tau), *size, probability, soft, band
    )
    share = empty.mean() if empty.shape[0] else empty.new_zeros(())
    return Consensus(
        keep, iou, mask, None if ignore_below is None else valid, None if soft == "none" else confidence, share
    )

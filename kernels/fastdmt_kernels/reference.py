"""What each op means, in plain PyTorch: the CPU path, and the truth that every kernel is tested against.

Letters: N frames, M sounds, D channels, h w cells of the map, H W pixels of the frame, K boxes.
All functions are differentiable where their op is, take float16, bfloat16, float32 and float64, compute in float32
(float64 for float64) whatever autocast says, and never wait for the device. Shapes, options and errors are in the
docstrings of the public functions of the same names.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import pack_mask, unpack_mask


class Consensus(NamedTuple):
    """What two teachers agree on. Every field lives on the maps' device."""

    keep: Tensor  #: [N] bool, IoU >= tau
    iou: Tensor  #: [N] float32, IoU of the two thresholded maps, 0 when their union is empty
    mask: Tensor  #: [N, H, ceil(W/32)] int32, bit-packed intersection
    valid: Tensor | None  #: like mask: pixels that count in the loss (None: all)
    confidence: Tensor | None  #: [N, H, W] uint8, 255 * soft intersection (None: hard)
    empty_share: Tensor  #: [] float32, share of samples whose intersection is empty


def logit(probability: float | Tensor) -> float | Tensor:
    """The logit at which a sigmoid reaches this probability: a threshold on P is one on the logits."""
    if isinstance(probability, Tensor):
        return probability.detach().float().reshape(()).logit()
    return math.log(probability / (1 - probability))


def _accumulate(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def full_precision(function):
    """Autocast would round the features to half precision before their norms are taken."""

    @functools.wraps(function)
    def wrapped(first, *args, **kwargs):
        if not torch.amp.is_autocast_available(first.device.type):  # meta
            return function(first, *args, **kwargs)
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *args, **kwargs)

    return wrapped


def inverse_norm(x: Tensor, eps: float) -> Tensor:
    """Of x [N, D, ...] along D: [N, 1, ...]. NaN, not 0, where the sum of squares overflows."""
    squares = x.square().sum(1, keepdim=True)
    return torch.rsqrt(torch.where(squares < math.inf, squares, math.nan) + eps * eps)


def unit(x: Tensor, eps: float) -> Tensor:
    return x * inverse_norm(x, eps)


@full_precision
def similarity_map(v: Tensor, a: Tensor, eps: float = 1e-6) -> Tensor:
    v, a = unit(_accumulate(v), eps), unit(_accumulate(a), eps)
    return torch.einsum("ndhw,nd->nhw", v, a)


@full_precision
def mil_logits(v: Tensor, a: Tensor, tau: float | Tensor = 0.03, eps: float = 1e-6) -> Tensor:
    v, a = unit(_accumulate(v.flatten(2)), eps), unit(_accumulate(a), eps)
    return torch.einsum("ndp,md->nmp", v, a).max(dim=2).values / tau


def localize(
    v: Tensor, a: Tensor, tau: float | Tensor = 0.03, eps: float = 1e-6, *, first_own: int = 0
) -> tuple[Tensor, Tensor]:
    own = a[first_own : first_own + v.shape[0]]
    return similarity_map(v, own, eps), mil_logits(v, a, tau, eps)


def upsample(s: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, align_corners=False: [N, h, w] -> [N, H, W]."""
    return F.interpolate(_accumulate(s)[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def _logits(s: Tensor, affine: Tensor, size: tuple[int, int]) -> Tensor:
    s = _accumulate(s)
    w, b = affine.to(s.dtype).unbind()
    return upsample(w * s + b, size)


@full_precision
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
    def confidence(s, affine):
        if probability == "sigmoid":
            return _logits(s, affine, size).sigmoid()
        up = upsample(s, size)
        if probability == "clamp":
            return up.clamp(0, 1)
        low, high = up.amin((1, 2), keepdim=True), up.amax((1, 2), keepdim=True)
        return (up - low) / (high - low)

    def above(s, affine, level):
        # In the raw domain: no sigmoid and no division stands between the map and its threshold.
        if probability == "sigmoid":
            return _logits(s, affine, size) >= logit(level)
        up = upsample(s, size)
        if probability == "clamp":
            return up >= level
        low, high = up.amin((1, 2), keepdim=True), up.amax((1, 2), keepdim=True)
        # Constant is a word about the cells: rounding makes a constant map's pixels differ in their last bit.
        varies = s.amax((1, 2), keepdim=True) > s.amin((1, 2), keepdim=True)
        return (up >= low + level * (high - low)) & varies

    m_a, m_b = above(s_a, affine_a, delta), above(s_b, affine_b, delta)
    inter, union = m_a & m_b, m_a | m_b
    n_inter, n_union = inter.sum((1, 2)), union.sum((1, 2))
    iou = n_inter.float() / n_union.clamp(min=1).float()
    finite = torch.isfinite(s_a).all((1, 2)) & torch.isfinite(s_b).all((1, 2))
    iou = torch.where(finite, iou, torch.zeros_like(iou))
    inter = inter & finite[:, None, None]
    keep = (iou >= tau) & (n_inter > 0) & finite

    valid = soft_map = None
    if ignore_below is not None:
        quiet = ~above(s_a, affine_a, ignore_below) & ~above(s_b, affine_b, ignore_below)
        valid = pack_mask(inter | quiet)
    if soft != "none":
        p_a, p_b = confidence(s_a, affine_a), confidence(s_b, affine_b)
        joint = p_a * p_b if soft == "product" else torch.minimum(p_a, p_b)
        soft_map = (torch.where(inter, joint, torch.zeros_like(joint)) * 255).round().to(torch.uint8)
    empty = (~inter.any(2).any(1)).float()
    share = empty.sum() / max(len(empty), 1)
    return Consensus(keep, iou, pack_mask(inter), valid, soft_map, share)


def pixels(
    s: Tensor, affine: Tensor, target: Tensor, size: tuple[int, int], valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Up-sampled logits, truth and 0/1 counts of every pixel, each [N, H, W]."""
    logits = _logits(s, affine, size)
    if target.dtype == torch.uint8:
        truth = target.to(logits.dtype) / 255
    else:
        truth = unpack_mask(target, size[1]).to(logits.dtype)
    if valid is None:
        return logits, truth, torch.ones_like(logits)
    return logits, truth, unpack_mask(valid, size[1]).to(logits.dtype)


@full_precision
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
    # Selected, not multiplied: a row of weight 0 may hold a NaN map, and 0 * NaN is NaN, in the gradient too.
    absent = weight <= 0  # not a NaN
    s = torch.where(absent[:, None, None], torch.zeros_like(s), s)
    logits, truth, counts = pixels(s, affine, target, size, valid)
    pixel = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    sample = (pixel * counts).sum((1, 2)) / counts.sum((1, 2)).clamp(min=1)
    weight = weight.to(sample.dtype)
    weighted = torch.where(absent, torch.zeros_like(sample), weight * sample).sum()
    total = weight.sum() if total is None else total.to(sample.dtype).reshape(())
    return weighted / torch.where(total <= 0, torch.ones_like(total), total)

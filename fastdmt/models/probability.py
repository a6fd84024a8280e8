"""From a cosine map to the probability that a pixel shows the source of the sound."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def upsample(s: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [N, h, w] to [N, H, W] float32: bilinear, align_corners=False, as in every kernel."""
    return F.interpolate(s.float()[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def probability_map(s: Tensor, affine: Tensor, size: tuple[int, int], kind: str = "sigmoid") -> Tensor:
    """P [N, H, W] float32 in 0..1 of cosine maps s [N, h, w]; up-sampled first, squashed after, as everywhere."""
    w, b = affine.float().unbind()
    s = w * s.float() + b if kind == "sigmoid" else s.float()
    up = upsample(s, size)
    if kind == "sigmoid":
        return up.sigmoid()
    if kind == "clamp":
        return up.clamp(0, 1)
    low, high = up.amin((1, 2), keepdim=True), up.amax((1, 2), keepdim=True)
    return (up - low) / (high - low).clamp(min=1e-12)

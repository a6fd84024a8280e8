"""Bit-packed masks: bit j of word k of a row is pixel 32 k + j. 32 times smaller than a float32 map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import checks

WORD = 32  # pixels a word holds


def pack_mask(mask: Tensor) -> Tensor:
    """Packs a mask [N, H, W] (bool) into [N, H, ceil(W/32)] int32; bits beyond W are 0.

    Raises TypeError for another dtype, ValueError for another rank.
    """
    checks.tensor("mask", mask, "[N, H, W]", (torch.bool,))
    n, height, width = mask.shape
    words = -(-width // WORD)
    bits = F.pad(mask.to(torch.int64), (0, words * WORD - width)).view(n, height, words, WORD)
    packed = (bits << torch.arange(WORD, device=mask.device)).sum(-1)
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


def unpack_mask(packed: Tensor, width: int) -> Tensor:
    """The inverse of pack_mask: [N, H, words] int32 and the width W in pixels -> [N, H, W] bool.

    Raises TypeError for another dtype, ValueError for another rank or a width that the words do not hold.
    """
    checks.tensor("packed", packed, "[N, H, ceil(W/32)]", (torch.int32,))
    checks.same_size("words a row", f"width {width}", -(-width // WORD), "packed", packed.shape[2])
    bits = (packed[..., None] >> torch.arange(WORD, device=packed.device, dtype=torch.int32)) & 1
    return bits.flatten(-2)[..., :width].bool()


def boxes_to_mask(boxes: Tensor, size: tuple[int, int], min_agree: int = 1) -> Tensor:
    """Pixels that at least `min_agree` boxes of a frame hold, packed: [N, H, ceil(W/32)] int32.

    boxes [N, K, 4] float, x0 y0 x1 y1 in pixels of the (H, W) frame; a row with x1 <= x0 or y1 <= y0 is padding. A
    pixel is inside when its centre is: x0 <= x + 0.5 < x1. min_agree 2 is Flickr-SoundNet's rule (three annotators),
    1 the union of VGG-SS.

    Raises TypeError for another dtype, ValueError for another shape or a min_agree below 1.
    """
    checks.tensor("boxes", boxes, "[N, K, 4]")
    checks.same_size("numbers a box", "(x0, y0, x1, y1)", 4, "boxes", boxes.shape[2])
    checks.frame_size("size", size)
    checks.number("min_agree", min_agree, 0, float("inf"), "1 or more")
    height, width = size
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    x0, y0, x1, y1 = boxes.float().unbind(-1)
    in_x = (x >= x0[..., None]) & (x < x1[..., None])
    in_y = (y >= y0[..., None]) & (y < y1[..., None])
    # A product of 0s and 1s summed over the boxes: exact in any float type, autocast's included.
    votes = torch.einsum("nkh,nkw->nhw", in_y.float(), in_x.float())
    return pack_mask(votes >= min_agree)

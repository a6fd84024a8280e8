"""Bit-packed masks: bit j of word k of a row is pixel 32 k + j. 32 times smaller than a float32 map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, library

from . import checks
from .backend import DEVICES, cdiv, jit, launch, launches, power_of_2, tl
from .tuning import config

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
    boxes = boxes.detach()
    if launches(boxes):
        return _rasterize(boxes, size[0], size[1], int(min_agree))
    return from_boxes(boxes, size, min_agree)


def from_boxes(boxes: Tensor, size: tuple[int, int], min_agree: int) -> Tensor:
    """`boxes_to_mask` in plain PyTorch."""
    height, width = size
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    x0, y0, x1, y1 = boxes.float().unbind(-1)
    in_x = (x >= x0[..., None]) & (x < x1[..., None])
    in_y = (y >= y0[..., None]) & (y < y1[..., None])
    # A product of 0s and 1s summed over the boxes: exact in any float type, autocast's included.
    votes = torch.einsum("nkh,nkw->nhw", in_y.float(), in_x.float())
    return pack_mask(votes >= min_agree)


@jit(do_not_specialize=["K", "min_agree"])
def rasterize_kernel(
    boxes, mask, K, min_agree,
    H: tl.constexpr, W: tl.constexpr, WORDS: tl.constexpr, BLOCK_WORDS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    tiles: tl.constexpr = (H + BLOCK_ROWS - 1) // BLOCK_ROWS
    n = tl.program_id(0).to(tl.int64) // tiles
    y = tl.program_id(0) % tiles * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    word, bit = tl.arange(0, BLOCK_WORDS), tl.arange(0, 32)
    x = word[:, None] * 32 + bit[None, :]
    middle_x, middle_y = x + 0.5, y + 0.5
    votes = tl.zeros((BLOCK_ROWS, BLOCK_WORDS, 32), tl.int32)
    boxes += n * K * 4
    for k in range(K):
        x0, y0 = tl.load(boxes + 4 * k).to(tl.float32), tl.load(boxes + 4 * k + 1).to(tl.float32)
        x1, y1 = tl.load(boxes + 4 * k + 2).to(tl.float32), tl.load(boxes + 4 * k + 3).to(tl.float32)
        in_x = (middle_x >= x0) & (middle_x < x1)
        in_y = (middle_y >= y0) & (middle_y < y1)
        votes += (in_y[:, None, None] & in_x[None, :, :]).to(tl.int32)
    inside = (votes >= min_agree) & (x < W)[None, :, :]
    packed = tl.sum(inside.to(tl.int32) << bit[None, None, :], 2)
    offset = (n * H + y)[:, None] * WORDS + word[None, :]
    tl.store(mask + offset, packed, (y < H)[:, None] & (word < WORDS)[None, :])


def rasterize(boxes: Tensor, height: int, width: int, min_agree: int) -> Tensor:
    """One launch: a program makes the words of some rows of one frame."""
    n, words = boxes.shape[0], cdiv(width, WORD)
    mask = boxes.new_empty((n, height, words), dtype=torch.int32)
    options = config("rasterize", boxes.device)
    block_words = power_of_2(words)
    rows = min(power_of_2(height), max(1, options.pop("TILE") // (block_words * WORD)))
    launch(
        rasterize_kernel, n * cdiv(height, rows), boxes.contiguous(), mask, boxes.shape[1], min_agree,
        device=boxes.device, H=height, W=width, WORDS=words, BLOCK_WORDS=block_words, BLOCK_ROWS=rows, **options,
    )  # fmt: skip
    return mask


_rasterize = library.custom_op("fastdmt::boxes_to_mask", rasterize, mutates_args=(), device_types=DEVICES)


@_rasterize.register_fake
def _(boxes, height, width, min_agree):
    return boxes.new_empty((boxes.shape[0], height, cdiv(width, WORD)), dtype=torch.int32)

"""The pixels of both views, in bytes: what a `Recipe` asks for, a row at a time on a CPU, all at once on a device.

Weak and strong view share one crop and flip. The strong one goes through the colours (one affine map), a blur and an
erased rectangle, and is rounded to bytes once, at the end, so that workers hand over a quarter of what floats take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ERASED = (124, 116, 104)  # ImageNet's mean colour
LOW, HIGH = 0.5, 255.5  # half a level is added before the blur, which keeps it; then cutting off the fraction rounds


class Recipe(NamedTuple):
    """What happens to N frames of side R on their way to side S."""

    top: np.ndarray
    """int64 [N]: first row of the crop"""
    left: np.ndarray
    """int64 [N]: first column of the crop"""
    flip: np.ndarray
    """bool [N]: left and right change places after the crop"""
    colours: np.ndarray
    """float32 [N, 3, 3]: M of y = M x + p g on colours of 0..255, g being the frame's mean grey"""
    pull: np.ndarray
    """float32 [N]: p"""
    taps: np.ndarray
    """float32 [N, 2r + 1]: the blur's weights; one weight of 1 leaves a frame alone"""
    erased: np.ndarray
    """int64 [N, 4]: first and last row, first and last column of a rectangle; the last ones are not part of it"""
    grey: np.ndarray
    """float32 [3]: weights of a colour's grey"""

    def on(self, device: torch.device) -> dict[str, Tensor]:
        """The same by name, as tensors there."""
        return {name: torch.from_numpy(value).to(device, non_blocking=True) for name, value in self._asdict().items()}

    @property
    def blurred(self) -> np.ndarray:
        """int64: rows whose blur does something."""
        return np.flatnonzero(self.taps[:, self.taps.shape[1] // 2] < 1)


def by_row(frames: Sequence[Tensor] | Tensor, recipe: Recipe, rows: range, weak: Tensor, strong: Tensor) -> None:
    """Writes some rows of both views.

    Args:
        frames: N of uint8 [R, R, 3].
        weak, strong: uint8 [N, S, S, 3].
    """
    size, radius = weak.shape[1], recipe.taps.shape[1] // 2
    colour = _Colours(size)
    plain = (recipe.pull == 0) & (recipe.colours == np.eye(3, dtype=np.float32)).all(axis=(1, 2))
    soft = recipe.taps[:, radius] < 1
    # A product with a 3 x 3 matrix is slow where a few pixels side by side and a block diagonal are fast.
    blocks = np.kron(np.eye(colour.side, dtype=np.float32), recipe.colours.transpose(0, 2, 1))
    for row in rows:
        top, left = int(recipe.top[row]), int(recipe.left[row])
        crop = frames[row][top : top + size, left : left + size]
        seen, changed = weak[row], strong[row]
        seen.copy_(crop.flip(1) if recipe.flip[row] else crop)
        if plain[row] and not soft[row]:
            changed.copy_(seen)
        else:
            values = colour(seen, recipe, row, torch.from_numpy(blocks[row]))
            if soft[row]:
                taps = recipe.taps[row]
                taps = taps[(first := int(np.flatnonzero(taps)[0])) : len(taps) - first]
                values = blur_rows(values, taps.tolist())
            # numpy's cast to bytes takes a sixth of torch's.
            np.copyto(changed.numpy(), values.numpy(), casting="unsafe")
        y0, y1, x0, x1 = recipe.erased[row].tolist()
        if y0 < y1 and x0 < x1:
            changed[y0:y1, x0:x1] = torch.tensor(ERASED, dtype=torch.uint8)


class _Colours:
    """The affine map of one frame's colours; keeps its memory."""

    def __init__(self, size: int):
        self.side = math.gcd(size * size, 4)
        self.size = size
        self.values, self.mapped = torch.empty(size, size, 3), torch.empty(size, size, 3)

    def __call__(self, frame: Tensor, recipe: Recipe, row: int, block: Tensor) -> Tensor:
        values, mapped, size = self.values, self.mapped, self.size
        values.copy_(frame)
        offset = LOW
        if recipe.pull[row]:
            mean = values.view(size, -1).sum(0).view(size, 3).sum(0).numpy() / (size * size)
            offset += float(recipe.pull[row] * (mean @ recipe.grey))
        torch.mm(values.view(-1, 3 * self.side), block, out=mapped.view(-1, 3 * self.side))
        return mapped.add_(offset).clamp_(LOW, HIGH)


def blur_rows(frame: Tensor, taps: list[float]) -> Tensor:
    """Separable blur of one frame float32 [S, S, 3], edges reflected; shifted sums beat a convolution threefold."""
    size, radius = len(frame), len(taps) // 2
    high = frame.view(size, -1)
    high = torch.cat((high[1 : radius + 1].flip(0), high, high[size - 1 - radius : size - 1].flip(0)))
    wide = torch.empty(size, size + 2 * radius, 3)
    inner = wide.view(size, -1)[:, 3 * radius : 3 * (radius + size)]
    torch.mul(high[:size], taps[0], out=inner)
    for shift, weight in enumerate(taps[1:], 1):
        inner.add_(high[shift : shift + size], alpha=weight)
    middle = wide[:, radius : radius + size]
    wide[:, :radius] = middle[:, 1 : radius + 1].flip(1)
    wide[:, radius + size :] = middle[:, size - 1 - radius : size - 1].flip(1)
    flat = wide.view(size, -1)
    out = flat[:, : 3 * size] * taps[0]
    for shift, weight in enumerate(taps[1:], 1):
        out.add_(flat[:, 3 * shift : 3 * (shift + size)], alpha=weight)
    return out.view(size, size, 3)


def by_batch(frames: Tensor, recipe: Recipe, size: int) -> tuple[Tensor, Tensor]:
    """Both views uint8 [N, S, S, 3] of frames uint8 [N, R, R, 3], without asking the device for anything.

    The same as `by_row` up to a level where a sum falls on the other side of a half.
    """
    r, n = recipe.on(frames.device), len(frames)
    # Every crop is a view of the frames; one gather picks N of them: [N, 3, S, S].
    crops = frames.unfold(1, size, 1).unfold(2, size, 1)
    weak = crops[torch.arange(n, device=frames.device), r["top"], r["left"]]
    weak = torch.where(r["flip"][:, None, None, None], weak.flip(3), weak)
    values = weak.float()
    offset = r["pull"] * (values.mean(dim=(2, 3)) * r["grey"]).sum(1) + LOW
    # Three products and sums in place of a matrix product, which might be rounded to TF32.
    strong = offset[:, None, None, None].expand(-1, 3, size, size)
    for channel in range(3):
        strong = torch.addcmul(strong, r["colours"][:, :, channel, None, None], values[:, channel, None])
    strong = strong.clamp_(LOW, HIGH)
    blurred = torch.from_numpy(recipe.blurred).to(frames.device, non_blocking=True)
    if len(blurred):
        strong.index_copy_(0, blurred, blur(strong[blurred], r["taps"][blurred]))
    at = torch.arange(size, device=frames.device)
    y0, y1, x0, x1 = r["erased"].unbind(1)
    rows, columns = ((at >= a[:, None]) & (at < b[:, None]) for a, b in ((y0, y1), (x0, x1)))
    gone = rows[:, :, None] & columns[:, None, :]
    for channel, level in enumerate(ERASED):
        strong[:, channel].masked_fill_(gone, level + LOW)
    strong = strong.to(torch.uint8)
    return weak.permute(0, 2, 3, 1).contiguous(), strong.permute(0, 2, 3, 1).contiguous()


def blur(frames: Tensor, taps: Tensor) -> Tensor:
    """Separable blur of frames float32 [N, 3, S, S] by weights [N, 2r + 1] of their own, edges reflected."""
    n, channels, size, _ = frames.shape
    radius = taps.shape[1] // 2
    kernel = taps.repeat_interleave(channels, dim=0)
    planes = torch.nn.functional.pad(frames.contiguous(), [radius] * 4, mode="reflect")
    planes = planes.view(1, n * channels, size + 2 * radius, -1)
    planes = torch.nn.functional.conv2d(planes, kernel[:, None, :, None], groups=n * channels)
    return torch.nn.functional.conv2d(planes, kernel[:, None, None, :], groups=n * channels).view(frames.shape)

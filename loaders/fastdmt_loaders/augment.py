"""The one definition of augmentation, used behind every loader: draws on the host, batched torch on any device.

The draws of a step belong to the rows of the global batch and depend on (seed, step) alone; a rank takes its rows.
Weak and strong view share one crop and flip, and boxes follow, so that a pseudo-label made on the weak view fits the
strong one. Strength after SimCLR's colour jitter and MoCo v2; erasing after Zhong et al. 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fastdmt_loaders.batch import Batch, RawBatch, View
from fastdmt_loaders.dataset.sampler import AUGMENTATION, philox
from fastdmt_loaders.frontends import FRONT_ENDS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY = (0.299, 0.587, 0.114)
JITTER_SHARE, JITTER, HUE = 0.8, 0.4, 0.1
GREY_SHARE, BLUR_SHARE, ERASE_SHARE = 0.2, 0.5, 0.25
BLUR_SIGMA = (0.1, 2.0)  # pixels at 224, scaled with the size
ERASE_AREA, ERASE_RATIO = (0.02, 0.2), (0.3, 3.3)
GAIN_DB = 6.0
BAND_HZ, BAND_OCTAVES = (100.0, 6000.0), 1.0
CPU_CHUNK = 16

# One uniform number in [0, 1) per row and column.
COLUMNS = (
    *("top", "left", "flip"),
    *("jitter", "brightness", "contrast", "saturation", "hue", "grey", "blur", "sigma"),
    *("erase", "area", "ratio", "erase_y", "erase_x"),
    *("shift", "gain", "band1", "octaves1", "band2", "octaves2"),
)


def draw(seed: int, step: int, rows: int) -> np.ndarray:
    """The random numbers of a step: float32 [rows of the global batch, len(COLUMNS)], uniform in [0, 1)."""
    return philox(seed, step, AUGMENTATION).random((rows, len(COLUMNS)), dtype=np.float32)


def apply(raw: RawBatch, draws: np.ndarray, view: View, ids: list[str], dtype: torch.dtype = torch.float32) -> Batch:
    """Raw items -> training batch, on the device where the raw items lie.

    Args:
        raw: N items with frames of side R = view.resize.
        draws: the rows of `draw` that belong to these items, float32 [N, len(COLUMNS)].
        ids: N ids, passed on.
        dtype: of the frames; sound stays fp32.
    """
    device, n = raw.frames.device, len(raw.frames)
    table = torch.from_numpy(draws).to(device, non_blocking=True)
    # On a CPU small temporaries stay in the allocator's memory; large ones are paid for in page faults (2.5 times as
    # long for 64 frames of 224).
    chunk = CPU_CHUNK if device.type == "cpu" else n
    weak, strong, boxes, varied = [], [], [], []
    for start in range(0, n, chunk):
        rows = slice(start, start + chunk)
        u = {name: table[rows, column] for column, name in enumerate(COLUMNS)}
        for own, part in zip((weak, strong, boxes), frame_views(raw, rows, draws[rows], u, view, dtype)):
            own.append(part)
        if view.audio_augment != "none":
            full = view.audio_augment == "full"
            changed = {rate: vary_sound(pcm[rows], rate, u, full) for rate, pcm in raw.pcm.items()}
            varied.append(front_ends(changed, view.front_ends))
    sound = raw.sound | front_ends(raw.pcm, [name for name in view.front_ends if name not in raw.sound])
    sound_strong = {name: _join([part[name] for part in varied]) for name in view.front_ends} if varied else sound
    frames_weak = _join(weak)
    frames_strong = _join(strong) if view.augment else frames_weak
    index = torch.from_numpy(raw.index).to(device, non_blocking=True)
    return Batch(
        frames_weak, frames_strong, sound, sound_strong, _join(boxes), raw.known, raw.labelled, ids, index, raw.step
    )


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def frame_views(
    raw: RawBatch, rows: slice, draws: np.ndarray, u: dict[str, Tensor], view: View, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Weak view, strong view [n, 3, S, S] and boxes [n, K, 4] in pixels of some rows; `draws` and `u` are theirs."""
    frames, boxes = raw.frames[rows], raw.boxes[rows] * raw.frames.shape[-1]
    if not view.augment:
        weak = normalise(frames).to(dtype)
        return weak, weak, boxes
    frames, boxes = crop_flip(frames, boxes, u, view.size)
    weak = normalise(frames)
    # Chosen on the host, so that the device is not asked which rows they are.
    blurred = torch.from_numpy(np.flatnonzero(draws[:, COLUMNS.index("blur")] < BLUR_SHARE))
    blurred = blurred.to(frames.device, non_blocking=True)
    strong = photometric(weak.contiguous(), u, blurred)
    return weak.to(dtype), strong.to(dtype, memory_format=torch.channels_last), boxes


def front_ends(pcm: dict[int, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """rate -> PCM [N, T] to front-end name -> tensor [N, ...]."""
    return {name: FRONT_ENDS[name].function(pcm[FRONT_ENDS[name].rate]) for name in names}


def crop_flip(frames: Tensor, boxes: Tensor, u: dict[str, Tensor], size: int) -> tuple[Tensor, Tensor]:
    """A random size x size crop and a horizontal flip, of frames and boxes alike.

    Args:
        frames: [N, 3, R, R]; boxes: [N, K, 4] in pixels of R x R.

    Returns:
        frames [N, 3, size, size] and boxes in pixels of them, clipped; boxes that fell out are zero rows.
    """
    room = frames.shape[-1] - size
    top = (u["top"] * (room + 1)).long().clamp_(max=room)
    left = (u["left"] * (room + 1)).long().clamp_(max=room)
    flip = u["flip"] < 0.5
    # Every crop is a view of the frames; one gather picks N of them.
    crops = frames.unfold(2, size, 1).unfold(3, size, 1)
    frames = crops[torch.arange(len(frames), device=frames.device), :, top, left]
    frames = torch.where(flip[:, None, None, None], frames.flip(3), frames)
    x0, y0, x1, y1 = boxes.unbind(2)
    x0, x1 = x0 - left[:, None], x1 - left[:, None]
    x0, x1 = torch.where(flip[:, None], size - x1, x0), torch.where(flip[:, None], size - x0, x1)
    moved = torch.stack((x0, y0 - top[:, None], x1, y1 - top[:, None]), dim=2).clamp_(0, size)
    seen = (moved[..., 2] > moved[..., 0]) & (moved[..., 3] > moved[..., 1])
    return frames, moved * seen[..., None]


def normalise(frames: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> fp32, ImageNet's mean and deviation, channels_last."""
    n, _, height, width = frames.shape
    # A whole image row as the broadcast operand: three numbers alone would make the inner loop three long.
    scale, shift = _row(frames.device, width)
    rows = frames.permute(0, 2, 3, 1).reshape(n * height, width * 3)
    return torch.addcmul(shift, rows.float(), scale).view(n, height, width, 3).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _row(device: torch.device, width: int) -> tuple[Tensor, Tensor]:
    constants = _constants(device)
    mean, std = constants.mean.repeat(width), constants.std.repeat(width)
    return 1 / (255 * std), -mean / std


class _Constants(NamedTuple):
    mean: Tensor
    std: Tensor
    grey: Tensor
    to_yiq: Tensor
    from_yiq: Tensor


@lru_cache(maxsize=8)
def _constants(device: torch.device) -> _Constants:
    """Put on the device once: making a tensor of numbers there would wait for it in every step."""
    to_yiq = torch.tensor([GREY, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)], dtype=torch.float64)
    tensors = (torch.tensor(MEAN), torch.tensor(STD), torch.tensor(GREY), to_yiq, torch.linalg.inv(to_yiq))
    return _Constants(*(tensor.float().to(device) for tensor in tensors))


def photometric(weak: Tensor, u: dict[str, Tensor], blurred: Tensor) -> Tensor:
    """Colour jitter .4/.4/.4/.1, grey, blur and erasing of normalised frames.

    Brightness, contrast, saturation, hue (a rotation in YIQ) and grey are affine in the colours, so that one matrix
    and one offset per sample stand for all five; values are clamped to the gamut once, at the end.

    Args:
        weak: [N, 3, S, S] normalised, contiguous.
        blurred: int64, the rows to blur.
    """
    n, _, size, _ = weak.shape
    device = weak.device
    mean, std = _constants(device).mean, _constants(device).std
    matrix, offset = colour_transform(u, weak.mean(dim=(2, 3)) * std + mean)
    # y = M x + o of colours in 0..1, rewritten for normalised colours.
    offset = (torch.mv(matrix.view(-1, 3), mean).view(n, 3) + offset - mean) / std
    matrix = matrix * std / std[:, None]
    strong = torch.baddbmm(offset[:, :, None], matrix, weak.view(n, 3, -1)).view(n, 3, size, size)
    low, high = (-mean / std)[:, None, None], ((1 - mean) / std)[:, None, None]
    strong.clamp_(low, high)
    if len(blurred):
        span = BLUR_SIGMA[1] - BLUR_SIGMA[0]
        sigma = (BLUR_SIGMA[0] + span * u["sigma"][blurred]) * (size / 224)
        radius = math.ceil(2.5 * BLUR_SIGMA[1] * size / 224)
        strong.index_copy_(0, blurred, blur(strong[blurred], sigma, radius))
    return strong.mul_(kept(u, size)[:, None])


def colour_transform(u: dict[str, Tensor], colour: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix [N, 3, 3] and offset [N, 3] of y = M x + o on RGB in 0..1; `colour` [N, 3] is each frame's mean colour.

    In this order: brightness (a factor), contrast (about the mean grey), saturation (about the pixel's grey), hue or
    grey. The last three leave greys alone, which is why the offset is one number per sample.
    """
    device = colour.device
    on = (u["jitter"] < JITTER_SHARE).float()
    brightness, contrast, saturation = (
        1 + on * JITTER * (2 * u[name] - 1) for name in ("brightness", "contrast", "saturation")
    )
    angle = on * (2 * math.pi * HUE) * (2 * u["hue"] - 1)
    grey = _constants(device).grey
    to_grey = grey.expand(3, 3)
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.stack((one, zero, zero, zero, cos, -sin, zero, sin, cos), dim=1).view(-1, 3, 3)
    hue = _constants(device).from_yiq @ turn @ _constants(device).to_yiq
    s = saturation[:, None, None]
    colours = hue @ (s * torch.eye(3, device=device) + (1 - s) * to_grey)
    colours = torch.where((u["grey"] < GREY_SHARE)[:, None, None], to_grey, colours)
    offset = (1 - contrast) * brightness * (colour @ grey)
    return (contrast * brightness)[:, None, None] * colours, offset[:, None].expand(-1, 3)


def blur(frames: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Separable Gaussian blur [N, 3, H, W], one sigma [N] in pixels per frame, edges reflected."""
    n, channels, height, _ = frames.shape
    taps = torch.arange(-radius, radius + 1, device=frames.device)
    kernel = torch.softmax(-(taps**2) / (2 * sigma[:, None] ** 2), dim=1).repeat_interleave(channels, dim=0)
    planes = F.pad(frames, [radius] * 4, mode="reflect").view(1, n * channels, height + 2 * radius, -1)
    planes = F.conv2d(planes, kernel[:, None, :, None], groups=n * channels)
    return F.conv2d(planes, kernel[:, None, None, :], groups=n * channels).view(frames.shape)


def kept(u: dict[str, Tensor], size: int) -> Tensor:
    """float32 [N, size, size]: 0 inside the erased rectangle (the mean colour once normalised), 1 elsewhere."""
    area = (ERASE_AREA[0] + (ERASE_AREA[1] - ERASE_AREA[0]) * u["area"]) * size * size
    low, high = (math.log(ratio) for ratio in ERASE_RATIO)
    ratio = torch.exp(low + (high - low) * u["ratio"])
    on = u["erase"] < ERASE_SHARE
    height = (area * ratio).sqrt().clamp(max=size) * on
    width = (area / ratio).sqrt().clamp(max=size) * on
    at = torch.arange(size, device=area.device) + 0.5
    inside = []
    for place, length in ((u["erase_y"], height), (u["erase_x"], width)):
        start = place * (size - length)
        inside.append((at >= start[:, None]) & (at < (start + length)[:, None]))
    return (~(inside[0][:, :, None] & inside[1][:, None, :])).float()


def vary_sound(pcm: Tensor, rate: int, u: dict[str, Tensor], bands: bool) -> Tensor:
    """A circular time shift, a gain of up to +-6 dB and, with `bands`, two stopped bands of up to an octave.

    The same draw shifts and filters every rate of a sample alike.

    Args:
        pcm: [N, T] at `rate` Hz.
    """
    rows, length = pcm.shape
    gain = 10 ** (GAIN_DB / 20 * (2 * u["gain"] - 1))
    if bands:
        hertz = torch.arange(length // 2 + 1, device=pcm.device) * (rate / length)
        spectrum = torch.fft.rfft(pcm)
        passed = gain[:, None].expand(-1, len(hertz))
        for number in "12":
            low = BAND_HZ[0] * (BAND_HZ[1] / BAND_HZ[0]) ** u["band" + number]
            high = low * 2 ** (BAND_OCTAVES * u["octaves" + number])
            passed = passed.masked_fill((hertz >= low[:, None]) & (hertz < high[:, None]), 0.0)
        pcm = torch.fft.irfft(spectrum * passed, n=length)
    else:
        pcm = pcm * gain[:, None]
    shift = (u["shift"] * length).long().clamp_(max=length - 1)
    # A rotation is a stretch of the doubled signal.
    return torch.cat((pcm, pcm), dim=1).unfold(1, length, 1)[torch.arange(rows, device=pcm.device), shift]

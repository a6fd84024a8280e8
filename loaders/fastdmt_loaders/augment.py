"""The one definition of augmentation, used behind every loader: draws on the host, pixels and sound on any device.

The draws of a step belong to the rows of the global batch and depend on (seed, step) alone; a rank takes its rows.
Weak and strong view share one crop and flip, and boxes follow, so that a pseudo-label made on the weak view fits the
strong one. Strength after SimCLR's colour jitter and MoCo v2; erasing after Zhong et al. 2020.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fastdmt_loaders import memory
from fastdmt_loaders.batch import Batch, RawBatch, ShownBatch, View
from fastdmt_loaders.dataset.sampler import AUGMENTATION, Plan, philox
from fastdmt_loaders.frontends import FRONT_ENDS
from fastdmt_loaders.memory import Place
from fastdmt_loaders.views import Recipe, by_batch, by_row

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY = (0.299, 0.587, 0.114)
JITTER_SHARE, JITTER, HUE = 0.8, 0.4, 0.1
GREY_SHARE, BLUR_SHARE, ERASE_SHARE = 0.2, 0.5, 0.25
BLUR_SIGMA = (0.1, 2.0)  # pixels at 224, scaled with the size
BLUR_REACH = 2.5  # deviations; what lies beyond weighs 1%
ERASE_AREA, ERASE_RATIO = (0.02, 0.2), (0.3, 3.3)
GAIN_DB = 6.0
BAND_HZ, BAND_OCTAVES = (100.0, 6000.0), 1.0
CPU_CHUNK = 16  # rows: small temporaries stay in the allocator's memory, large ones are paid for in page faults

TO_YIQ = np.array([GREY, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
FROM_YIQ = np.linalg.inv(TO_YIQ)

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


def draws_of(plan: Plan, step: int) -> np.ndarray:
    """The draws of this rank's rows of a step."""
    return draw(plan.seed, step, sum(plan.batches))[plan.rows]


def recipe(draws: np.ndarray, side: int, size: int) -> Recipe:
    """What the draws [N, len(COLUMNS)] ask of frames of side R = `side` that become `size` x `size`.

    Colour jitter .4/.4/.4/.1 and grey, in this order: brightness (a factor), contrast (about the mean grey),
    saturation (about the pixel's grey), hue (a rotation in YIQ) or grey. All are affine in the colours, so that one
    matrix and a share of the mean grey stand for all five; values are clamped to the gamut once, at the end.
    """
    u = dict(zip(COLUMNS, draws.T.astype(np.float64)))
    room = side - size
    top, left = (np.minimum((u[name] * (room + 1)).astype(np.int64), room) for name in ("top", "left"))

    jittered = u["jitter"] < JITTER_SHARE
    brightness, contrast, saturation = (
        1 + jittered * JITTER * (2 * u[name] - 1) for name in ("brightness", "contrast", "saturation")
    )
    angle = jittered * (2 * math.pi * HUE) * (2 * u["hue"] - 1)
    turn = np.zeros((len(draws), 3, 3))
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 2, 1] = np.sin(angle)
    turn[:, 1, 2] = -turn[:, 2, 1]
    to_grey = np.broadcast_to(np.array(GREY), (3, 3))
    kept = saturation[:, None, None]
    colours = (FROM_YIQ @ turn @ TO_YIQ) @ (kept * np.eye(3) + (1 - kept) * to_grey)
    greyed = u["grey"] < GREY_SHARE
    colours[greyed] = to_grey
    colours *= (contrast * brightness)[:, None, None]
    colours[~jittered & ~greyed] = np.eye(3)

    span = BLUR_SIGMA[1] - BLUR_SIGMA[0]
    sigma = (BLUR_SIGMA[0] + span * u["sigma"]) * (size / 224)
    taps = gaussian(np.where(u["blur"] < BLUR_SHARE, sigma, 0), math.ceil(BLUR_REACH * BLUR_SIGMA[1] * size / 224))

    area = (ERASE_AREA[0] + (ERASE_AREA[1] - ERASE_AREA[0]) * u["area"]) * size * size
    low, high = (math.log(ratio) for ratio in ERASE_RATIO)
    ratio = np.exp(low + (high - low) * u["ratio"])
    erased = []
    for place, length in (("erase_y", np.sqrt(area * ratio)), ("erase_x", np.sqrt(area / ratio))):
        length = np.where(u["erase"] < ERASE_SHARE, length.clip(max=size), 0)
        start = u[place] * (size - length)
        erased += [np.ceil(start - 0.5), np.ceil(start + length - 0.5)]  # pixels whose centre lies inside

    return Recipe(
        top,
        left,
        u["flip"] < 0.5,
        colours.astype(np.float32),
        ((1 - contrast) * brightness).astype(np.float32),
        taps.astype(np.float32),
        np.stack(erased, 1).astype(np.int64),
        np.array(GREY, np.float32),
    )


def gaussian(sigma: np.ndarray, radius: int) -> np.ndarray:
    """Weights [N, 2 radius + 1] of Gaussians of deviations [N] in pixels, zero beyond 2.5 deviations; of 0: 1 alone."""
    taps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (taps / np.maximum(sigma, 1e-3)[:, None]) ** 2)
    weights[np.abs(taps) > np.ceil(BLUR_REACH * sigma)[:, None]] = 0
    return weights / weights.sum(1, keepdims=True)


def apply(raw: RawBatch, draws: np.ndarray, view: View, ids: list[str], dtype: torch.dtype = torch.float32) -> Batch:
    """Raw items -> training batch, on the device where the raw items lie.

    Args:
        raw: N items with frames of side R = view.resize.
        draws: the rows of `draw` that belong to these items, float32 [N, len(COLUMNS)].
        ids: N ids, passed on.
        dtype: of the frames; sound stays fp32.
    """
    return finish(show(raw, draws, view), ids, dtype)


def show(
    raw: RawBatch, draws: np.ndarray, view: View, pool: Executor | None = None, place: Place = memory.fresh
) -> ShownBatch:
    """Raw items -> both views in bytes, boxes in pixels, front-ends of both sounds.

    Args:
        pool: threads that share the rows, on a CPU.
        place: gives the memory of each part by its name, on a CPU.
    """
    frames = raw.frames.permute(0, 2, 3, 1)
    n, side = len(frames), frames.shape[1]
    boxes = raw.boxes * side
    if not view.augment:
        on_host = frames.device.type == "cpu"
        weak = strong = place("weak", tuple(frames.shape), torch.uint8).copy_(frames) if on_host else frames
    else:
        asked = recipe(draws, side, view.size)
        boxes = move(boxes, asked, view.size)
        if frames.device.type == "cpu":
            weak, strong = (place(name, (n, view.size, view.size, 3), torch.uint8) for name in ("weak", "strong"))
            chunks = [range(start, min(start + CPU_CHUNK, n)) for start in range(0, n, CPU_CHUNK)]
            list((pool.map if pool else map)(lambda rows: by_row(frames, asked, rows, weak, strong), chunks))
        else:
            weak, strong = by_batch(frames, asked, view.size)
    sound, sound_strong = hear(raw, draws, view, pool, place)
    return ShownBatch(weak, strong, sound, sound_strong, boxes, raw.known, raw.index, raw.labelled, raw.step, raw.bad)


def finish(shown: ShownBatch, ids: list[str], dtype: torch.dtype = torch.float32) -> Batch:
    """Views in bytes -> the training batch, frames normalised."""
    s = shown
    weak = normalise(s.weak.permute(0, 3, 1, 2), dtype)
    strong = weak if s.strong is s.weak else normalise(s.strong.permute(0, 3, 1, 2), dtype)
    index = torch.from_numpy(s.index).to(weak.device, non_blocking=True)
    return Batch(weak, strong, s.sound, s.sound_strong, s.boxes, s.known, s.labelled, ids, index, s.step)


def hear(
    raw: RawBatch, draws: np.ndarray, view: View, pool: Executor | None = None, place: Place = memory.fresh
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The front-ends of the plain and of the varied sound; what the source already holds is left as it is."""
    plain = [name for name in view.front_ends if name not in raw.sound]
    strong = view.front_ends if view.audio_augment != "none" and not raw.sound_strong else ()
    if not plain and not strong:
        return raw.sound, raw.sound_strong or raw.sound
    n, device = len(raw.index), next(iter(raw.pcm.values())).device
    u = dict(zip(COLUMNS, torch.from_numpy(draws).to(device, non_blocking=True).unbind(1)))
    full = view.audio_augment == "full"

    def part(rows: slice) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        pcm = {rate: raw.samples(rate, rows) for rate in raw.pcm}
        own = {name: values[rows] for name, values in u.items()}
        changed = {rate: vary_sound(samples, rate, own, full) for rate, samples in pcm.items()} if strong else {}
        return front_ends(pcm, plain), front_ends(changed, strong)

    if device.type != "cpu":
        sound, varied = part(slice(None))
        return raw.sound | sound, varied or raw.sound_strong or raw.sound | sound
    slices = [slice(start, start + CPU_CHUNK) for start in range(0, n, CPU_CHUNK)]
    parts = list((pool.map if pool else map)(part, slices))

    def whole(kind: str, name: str, values: list[Tensor]) -> Tensor:
        return torch.cat(values, out=place(f"{kind} {name}", (n, *values[0].shape[1:]), values[0].dtype))

    sound = raw.sound | {name: whole("sound", name, [part[name] for part, _ in parts]) for name in plain}
    varied = {name: whole("varied", name, [part[name] for _, part in parts]) for name in strong}
    return sound, varied or raw.sound_strong or sound


def heard(view: View, name: str) -> Tensor:
    """A front-end's output for one silent item."""
    rate, function = FRONT_ENDS[name]
    return function(torch.zeros(1, view.samples(rate)))


def front_ends(pcm: Mapping[int, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """rate -> PCM [N, T] to front-end name -> tensor [N, ...]."""
    return {name: FRONT_ENDS[name].function(pcm[FRONT_ENDS[name].rate]) for name in names}


def move(boxes: Tensor, asked: Recipe, size: int) -> Tensor:
    """Boxes [N, K, 4] in pixels of the frames -> in pixels of the views, clipped; those that fell out are zero rows."""
    top, left, flip = (
        torch.from_numpy(value)[:, None].to(boxes.device, non_blocking=True)
        for value in (asked.top, asked.left, asked.flip)
    )
    x0, y0, x1, y1 = boxes.unbind(2)
    x0, x1 = x0 - left, x1 - left
    x0, x1 = torch.where(flip, size - x1, x0), torch.where(flip, size - x0, x1)
    moved = torch.stack((x0, y0 - top, x1, y1 - top), dim=2).clamp_(0, size)
    seen = (moved[..., 2] > moved[..., 0]) & (moved[..., 3] > moved[..., 1])
    return moved * seen[..., None]


def normalise(frames: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [N, 3, H, W] -> fp32 or another type, ImageNet's mean and deviation, channels_last."""
    n, _, height, width = frames.shape
    # A whole image row as the broadcast operand: three numbers alone would make the inner loop three long.
    scale, shift = _row(frames.device, width)
    rows = frames.permute(0, 2, 3, 1).reshape(n, height, width * 3)
    if frames.device.type != "cpu":
        out = torch.addcmul(shift, rows.float(), scale).to(dtype)
    else:
        out = memory.empty(tuple(rows.shape), dtype)
        values = torch.empty(rows.shape[1:])
        for row, whole in zip(rows, out):  # one image fits the cache
            values = whole if dtype == torch.float32 else values
            torch.addcmul(shift, values.copy_(row), scale, out=values)
            if values is not whole:
                whole.copy_(values)
    return out.view(n, height, width, 3).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _row(device: torch.device, width: int) -> tuple[Tensor, Tensor]:
    """Put on the device once: making a tensor of numbers there would wait for it in every step."""
    mean, std = (torch.tensor(values).repeat(width) for values in (MEAN, STD))
    return (1 / (255 * std)).to(device), (-mean / std).to(device)


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

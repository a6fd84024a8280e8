"""What a loader yields, and the view of the data that it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from fastdmt_loaders.dataset.annotations import Annotation
from fastdmt_loaders.dataset.lists import Pair
from fastdmt_loaders.errors import DataError
from fastdmt_loaders.frontends import FRONT_ENDS

AUDIO_AUGMENTATIONS = ("none", "light", "full")


@dataclass(frozen=True)
class View:
    """How items are shown to the model."""

    size: int = 256
    """S: height and width of the square frame in pixels."""
    front_ends: tuple[str, ...] = ("logmel", "waveform")
    """Sound front-ends to compute, names of FRONT_ENDS."""
    seconds: float = 3.0
    """Length of the sound: the middle of the file, repeated when shorter."""
    augment: bool = True
    """Random crop, flip, photometric changes and erasing; off: a plain resize, strong = weak."""
    audio_augment: str = "full"
    """Students' sound: none | light (time shift, gain) | full (and band masks)."""
    max_boxes: int = 3
    """K: boxes an item keeps, the largest first; the rest of a batch's rows is padding."""

    def __post_init__(self):
        unknown = [name for name in self.front_ends if name not in FRONT_ENDS]
        if unknown:
            raise DataError(f"unknown sound front-end {unknown[0]!r}; choose from {', '.join(FRONT_ENDS)}")
        if self.audio_augment not in AUDIO_AUGMENTATIONS:
            raise DataError(f"unknown audio_augment {self.audio_augment!r}; use {' | '.join(AUDIO_AUGMENTATIONS)}")

    @property
    def resize(self) -> int:
        """R: side of the decoded square frame, from which S x S is cropped."""
        return round(1.1 * self.size) if self.augment else self.size

    @property
    def rates(self) -> tuple[int, ...]:
        """Sampling rates in Hz that the front-ends need."""
        return tuple(sorted({FRONT_ENDS[name].rate for name in self.front_ends}))

    def samples(self, rate: int) -> int:
        return round(rate * self.seconds)


class _Movable:
    """Applies `.to` and `.pin_memory` to every tensor of a dataclass, one level of dicts included."""

    def map(self, function):
        """A copy with `function` applied to every tensor."""

        def convert(value):
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, dict):
                return {key: convert(item) for key, item in value.items()}
            return value

        return replace(self, **{f.name: convert(getattr(self, f.name)) for f in fields(self)})

    def to(self, device, non_blocking: bool = True):
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self, device=None):
        return self.map(lambda tensor: tensor.pin_memory())


@dataclass
class RawBatch(_Movable):
    """Decoded items before augmentation: what workers, DALI and the cache hand over.

    Rows 0:labelled are labelled items, the rest unlabelled ones.
    """

    frames: Tensor
    """uint8 [N, 3, R, R], channels_last"""
    pcm: dict[int, Tensor]
    """rate in Hz -> float32 [N, rate * seconds], full scale = 1; or int16 to be multiplied by `scale`"""
    boxes: Tensor
    """float32 [N, K, 4] xyxy in 0..1 of the frame; zero rows are padding"""
    known: Tensor
    """bool [N]: the item has at least one usable box"""
    index: np.ndarray
    """int64 [N], on the host: position in the labelled ids followed by the unlabelled ids"""
    labelled: int
    step: int
    sound: dict[str, Tensor] = field(default_factory=dict)
    """front-ends of the plain sound that the source already holds; the others are computed"""
    sound_strong: dict[str, Tensor] = field(default_factory=dict)
    """all front-ends of the varied sound, where the source has computed them"""
    scale: dict[int, Tensor] = field(default_factory=dict)
    """rate in Hz -> float32 [N]: what one level of the int16 samples stands for"""
    bad: dict[int, str] = field(default_factory=dict)
    """index -> reason: files found broken while this batch was made, and replaced"""

    def samples(self, rate: int, rows: slice = slice(None)) -> Tensor:
        """Some rows' PCM, float32 [n, rate * seconds]."""
        pcm = self.pcm[rate][rows]
        return pcm.float().mul_(self.scale[rate][rows, None]) if rate in self.scale else pcm


@dataclass
class ShownBatch(_Movable):
    """Augmented items, frames in bytes: a quarter of what floats take on their way between processes."""

    weak: Tensor
    """uint8 [N, S, S, 3]"""
    strong: Tensor
    sound: dict[str, Tensor]
    """as in Batch"""
    sound_strong: dict[str, Tensor]
    boxes: Tensor
    """float32 [N, K, 4] xyxy in pixels of the view"""
    known: Tensor
    index: np.ndarray
    labelled: int
    step: int
    bad: dict[int, str]


@dataclass
class Batch(_Movable):
    """One training step's data, on the device. Rows 0:labelled are labelled items, the rest unlabelled ones."""

    frames_weak: Tensor
    """[N, 3, S, S] fp32 or bf16, ImageNet-normalised, channels_last"""
    frames_strong: Tensor
    """the same geometry with photometric changes and erasing"""
    sound: dict[str, Tensor]
    """front-end name -> its tensor [N, ...] of the plain sound"""
    sound_strong: dict[str, Tensor]
    """the same of the augmented sound; the same tensors when sound is not augmented"""
    boxes: Tensor
    """float32 [N, K, 4] xyxy in pixels of the view; zero rows are padding"""
    known: Tensor
    """bool [N]: boxes are known; of unlabelled rows they serve diagnostics only"""
    labelled: int
    ids: list[str]
    index: Tensor
    """int64 [N]: position in the labelled ids followed by the unlabelled ids"""
    step: int = 0


@dataclass
class EvalBatch(_Movable):
    """Evaluation items: a plain resize, nothing random."""

    frames: Tensor
    """[N, 3, S, S] fp32, ImageNet-normalised, channels_last"""
    sound: dict[str, Tensor]
    annotations: list[Annotation | None]
    """of the frame's clip"""
    pairs: list[Pair]
    raw: Tensor
    """uint8 [N, 3, S, S]: the frames for pictures"""


def pad_boxes(boxes, max_boxes: int) -> Tensor:
    """Boxes [k, 4] -> float32 [max_boxes, 4]: the largest ones first kept, zero rows as padding."""
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    if len(boxes) > max_boxes:
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        boxes = boxes[area.argsort(descending=True, stable=True)[:max_boxes]]
    padded = torch.zeros(max_boxes, 4)
    padded[: len(boxes)] = boxes
    return padded

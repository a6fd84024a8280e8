"""Test-time options, all off by default: mirrored frames, several sizes, and EZ-VSL's object guidance.

A `Guided` stands for its model in `evaluate`; its `options` name what is on, in every table and report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdmt.config import require
from fastdmt.models.encoders import build_visual
from fastdmt.models.pair import Model
from fastdmt.models.pretrained import load_weights
from fastdmt.models.probability import upsample

SHARE = 0.4  # of the map beside the objects' (EZ-VSL)
STEP = 32  # sides of resized frames are multiples of it: every encoder's stride divides them


class Guided:
    """A model whose maps are means over views of the frame, perhaps joined with a picture of its objects.

    Args:
        model: whose maps.
        flip: also look at the mirrored frame.
        scales: look at the frame at these multiples of its side, rounded to 32 pixels; empty: at its own.
        objects: encoder of frames trained on ImageNet; P = 0.4 n(S) + 0.6 n(mean over channels of |features|), where n
            stretches a map to 0..1 and S is the mean cosine. Some part of every frame is then marked, in silence too.

    Attributes:
        options: what is on, in words.
    """

    def __init__(
        self, model: Model, flip: bool = False, scales: Sequence[float] = (), objects: torch.nn.Module | None = None
    ) -> None:
        require(all(0.25 <= scale <= 4 for scale in scales), "--scales must lie between 0.25 and 4")
        self.model, self.flip, self.scales, self.objects = model, flip, tuple(scales) or (1.0,), objects
        named = {
            "flip": flip,
            f"scales {' '.join(f'{s:g}' for s in scales)}": bool(scales),
            "object guidance": objects is not None,
        }
        self.options = tuple(name for name, on in named.items() if on)

    def __getattr__(self, name: str):
        return getattr(self.model, name)

    def _views(self, frames: Tensor) -> Iterator[tuple[Tensor, bool]]:
        """Frames [N, 3, h, w] at every size, each followed by its mirror image when that is asked for."""
        for scale in self.scales:
            side = max(STEP, STEP * round(scale * frames.shape[-1] / STEP))
            view = frames
            if scale != 1:
                view = F.interpolate(frames, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
            yield view, False
            if self.flip:
                yield view.flip(-1), True

    @torch.no_grad()
    def cosines(self, frames: Tensor, sound: dict[str, Tensor], source: str = "teachers") -> list[Tensor]:
        """Cosine maps [N, h, w], sizes differing, of every view and localizer, mirrored back."""
        out = []
        for view, mirrored in self._views(frames):
            maps = self.model.cosines(view, sound, source)
            out += [s.flip(-1) for s in maps] if mirrored else maps
        return out

    @torch.no_grad()
    def maps(self, frames: Tensor, sound: dict[str, Tensor], source: str = "teachers", size: int = 224) -> Tensor:
        """P [N, size, size] float32."""
        if self.objects is not None:
            return self._with_objects(frames, self.cosines(frames, sound, source), size)
        maps = []
        for view, mirrored in self._views(frames):
            p = self.model.maps(view, sound, source, size)
            maps.append(p.flip(-1) if mirrored else p)
        return torch.stack(maps).mean(0)

    def _with_objects(self, frames: Tensor, cosines: list[Tensor], size: int) -> Tensor:
        s = torch.stack([_resize(c, size) for c in cosines]).mean(0)
        objects = _resize(self.objects(frames).abs().mean(1), size)
        return SHARE * _stretch(s) + (1 - SHARE) * _stretch(objects)


def with_options(
    model: Model, flip: bool = False, scales: Sequence[float] = (), object_weights: str | None = None
) -> Guided:
    """The model with test-time options.

    Args:
        object_weights: `imagenet`, or a ResNet-18 weight file, for object guidance.

    Raises:
        FastDMTError: a scale out of range, or weights that cannot be had.
    """
    objects = None
    if object_weights is not None:
        objects = build_visual("resnet18", output_stride=32)
        load_weights(objects, object_weights)
        objects.eval().requires_grad_(False).to(model.device)
    return Guided(model, flip, scales, objects)


def _resize(maps: Tensor, size: int) -> Tensor:
    return upsample(maps, (size, size))


def _stretch(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-12)

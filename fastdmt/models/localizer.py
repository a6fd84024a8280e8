"""One localizer: a visual and an audio encoder, their shared space, the map, and the contrastive loss.

A new localizer is a subclass of `Localizer` in one file: projections in `__init__`, map in `forward`, loss in
`contrastive_loss`. `build_localizer` finds it as `package.module:Class`.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastdmt.errors import FastDMTError, first_line
from fastdmt.models.contrastive import first_own_column, gather_rows, two_way_cross_entropy
from fastdmt.models.encoders import build_audio, build_visual
from fastdmt.names import LOCALIZERS
from fastdmt_kernels import localize, mil_logits, similarity_map


class Output(NamedTuple):
    """What one forward pass gives. N pairs, D channels, h w cells."""

    map: Tensor  #: [N, h, w] float32, cosine in [-1, 1], with gradient
    v: Tensor  #: [N, D, h, w] frame features in the shared space, not normalised
    a: Tensor  #: [N, D] sound features in the shared space, not normalised
    extra: tuple[Tensor, ...] = ()  #: whatever else a localizer's contrastive loss needs


class Localizer(nn.Module):
    """DMT's localizer: cosines of a frame's grid with the sound, and EZ-VSL's contrastive loss on the same cosines.

    The sound passes FC-ReLU-FC into the shared space. The grid passes a 1x1 convolution only when the visual encoder's
    channels are not `dim`: with ResNet-18 or VGG-16 and dim 512 the ImageNet features are compared as they are.

    Attributes:
        visual, audio: the encoders.
        frozen: modules that stay as they were loaded: no gradients, BatchNorm in evaluation mode.
        front_end: name of the sound front-end that `audio` wants.
        affine: [2] = (w, b) of P = sigmoid(w * S + b).
        tau: temperature of the contrastive logits.
    """

    def __init__(
        self,
        visual: nn.Module,
        audio: nn.Module,
        dim: int = 512,
        tau: float = 0.03,
        affine_init: tuple[float, float] = (10.0, -5.0),
        head: str = "linear",
        head_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.visual, self.audio = visual, audio
        self.frozen: list[nn.Module] = []
        self.front_end: str = audio.front_end
        self.dim, self.tau = dim, tau
        self.affine = nn.Parameter(torch.tensor(affine_init, dtype=torch.float32))
        self.build_heads(dim)
        if head == "conv":
            self.visual_head, self.audio_head = conv_heads(visual.dim, audio.dim, dim, head_dropout)

    def build_heads(self, dim: int) -> None:
        """Make the projections into the shared space."""
        self.visual_head = nn.Identity() if self.visual.dim == dim else nn.Conv2d(self.visual.dim, dim, 1)
        self.audio_head = nn.Sequential(nn.Linear(self.audio.dim, dim), nn.ReLU(inplace=True), nn.Linear(dim, dim))

    def forward(self, frames: Tensor, sound: Tensor, pairs: bool = False, group: Any = None) -> Output:
        """Map every frame with its own sound.

        Args:
            frames: [N, 3, H, W].
            sound: the `front_end`'s tensor, N rows.
            pairs: also give the logits that `contrastive_loss` wants, as `extra`: one pass over the features for both.
            group: of `contrastive_loss`.
        """
        v = self.visual_head(self.see(frames))
        a = self.audio_head(self.hear(sound))
        if not pairs:
            return Output(similarity_map(v, a), v, a)
        s, logits = localize(v, gather_rows(a, group), self.tau, first_own=first_own_column(len(v), group))
        return Output(s, v, a, (logits,))

    @property
    def gives_pairs(self) -> bool:
        """Whether `forward` takes `pairs`: a localizer with a map or a contrastive loss of its own does not."""
        own = type(self)
        return own.forward is Localizer.forward and own.contrastive_loss is Localizer.contrastive_loss

    def see(self, frames: Tensor) -> Tensor:
        """The grid [N, dim, h, w] of frames [N, 3, H, W]; what is that grid already, from a cache, passes."""
        return self.visual(frames) if frames.shape[1] == 3 else frames.float()

    def hear(self, sound: Tensor) -> Tensor:
        """The vector [N, dim] of a sound front-end's tensor; what is that vector already, from a cache, passes."""
        return self.audio(sound) if sound.ndim > 2 else sound.float()

    def freeze(self, stages: int, audio: bool) -> None:
        """Keep the visual encoder's first `stages` (-1: all of it) and, if asked, the audio encoder as they are.

        Raises:
            FastDMTError: an encoder that cannot be frozen in parts.
        """
        if stages < 0:
            self.frozen = [self.visual]
        elif stages > 0:
            parts = getattr(self.visual, "stages", list)()
            if stages > len(parts):
                raise FastDMTError(
                    f"--freeze {stages}: this visual encoder has {len(parts)} stages that can be frozen; "
                    "give fewer, or -1 for all of it"
                )
            self.frozen = [module for part in parts[:stages] for module in part]
        if audio:
            self.frozen = [*self.frozen, self.audio]
        for module in self.frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Localizer:
        """Training mode for all that learns."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def contrastive_loss(self, output: Output, weight: Tensor, group: Any = None) -> Tensor:
        """logits[n, m] = max over cells cos(v_n, a_m) / tau; cross-entropy over rows + over columns (EZ-VSL).

        Args:
            output: of this localizer's `forward`.
            weight: [N]; rows of weight 0 take no part, neither as anchors nor as negatives.
            group: process group whose ranks share their negatives; every rank must bring N rows.

        Returns:
            0-d. Fewer than two rows with a weight give exactly 0, with a zero gradient.
        """
        (logits,) = output.extra or (mil_logits(output.v, gather_rows(output.a, group), self.tau),)
        return two_way_cross_entropy(gather_rows(logits, group), gather_rows(weight, group))

    def start(self) -> None:
        """Called once before training, when the encoders hold the weights they begin with."""

    def after_step(self) -> None:
        """Called after every optimizer step; momentum encoders move here."""


def conv_heads(visual: int, audio: int, dim: int, dropout: float) -> tuple[nn.Module, nn.Module]:
    """Heads for encoders that stay as they are: two convolutions for the grid, two linear layers for the sound.

    Each begins with BatchNorm, because the scale of a frozen feature is nobody's choice, and drops whole channels.
    """
    see = nn.Sequential(
        nn.BatchNorm2d(visual),
        nn.Dropout2d(dropout),
        nn.Conv2d(visual, dim, 1, bias=False),
        nn.BatchNorm2d(dim),
        nn.ReLU(inplace=True),
        nn.Conv2d(dim, dim, 3, padding=1, bias=False),
        nn.BatchNorm2d(dim),
        nn.ReLU(inplace=True),
        nn.Conv2d(dim, dim, 1, bias=False),
        nn.BatchNorm2d(dim),
    )
    hear = nn.Sequential(
        nn.BatchNorm1d(audio),
        nn.Dropout(dropout),
        nn.Linear(audio, 2 * dim, bias=False),
        nn.BatchNorm1d(2 * dim),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(2 * dim, dim),
    )
    return see, hear


def localizer_class(name: str) -> type[Localizer]:
    """The class behind a name of `fastdmt.names.LOCALIZERS`, or behind `package.module:Class`, which is imported.

    Whoever takes the name from a file must have the user's word for it: see `fastdmt.runs.settings.load_config`.
    """
    place = LOCALIZERS[name].place if name in LOCALIZERS else name
    module, _, attribute = place.partition(":")
    if not attribute:
        known = ", ".join(LOCALIZERS)
        raise FastDMTError(f"localizer '{name}' is unknown; choose one of {known}, or give package.module:Class")
    if name not in LOCALIZERS and os.getcwd() not in sys.path:  # one's own lies where the command is given
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise FastDMTError(
            f"localizer '{name}' cannot be imported ({first_line(error)}); check the path and the name"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Localizer)):
        raise FastDMTError(f"localizer '{name}' is not a subclass of fastdmt.models.localizer.Localizer")
    return found


def build_localizer(
    name: str, visual: str, audio: str, *, dim: int = 512, output_stride: int = 16, **options: Any
) -> Localizer:
    """A localizer with random weights, from names.

    Args:
        name: one of `fastdmt.names.LOCALIZERS`, or `package.module:Class` of your own.
        visual, audio: encoder names (see `fastdmt.models.encoders`).
        dim: channels of the shared space.
        output_stride: pixels a cell of the map, 16 or 32.
        options: `tau`, `affine_init`, and what the class itself takes.
    """
    return localizer_class(name)(build_visual(visual, output_stride), build_audio(audio), dim, **options)

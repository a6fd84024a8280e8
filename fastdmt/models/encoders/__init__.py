"""Encoders by name.

A visual encoder maps frames [N, 3, H, W] to a grid [N, dim, h, w]; an audio encoder maps the tensor of the sound
front-end that its `front_end` names to [N, dim]. Parameter names follow torchvision and the public ports, so that
their weight files load.
"""

from __future__ import annotations

from torch import nn

from fastdmt.errors import FastDMTError
from fastdmt.models.encoders.efficientnet import EfficientNetLite0
from fastdmt.models.encoders.resnet import ResNet18, ResNet50, SpectrogramResNet18, SpectrogramResNet18S16
from fastdmt.models.encoders.small import SmallLogMel, SmallSpectrogram, SmallVisual
from fastdmt.models.encoders.soundnet import SoundNet8, SoundNet8Conv8
from fastdmt.models.encoders.vgg import VGG16, VGGish

VISUAL = {
    "resnet18": ResNet18,
    "resnet50": ResNet50,
    "vgg16": VGG16,
    "efficientnet-lite0": EfficientNetLite0,
    "small": lambda output_stride: SmallVisual(),
}

AUDIO = {
    "vggish": VGGish,
    "soundnet8": SoundNet8,
    "soundnet8-conv8": SoundNet8Conv8,
    "spectrogram": SpectrogramResNet18,
    "spectrogram-s16": SpectrogramResNet18S16,
    "small-logmel": SmallLogMel,
    "small-spectrogram": SmallSpectrogram,
}


def build_visual(name: str, output_stride: int = 16) -> nn.Module:
    """A visual encoder with random weights.

    Args:
        name: one of `VISUAL`.
        output_stride: 16 or 32 pixels a cell; `small` has 8 whatever is asked.
    """
    if name not in VISUAL:
        raise FastDMTError(f"visual encoder '{name}' is unknown; choose one of {', '.join(sorted(VISUAL))}")
    if output_stride not in (16, 32):
        raise FastDMTError(f"output_stride {output_stride} is not possible; choose 16 or 32")
    return VISUAL[name](output_stride)


def build_audio(name: str) -> nn.Module:
    """An audio encoder with random weights, one of `AUDIO`."""
    if name not in AUDIO:
        raise FastDMTError(f"audio encoder '{name}' is unknown; choose one of {', '.join(sorted(AUDIO))}")
    return AUDIO[name]()


def name_of(encoder: nn.Module) -> str:
    """The name that `build_visual` or `build_audio` knows an encoder by; its class's name for one of your own."""
    names = {SmallVisual: "small", **{cls: name for name, cls in (*VISUAL.items(), *AUDIO.items())}}
    return names.get(type(encoder), type(encoder).__name__)

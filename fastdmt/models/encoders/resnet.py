"""ResNet-18 and ResNet-50 (He et al., 2016) under torchvision's parameter names, for frames and for spectrograms."""

from __future__ import annotations

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 beside a shortcut; the stride sits in the 3x3, as in torchvision."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels_in, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module | None:
    if channels_in == channels_out and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


class ResNet(nn.Module):
    """Frames [N, 3, H, W] -> grid [N, dim, ceil(H/s), ceil(W/s)], after layer4's ReLU (so never negative).

    With output stride s = 16, layer4 keeps layer3's resolution: its first convolution and its shortcut get stride 1
    and nothing is dilated, as in LVS and SSL-TIE. The parameters are the same as at 32, so the same files load.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, int, int, int],
        output_stride: int,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before = 64
        strides = (1, 2, 2, 2 if output_stride == 32 else 1)
        for i, (depth, stride) in enumerate(zip(depths, strides, strict=True)):
            width = 64 * 2**i
            blocks = [block(before, width, stride)]
            before = width * block.expansion
            blocks += [block(before, width, 1) for _ in range(depth - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.dim = before
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, frames: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(frames))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class ResNet18(ResNet):
    """ResNet-18 without its classifier: dim 512, 11.18 M parameters."""

    def __init__(self, output_stride: int = 16) -> None:
        super().__init__(BasicBlock, (2, 2, 2, 2), output_stride)


class ResNet50(ResNet):
    """ResNet-50 without its classifier: dim 2048, 23.51 M parameters."""

    def __init__(self, output_stride: int = 16) -> None:
        super().__init__(Bottleneck, (3, 4, 6, 3), output_stride)


class SpectrogramResNet18(ResNet):
    """EZ-VSL's and SLAVC's audio encoder: ResNet-18, [N, 1, 257 bins, T frames] -> [N, 512], the maximum."""

    front_end = "spectrogram"
    output_stride = 32

    def __init__(self) -> None:
        super().__init__(BasicBlock, (2, 2, 2, 2), self.output_stride, channels=1)

    def forward(self, spectrogram: Tensor) -> Tensor:
        return super().forward(spectrogram).amax((2, 3))


class SpectrogramResNet18S16(SpectrogramResNet18):
    """LVS's audio encoder: the same with layer4 at stride 1."""

    output_stride = 16

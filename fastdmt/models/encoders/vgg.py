"""VGG-16 (Simonyan and Zisserman, 2015) for frames and VGGish (Hershey et al., 2017) for sounds.

Parameter names are torchvision's (`features.*`) and those of the public VGGish port (`features.*`, `embeddings.*`).
"""

from __future__ import annotations

from torch import Tensor, nn

POOL = 0  # in a list of widths: a 2x2 max pooling


def _features(channels: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        if width == POOL:
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
        channels = width
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class VGG16(nn.Module):
    """Frames [N, 3, H, W] -> grid [N, 512, H/s, W/s]: up to conv5_3's ReLU at stride 16, its pooling added at 32."""

    dim = 512

    def __init__(self, output_stride: int = 16) -> None:
        super().__init__()
        widths = (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512)
        self.features = _features(3, widths if output_stride == 16 else (*widths, POOL))

    def forward(self, frames: Tensor) -> Tensor:
        return self.features(frames)


class VGGish(nn.Module):
    """Log-mel patches [N, P, 1, 96 frames, 64 bands] -> [N, 128], the mean of the patches' embeddings."""

    dim = 128
    front_end = "logmel"

    def __init__(self) -> None:
        super().__init__()
        self.features = _features(1, (64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL))
        self.embeddings = nn.Sequential(
            nn.Linear(6 * 4 * 512, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, self.dim),
            nn.ReLU(inplace=True),
        )

    def forward(self, patches: Tensor) -> Tensor:
        n, p = patches.shape[:2]
        x = self.features(patches.flatten(0, 1))
        # The published weights come from TensorFlow and expect time, band, channel from slow to fast.
        x = self.embeddings(x.permute(0, 2, 3, 1).flatten(1))
        return x.view(n, p, self.dim).mean(1)

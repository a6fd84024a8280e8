"""Small encoders for a laptop's processor: a frame in 17 MMAC, three seconds of sound in about 8.

They end in a linear layer and BatchNorm, without ReLU: a cosine between their outputs can take either sign, and no
mean that all cells share hides what tells them apart.
"""

from __future__ import annotations

from torch import Tensor, nn


def _conv(channels_in: int, channels_out: int, kernel: tuple[int, int], stride: tuple[int, int]) -> nn.Sequential:
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """relu(x + BN conv relu BN conv x), 3x3, the shape kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = _conv(channels, channels, (3, 3), (1, 1))
        self.outer = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.outer(self.inner(x)))


class SmallVisual(nn.Module):
    """Frames [N, 3, H, W] -> [N, 128, H/8, W/8]; a cell sees 47 x 47 pixels."""

    dim = 128

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(3, 32, (7, 7), (4, 4)),
            _conv(32, 64, (3, 3), (2, 2)),
            Residual(64),
            nn.Conv2d(64, self.dim, 1, bias=False),
            nn.BatchNorm2d(self.dim),
        )

    def forward(self, frames: Tensor) -> Tensor:
        return self.layers(frames)


class SmallLogMel(nn.Module):
    """Log-mel patches [N, P, 1, 96 frames, 64 bands] -> [N, 128], the mean over time and patches.

    The last layer spans all bands: averaging over frequency, as over time, would lose pitch.
    """

    dim = 128
    front_end = "logmel"

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(1, 24, (7, 7), (4, 4)),
            _conv(24, 48, (3, 3), (2, 2)),
            _conv(48, 96, (3, 3), (2, 2)),
            nn.Conv2d(96, self.dim, (1, 4), bias=False),
        )
        self.norm = nn.BatchNorm1d(self.dim)

    def forward(self, patches: Tensor) -> Tensor:
        n, p = patches.shape[:2]
        return self.norm(self.layers(patches.flatten(0, 1)).flatten(1).view(n, p, self.dim, -1).mean((1, 3)))


class SmallSpectrogram(nn.Module):
    """Log-spectrogram [N, 1, 257 bins, T frames] -> [N, 128], the mean over time; the last layer spans all bins."""

    dim = 128
    front_end = "spectrogram"

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(1, 24, (9, 9), (8, 8)),
            _conv(24, 48, (3, 3), (2, 2)),
            _conv(48, 96, (3, 3), (2, 2)),
            nn.Conv2d(96, self.dim, (9, 1), bias=False),
        )
        self.norm = nn.BatchNorm1d(self.dim)

    def forward(self, spectrogram: Tensor) -> Tensor:
        # The front-end's log power lies at about -15.5 / 12 with a spread 15 times smaller. Left in, the offset rules
        # every BatchNorm's mean, and running means that lag a little make evaluation worthless.
        return self.norm(self.layers(12 * spectrogram + 15.5).mean((2, 3)))

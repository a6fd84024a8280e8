"""SoundNet-8 (Aytar et al., 2016): a one-dimensional network on the waveform."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTHS = (16, 32, 64, 128, 256, 512, 1024)
KERNELS = (64, 32, 16, 8, 4, 4, 4)
POOLS = {1: 8, 2: 8, 5: 4}
OBJECTS, PLACES = 1000, 401
RATE = 22050


class SoundNet8(nn.Module):
    """Waveform [N, 1, T] at 22.05 kHz, scaled to +-256 -> [N, 1024], conv7 averaged over time.

    Three seconds leave 3 steps of conv7, and conv8 needs 8.
    """

    dim = WIDTHS[-1]
    front_end = "waveform"

    def __init__(self) -> None:
        super().__init__()
        before = 1
        for i, (width, kernel) in enumerate(zip(WIDTHS, KERNELS, strict=True), start=1):
            self.add_module(f"conv{i}", nn.Conv1d(before, width, kernel, stride=2, padding=kernel // 2))
            self.add_module(f"batchnorm{i}", nn.BatchNorm1d(width))
            before = width

    def trunk(self, waveform: Tensor) -> Tensor:
        """[N, 1, T] -> conv7's activations [N, 1024, about T/32768 + 1]."""
        x = waveform
        for i in range(1, len(WIDTHS) + 1):
            x = getattr(self, f"batchnorm{i}")(getattr(self, f"conv{i}")(x)).relu()
            if i in POOLS:
                x = nn.functional.max_pool1d(x, POOLS[i])
        return x

    def forward(self, waveform: Tensor) -> Tensor:
        return self.trunk(waveform).mean(2)


class SoundNet8Conv8(SoundNet8):
    """Waveform [N, 1, T], repeated to at least 10 s -> [N, 1401], logits of conv8 (objects, then places) over time."""

    dim = OBJECTS + PLACES

    def __init__(self) -> None:
        super().__init__()
        self.conv8 = nn.Conv1d(WIDTHS[-1], OBJECTS, 8, stride=2)
        self.conv8_2 = nn.Conv1d(WIDTHS[-1], PLACES, 8, stride=2)

    def forward(self, waveform: Tensor) -> Tensor:
        times = -(-10 * RATE // waveform.shape[-1])
        x = self.trunk(waveform.repeat(1, 1, times))
        return torch.cat([self.conv8(x).mean(2), self.conv8_2(x).mean(2)], 1)

"""Sound front-ends: PCM on the device -> what an audio encoder sees, one batched definition behind every loader."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def logmel(pcm: Tensor) -> Tensor:
    """VGGish's input: log-mel patches of 0.96 s that do not overlap.

    25 ms periodic Hann window, 10 ms hop, FFT 512, magnitudes, 64 HTK mel bands from 125 to 7500 Hz, log(x + 0.01).

    Args:
        pcm: [N, T] at 16 kHz, full scale = 1.

    Returns:
        [N, P, 1, 96, 64] fp32, P = max(1, T // 15360): 3 for 3 s. The last window of a patch may reach 15 ms past T;
        zeros stand there.
    """
    with _float32(pcm.device):
        pcm = pcm.float()
        patches = max(1, pcm.shape[1] // (96 * 160))
        length = (96 * patches - 1) * 160 + 400
        pcm = torch.nn.functional.pad(pcm, (0, max(0, length - pcm.shape[1])))[:, :length]
        window, bands = _mel_tables(pcm.device)
        magnitude = _power(torch.fft.rfft(pcm.unfold(1, 400, 160) * window, n=512)).sqrt_()
        return torch.log(magnitude @ bands + 0.01).unflatten(1, (patches, 1, 96))


def spectrogram(pcm: Tensor) -> Tensor:
    """EZ-VSL's and SLAVC's input: the log of `scipy.signal.spectrogram`'s density with SciPy's defaults.

    Tukey(0.25) window of 512, overlap 274, each segment's mean removed, one-sided power density; log(x + 1e-7) / 12.

    Args:
        pcm: [N, T] at 16 kHz, full scale = 1.

    Returns:
        [N, 1, 257, (T - 274) // 238] fp32: 257 x 200 for 3 s.
    """
    with _float32(pcm.device):
        window, density = _tukey_tables(pcm.device)
        segments = pcm.float().unfold(1, 512, 238)
        segments = (segments - segments.mean(dim=2, keepdim=True)) * window
        spectrum = _power(torch.fft.rfft(segments))
        return (torch.log(spectrum * density + 1e-7) / 12).transpose(1, 2).unsqueeze(1)


def _float32(device: torch.device) -> AbstractContextManager:
    """No autocast, on devices that have one (meta has none)."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def _power(spectrum: Tensor) -> Tensor:
    """|spectrum|^2; on a CPU a third of the time of abs() or of a sum over the last two numbers."""
    real, imaginary = torch.view_as_real(spectrum).unbind(-1)
    return torch.addcmul(real * real, imaginary, imaginary)


def waveform(pcm: Tensor) -> Tensor:
    """SoundNet's input: [N, T] at 22.05 kHz -> [N, 1, T] fp32 scaled to +-256."""
    return pcm.float().unsqueeze(1) * 256


class FrontEnd(NamedTuple):
    """A front-end: the rate in Hz of the PCM [N, T] that its function takes."""

    rate: int
    function: Callable[[Tensor], Tensor]


FRONT_ENDS = {
    "logmel": FrontEnd(16000, logmel),
    "spectrogram": FrontEnd(16000, spectrogram),
    "waveform": FrontEnd(22050, waveform),
}


def mel_bands() -> np.ndarray:
    """VGGish's mel matrix, float64 [257 bins, 64 bands]: triangles that are straight on the mel axis, no DC."""
    bins = 1127.0 * np.log1p(np.linspace(0, 8000, 257) / 700.0)
    edges = np.linspace(1127.0 * np.log1p(125 / 700.0), 1127.0 * np.log1p(7500 / 700.0), 66)
    low, mid, high = edges[:-2], edges[1:-1], edges[2:]
    bands = np.minimum((bins[:, None] - low) / (mid - low), (high - bins[:, None]) / (high - mid)).clip(min=0)
    bands[0] = 0
    return bands


@lru_cache(maxsize=8)
def _mel_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    return torch.from_numpy(window).float().to(device), torch.from_numpy(mel_bands()).float().to(device)


@lru_cache(maxsize=8)
def _tukey_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    # Periodic window: a cosine taper over the first and the last eighth of 512 samples.
    ramp = 0.5 * (1 - np.cos(np.pi * np.arange(65) / 64))
    window = np.ones(512)
    window[:65] = ramp
    window[448:] = ramp[:0:-1]
    density = np.full(257, 2.0 / (16000 * (window**2).sum()))
    density[[0, -1]] /= 2
    return torch.from_numpy(window).float().to(device), torch.from_numpy(density).float().to(device)

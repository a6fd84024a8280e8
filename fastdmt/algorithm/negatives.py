"""Frames that nothing in them sounds in: labelled frames with silence, noise, or another clip's sound, target empty.

Labels alone say where something sounds and never that nothing does, so a localizer may learn to paint the object that
stands out, whatever it hears. SLAVC and Mo and Morgado's extended test sets measure this; here it is trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastdmt.config import TrainConfig
from fastdmt.models.feature_cache import Features
from fastdmt_loaders import FRONT_ENDS, Batch

NOISES = 63  # recordings of the bank besides silence
NOISE_DB = (-70.0, -10.0)
FOREIGN = 2  # of so many negatives one has no sound of its own: silence or noise; the others hear another clip


class Negatives:
    """Adds rows to a batch; nothing here waits for the device, and every step has the same shape.

    Args:
        share: negatives for every labelled clip, 0..1.
        front_ends: sound front-ends of the batch.
        seconds: length of a sound.
        device: where batches lie.
        encode: applied to every front-end's tensor (name, tensor), where batches hold features instead of sound.

    Attributes:
        place: int64, 0-d on the device: so many batches of this size, of other processes or of earlier parts of an
            accumulated step, come before the next one in the step's batch.
    """

    def __init__(
        self,
        share: float,
        front_ends: tuple[str, ...],
        seconds: float,
        device: torch.device | str = "cpu",
        encode: Callable[[str, Tensor], Tensor] = lambda name, sound: sound,
    ) -> None:
        self.share = share
        self.place = torch.zeros((), dtype=torch.int64, device=device)
        generator = torch.Generator().manual_seed(0)
        low, high = NOISE_DB
        level = 10 ** ((low + (high - low) * torch.rand(NOISES, 1, generator=generator)) / 20)
        pcm = {}
        for rate in {FRONT_ENDS[name].rate for name in front_ends}:
            noise = torch.randn(NOISES, round(rate * seconds), generator=generator) * level
            pcm[rate] = torch.cat([torch.zeros_like(noise[:1]), noise])
        self.quiet = {}
        for name in front_ends:
            sound = FRONT_ENDS[name].function(pcm[FRONT_ENDS[name].rate])
            self.quiet[name] = encode(name, sound).to(device)

    @classmethod
    def of_run(
        cls, cfg: TrainConfig, front_ends: tuple[str, ...], device: torch.device, features: Features | None
    ) -> Negatives | None:
        """As a run's settings say; None for none."""
        if cfg.pseudo.negatives == 0:
            return None
        options = {} if features is None else {"encode": features.hear}
        return cls(cfg.pseudo.negatives, front_ends, cfg.data.seconds, device, **options)

    def rows(self, labelled: int) -> int:
        """Negatives of a batch with so many labelled clips."""
        return math.floor(self.share * labelled + 0.5)

    def append(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Frames and sounds of the strong view with `rows(batch.labelled)` more rows, behind all others.

        They repeat labelled frames, evenly chosen. Every second one hears the labelled clip beside its own, the others
        silence and noise in turn. A pair of neighbours lies in one process, and in one part of an accumulated step,
        where each has an even number of labelled clips: then all their rows together are those of one whole batch.
        """
        n, labelled, device = self.rows(batch.labelled), batch.labelled, batch.frames_strong.device
        if n == 0:
            return batch.frames_strong, batch.sound_strong
        number = torch.arange(n, device=device)
        rows = number * labelled // n
        beside = rows ^ 1
        beside = torch.where(beside < labelled, beside, (rows - 1).clamp(min=0))
        number = self.place * n + number
        hears_clip = (number % FOREIGN == 1) & (labelled > 1)
        # Silence every fourth time; which noises, the clips decide.
        turn = number // FOREIGN
        quiet = torch.where(turn % 4 == 0, 0, 1 + (batch.index[rows] + turn) % NOISES)
        sound = {}
        for name, own in batch.sound_strong.items():
            pick = hears_clip.view(-1, *[1] * (own.ndim - 1))
            sound[name] = torch.cat([own, torch.where(pick, own[beside], self.quiet[name][quiet].to(own.dtype))])
        frames = torch.cat([batch.frames_strong, batch.frames_strong[rows]])
        if frames.shape[1] == 3:
            frames = frames.contiguous(memory_format=torch.channels_last)
        return frames, sound

"""Only accepted clips reach the students: a queue on the device packs them into batches of constant shape.

A rejected row costs the students as much as an accepted one. Here accepted clips wait with their pseudo-labels, and
every step the students take the oldest of them. Nothing is read by the host, and no shape depends on what was kept.
While the queue holds all that is accepted, every accepted clip is trained on exactly once, as in the masked form, a few
steps later.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fastdmt_kernels import Consensus
from fastdmt_loaders import Batch


class AcceptedQueue:
    """First in, first out; a ring that holds two batches of unlabelled rows.

    Args:
        share: of the unlabelled rows that the students see a step, in (0, 1]. Below the share of clips that the
            teachers accept, the queue fills up and the newest are lost.

    Attributes:
        head, count, lost: 0-d int64 on the device: the oldest row, rows waiting, accepted rows that found no place.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.rows: dict[str, Tensor] = {}

    @torch.no_grad()
    def exchange(self, batch: Batch, label: Consensus) -> tuple[Batch, Consensus]:
        """Put this step's accepted clips in, take the oldest out.

        Args:
            batch: L labelled rows, then U unlabelled ones.
            label: the pseudo-labels of the U rows.

        Returns:
            The batch with L + P rows in its strong view, P = ceil(share * U), everything else as it was; and their P
            pseudo-labels, `keep` saying which rows came out of the queue. The others show clips of this step, so that
            BatchNorm sees frames.
        """
        first, unlabelled = batch.labelled, len(label.keep)
        fresh = {"frames": batch.frames_strong[first:]}
        fresh |= {f"sound.{name}": sound[first:] for name, sound in batch.sound_strong.items()}
        fresh |= {name: t for name in ("mask", "valid", "confidence") if (t := getattr(label, name)) is not None}
        if not self.rows:
            self._allocate(fresh, 2 * unlabelled)
        packed, filled = self._push_pop(fresh, label.keep, math.ceil(self.share * unlabelled))
        frames = torch.cat([batch.frames_strong[:first], packed["frames"]])
        sound = {name: torch.cat([own[:first], packed[f"sound.{name}"]]) for name, own in batch.sound_strong.items()}
        batch = dataclasses.replace(
            batch, frames_strong=frames.contiguous(memory_format=torch.channels_last), sound_strong=sound
        )
        label = label._replace(keep=filled, **{n: packed[n] for n in ("mask", "valid", "confidence") if n in packed})
        return batch, label

    def _allocate(self, fresh: Mapping[str, Tensor], capacity: int) -> None:
        # One row more than the ring: where everything goes that nobody wants.
        self.rows = {name: t.new_zeros((capacity + 1, *t.shape[1:])) for name, t in fresh.items()}
        device = next(iter(fresh.values())).device
        self.head, self.count, self.lost = torch.zeros((3,), dtype=torch.int64, device=device).unbind()

    def _push_pop(self, fresh: Mapping[str, Tensor], keep: Tensor, n: int) -> tuple[dict[str, Tensor], Tensor]:
        capacity = len(self.rows["frames"]) - 1
        place = self.count + keep.cumsum(0) - 1
        fits = keep & (place < capacity)
        slot = torch.where(fits, (self.head + place) % capacity, capacity)
        for name, store in self.rows.items():
            store.index_copy_(0, slot, fresh[name])
        self.count += fits.sum()
        self.lost += (keep & ~fits).sum()
        number = torch.arange(n, device=keep.device)
        filled = number < self.count
        oldest = (self.head + number) % capacity
        packed = {
            name: torch.where(filled.view(-1, *[1] * (store.ndim - 1)), store[oldest], fresh[name][:n])
            for name, store in self.rows.items()
        }
        self.head.copy_((self.head + filled.sum()) % capacity)
        self.count -= filled.sum()
        return packed, filled

    def state_dict(self) -> dict[str, Tensor]:
        """Rows and counters by name; empty before the first step."""
        if not self.rows:
            return {}
        return {**self.rows, "head": self.head, "count": self.count, "lost": self.lost}

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over what `state_dict` gave."""
        if state:
            state = {name: t.to(device) for name, t in state.items()}
            self.head, self.count, self.lost = (state.pop(name) for name in ("head", "count", "lost"))
            self.rows = state

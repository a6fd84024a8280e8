"""Steps that were skipped because a loss or a gradient was not finite: counted, named, and too many end the run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdmt.config import TrainConfig
from fastdmt.distributed.processes import World, going_on
from fastdmt.errors import FastDMTError
from fastdmt_loaders import Batch

SHOWN = 8  # clips that the message names


class BadSteps:
    """Flags stay on the device until the run logs; the clips' ids of the steps in between stay on the host."""

    def __init__(self, cfg: TrainConfig, world: World) -> None:
        self.cfg, self.world = cfg, world
        self.count = 0
        self.clips: dict[str, None] = {}
        self._ids: list[str] = []
        self._broken: list[Tensor] = []
        self._recent: list[tuple[int, list[str], Tensor, Tensor]] = []

    def saw(self, batch: Batch) -> None:
        """A batch of the coming step."""
        self._ids += batch.ids
        inputs = [batch.frames_strong, *batch.sound_strong.values()]
        # A sum is finite where all of its terms are: one pass, no mask.
        sums = [x.sum(tuple(range(1, x.ndim)), dtype=torch.float32) for x in inputs]
        self._broken.append(~torch.stack(sums).sum(0).isfinite())

    def add(self, step: int, bad: Tensor) -> None:
        """The flag of a step that the batches seen since the last call made."""
        broken = self._broken[0] if len(self._broken) == 1 else torch.cat(self._broken)
        self._recent.append((step, self._ids, bad, broken))
        self._ids, self._broken = [], []

    def forget(self) -> None:
        """Drop what was not read yet: for whoever takes steps and logs none."""
        self._recent.clear()

    def read(self, step: int, numbers: dict[str, float], observer: Any) -> None:
        """Called when the run logs and waits for the device anyway.

        Raises:
            FastDMTError: more than --max-bad-steps were skipped; with the clips.
        """
        recent, self._recent = self._recent, []
        if not recent or not any(torch.stack([bad for _, _, bad, _ in recent]).tolist()):
            return
        steps = set()
        for number, ids, bad, broken in recent:
            if bad.item():
                steps.add(number)
                faulty = [i for i, one in zip(ids, broken.tolist(), strict=True) if one]
                self.clips |= dict.fromkeys(faulty or ids)
        self.count += len(steps)
        observer.say(f"step {min(steps)}: loss or gradient not finite; {len(steps)} skipped, {self.count} in all")
        if self.count <= self.cfg.scale.max_bad_steps:
            return
        clips = list(dict.fromkeys(i for ids in self.world.gather(list(self.clips)[:SHOWN]) for i in ids))[:SHOWN]
        raise FastDMTError(
            f"the loss is not finite at step {step} ({numbers}), and {self.count} steps were skipped; clips of these "
            f"steps: {', '.join(clips)}; check them, or lower --lr; {going_on(self.cfg)}"
        )

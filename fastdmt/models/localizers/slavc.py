"""SLAVC (Mo and Morgado, NeurIPS 2022): two heads and moving targets.

One head finds which sound belongs, another where it sits, both against targets from slowly moving copies of the
network.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastdmt.models.contrastive import all_cosines, gather_rows, hide_columns, one_way_cross_entropy
from fastdmt.models.localizer import Localizer, Output
from fastdmt.models.localizers.ezvsl import initialise
from fastdmt_kernels import EMA, similarity_map

PARTS = ("visual", "audio", "visual_head", "audio_head", "visual_head2", "audio_head2")


class SLAVC(Localizer):
    """SLAVC's two heads per modality, linear as EZ-VSL's, and their momentum copies.

    The map is the mean of the two heads' cosines. `Output.v` and `Output.a` are the first head's features; `extra`
    holds the second head's (v, a) and, in training mode, the slow network's (v, a, v2, a2), which have no gradient.

    Attributes:
        slow: the momentum copies; their parameters follow in `after_step`, their BatchNorms see the batches themselves.
        momentum: share that a slow parameter keeps per step.
        dropout: of frame features in training, fast and slow alike.
    """

    def __init__(self, *args: Any, dropout: float = 0.9, momentum: float = 0.999, **options: Any) -> None:
        super().__init__(*args, **options)
        self.dropout, self.momentum = nn.Dropout(dropout), momentum
        self._follow: EMA | None = None

    def build_heads(self, dim: int) -> None:
        self.visual_head = nn.Conv2d(self.visual.dim, dim, 1)
        self.audio_head = nn.Linear(self.audio.dim, dim)
        self.visual_head2 = nn.Conv2d(self.visual.dim, dim, 1)
        self.audio_head2 = nn.Linear(self.audio.dim, dim)
        for part in PARTS[1:]:
            initialise(getattr(self, part))
        self.slow = nn.ModuleDict({part: copy.deepcopy(getattr(self, part)) for part in PARTS}).requires_grad_(False)

    def start(self) -> None:
        """Set the slow network to the present one, buffers too."""
        for part, module in self.slow.items():
            module.load_state_dict(getattr(self, part).state_dict())

    def after_step(self) -> None:
        if self._follow is None:  # at the first step the tensors lie where they will be
            fast = [p for part in PARTS for p in getattr(self, part).parameters()]
            self._follow = EMA([p for part in PARTS for p in self.slow[part].parameters()], fast)
        self._follow.step(self.momentum)

    def forward(self, frames: Tensor, sound: Tensor) -> Output:  # type: ignore[override]  # gives_pairs is False
        v, a, v2, a2 = self._features({part: getattr(self, part) for part in PARTS}, frames, sound)
        extra = (v2, a2)
        if self.training:
            with torch.no_grad():
                extra += self._features(self.slow, frames, sound)
        return Output((similarity_map(v, a) + similarity_map(v2, a2)) / 2, v, a, extra)

    def _features(
        self, parts: Mapping[str, nn.Module] | nn.ModuleDict, frames: Tensor, sound: Tensor
    ) -> tuple[Tensor, ...]:
        grid, ear = self.dropout(parts["visual"](frames)), parts["audio"](sound)
        return (
            parts["visual_head"](grid),
            parts["audio_head"](ear),
            parts["visual_head2"](grid),
            parts["audio_head2"](ear),
        )

    def contrastive_loss(self, output: Output, weight: Tensor, group: Any = None) -> Tensor:
        """Cross-entropy of frames with slow sounds plus that of slow frames with sounds.

        The logit of frame n and sound m is log sum_p softmax_m(cos1[n, m, p] / tau) * softmax_p(cos2[n, m, p] / tau):
        at each place p, which sound (first head), weighted by where that sound is (second head).
        The output must come from training mode.
        """
        v2, a2, slow_v, slow_a, slow_v2, slow_a2 = output.extra
        everyone = gather_rows(weight, group)

        def one_way(v: Tensor, a: Tensor, v2: Tensor, a2: Tensor) -> Tensor:
            which = all_cosines(v, gather_rows(a, group)) / self.tau
            where = all_cosines(v2, gather_rows(a2, group)) / self.tau
            which = hide_columns(which, everyone[:, None]).log_softmax(1)
            # In log space throughout: the product of the two softmaxes underflows at tau 0.03.
            logits = (which + where.log_softmax(2)).logsumexp(2)
            return one_way_cross_entropy(logits, everyone, group)

        return one_way(output.v, slow_a, v2, slow_a2) + one_way(slow_v, output.a, slow_v2, a2)

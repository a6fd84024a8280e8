"""LVS (Chen et al., CVPR 2021, "Localizing Visual Sounds the Hard Way"): a soft tri-map.

The tri-map picks positives and negatives within the frame; every other sound of the batch is a negative for the whole
frame.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastdmt.models.contrastive import ABSENT, all_cosines, first_own_column, gather_rows, hide_columns, weighted_mean
from fastdmt.models.localizer import Localizer, Output
from fastdmt.models.localizers.ezvsl import initialise


class LVS(Localizer):
    """LVS without projections: cosines of the encoders' own features.

    Where the encoders' channels differ, or are not `dim`, a linear layer takes each that needs one to `dim`. `tau` is
    the softness of the tri-map (0.03).

    Attributes:
        positive: a cell is positive well above this cosine.
        negative: a cell is a hard negative well below this cosine; between the two it counts for nothing.
        temperature: of the logits.
    """

    positive = 0.65
    negative = 0.40
    temperature = 0.07

    def build_heads(self, dim: int) -> None:
        self.visual_head = nn.Identity() if self.visual.dim == dim else nn.Conv2d(self.visual.dim, dim, 1)
        self.audio_head = nn.Identity() if self.audio.dim == dim else nn.Linear(self.audio.dim, dim)
        initialise(self, linear=False)

    def contrastive_loss(self, output: Output, weight: Tensor, group: Any = None) -> Tensor:
        """-log softmax of a frame's positive score among itself, its hard negative, and the other sounds.

        S[n, m] is frame n's map for sound m. Positive: the mean of S[n, n] under m+ = sigmoid((S - positive) / tau).
        Hard negative: its mean under m- = 1 - sigmoid((S - negative) / tau). Other sounds: the means of S[n, m] under
        m+ of S[n, m], m != n. All are divided by `temperature`.

        The authors' code hides the own sound among the others by a factor of -99, which hides it only where its
        score is positive; here it is absent.
        """
        everyone = gather_rows(weight, group)
        s = all_cosines(output.v, gather_rows(output.a, group))
        first = first_own_column(len(s), group)
        mine = s.diagonal(first).T
        hard = _mean_under((self.negative - mine) / self.tau, mine)
        means = _mean_under((s - self.positive) / self.tau, s)
        own = torch.zeros_like(means, dtype=torch.bool)
        own.diagonal(first).fill_(True)
        others = hide_columns(means / self.temperature, everyone).masked_fill(own, ABSENT)
        right = means.diagonal(first) / self.temperature
        logits = torch.cat([right[:, None], others, hard[:, None] / self.temperature], 1)
        loss = logits.logsumexp(1) - right
        return weighted_mean(gather_rows(loss, group), everyone)


def _mean_under(logits: Tensor, s: Tensor) -> Tensor:
    """Mean of s [..., P] weighted by sigmoid(logits) [..., P], in log space: all weights may underflow together."""
    return (torch.softmax(nn.functional.logsigmoid(logits), -1) * s).sum(-1)

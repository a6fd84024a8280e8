"""LVS: its loss against the formula in plain loops, heads."""

import numpy as np
import pytest
import torch
from localizer_cases import build, cosines, cross_entropy, draw

from fastdmt.models.localizer import Output

N, D, CELLS = 5, 6, 7


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_lvs_loss(shift):
    """A common shift makes all cosines positive, where the authors' way of hiding the own sound hides it."""
    v, a = draw(0, N, D, CELLS, 1, shift=shift), draw(1, N, D, shift=shift)
    s = cosines(v, a)
    total = 0.0
    for n in range(N):
        mine = s[n, n]
        plus = sigmoid((mine - 0.65) / 0.03)
        minus = 1 - sigmoid((mine - 0.4) / 0.03)
        row = [(plus * mine).sum() / plus.sum()]
        for m in range(N):
            weight = sigmoid((s[n, m] - 0.65) / 0.03)
            mean = (weight * s[n, m]).sum() / weight.sum()
            row.append(mean if m != n else -99 * mean if shift else -np.inf)
        row.append((minus * mine).sum() / minus.sum())
        total += cross_entropy(np.array(row) / 0.07, 0) / N
    found = build("lvs").contrastive_loss(Output(v[:, 0], v, a), torch.ones(N)).item()
    assert found == pytest.approx(total, rel=1e-9)


def test_lvs_has_no_heads_where_none_is_needed():
    assert not [k for k, _ in build("lvs", "resnet18", "spectrogram", dim=512).named_parameters() if "head" in k]
    other = build("lvs", "small", "small-logmel", dim=64)
    assert {k for k, _ in other.named_parameters() if "head" in k} == {
        f"{part}_head.{p}" for part in ("visual", "audio") for p in ("weight", "bias")
    }
    scales = torch.cat([m.weight for m in other.modules() if isinstance(m, torch.nn.BatchNorm2d)])
    assert scales.std().item() == pytest.approx(0.02, rel=0.2)

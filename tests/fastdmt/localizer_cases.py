"""Small localizers, features drawn in float64, and plain arithmetic that their losses are compared with."""

import numpy as np
import torch
from plain_networks import normalised

from fastdmt.models.localizer import Output, build_localizer

#: How many [v, a] pairs each localizer's loss reads.
PAIRS = {"dmt": 1, "ezvsl": 1, "lvs": 1, "slavc": 4}
N, D, SIDE = 6, 5, 3  #: pairs, channels, cells of a side of the map


def build(name="dmt", visual="small", audio="small-logmel", dim=64, **options):
    torch.manual_seed(0)
    return build_localizer(name, visual, audio, dim=dim, **options)


def small(name="dmt", dim=128, **options):
    return build(name, dim=dim, **options)


def draw(seed, *shape, shift=0.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def features(name, n=N, seed=0, dtype=torch.float64):
    """[v [n, D, SIDE, SIDE], a [n, D], ...] for a localizer's loss."""
    g = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(PAIRS[name]):
        out.append(torch.randn(n, D, SIDE, SIDE, generator=g, dtype=torch.float64).to(dtype))
        out.append(torch.randn(n, D, generator=g, dtype=torch.float64).to(dtype))
    return out


def output(parts):
    return Output(parts[0].mean(1), parts[0], parts[1], tuple(parts[2:]))


def cosines(v, a):
    """[N, M, P] in numpy."""
    v, a = normalised(v.flatten(2)).numpy(), normalised(a).numpy()
    return np.einsum("ndp,md->nmp", v, a)


def cross_entropy(logits, target):
    return float(np.log(np.exp(logits).sum()) - logits[target])

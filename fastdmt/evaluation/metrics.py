"""The field's measures of a localization map, exactly, on numpy arrays or torch tensors.

Letters: N items, H W pixels (224 by 224 in the literature). P is a map of probabilities [..., H, W]; G is the truth
[..., H, W] with values 0..1 (Flickr-SoundNet knows 0.5: one annotator of several); a mask is a binary map. Shares are
fractions 0..1 in float64. Functions take numpy and give numpy, or take tensors and give tensors on their device.

>>> import numpy as np
>>> p = np.linspace(0, 1, 224 * 224).reshape(224, 224)
>>> g = np.zeros((224, 224)); g[112:] = 1
>>> float(ciou(binarise(p, "median"), g))
1.0
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SIZE = 224  #: side of the maps that the literature measures on
RULES = ("median", "absolute", "adaptive")
#: upper bound of the area of G in pixels at 224 (SLAVC's sizes); the rest is huge
SIZES = {"small": 32**2, "medium": 96**2, "large": 144**2, "huge": float("inf")}

Array = np.ndarray | Tensor


def _either(function):
    """Runs a function of tensors on numpy arrays too: numpy in, numpy out; plain numbers stay plain."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        arrays = [x for x in (*args, *kwargs.values()) if isinstance(x, np.ndarray | Tensor)]
        numpy_in = not any(isinstance(x, Tensor) for x in arrays)

        def tensor(x):
            return torch.from_numpy(np.ascontiguousarray(x)) if isinstance(x, np.ndarray) else x

        result = function(*map(tensor, args), **{key: tensor(x) for key, x in kwargs.items()})
        return result.numpy() if numpy_in else result

    return wrapper


def _pixels(x: Tensor) -> Tensor:
    return x.flatten(-2)


def _count(mask: Tensor) -> Tensor:
    """Pixels of each mask [..., H, W]; torch sums bytes four times faster than booleans."""
    return mask.view(torch.uint8).sum((-2, -1), dtype=torch.int32)


# -- one item ----------------------------------------------------------------------------------------------------------


@_either
def binarise(p: Array, rule: str = "absolute", truth: Array | None = None) -> Array:
    """The mask [..., H, W] (bool) that a map says is sounding.

    `median`: pixels at least as high as the value at rank n//2 of the sorted map, so half of the frame (more with
    ties): the literature's protocol. `absolute`: P >= 0.5. `adaptive`: as many pixels as `truth` marks (values above
    0), again by rank, so ties can add some. Raises ValueError for another rule, or for `adaptive` without truth.
    """
    if rule == "absolute":
        return p >= 0.5
    flat = _pixels(p)
    n = flat.shape[-1]
    if rule == "median":
        return p >= flat.kthvalue(n // 2 + 1, dim=-1).values[..., None, None]
    if rule == "adaptive" and truth is not None:
        rows = flat.reshape(-1, n)
        areas = _count(truth > 0).broadcast_to(p.shape[:-2]).reshape(-1)
        ranks = (n - areas + 1).clamp(max=n).tolist()
        level = torch.stack([row.kthvalue(k).values for row, k in zip(rows, ranks)]).view(*p.shape[:-2], 1, 1)
        return (p >= level) & (areas > 0).view(*p.shape[:-2], 1, 1)
    raise ValueError(f"no such rule {rule!r}: one of {', '.join(RULES)}; adaptive needs the truth")


@_either
def ciou(mask: Array, truth: Array) -> Array:
    """Consensus intersection over union of each item [...]: sum(M*G) / (sum(G) + sum(M where G = 0)).

    Empty truth gives 0, whether the mask is empty or not: nothing was found where nothing is.
    """
    mask = mask.bool()
    hit = (truth * mask).sum((-2, -1), dtype=torch.float64)
    spill = _count(mask & (truth == 0))
    whole = truth.sum((-2, -1), dtype=torch.float64) + spill
    return torch.where(whole > 0, hit / whole.clamp(min=1e-300), torch.zeros_like(hit))


@_either
def ciou_at(p: Array, truth: Array, levels: Sequence[float]) -> Array:
    """cIoU [..., K] of the masks p >= level for K rising levels: each pixel is counted once, not K times."""
    n, k = p.shape[:-2], len(levels)
    flat, truth = (
        _pixels(p).reshape(-1, p.shape[-2] * p.shape[-1]),
        _pixels(truth).reshape(-1, p.shape[-2] * p.shape[-1]),
    )
    passed = torch.bucketize(flat, torch.tensor(levels, dtype=p.dtype, device=p.device), right=True)  # levels <= p
    sums = torch.zeros(2, len(flat), k + 1, dtype=torch.float64, device=p.device)
    sums[0].scatter_add_(1, passed, truth.double())
    sums[1].scatter_add_(1, passed, (truth == 0).double())
    hit, spill = sums.flip(-1).cumsum(-1).flip(-1)[..., 1:]
    whole = truth.double().sum(-1, keepdim=True) + spill
    return torch.where(whole > 0, hit / whole.clamp(min=1e-300), torch.zeros_like(hit)).view(*n, k)


@_either
def mse(p: Array, truth: Array) -> Array:
    """Mean over the pixels of (P - G)^2, per item [...]."""
    return (p.double() - truth.double()).square().mean((-2, -1))


@_either
def active_share(p: Array, level: float = 0.5) -> Array:
    """Share of the frame at or above `level`, per item [...]: pIA when nothing in the frame sounds."""
    return _count(p >= level).double() / (p.shape[-2] * p.shape[-1])


@_either
def confidence(cosines: Array) -> Array:
    """How sure a map is that anything sounds, per item [...]: mean of the top quarter of (cosine + 1) / 2."""
    flat = (_pixels(cosines).double() + 1) / 2
    return flat.topk(flat.shape[-1] // 4, dim=-1).values.mean(-1)


def size_of(area: float) -> str:
    """small, medium, large or huge: the name of an area of G in pixels of the 224 by 224 frame."""
    return next(name for name, bound in SIZES.items() if area < bound)


# -- a list of items ---------------------------------------------------------------------------------------------------


def success(values: Array, at: float = 0.5) -> float:
    """CIoU@at: share of the items whose cIoU reaches `at`. 0 for no items."""
    values = np.asarray(values, np.float64)
    return float((values >= at).mean()) if values.size else 0.0


def auc(values: Array) -> float:
    """Area under share(cIoU >= t) for t = 0, 0.05, ..., 1: 21 points, trapezoid."""
    # 0.05 * i as every peer has it, not i / 20: 3 * 0.05 lies a hair above 0.15, and published figures share that hair.
    shares = [success(values, 0.05 * i) for i in range(21)]
    return (sum(shares) - (shares[0] + shares[-1]) / 2) / 20


# -- what no number means anything without -----------------------------------------------------------------------------


@_either
def attainable(truth: Array, rule: str) -> Array:
    """The highest cIoU [...] that any map without ties can reach on each truth under a rule.

    The median rule always marks half of the frame, so a small object caps its own score. The absolute rule and the
    adaptive one (on as many pixels as the truth has) can mark exactly the truth.
    """
    area = _count(truth > 0)
    if rule != "median":
        return (area > 0).double()
    n = truth.shape[-1] * truth.shape[-2]
    marked = n - n // 2
    best = truth.sum((-2, -1), dtype=torch.float64)
    whole = best + (marked - area).clamp(min=0)
    large = area > marked  # too large to be marked whole: its highest values count
    best[large] = _pixels(truth[large].double()).topk(marked, dim=-1).values.sum(-1)
    return best / whole


@functools.cache
def centre_distance(height: int, width: int) -> Tensor:
    """Distance [H, W] of every pixel's centre from the frame's: minus this is the audio-blind map."""
    y = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64)[None] - (width - 1) / 2
    return (x * x + y * y).sqrt()


@_either
def blind(truth: Array, rule: str) -> Array:
    """cIoU [...] of a disc in the middle of the frame, which needs neither frame nor sound.

    Half of the frame's area for the median and the absolute rule, as many pixels as the truth for the adaptive one.
    """
    far = centre_distance(*truth.shape[-2:]).to(truth.device)
    n = far.numel()
    if rule == "adaptive":
        area = _count(truth > 0)
        radius = far.flatten().sort().values[(area - 1).clamp(min=0)]
        mask = (far <= radius[..., None, None]) & (area > 0)[..., None, None]
    else:
        mask = (far <= far.flatten().kthvalue(n - n // 2).values).expand(truth.shape)
    return ciou(mask, truth)


# -- extended sets: some items do not sound ----------------------------------------------------------------------------


def precision_recall(values: Array, sounding: Array, conf: Array, cut: float) -> tuple[float, float]:
    """Precision and recall when items of confidence >= cut count as detections.

    On a sounding item a detection is right if its cIoU reaches 0.5 and wrong otherwise, and none is a miss; on a
    silent or off-screen item a detection is wrong. Both are 1 where their denominator is 0 (SLAVC).
    """
    values, sounding, conf = np.asarray(values), np.asarray(sounding, bool), np.asarray(conf)
    found = conf >= cut
    right = int((found & sounding & (values >= 0.5)).sum())
    wrong = int(found.sum()) - right
    missed = int((~found & sounding).sum())
    precision = right / (right + wrong) if right + wrong else 1.0
    recall = right / (right + missed) if right + missed else 1.0
    return precision, recall


def average_precision(values: Array, sounding: Array, conf: Array) -> float:
    """AP by SLAVC's cuts: the sorted confidences without the largest, descending, every max(1, n//200)-th.

    sum over i of (highest precision from i on) * (recall[i+1] - recall[i]).
    """
    conf = np.asarray(conf)
    cuts = np.sort(conf)[:-1][:: -max(1, len(conf) // 200)]
    curve = np.array([precision_recall(values, sounding, conf, cut) for cut in cuts]).reshape(-1, 2)
    precision, recall = curve.T
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope[:-1] * np.diff(recall)).sum())


def max_f1(values: Array, sounding: Array, conf: Array) -> float:
    """Highest F1 over the cuts sorted(conf)[::max(1, n//10)]."""
    conf = np.asarray(conf)
    best = 0.0
    for cut in np.sort(conf)[:: max(1, len(conf) // 10)]:
        precision, recall = precision_recall(values, sounding, conf, cut)
        if precision + recall > 0:
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


# -- from a mask to a box ----------------------------------------------------------------------------------------------


def largest_box(mask: Array) -> tuple[int, int, int, int] | None:
    """Box (x0, y0, x1, y1), x1 and y1 exclusive, around the largest 4-connected part of a mask [H, W]; None if empty.

    Rows are cut into runs, touching runs of neighbouring rows are joined (union-find), so the cost follows the
    number of runs and not of pixels. Of equal parts the first in reading order wins.
    """
    mask = (mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)).astype(bool)
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, ends = np.nonzero(edges == -1)
    if not len(rows):
        return None
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    above = 0
    for i, (y, x0, x1) in enumerate(zip(rows.tolist(), starts.tolist(), ends.tolist())):
        while rows[above] < y - 1 or (rows[above] == y - 1 and ends[above] <= x0):
            above += 1
        j = above
        while j < i and rows[j] == y - 1 and starts[j] < x1:
            a, b = root(i), root(j)
            parent[max(a, b)] = min(a, b)
            j += 1
    label = np.array([root(i) for i in range(len(rows))])
    area = np.bincount(label, weights=ends - starts)
    part = label == area.argmax()
    y0, y1 = rows[part].min(), rows[part].max() + 1
    return int(starts[part].min()), int(y0), int(ends[part].max()), int(y1)

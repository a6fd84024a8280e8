"""What the contrastive losses share: rows that take no part, and negatives from every rank."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastdmt_kernels.reference import full_precision

# Stands for "not there" in a softmax: exp of it is exactly 0 beside any cosine over any temperature, and unlike
# -inf it leaves a row in which nothing is there with finite values and gradients.
ABSENT = -1e9


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, group: Any) -> Tensor:
        ctx.group, ctx.rows = group, len(x)
        out = x.new_empty(dist.get_world_size(group) * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(out, x.contiguous(), group=group)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        # Every rank computes the same global loss, and data parallelism averages the ranks' gradients: their sum
        # here makes that average the gradient of the one loss.
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad, group=ctx.group)
        first = dist.get_rank(ctx.group) * ctx.rows
        return grad[first : first + ctx.rows], None


def gather_rows(x: Tensor, group: Any = None) -> Tensor:
    """x [N, ...] of every rank, in rank order: [world * N, ...], with gradient; x itself without a group."""
    if group is None or dist.get_world_size(group) == 1:
        return x
    return _GatherRows.apply(x, group)


def first_own_column(rows: int, group: Any = None) -> int:
    """Where this rank's N rows begin among the gathered ones: its row i belongs with column `first + i`."""
    return 0 if group is None else dist.get_rank(group) * rows


def unit(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x [N, D, ...] over its length along D, float32 or better, with a finite gradient at zero."""
    x = x if x.dtype == torch.float64 else x.float()
    return x * torch.rsqrt(x.square().sum(1, keepdim=True) + eps * eps)


@full_precision  # a cosine over a temperature of 0.03 needs its digits
def all_cosines(v: Tensor, a: Tensor) -> Tensor:
    """Cosines of every cell of v [N, D, h, w] with every sound of a [M, D]: [N, M, h*w], float32 or better."""
    return torch.einsum("ndp,md->nmp", unit(v.flatten(2)), unit(a))


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of values [N] under weight [N]; exactly 0, with a zero gradient, when fewer than 2 weights are positive."""
    there = weight > 0
    enough = there.sum() >= 2
    weight = weight.to(values.dtype)
    total = torch.where(enough, weight.sum(), torch.ones_like(weight[0]))
    # where, not a product: a row of weight 0 may hold anything, and 0 * inf is NaN.
    return torch.where(there & enough, values * weight, torch.zeros_like(values)).sum() / total


def hide_columns(logits: Tensor, weight: Tensor) -> Tensor:
    """logits [N, M] with the columns of weight [M] 0 out of every softmax."""
    return logits.masked_fill(weight <= 0, ABSENT)


def one_way_cross_entropy(logits: Tensor, weight: Tensor, group: Any = None) -> Tensor:
    """Cross-entropy of each row with its own column, over the rows and columns that have a weight.

    Args:
        logits: [N, M], this rank's N rows against the M sounds of all ranks.
        weight: [M], of all ranks.
        group: process group over which the rows' mean is taken.
    """
    logits = hide_columns(logits, weight)
    loss = logits.logsumexp(1) - logits.diagonal(first_own_column(len(logits), group))
    return weighted_mean(gather_rows(loss, group), weight)


def two_way_cross_entropy(logits: Tensor, weight: Tensor) -> Tensor:
    """`one_way_cross_entropy` over the rows plus over the columns of logits [M, M]."""
    return one_way_cross_entropy(logits, weight) + one_way_cross_entropy(logits.T, weight)

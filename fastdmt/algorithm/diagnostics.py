"""Pseudo-labels against the truth where the data happen to hold it: what a log shows, never a training signal."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdmt_kernels import Consensus, boxes_to_mask, unpack_mask
from fastdmt_loaders import Batch


@torch.no_grad()
def diagnose(labels: list[Consensus] | None, batch: Batch, size: tuple[int, int], min_agree: int) -> dict[str, Tensor]:
    """Pseudo-labels against boxes where the data happen to hold them: a diagnostic, never a training signal.

    Returns:
        0-d tensors: `pseudo_iou` (mean IoU of kept masks with the truth), `mask_area` and `truth_area` (shares of the
        frame, over kept clips whose truth is known). Empty when there is no pseudo-label.
    """
    if not labels:
        return {}
    rows = slice(batch.labelled, None)
    truth = unpack_mask(boxes_to_mask(batch.boxes[rows], size, min_agree), size[1])
    known = batch.known[rows]
    out: dict[str, list[Tensor]] = {"pseudo_iou": [], "mask_area": [], "truth_area": []}
    for label in labels:
        mask = unpack_mask(label.mask, size[1])
        use = (label.keep & known).float()
        count = use.sum().clamp(min=1)
        inter, union = (mask & truth).sum((1, 2)).float(), (mask | truth).sum((1, 2)).float().clamp(min=1)
        out["pseudo_iou"].append((use * inter / union).sum() / count)
        out["mask_area"].append((use * mask.float().mean((1, 2))).sum() / count)
        out["truth_area"].append((use * truth.float().mean((1, 2))).sum() / count)
    return {name: torch.stack(values).mean() for name, values in out.items()}

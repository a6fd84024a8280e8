"""One training step of Dual Mean-Teacher on one page: eager PyTorch, no fused op, nothing shared with dmt.py.

The regression tests hold the trainer to this page, loss and every gradient; the benchmark measures against it.
It takes any float dtype: in float64 it is the truth.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def upsampled_logits(localizer, frames, sound, size):
    """Cosine map of each frame with its own sound, w * S + b, bilinear to the frame's size."""
    v = localizer.visual_head(localizer.visual(frames))
    a = localizer.audio_head(localizer.audio(sound))
    cosine = (unit(v, 1) * unit(a, 1)[:, :, None, None]).sum(1)
    w, b = localizer.affine
    return F.interpolate((w * cosine + b)[:, None], size=size, mode="bilinear", align_corners=False)[:, 0], v, a


def unit(x, dim):
    """Scale x to length 1 along a dimension."""
    return x / torch.sqrt((x * x).sum(dim, keepdim=True) + 1e-12)


def box_map(boxes, size, min_agree):
    """G: 1 where at least `min_agree` boxes hold the pixel's centre."""
    y = torch.arange(size[0])[:, None] + 0.5
    x = torch.arange(size[1])[None, :] + 0.5
    votes = torch.zeros(len(boxes), *size)
    for n, item in enumerate(boxes.tolist()):
        for x0, y0, x1, y1 in item:
            votes[n] += (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    return votes >= min_agree


def pseudo_label(p_a, p_b, delta, tau):
    """Kept where both teachers agree (IoU of their masks >= tau); the label is the intersection."""
    m_a, m_b = p_a >= delta, p_b >= delta
    inter, union = (m_a & m_b), (m_a | m_b)
    n_inter, n_union = inter.sum((1, 2)), union.sum((1, 2))
    iou = n_inter / n_union.clamp(min=1)
    return (iou >= tau) & (n_inter > 0), inter


def contrastive(v, a, use, temperature):
    """EZ-VSL: logits = best cell's cosine / temperature; cross-entropy over rows plus over columns, used rows only."""
    v, a = v[use], a[use]
    if len(v) < 2:
        return (v.sum() + a.sum()) * 0
    logits = torch.einsum("ndhw,md->nmhw", unit(v, 1), unit(a, 1)).flatten(2).amax(2) / temperature
    truth = torch.arange(len(v))
    return F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)


def unbiased_loss(students, teachers, batch, cfg, size, min_agree):
    """Stage 2's loss: what the two students minimise on one batch.

    Args:
        students, teachers: localizers A and B; teachers in evaluation mode.
        batch: labelled rows first.
        cfg: delta, tau, ignore_below, pseudo_weight, lambda_u of `PseudoLabelConfig`.
    """
    labelled, unlabelled = slice(0, batch.labelled), slice(batch.labelled, None)
    with torch.no_grad():
        p_a, p_b = (
            upsampled_logits(t, batch.frames_weak[unlabelled], batch.sound[t.front_end][unlabelled], size)[0].sigmoid()
            for t in teachers
        )
        keep, inter = pseudo_label(p_a, p_b, cfg.delta, cfg.tau)
        counts = torch.ones_like(inter)
        if cfg.ignore_below is not None:
            counts = inter | ((p_a < cfg.ignore_below) & (p_b < cfg.ignore_below))

    truth = torch.cat([box_map(batch.boxes[labelled], size, min_agree), inter])
    counts = torch.cat([torch.ones_like(truth[labelled]), counts])
    weight = torch.cat([torch.ones(batch.labelled), keep * cfg.pseudo_weight])
    loss = 0.0
    for student in students:
        logits, v, a = upsampled_logits(student, batch.frames_strong, batch.sound_strong[student.front_end], size)
        pixel = F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")
        clip = (pixel * counts).sum((1, 2)) / counts.sum((1, 2)).clamp(min=1)
        loss = loss + (weight * clip).sum() / weight.sum()
        loss = loss + cfg.lambda_u * contrastive(v, a, weight > 0, student.tau)
    return loss


def train_step(students, teachers, optimizer, batch, cfg, size, min_agree, momentum):
    """The whole step: loss, gradients, optimizer, teachers follow (A from A, B from B, BatchNorm statistics too)."""
    loss = unbiased_loss(students, teachers, batch, cfg, size, min_agree)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for teacher, student in zip(teachers, students):
            for mine, theirs in zip(
                [*teacher.parameters(), *teacher.buffers()], [*student.parameters(), *student.buffers()]
            ):
                mine.copy_(momentum * mine + (1 - momentum) * theirs if mine.is_floating_point() else theirs)
    return loss.detach()

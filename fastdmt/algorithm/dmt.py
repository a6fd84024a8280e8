"""Dual Mean-Teacher, and nothing else: read it beside the framework figure of the paper (arXiv 2403.03145).

    frame, sound (weak)   -> teacher A, teacher B -> agree? -> intersection of their maps = pseudo-label
    frame, sound (strong) -> student A, student B -> localization loss + contrastive loss -> gradients
    teacher A <- EMA of student A,  teacher B <- EMA of student B

Nothing here waits for the device: no value is read, no branch depends on a tensor, all shapes are constant.
Letters: N clips (L labelled first, then U unlabelled), h w cells of a map, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from fastdmt.algorithm.negatives import Negatives
from fastdmt.algorithm.pseudo_labels import Algorithm
from fastdmt.config import PseudoLabelConfig
from fastdmt.models.localizer import Localizer, Output
from fastdmt.models.probability import probability_map, upsample
from fastdmt_kernels import EMA, Consensus, boxes_to_mask, localization_loss, unpack_mask
from fastdmt_loaders import Batch

FLICKR_AGREE, VGGSS_AGREE = 2, 1  # annotators who must agree on a pixel


class Losses(NamedTuple):
    """What one step computed; every field is a 0-d tensor on the device unless said otherwise."""

    total: Tensor  #: to be differentiated
    supervised: Tensor  #: localization loss, mean of the students
    contrastive: Tensor  #: contrastive loss, mean of the students
    kept: Tensor  #: share of unlabelled clips kept, mean of the students
    iou: Tensor  #: mean IoU of the two teachers' masks
    empty: Tensor  #: share of empty pseudo-labels
    labels: list[Consensus] | None  #: pseudo-labels of every student
    negative: Tensor  #: localization loss of frames in which nothing sounds, mean of the students

    def logged(self) -> dict[str, Tensor]:
        """The 0-d values by the names that a run's metrics have."""
        parts = {"supervised": self.supervised, "contrastive": self.contrastive, "negative": self.negative}
        labels = {"kept": self.kept, "teachers_iou": self.iou, "empty": self.empty}
        return {"loss": self.total.detach(), **parts, **labels}


def supervised_loss(
    s: Tensor,
    affine: Tensor,
    target: Tensor,
    weight: Tensor,
    size: tuple[int, int],
    *,
    valid: Tensor | None = None,
    total: Tensor | None = None,
    kind: str = "bce",
    probability: str = "sigmoid",
    foreground: Tensor | None = None,
    foreground_weight: float = 0.0,
) -> Tensor:
    """L_sup: weighted mean over clips of the pixel-wise loss between P and a binary (or soft) target.

    Args:
        s: cosine maps [N, h, w].
        affine: (w, b) [2].
        target: packed masks [N, H, ceil(W/32)] int32, or confidences [N, H, W] uint8.
        weight: [N]; a clip of weight 0 has no influence.
        valid: packed masks of the pixels that count; None: all.
        total: denominator instead of the sum of the weights (a global batch over several ranks).
        kind: "bce", or "spatial_ce" = -sum G log softmax_xy(S) / sum G (Attention10k).
        foreground: packed masks of the sounding pixels, whose own mean is added with `foreground_weight`: small
            objects are worth as much as large ones, and P = 0.5 lies where fewer than half of such pixels sound.
    """
    if foreground is not None and foreground_weight > 0:
        common = {"total": total, "kind": kind, "probability": probability}
        whole = supervised_loss(s, affine, target, weight, size, valid=valid, **common)
        return whole + foreground_weight * supervised_loss(s, affine, target, weight, size, valid=foreground, **common)
    if kind == "bce" and probability == "sigmoid":
        return localization_loss(s, affine, target, weight, size=size, valid=valid, total=total)
    truth = target.float() / 255 if target.dtype == torch.uint8 else unpack_mask(target, size[1]).float()
    counts = torch.ones_like(truth) if valid is None else unpack_mask(valid, size[1]).float()
    if kind == "spatial_ce":
        up = upsample(s, size)
        scale = affine[0].float()
        log_softmax = (scale * up).flatten(1).log_softmax(1).view_as(up)
        sample = -(truth * log_softmax).sum((1, 2)) / truth.sum((1, 2)).clamp(min=1)
    else:
        p = probability_map(s, affine, size, probability).clamp(1e-6, 1 - 1e-6)
        pixel = F.binary_cross_entropy(p, truth, reduction="none")
        sample = (pixel * counts).sum((1, 2)) / counts.sum((1, 2)).clamp(min=1)
    total = weight.sum() if total is None else total
    return torch.where(weight > 0, weight * sample, 0.0).sum() / torch.where(total > 0, total, 1.0)


class DualMeanTeacherStep:
    """The losses of both stages for a pair of students and their teachers.

    Args:
        students: localizers A and B, trained by gradients.
        teachers: their averages, or None in stage 1.
        algorithm: where pseudo-labels come from.
        config: thresholds and weights of the pseudo-labels.
        size: (H, W) of the frames.
        min_agree: annotators that must agree on a labelled pixel (2 for Flickr-SoundNet, 1 for VGG-SS).
        group: process group over which contrastive negatives and denominators are shared.
        calls: what to call instead of each student (a wrapper that averages gradients); None: the students.
        negatives: adds frames in which nothing sounds; None: none.
    """

    def __init__(
        self,
        students: Sequence[Localizer],
        teachers: Sequence[Localizer] | None,
        algorithm: Algorithm,
        config: PseudoLabelConfig,
        *,
        size: tuple[int, int],
        min_agree: int,
        group: Any = None,
        calls: Sequence[Callable] | None = None,
        negatives: Negatives | None = None,
    ) -> None:
        self.negatives = negatives
        self.progress = torch.ones((), device=students[0].affine.device)  # of stage 2; whoever trains keeps it
        self.students, self.teachers, self.algorithm, self.config = students, teachers, algorithm, config
        self.size, self.min_agree, self.group = size, min_agree, group
        self.calls = students if calls is None else calls
        self._ema: EMA | None = None  # made at the first update, when the tensors lie where they will be

    def place(self, before: int) -> None:
        """So many batches, of other processes or of earlier parts of a step, come before the next one in the step's."""
        if self.negatives is not None:
            self.negatives.place.fill_(before)

    def warmup(self, k: int, batch: Batch) -> Tensor:
        """Stage 1: L_sup of student k on its own batch of labelled clips, strong view."""
        student, n = self.students[k], len(batch.boxes)
        out = self._look(k, *self._seen(batch, True), self.config.lambda_warmup > 0)
        target = boxes_to_mask(batch.boxes, self.size, self.min_agree)
        weight = torch.ones_like(out.map[:, 0, 0])
        loss = self._localize(student, out.map[:n], target, weight[:n], None, target)
        if self.config.lambda_warmup > 0:
            believed = F.pad(weight[:n], (0, len(weight) - n))
            loss = loss + self.config.lambda_warmup * student.contrastive_loss(out, believed, self.group)
        return loss + self.config.negative_weight * self._silence(student, out.map[n:], target)

    @torch.no_grad()
    def pseudo_labels(self, batch: Batch) -> list[Consensus] | None:
        """Teachers (or students) label the weak view of the unlabelled clips; the algorithm decides what to keep."""
        if self.algorithm.labelled_by == "nobody" or len(batch.ids) == batch.labelled:
            return None
        rows = slice(batch.labelled, None)
        frames = batch.frames_weak[rows]
        by_students = self.algorithm.labelled_by == "students"
        models = self.students if by_students else self.teachers
        if by_students:
            for student in models:
                student.eval()
        maps = [m(frames, batch.sound[m.front_end][rows]).map for m in models]
        if by_students:
            for student in models:
                student.train()
        return self.algorithm.pseudo_labels(maps, [m.affine for m in models], self.size, self.progress)

    def unbiased(self, batch: Batch) -> Losses:
        """Stage 2: the teachers label, the students learn."""
        return self.learn(batch, self.pseudo_labels(batch))

    def learn(self, batch: Batch, labels: list[Consensus] | None) -> Losses:
        """The students see labelled clips with boxes and kept clips with the intersection."""
        boxes = boxes_to_mask(batch.boxes[: batch.labelled], self.size, self.min_agree)
        supervised, contrastive, negative = [], [], []
        n = len(batch.frames_strong)
        frames, sound = self._seen(batch, self.algorithm.uses_labels)
        for k, student in enumerate(self.students):
            out = self._look(k, frames, sound, self.config.lambda_u > 0)
            label = labels[k] if labels else None
            target, weight, valid = self._targets(boxes, label, n)
            if self.algorithm.uses_labels:
                rows = slice(0, len(target))
                truth = boxes if label is None else torch.cat([boxes, label.mask])
                supervised.append(self._localize(student, out.map[rows], target, weight[rows], valid, truth))
                negative.append(self._silence(student, out.map[n:], boxes))
            if self.config.lambda_u > 0:
                believed = torch.ones_like(weight) if self.algorithm.contrasts_all else (weight > 0).to(weight)
                believed = F.pad(believed, (0, len(out.map) - n))
                contrastive.append(student.contrastive_loss(out, believed, self.group))
        zero = torch.zeros((), device=boxes.device)
        sup = torch.stack(supervised).sum() if supervised else zero
        con = torch.stack(contrastive).sum() if contrastive else zero
        neg = torch.stack(negative).sum() if negative else zero
        n = len(self.students)
        kept = torch.stack([c.keep.float().mean() for c in labels]).mean() if labels else zero
        iou = torch.stack([c.iou.mean() for c in labels]).mean() if labels else zero
        empty = torch.stack([c.empty_share for c in labels]).mean() if labels else zero
        total = sup + self.config.lambda_u * con + self.config.negative_weight * neg
        return Losses(total, sup.detach() / n, con.detach() / n, kept, iou, empty, labels, neg.detach() / n)

    @torch.no_grad()
    def update_teachers(self, m: Tensor | float) -> None:
        """teacher_k <- m * teacher_k + (1-m) * student_k: A from A, B from B only, BatchNorm statistics too."""
        if self._ema is None:
            self._ema, self._copied = self._prepare_ema()
        self._ema.step(m)
        if self._copied[0]:
            torch._foreach_copy_(*self._copied)

    def _prepare_ema(self) -> tuple[EMA, tuple[list[Tensor], list[Tensor]]]:
        """What moves, and the (teachers', students') buffers that are copied instead."""
        moved: tuple[list[Tensor], list[Tensor]] = [], []
        copied: tuple[list[Tensor], list[Tensor]] = [], []
        for side, networks in enumerate((self.teachers, self.students)):
            for network in networks:
                moved[side].extend(network.parameters())
                (copied if self.config.bn == "copy" else moved)[side].extend(network.buffers())
        return EMA(*moved), copied

    def _targets(self, boxes: Tensor, label: Consensus | None, n: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Targets of the whole batch: boxes, then pseudo-labels; weights 1, then pseudo_weight where kept, else 0."""
        labelled = len(boxes)
        ones = torch.ones(labelled, device=boxes.device)
        if label is None:
            return boxes, F.pad(ones, (0, n - labelled)), None
        weight = torch.cat([ones, label.keep.float() * self.config.pseudo_weight])
        valid = None if label.valid is None else torch.cat([torch.full_like(boxes, -1), label.valid])
        if label.confidence is None:
            return torch.cat([boxes, label.mask]), weight, valid
        hard = unpack_mask(boxes, self.size[1]).to(torch.uint8) * 255
        return torch.cat([hard, label.confidence]), weight, valid

    def _look(self, k: int, frames: Tensor, sound: dict[str, Tensor], contrast: bool) -> Output:
        """Student k's maps of the strong view; `contrast`: its contrastive loss follows."""
        student = self.students[k]
        pairs = (True, self.group) if contrast and student.gives_pairs else ()
        return self.calls[k](frames, sound[student.front_end], *pairs)

    def _seen(self, batch: Batch, labels: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Frames and sounds of the strong view; with `labels` the negatives too."""
        if self.negatives is None or not labels:
            return batch.frames_strong, batch.sound_strong
        return self.negatives.append(batch)

    def _silence(self, student: Localizer, s: Tensor, like: Tensor) -> Tensor:
        """Localization loss of the maps s [M, h, w] of frames in which nothing sounds; 0 when there are none."""
        if len(s) == 0:
            return s.sum()
        return self._localize(student, s, like.new_zeros((len(s), *like.shape[1:])), torch.ones_like(s[:, 0, 0]), None)

    def _localize(
        self,
        student: Localizer,
        s: Tensor,
        target: Tensor,
        weight: Tensor,
        valid: Tensor | None,
        foreground: Tensor | None = None,
    ) -> Tensor:
        return supervised_loss(
            s,
            student.affine,
            target,
            weight,
            self.size,
            valid=valid,
            total=self._total(weight),
            kind=self.config.supervised_loss,
            probability=self.algorithm.probability,
            foreground=foreground,
            foreground_weight=self.config.foreground,
        )

    def _total(self, weight: Tensor) -> Tensor | None:
        """Denominator of the supervised loss: kept clips differ between ranks, and a mean of means is not the mean.

        Gradients are averaged over ranks, so each rank divides by its share of the global sum.
        """
        if self.group is None:
            return None
        total = weight.sum()
        dist.all_reduce(total, group=self.group)
        return total / dist.get_world_size(self.group)

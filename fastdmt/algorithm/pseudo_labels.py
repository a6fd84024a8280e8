"""Which pseudo-labels a step uses: the paper's consensus of two teachers, and the baselines it is compared with.

An algorithm knows maps and masks; it knows nothing of optimizers, loaders or schedules. Every algorithm trains the same
pair of localizers with the same batches and gives each an EMA teacher, so that neither ensembling nor averaging nor
steps explain a difference between two of them: only the pseudo-labels do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastdmt.config import PseudoLabelConfig
from fastdmt.models.probability import upsample
from fastdmt_kernels import Consensus, consensus


@dataclass(frozen=True)
class Algorithm:
    """Base class and the `supervised` baseline: labelled clips alone.

    Attributes:
        warms_up: stage 1 trains on labels.
        uses_labels: labelled clips enter the localization loss.
        contrasts_all: every clip feeds the contrastive loss, not labelled + kept only.
        labelled_by: whose maps of the weak view become pseudo-labels: "nobody", "teachers", or the "students" as they
            are, in evaluation mode.
    """

    config: PseudoLabelConfig
    probability: str = "sigmoid"
    warms_up: bool = True
    uses_labels: bool = True
    contrasts_all: bool = False
    labelled_by: str = "nobody"

    def pseudo_labels(
        self, maps: list[Tensor], affines: list[Tensor], size: tuple[int, int], progress: Tensor | float = 1.0
    ) -> list[Consensus] | None:
        """One pseudo-label per student from the labelling models' low-resolution cosine maps.

        Args:
            maps: models' maps of the unlabelled clips on the weak view, each [N, h, w].
            affines: their (w, b), each [2].
            size: (H, W) of the frame.
            progress: of stage 2, 0..1; 0-d on the maps' device in training.

        Returns:
            A `Consensus` for every student, or None when the algorithm makes no pseudo-labels.
        """
        return None

    def _agree(self, map_a: Tensor, map_b: Tensor, affine_a: Tensor, affine_b: Tensor, size, tau: float) -> Consensus:
        c = self.config
        return consensus(
            map_a,
            map_b,
            affine_a,
            affine_b,
            c.delta,
            tau,
            size,
            probability=self.probability,
            soft=c.soft,
            ignore_below=c.ignore_below,
        )

    def _alone(self, s: Tensor, affine: Tensor, size: tuple[int, int], **levels) -> Consensus:
        """One model's own map as a label: the consensus of it with itself rejects empty maps and nothing else."""
        c = self.config
        levels = {"delta": c.delta, "soft": c.soft, "ignore_below": c.ignore_below} | levels
        return consensus(s, s, affine, affine, tau=0.0, size=size, probability=self.probability, **levels)


@dataclass(frozen=True)
class DualMeanTeacher(Algorithm):
    """The paper: kept where both teachers agree, labelled by the intersection of their maps, for both students."""

    labelled_by: str = "teachers"

    def pseudo_labels(self, maps, affines, size, progress=1.0):
        shared = self._agree(maps[0], maps[1], affines[0], affines[1], size, self.config.tau)
        return [shared, shared]


@dataclass(frozen=True)
class PseudoLabel(Algorithm):
    """Naive self-training (Lee, ICML workshop 2013): every student learns from its own confident map, without EMA."""

    labelled_by: str = "students"

    def pseudo_labels(self, maps, affines, size, progress=1.0):
        return [self._alone(s, affine, size) for s, affine in zip(maps, affines, strict=True)]


@dataclass(frozen=True)
class MeanTeacher(PseudoLabel):
    """One EMA teacher for each student (Tarvainen and Valpola, NeurIPS 2017), confidence only."""

    labelled_by: str = "teachers"


@dataclass(frozen=True)
class FixMatch(Algorithm):
    """FixMatch (Sohn et al., NeurIPS 2020), per pixel: the weak view's map labels the strong view where it is sure.

    A pixel counts when P or 1 - P reaches `confidence`; the others are ignored. A clip without one sounding pixel is
    left out, as with every other algorithm here.
    """

    labelled_by: str = "students"

    def pseudo_labels(self, maps, affines, size, progress=1.0):
        sure = self.config.confidence
        levels = {"delta": sure, "soft": "none", "ignore_below": 1 - sure}
        return [self._alone(s, affine, size, **levels) for s, affine in zip(maps, affines, strict=True)]


@dataclass(frozen=True)
class CrossPseudoSupervision(Algorithm):
    """CPS (Chen et al., CVPR 2021): every student learns from the other one's map as it is, all pixels count."""

    labelled_by: str = "students"

    def pseudo_labels(self, maps, affines, size, progress=1.0):
        levels = {"delta": 0.5, "soft": "none", "ignore_below": None}
        other = zip(reversed(maps), reversed(affines), strict=True)
        return [self._alone(s, affine, size, **levels) for s, affine in other]


@dataclass(frozen=True)
class CrossPseudoLabelling(Algorithm):
    """XPL (Guo et al., 2024, arXiv 2403.03095): soft labels of the other localizer, sharpened, most confident first.

    Its moving average of pseudo-labels is that of the model that makes them: crops of a clip differ between epochs, so
    its maps cannot be averaged. A map is sharpened as P^2 / (P^2 + (1 - P)^2). A clip's confidence is the largest P;
    the share of a batch's clips that is kept, the most confident first, grows with training from a half to all.
    """

    labelled_by: str = "teachers"

    def pseudo_labels(self, maps, affines, size, progress=1.0):
        other = zip(reversed(maps), reversed(affines), strict=True)
        return [self._curriculum(s, affine, size, progress) for s, affine in other]

    def _curriculum(self, s: Tensor, affine: Tensor, size: tuple[int, int], progress: Tensor | float) -> Consensus:
        # The logits are linear in (w, b), and sharpening by a power of 2 doubles them.
        label = self._alone(s, affine, size, delta=0.5, soft="none", ignore_below=None)
        w, b = affine.float().unbind()
        logits = upsample(w * s.float() + b, size)
        confidence = logits.amax((1, 2))
        rank = confidence.argsort(descending=True).argsort()
        keep = label.keep & (rank < (0.5 + 0.5 * progress) * len(s))
        soft = (255 * (2 * logits).sigmoid()).round().to(torch.uint8)
        return label._replace(keep=keep, confidence=soft)


@dataclass(frozen=True)
class SelfSupervised(Algorithm):
    """The contrastive loss on all clips, no boxes at all."""

    warms_up: bool = False
    uses_labels: bool = False
    contrasts_all: bool = True


CLASSES = {
    "dmt": DualMeanTeacher,
    "pseudo-label": PseudoLabel,
    "mean-teacher": MeanTeacher,
    "fixmatch": FixMatch,
    "cps": CrossPseudoSupervision,
    "xpl": CrossPseudoLabelling,
    "supervised": Algorithm,
    "self-supervised": SelfSupervised,
}

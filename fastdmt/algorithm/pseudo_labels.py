"""Which pseudo-labels a step uses: the paper's consensus of two teachers, and the baselines it is compared with.

A method knows maps and masks; it knows nothing of optimizers, loaders or schedules. Every method trains the same pair
of localizers with the same batches and gives each an EMA teacher, so that neither ensembling nor averaging nor steps
explain a difference between two of them: only the pseudo-labels do.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastdmt.config import PseudoLabelConfig
from fastdmt_kernels import Consensus, consensus


@dataclass(frozen=True)
class Method:
    """Base class and the `supervised` baseline: labelled clips alone.

    Attributes:
        warms_up: stage 1 trains on labels.
        uses_labels: labelled clips enter the localization loss.
        contrasts_all: every clip feeds the contrastive loss, not labelled + kept only.
    """

    config: PseudoLabelConfig
    probability: str = "sigmoid"
    warms_up: bool = True
    uses_labels: bool = True
    contrasts_all: bool = False
    uses_teachers: bool = False

    def pseudo_labels(self, maps: list[Tensor], affines: list[Tensor], size: tuple[int, int]) -> list[Consensus] | None:
        """One pseudo-label per student from the teachers' low-resolution cosine maps.

        Args:
            maps: teachers' maps of the unlabelled clips on the weak view, each [N, h, w].
            affines: their (w, b), each [2].
            size: (H, W) of the frame.

        Returns:
            A `Consensus` for every student, or None when the method makes no pseudo-labels.
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


@dataclass(frozen=True)
class DualMeanTeacher(Method):
    """The paper: kept where both teachers agree, labelled by the intersection of their maps, for both students."""

    uses_teachers: bool = True

    def pseudo_labels(self, maps, affines, size):
        shared = self._agree(maps[0], maps[1], affines[0], affines[1], size, self.config.tau)
        return [shared, shared]


@dataclass(frozen=True)
class MeanTeacher(Method):
    """One teacher for each student, confidence only: the consensus of a teacher with itself rejects empty maps."""

    uses_teachers: bool = True

    def pseudo_labels(self, maps, affines, size):
        return [self._agree(s, s, affine, affine, size, 0.0) for s, affine in zip(maps, affines, strict=True)]


@dataclass(frozen=True)
class SelfSupervised(Method):
    """The contrastive loss on all clips, no boxes at all."""

    warms_up: bool = False
    uses_labels: bool = False
    contrasts_all: bool = True


METHODS = {
    "dmt": DualMeanTeacher,
    "mean-teacher": MeanTeacher,
    "supervised": Method,
    "self-supervised": SelfSupervised,
}

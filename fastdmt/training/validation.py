"""Validation while training: every rank looks at a share of the clips with the whole model, all learn the numbers."""

from __future__ import annotations

import numpy as np

from fastdmt.data.run_data import Data
from fastdmt.distributed.processes import World
from fastdmt.distributed.sharding import Parallel, full
from fastdmt.evaluation.evaluate import overlaps, scores_of
from fastdmt.models.pair import Model


class Validator:
    """CIoU@0.5 and AUC at the absolute threshold on the validation clips.

    Attributes:
        whole: the model with every tensor whole: in a sharded run a copy, as of the last `scores`.
    """

    def __init__(self, model: Model, parallel: Parallel, world: World, data: Data) -> None:
        self.model, self.parallel, self.world, self.data = model, parallel, world, data
        self.copy: Model | None = None

    @property
    def whole(self) -> Model:
        return self.copy if self.parallel.sharded else self.model

    def scores(self, step: int, *sources: str) -> dict[str, dict[str, float]]:
        """source -> {"ciou", "auc", "by_ciou", "by_auc"}, 0..1. Every rank calls it.

        What is largest at the best step: `by_ciou` is CIoU, its ties broken by AUC, `by_auc` the other way round, which
        a hundred clips decide with less chance: the same maps are measured at 21 levels instead of one. Without
        validation clips the latest step is the best one.
        """
        if self.parallel.sharded:
            self._gather()
        if not self.data.validation:
            now = float(step)
            return {source: {"ciou": 0.0, "auc": 0.0, "by_ciou": now, "by_auc": now} for source in sources}
        mine = overlaps(self.whole, self.data.validation_batches(self.model.front_ends, self.world), sources)
        shares = self.world.gather(mine)
        scores = scores_of({source: np.concatenate([share[source] for share in shares]) for source in sources})
        for score in scores.values():
            ciou, auc = score["ciou"], score["auc"]
            score |= {"by_ciou": ciou + 1e-3 * auc, "by_auc": auc + 1e-3 * ciou}
        return scores

    def _gather(self) -> None:
        """Shards into the copy, one tensor at a time."""
        self.parallel.reshard()
        if self.copy is None:
            self.copy = Model.build(self.model.cfg, pretrained=False)[0].to(self.world.device)
        targets = self.copy.tensors()
        for name, value in self.model.tensors().items():
            targets[name].copy_(full(value))

"""Validation while training: rank 0 looks at the whole model, every rank learns its numbers."""

from __future__ import annotations

from fastdmt.data.run_data import Data
from fastdmt.distributed.processes import World
from fastdmt.distributed.sharding import Parallel, full
from fastdmt.evaluation.evaluate import validate
from fastdmt.models.pair import Model


class Validator:
    """CIoU@0.5 and AUC at the absolute threshold on the validation clips.

    Attributes:
        whole: the model with every tensor whole. On rank 0 of a sharded run it is a copy, as of the last `scores`.
    """

    def __init__(self, model: Model, parallel: Parallel, world: World, data: Data) -> None:
        self.model, self.parallel, self.world, self.data = model, parallel, world, data
        self.copy: Model | None = None

    @property
    def whole(self) -> Model:
        return self.copy if self.parallel.sharded else self.model

    def scores(self, step: int, *sources: str) -> dict[str, dict[str, float]]:
        """source -> {"ciou", "auc", "selection"}, 0..1; `selection` breaks CIoU's ties by AUC.

        Without validation clips the latest step is the best one.
        """
        if self.parallel.sharded:
            self._gather()
        return self.world.broadcast(self._measure(step, sources) if self.world.first else None)

    def _gather(self) -> None:
        """Shards into rank 0's copy, one tensor at a time."""
        self.parallel.reshard()
        if self.world.first and self.copy is None:
            self.copy = Model.build(self.model.cfg, pretrained=False)[0].to(self.world.device)
        targets = self.copy.tensors() if self.world.first else {}
        for name, value in self.model.tensors().items():
            value = full(value)
            if self.world.first:
                targets[name].copy_(value)

    def _measure(self, step: int, sources: tuple[str, ...]) -> dict[str, dict[str, float]]:
        if not self.data.validation:
            return {source: {"ciou": 0.0, "auc": 0.0, "selection": float(step)} for source in sources}
        batches = self.data.validation_batches(self.model.front_ends, self.world.device)
        scores = validate(self.whole, batches, sources)
        return {s: scores[s] | {"selection": scores[s]["ciou"] + 1e-3 * scores[s]["auc"]} for s in sources}

"""Which items a step sees: a pure function of (seed, step, rank), so that resuming means knowing the step's number."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fastdmt_loaders.errors import DataError

STREAMS = ("labelled", "unlabelled")
# Second word of Philox' counter: keeps the streams and the augmentation apart under one seed.
AUGMENTATION = len(STREAMS)


def philox(seed: int, number: int, purpose: int) -> np.random.Generator:
    """A generator that depends on its three arguments and on nothing else."""
    return np.random.Generator(np.random.Philox(key=[seed % 2**64, number], counter=[0, purpose, 0, 0]))


@lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, stream: int, n: int) -> np.ndarray:
    order = philox(seed, epoch, stream).permutation(n)
    order.setflags(write=False)
    return order


@dataclass(frozen=True)
class Plan:
    """The order of training items.

    Each stream (labelled, unlabelled) is an endless concatenation of seeded permutations of its items: every item
    once an epoch, over all ranks. Step t of a stream takes the positions t*B .. (t+1)*B of it, B being the global
    batch, and rank r a contiguous slice of those. So the ranks' slices together are the batch of a single process,
    the world's size may change between runs, and nothing needs saving but the step.

    Args:
        n_labelled, n_unlabelled: items of each stream.
        batch_labelled, batch_unlabelled: rows of the GLOBAL batch; 0 switches a stream off.
        seed: of the permutations and of the augmentation.
        rank, world: this process and their number; both batches must divide by `world`.
    """

    n_labelled: int
    n_unlabelled: int
    batch_labelled: int
    batch_unlabelled: int
    seed: int = 0
    rank: int = 0
    world: int = 1

    def __post_init__(self):
        for stream, n, batch in zip(STREAMS, self.counts, self.batches):
            if batch < 0 or batch % self.world:
                raise DataError(f"batch_{stream} {batch} does not divide by {self.world} processes; change one of them")
            if batch and not n:
                raise DataError(f"batch_{stream} is {batch} but there are no {stream} items; set it to 0 or add items")
        if not sum(self.batches):
            raise DataError("the batch is empty; set batch_labelled or batch_unlabelled")

    @property
    def counts(self) -> tuple[int, int]:
        return self.n_labelled, self.n_unlabelled

    @property
    def batches(self) -> tuple[int, int]:
        return self.batch_labelled, self.batch_unlabelled

    @property
    def labelled(self) -> int:
        """Labelled rows of this rank's batch."""
        return self.batch_labelled // self.world

    @property
    def rows(self) -> np.ndarray:
        """int64: this rank's rows within the global batch (labelled rows first), for slicing per-sample draws."""
        own = [np.arange(b // self.world) + self.rank * (b // self.world) for b in self.batches]
        return np.concatenate([own[0], self.batch_labelled + own[1]])

    def epoch(self, step: int, stream: int = 1) -> float:
        """Epochs of a stream that end with this step's start."""
        return step * self.batches[stream] / max(1, self.counts[stream])

    def at(self, stream: int, positions: np.ndarray) -> np.ndarray:
        """Items at positions of the endless stream 0 (labelled) or 1 (unlabelled)."""
        n = self.counts[stream]
        epochs, offsets = np.divmod(positions, max(1, n))
        items = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            items[chosen] = _permutation(self.seed, int(epoch), stream, n)[offsets[chosen]]
        return items

    def positions(self, step: int, stream: int) -> np.ndarray:
        """Positions in the stream of this rank's rows of a step."""
        batch = self.batches[stream]
        own = batch // self.world
        return step * batch + self.rank * own + np.arange(own)

    def indices(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """This rank's items of a step: int64 into the labelled and into the unlabelled ids."""
        return self.at(0, self.positions(step, 0)), self.at(1, self.positions(step, 1))

    def index(self, step: int) -> np.ndarray:
        """The same as one int64 array into the labelled ids followed by the unlabelled ids."""
        labelled, unlabelled = self.indices(step)
        return np.concatenate([labelled, self.n_labelled + unlabelled])

    def substitute(self, step: int, row: int, attempt: int) -> int:
        """The item that replaces a broken one: what the same slot would hold `attempt` steps later.

        A function of the step as well, so every loader, every world size and every resumed run replaces alike.
        """
        stream, slot = (0, row) if row < self.labelled else (1, row - self.labelled)
        position = self.positions(step + attempt, stream)[slot : slot + 1]
        return int(self.at(stream, position)[0]) + stream * self.n_labelled

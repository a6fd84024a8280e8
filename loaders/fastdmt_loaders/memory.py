"""Memory of batches that nobody holds any more, used again: fresh pages cost ten times what is written to them."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

KEPT = 12  # free blocks kept, over all sizes
SMALL = 1 << 20  # bytes below which the allocator itself reuses pages
Place = Callable[[str, tuple[int, ...], torch.dtype], Tensor]  # memory for a part of that name, shape and type
ALIGNED = 64  # bytes: a cache line
_free: deque[np.ndarray] = deque(maxlen=KEPT)


def empty(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """An uninitialised tensor on the CPU; its memory comes back when its storage's last tensor is gone."""
    size = math.prod(shape) * dtype.itemsize
    if size < SMALL:
        return torch.empty(shape, dtype=dtype)
    block = _taken(size)
    lease = block[:size]  # the storage keeps this array alive, whatever views are made of the tensor
    tensor = torch.from_numpy(lease).view(dtype).view(shape)
    weakref.finalize(lease, _free.append, block).atexit = False
    return tensor


def fresh(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """`empty` for a part of any name."""
    return empty(shape, dtype)


def _taken(size: int) -> np.ndarray:
    """A free block that fits without much waste, or a new one. Leases end at any moment, so no lock is held."""
    for _ in range(len(_free)):
        try:
            block = _free.popleft()
        except IndexError:
            break
        if size <= block.nbytes <= 1.25 * size:
            return block
        _free.append(block)
    bytes_ = np.empty(size + ALIGNED, np.uint8)
    return bytes_[(start := -bytes_.ctypes.data % ALIGNED) : start + size]


class Turns:
    """Shared memory that batches in flight take turns in, so that processes hand them over without fresh pages.

    Made before the processes. Step s has turn s % turns: whoever holds a batch must be done with it before the process
    that makes batch s + turns begins.

    Args:
        shapes: name -> shape and type of a part.
        shared: with other processes; else it is plain memory.
    """

    def __init__(self, turns: int, shapes: dict[str, tuple[tuple[int, ...], torch.dtype]], shared: bool = True):
        self.turns = turns
        self.parts = {name: torch.empty((turns, *shape), dtype=dtype) for name, (shape, dtype) in shapes.items()}
        if shared:
            self.parts = {name: part.share_memory_() for name, part in self.parts.items()}

    def of(self, step: int) -> dict[str, Tensor]:
        """A step's parts."""
        return {name: part[step % self.turns] for name, part in self.parts.items()}


def copy(tensor: Tensor) -> Tensor:
    """A copy on the CPU in memory that is used again."""
    return empty(tuple(tensor.shape), tensor.dtype).copy_(tensor)


def rows(kept: Tensor, index: Tensor) -> Tensor:
    """kept[index], on a CPU in memory that is used again."""
    if kept.device.type != "cpu":
        return kept[index]
    return torch.index_select(kept, 0, index, out=empty((len(index), *kept.shape[1:]), kept.dtype))

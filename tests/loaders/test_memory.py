"""Memory that is used again: only when nobody can see what was in it."""

import gc

import numpy as np
import pytest
import torch

from fastdmt_loaders import memory

SIDE = 600  # 360 kB of bytes, 1.4 MB of floats


@pytest.fixture(autouse=True)
def _alone():
    gc.collect()
    memory._free.clear()


def test_memory_comes_back_when_the_last_view_of_it_is_gone():
    tensor = memory.empty((SIDE, SIDE)).fill_(1)
    place, corner = tensor.data_ptr(), tensor[3:5, 7]
    del tensor
    other = memory.empty((SIDE, SIDE)).fill_(2)
    assert other.data_ptr() != place and (corner == 1).all()
    del corner
    assert memory.empty((SIDE, SIDE)).data_ptr() == place


def test_a_numpy_array_of_it_keeps_it_too():
    array = memory.empty((SIDE, SIDE)).fill_(1).numpy()
    others = [memory.empty((SIDE, SIDE)).fill_(2) for _ in range(3)]
    assert (array == 1).all() and all((other == 2).all() for other in others)


def test_memory_is_aligned_and_of_the_asked_shape_and_type():
    for shape, dtype in [
        ((SIDE, SIDE, 3), torch.uint8),
        ((7, SIDE, SIDE), torch.int16),
        ((2, SIDE, SIDE), torch.float),
    ]:
        for _ in range(3):
            tensor = memory.empty(shape, dtype)
            assert tensor.shape == shape and tensor.dtype == dtype and tensor.is_contiguous()
            assert tensor.data_ptr() % memory.ALIGNED == 0


def test_what_is_kept_is_bounded_and_fits():
    held = [memory.empty((SIDE, SIDE)) for _ in range(3 * memory.KEPT)]
    del held
    assert len(memory._free) == memory.KEPT
    large = memory.empty((4, SIDE, SIDE))
    assert len(memory._free) == memory.KEPT, "a small block is not given for a large tensor"
    small = memory.empty((SIDE, SIDE // 2 + 150))  # three quarters of a block
    assert len(memory._free) == memory.KEPT and large.numel() > small.numel()


def test_rows_are_the_indexed_ones():
    kept = torch.from_numpy(np.random.default_rng(0).integers(-99, 99, (50, 3, 40_000), dtype=np.int16))
    index = torch.tensor([4, 49, 4, 0])
    assert torch.equal(memory.rows(kept, index), kept[index])


def test_batches_in_flight_share_no_turn():
    turns = memory.Turns(5, {"weak": ((4, 3), torch.uint8), "sound": ((4,), torch.float32)})
    for step in range(7, 12):
        for part in turns.of(step).values():
            assert part.is_shared()
            part.fill_(step)
    for step in range(7, 12):
        parts = turns.of(step)
        assert (parts["weak"] == step).all() and parts["weak"].shape == (4, 3)
        assert (parts["sound"] == step).all() and parts["sound"].dtype == torch.float32

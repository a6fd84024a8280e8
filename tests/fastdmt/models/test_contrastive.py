"""Negatives shared by several ranks."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from localizer_cases import D, N, features, output, small

from fastdmt.names import LOCALIZERS


def rank_of(rank, world, store, queue):
    """One of two ranks: half of the rows each, and a head whose gradients are averaged as DDP does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    results = {}
    for name in LOCALIZERS:
        localizer, head, parts, weight = distributed_case(name)
        rows = slice(rank * N // world, (rank + 1) * N // world)
        mine = output([bend(x[rows], head) for x in parts])
        loss = localizer.contrastive_loss(mine, weight[rows], group=dist.group.WORLD)
        loss.backward()
        dist.all_reduce(head.grad)
        results[name] = (loss.item(), (head.grad / world).tolist())
    queue.put((rank, results))
    dist.barrier()
    dist.destroy_process_group()


def distributed_case(name):
    head = torch.linspace(0.5, 1.5, D, dtype=torch.float64).requires_grad_()
    return small(name), head, features(name, seed=3), torch.tensor([1.0, 0, 1, 1, 0, 1])


def bend(x, head):
    """A factor for each channel, so that cosines depend on it."""
    return x * (head if x.ndim == 2 else head[:, None, None])


@pytest.mark.dist
def test_ranks_share_their_negatives(tmp_path):
    context = mp.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=rank_of, args=(r, 2, str(tmp_path / "store"), queue)) for r in range(2)]
    for p in processes:
        p.start()
    results = dict(queue.get(timeout=120) for _ in processes)
    for p in processes:
        p.join(60)
        assert p.exitcode == 0
    for name in LOCALIZERS:
        localizer, head, parts, weight = distributed_case(name)
        loss = localizer.contrastive_loss(output([bend(x, head) for x in parts]), weight)
        loss.backward()
        for rank in range(2):
            found, grad = results[rank][name]
            assert found == pytest.approx(loss.item(), rel=1e-9), (name, rank)
            np.testing.assert_allclose(grad, head.grad.numpy(), rtol=1e-7, atol=1e-10)

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
    localizer, v, a = kept_features()
    rows = slice(rank * N // world, (rank + 1) * N // world)
    out = localizer(v[rows], a[rows], True, dist.group.WORLD)
    (localizer.contrastive_loss(out, torch.ones(N // world), dist.group.WORLD) + out.map.square().mean()).backward()
    dist.all_reduce(v.grad), dist.all_reduce(a.grad)
    results["one pass"] = out.map.tolist(), (v.grad / world).tolist(), (a.grad / world).tolist()
    queue.put((rank, results))
    dist.barrier()
    dist.destroy_process_group()


def distributed_case(name):
    head = torch.linspace(0.5, 1.5, D, dtype=torch.float64).requires_grad_()
    return small(name), head, features(name, seed=3), torch.tensor([1.0, 0, 1, 1, 0, 1])


def kept_features():
    """A localizer, and grids and sounds that its encoders need not see again."""
    g = torch.Generator().manual_seed(5)
    localizer = small(dim=128)
    localizer.audio_head = torch.nn.Identity()
    return localizer, *(torch.randn(N, 128, *s, generator=g, requires_grad=True) for s in ((3, 3), ()))


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
    localizer, v, a = kept_features()
    out = localizer(v, a)  # two passes in one process
    (localizer.contrastive_loss(out, torch.ones(N)) + out.map.square().mean()).backward()
    for rank in range(2):
        s, *grads = results[rank]["one pass"]
        np.testing.assert_allclose(s, out.map.detach()[rank * N // 2 : (rank + 1) * N // 2].numpy(), atol=1e-6)
        for grad, x in zip(grads, (v, a), strict=True):
            np.testing.assert_allclose(grad, x.grad.numpy(), rtol=1e-4, atol=1e-6)
    for name in LOCALIZERS:
        localizer, head, parts, weight = distributed_case(name)
        loss = localizer.contrastive_loss(output([bend(x, head) for x in parts]), weight)
        loss.backward()
        for rank in range(2):
            found, grad = results[rank][name]
            assert found == pytest.approx(loss.item(), rel=1e-9), (name, rank)
            np.testing.assert_allclose(grad, head.grad.numpy(), rtol=1e-7, atol=1e-10)

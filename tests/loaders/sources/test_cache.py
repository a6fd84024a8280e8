"""Processes that keep a share of the items each yield what one process yields that keeps all."""

import pytest
import torch
import torch.multiprocessing as mp
from shared_cache import PLAN, batches, rank_main

from fastdmt_loaders.sources import cache

pytestmark = pytest.mark.dist


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("chosen", ["host", "auto"])
def test_three_ranks_make_up_the_batches_of_one_process(own_root, tmp_path, broken, chosen):
    if broken:
        for name in ("clip_000003.png", "clip_000010.png"):
            (own_root / "frames" / name).write_bytes(b"no picture")
    want, loader = batches(own_root, PLAN, cache="host", workers=1)
    assert len(loader.source.frames) == 24
    world = 3
    mp.spawn(rank_main, (world, tmp_path / "store", own_root, tmp_path, chosen), nprocs=world)
    ranks = [torch.load(tmp_path / f"{r}.pt", weights_only=False) for r in range(world)]
    assert [held for (held, _), *_ in ranks] == [8, 8, 8], "each keeps a third"
    assert all(bad.keys() == loader.bad.keys() for (_, bad), *_ in ranks) and bool(loader.bad) == broken
    for step, whole in enumerate(want):
        for r, rank in enumerate(ranks):
            rows = [r, 3 + 2 * r, 4 + 2 * r]  # one labelled row of three, two unlabelled ones of six
            part = rank[1 + step]
            assert part["ids"] == [whole.ids[row] for row in rows]
            for name in ("frames_weak", "frames_strong", "boxes", "known", "index"):
                assert torch.equal(part[name], getattr(whole, name)[rows]), name
            for name in ("sound", "sound_strong"):
                for key, value in part[name].items():
                    torch.testing.assert_close(value, getattr(whole, name)[key][rows], rtol=1e-5, atol=1e-5)


def test_a_share_is_what_must_fit(monkeypatch):
    from shared_cache import VIEW

    cpu = torch.device("cpu")
    need = cache.cache_bytes(1000, VIEW, cpu)
    monkeypatch.setattr(cache, "free_host_memory", lambda: 3 * need)
    assert cache.choose_cache(1000, VIEW, cpu, world=8) == "none"
    assert cache.choose_cache(1000, VIEW, cpu, world=8, shared=True) == "host"

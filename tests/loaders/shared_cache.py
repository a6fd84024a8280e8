"""A rank of the shared cache, for test_shared_cache.py."""

from dataclasses import replace
from itertools import islice

import torch
import torch.distributed as dist

from fastdmt_loaders import AVDataset, Plan, View, make_loader

VIEW = View(size=32, front_ends=("logmel", "waveform"), seconds=1.0)
PLAN = Plan(6, 18, 3, 6, seed=4)


def batches(root, plan, group=None, **options):
    dataset = AVDataset(root)
    loader = make_loader(dataset, dataset.ids[:6], dataset.ids[6:24], plan, VIEW, max_bad=1.0, group=group, **options)
    out = list(islice(loader, 8))
    return out, loader


def rank_main(rank, world, address, root, folder, cache):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=world)
    got, loader = batches(root, replace(PLAN, rank=rank, world=world), dist.new_group(), cache=cache, workers=1)
    held = len(loader.source.frames)
    torch.save([(held, dict(loader.bad))] + [vars(batch) for batch in got], f"{folder}/{rank}.pt")
    dist.destroy_process_group()

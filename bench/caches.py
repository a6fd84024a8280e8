"""Samples a second out of caches of a real size, on the device and on the host, with the copy and the augmentation.

    python bench/caches.py --device cuda --items 144000

A few files are decoded and repeated in memory until the cache is as large as that of a real data set, so that a batch
is gathered from all over it; fewer items where 60% of the free memory does not hold them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch

import loaders  # beside this file; it brings the package
from fastdmt_loaders import AVDataset, Plan, View
from fastdmt_loaders.dataset.dataset import Table
from fastdmt_loaders.loader import Loader
from fastdmt_loaders.sources.cache import CacheSource, cache_bytes, free_host_memory

SHARE = 0.6  # of the free memory


def repeated(table: Table, items: int) -> Table:
    """The same files again and again."""
    rows = np.arange(items) % len(table)
    columns = (column[rows] for column in (table.ids, table.frames, table.sounds, table.boxes, table.known))
    return Table(*columns, table.frame_folder, table.sound_folder)


def large_cache(dataset: AVDataset, items: int, view: View, where: str, device: torch.device) -> Loader:
    """A loader on a cache of so many items, of which a few were decoded."""
    small, plan = dataset.table(dataset.ids, view.max_boxes), Plan(0, items, 0, loaders.BATCH)
    source = CacheSource(small, plan, view, where, device)
    rows = torch.arange(items, device=source.device) % len(small)
    source.frames = source.frames[rows]
    for kept in (source.pcm, source.scale, source.sound):
        for name in list(kept):
            kept[name] = kept[name][rows]
    source.boxes, source.known, source.usable = source.boxes[rows], source.known[rows], np.ones(items, bool)
    return Loader(source, repeated(small, items), plan, view, device, torch.float32, 0.0, where)


def room(view: View, where: str, device: torch.device) -> int:
    """Items that a share of the free memory holds."""
    free = torch.cuda.mem_get_info(device)[0] if where == "device" and device.type == "cuda" else free_host_memory()
    return int(SHARE * free / cache_bytes(1, view, device))


def measured(args: argparse.Namespace, root: Path, view: View, device: torch.device) -> dict:
    dataset = AVDataset(loaders.write_files(root, args.files, "small"), annotations=None)
    found = {}
    for where in ("device", "host") if device.type == "cuda" else ("host",):
        items = min(args.items, room(view, where, device))
        loader = large_cache(dataset, items, view, where, device)
        batches = iter(loader)
        rates = [loaders.rate_of(batches, args.batches, device) for _ in range(args.rounds)]
        gib = cache_bytes(items, view, device) / 2**30
        found[where] = {"items": items, "gib": gib, "samples_per_second": rates}
        print(f"{where:<8}{items:>9,} items{gib:>8.2f} GiB{statistics.median(rates):>10.0f} samples/s", flush=True)
        loader.close()
        del loader, batches
    return found


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--files", type=int, default=512, help="that are written and decoded")
    parser.add_argument("--items", type=int, default=144_000, help="of the cache")
    parser.add_argument("--batches", type=int, default=20, help="measured in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    args = parser().parse_args(words)
    device, view = torch.device(args.device), View(args.size, ("logmel", "waveform"), augment=True)
    with tempfile.TemporaryDirectory() as folder:
        found = measured(args, Path(folder) / "files", view, device)
    if args.out:
        chip = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        settings = {"size": args.size, "batch": loaders.BATCH, "batches": args.batches, "files": args.files}
        record = {"chip": chip, "date": str(date.today()), "torch": torch.__version__, "settings": settings, **found}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"written: {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

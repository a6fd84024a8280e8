"""Samples a second of the loaders beside the loader that the field writes, on the same files, cores and workers.

    python bench/loaders.py                                 # pictures of 455 x 256, sounds of 10 s at 16 kHz
    python bench/loaders.py --sources small,720p,flac,clips # and 1280 x 720, FLAC at 44.1 kHz stereo, clips of 10 s
    python bench/loaders.py --data DATA --workers 8 --device cuda

With `--data` the files are the user's, and the last lines say what bounds the loader there and which setting to change.

Rows run in turn, `--rounds` times; the table shows medians. A sample of the naive loader is one augmented view and a
log-spectrogram. A sample of ours is both views of the frame, boxes and the log-spectrogram (`same outputs`), or that
and a second, varied sound with its own spectrogram (`both sounds`). Processor time is of one process with one thread
in torch, the naive loader's too: with more, its threads spin while they wait for each other, and that is no work.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from itertools import islice
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
for folder in ("loaders", "bench"):
    sys.path.insert(0, str(ROOT / folder))

import naive  # noqa: E402

from fastdmt_loaders import AVDataset, Plan, View, augment, make_loader  # noqa: E402
from fastdmt_loaders.dataset.stored import read_bytes  # noqa: E402
from fastdmt_loaders.decode import pictures  # noqa: E402
from fastdmt_loaders.decode.clips import is_clip  # noqa: E402
from fastdmt_loaders.decode.sound import read_sound  # noqa: E402
from fastdmt_loaders.parallel import cores, one_thread  # noqa: E402
from fastdmt_loaders.sources.cache import cache_bytes, choose_cache  # noqa: E402
from fastdmt_loaders.sources.workers import read_batch  # noqa: E402

BATCH = 64
SOURCES = ("small", "720p", "flac", "clips")
OWN = 64  # files of a kind that are made; the others are links to them


def write_files(root: Path, items: int, source: str) -> Path:
    """Photographic statistics matter to a decoder: smooth shapes, edges and grain; 16-bit noise-like sound."""
    rng = np.random.default_rng(0)
    for folder in ("frames", "audio"):
        (root / folder).mkdir(parents=True)
    width, height = (1280, 720) if source == "720p" else (455, 256)
    rate, channels, suffix = (44100, 2, "flac") if source == "flac" else (16000, 1, "wav")
    for number in range(items):
        frame = root / "frames" / f"{number:06d}.{'mp4' if source == 'clips' else 'jpg'}"
        sound = root / "audio" / f"{number:06d}.{suffix}"
        if source != "small" and number >= OWN:  # slow to make
            for path in (frame, sound):
                os.link(path.with_stem(f"{number % OWN:06d}"), path)
            continue
        coarse = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8))
        fine = Image.fromarray(rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8))
        coarse, fine = coarse.resize((width, height), Image.BICUBIC), fine.resize((width, height), Image.NEAREST)
        picture = Image.blend(coarse, fine, 0.2)
        if source == "clips":
            write_clip(frame, picture)
        else:
            picture.save(frame, quality=90)
        soundfile.write(sound, 0.1 * rng.standard_normal((10 * rate, channels)).astype(np.float32), rate)
    return root


def write_clip(path: Path, picture: Image.Image, seconds: int = 10) -> None:
    """A picture that moves, H.264, a key frame every two seconds."""
    pixels = np.asarray(picture)[:, :454]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"g": "50", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 454, 256, "yuv420p"
        for number in range(25 * seconds):
            shown = np.ascontiguousarray(np.roll(pixels, 2 * number, axis=1))
            out.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        out.mux(stream.encode(None))


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate_of(batches: Iterator, count: int, device: torch.device) -> float:
    """Samples a second over `count` batches after two that warm up."""
    for _ in islice(batches, 2):
        pass
    synchronise(device)
    start = time.perf_counter()
    for _ in islice(batches, count):
        pass
    synchronise(device)
    return count * BATCH / (time.perf_counter() - start)


def rows(dataset: AVDataset, size: int, workers: int, device: torch.device, all_of_them: bool = True) -> dict:
    """Name -> a function that starts that loader; without `all_of_them` those that depend on the files' kind."""
    plan = Plan(0, len(dataset.ids), 0, BATCH)

    def ours(audio_augment: str, **options) -> Callable[[], Iterator]:
        view = View(size, ("spectrogram",), audio_augment=audio_augment)
        return lambda: iter(
            make_loader(dataset, [], dataset.ids, plan, view, workers=workers, device=device, **options)
        )

    found = {"naive": lambda: naive.ezvsl_batches(dataset, size, BATCH, workers, device)}
    kinds = {"torch": {"kind": "torch", "cache": "none"}}
    try:
        import nvidia.dali  # noqa: F401

        kinds[f"dali-{'gpu' if device.type == 'cuda' else 'cpu'}"] = {"kind": "dali", "cache": "none"}
    except ImportError:
        print("DALI is not installed: its rows are left out", file=sys.stderr)
    if all_of_them:
        kinds["cache"] = {"cache": "host"}
        if device.type == "cuda":
            kinds["cache on device"] = {"cache": "device"}
    for name, options in kinds.items():
        found[f"{name}, same outputs"] = ours("none", **options)
        if all_of_them:
            found[f"{name}, both sounds"] = ours("full", **options)
    return found


def rates_of(dataset: AVDataset, args: argparse.Namespace, device: torch.device, everything: bool) -> dict:
    """Samples a second of every row in every round."""
    rates: dict[str, list[float]] = {}
    caches: dict[str, Iterator] = {}
    for _ in range(args.rounds):
        for name, build in rows(dataset, args.size, args.workers, device, everything).items():
            # Caches are filled once and their filling is not counted; workers start anew in every round, because
            # idle ones would go on preparing batches while another row is measured.
            if name.startswith("cache"):
                caches[name] = caches.get(name) or build()
            batches = caches.get(name) or build()
            rates.setdefault(name, []).append(rate_of(batches, args.batches, device))
            if name not in caches:
                batches.close()
    return rates


def processor_times(dataset: AVDataset, size: int, everything: bool) -> dict[str, float]:
    """Processor milliseconds a sample of each row without workers: what stays true on a machine that others use."""
    found = {}
    with one_thread():
        for name, build in rows(dataset, size, 0, torch.device("cpu"), everything).items():
            batches = build()
            next(batches)
            spent = []
            for _ in range(3):
                start = time.process_time()
                next(batches)
                spent.append(time.process_time() - start)
            found[name] = 1000 * min(spent) / BATCH
    return found


def from_disk(paths: list[Path]) -> float:
    """Seconds that reading takes when the system has forgotten the files."""
    for path in paths:
        if hasattr(os, "posix_fadvise") and path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    for path in paths:
        read_bytes(path)
    return time.perf_counter() - start


def stages(dataset: AVDataset, view: View, device: torch.device) -> dict[str, float]:
    """Milliseconds a sample of each stage alone: processor time of one thread, wall time of the disk and the GPU."""
    every = max(1, len(dataset.ids) // BATCH)
    ids = dataset.ids[::every][:BATCH]
    frames = [dataset.frame_path(id) for id in ids]
    sounds = [dataset.sound_path(id) for id in ids]
    table, plan = dataset.table(ids, 3), Plan(0, len(ids), 0, len(ids))
    times = {"reading": from_disk([*frames, *sounds])}
    with one_thread():
        decoded = [pictures.decoded(path, view.resize) for path in frames]
        raw = read_batch(table, plan, view, 0).to(device)
        draws = augment.draw(0, 0, len(ids))
        shown = augment.show(raw, draws, view)
        work: dict[str, Callable[[], object]] = {
            "decoding": lambda: [pictures.decoded(path, view.resize) for path in frames],
            "resizing": lambda: [pictures.resize(picture, view.resize) for picture in decoded],
            "sound": lambda: [read_sound(path, view.rates, view.seconds) for path in sounds],
            "augmentation": lambda: augment.show(raw, draws, view),
            "main process": lambda: augment.finish(shown, ids),
        }
        for name, function in work.items():
            clock = time.process_time
            if device.type == "cuda" and name in ("augmentation", "main process"):
                clock = time.perf_counter
            rounds = []
            for _ in range(3):
                synchronise(device)
                start = clock()
                function()
                synchronise(device)
                rounds.append(clock() - start)
            times[name] = min(rounds)
    return {name: 1000 * seconds / len(ids) for name, seconds in times.items()}


def advice(times: dict[str, float], dataset: AVDataset, view: View, workers: int, device: torch.device) -> list[str]:
    """What bounds the loader on these files, and the one setting to change."""
    in_workers = ["decoding", "resizing", "sound"] + ["augmentation"] * (device.type == "cpu")
    in_main = ["main process"] + ["augmentation"] * (device.type != "cpu")
    hands = max(1, min(workers, cores()))
    limits = {
        "reading": 1000 * max(1, workers) / times["reading"],
        "workers": 1000 * hands / sum(times[name] for name in in_workers),
        "main process": 1000 / sum(times[name] for name in in_main),
    }
    bound = min(limits, key=limits.__getitem__)
    stage = max(in_workers, key=times.__getitem__) if bound == "workers" else bound
    lines = ["samples a second at most: " + ", ".join(f"{name} {limit:,.0f}" for name, limit in limits.items())]
    need = cache_bytes(len(dataset.ids), view, device)
    clips = any(is_clip(dataset.frame_path(id)) for id in dataset.ids[:BATCH])
    if bound != "main process" and choose_cache(len(dataset.ids), view, device) != "none":
        change = f"--cache auto keeps these {len(dataset.ids):,} items decoded in {need / 2**30:.1f} GiB: nothing else"
    elif bound == "workers" and workers < cores():
        change = f"--workers {cores()}: there are so many cores"
    elif stage == "reading":
        change = f"--workers {2 * max(1, workers)}: the disk answers more readers at a time; or a faster disk"
    elif stage == "decoding" and pictures.simplejpeg is None and not clips:
        change = "pip install 'fastdmt[fast]': JPEG by simplejpeg"
    elif stage in ("decoding", "resizing", "sound"):
        change = f"fastdmt data prepare SOURCE OUT --side 256 --rate {max(view.rates)}: files that read fast"
    elif stage == "augmentation":
        change = "--audio-augment none, or a GPU, which augments in no time"
    else:
        change = "--gpus or --workers-cpu: a process more; one process can take no more than this"
    return [*lines, f"bound by {stage}; change: {change}"]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a data set in the field's layout; without it files are written")
    parser.add_argument("--sources", default="small", help=f"kinds of files to write: {','.join(SOURCES)}")
    parser.add_argument("--items", type=int, default=1024, help="files to write of each kind")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, default=12, help="measured in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processor-only", action="store_true", help="leave out the rates: for machines in use")
    parser.add_argument("--out", type=Path, help="JSON; default bench/results/loaders-<processor>-<date>.json")
    return parser


def main() -> None:
    args = parser().parse_args()
    device = torch.device(args.device)
    if args.processor_only:
        args.rounds = 0
    wanted = ["data"] if args.data else args.sources.split(",")
    if unknown := set(wanted) - {"data", *SOURCES}:
        parser().error(f"unknown source {unknown.pop()!r}; use {', '.join(SOURCES)}")
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    found = {}
    print(f"{chip}, {cores()} CPU cores, {args.workers} workers, {args.size} px, batch {BATCH}, {args.rounds} rounds")
    for source in wanted:
        with tempfile.TemporaryDirectory() as folder:
            root = args.data or write_files(Path(folder) / "set", args.items, source)
            dataset = AVDataset(root, annotations=None)
            if len(dataset.ids) < BATCH:
                parser().error(f"{root}: {len(dataset.ids)} items with a frame and a sound; {BATCH} are needed")
            everything, view = source in ("small", "data"), View(args.size, ("spectrogram",), audio_augment="none")
            rates = rates_of(dataset, args, device, everything)
            spent, times = processor_times(dataset, args.size, everything), stages(dataset, view, device)
            found[source] = {"samples_per_second": rates, "processor_ms_per_sample": spent, "stage_ms": times}
            table(source, rates, spent, times)
            if args.data:
                print("\n" + "\n".join(advice(times, dataset, view, args.workers, device)))
    out = args.out or ROOT / "bench" / "results" / f"loaders-{chip.replace(' ', '-')}-{date.today()}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "chip": chip,
        "cores": cores(),
        "workers": args.workers,
        "device": args.device,
        "load": os.getloadavg(),
        "simplejpeg": pictures.simplejpeg is not None,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "settings": {"size": args.size, "batch": BATCH, "batches": args.batches, "items": args.items},
        "sources": found,
    }
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {out}")


def table(source: str, rates: dict[str, list[float]], spent: dict[str, float], times: dict[str, float]) -> None:
    print(f"\n{source:28}{'samples/s':>10}{'x naive':>9}{'ms alone':>10}{'x naive':>9}   rounds")
    for name, alone in spent.items():
        values = rates.get(name)
        middle = statistics.median(values) if values else float("nan")
        factor = middle / statistics.median(rates["naive"]) if values else float("nan")
        rounds = ", ".join(f"{value:.0f}" for value in values or ())
        print(f"{name:28}{middle:10.0f}{factor:9.2f}{alone:10.2f}{spent['naive'] / alone:9.2f}   {rounds}")
    print("milliseconds a sample: " + ", ".join(f"{name} {value:.2f}" for name, value in times.items()))


if __name__ == "__main__":
    main()

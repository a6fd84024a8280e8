"""Samples a second of the loaders beside the loader that the field writes, on the same files, cores and workers.

    python bench/loaders.py                      # writes its own files: 1,024 pictures of 455 x 256 and sounds of 10 s
    python bench/loaders.py --root DATA --workers 8 --device cuda

Rows run in turn, `--rounds` times; the table shows medians. A sample of the naive loader is one augmented view and a
log-spectrogram. A sample of ours is both views of the frame, boxes and the log-spectrogram (`same outputs`), or that
and a second, varied sound with its own spectrogram (`both sounds`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
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
import scipy.signal
import soundfile
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "loaders"))

from fastdmt_loaders import AVDataset, Plan, View, augment, make_loader  # noqa: E402
from fastdmt_loaders.decode.pictures import read_frame  # noqa: E402
from fastdmt_loaders.decode.sound import read_sound  # noqa: E402
from fastdmt_loaders.frontends import spectrogram  # noqa: E402
from fastdmt_loaders.sources.workers import read_batch  # noqa: E402

BATCH = 64


def write_files(root: Path, items: int, rate: int) -> Path:
    """Photographic statistics matter to a JPEG decoder: smooth shapes, edges and grain; 16-bit noise-like sound."""
    rng = np.random.default_rng(0)
    for folder in ("frames", "audio"):
        (root / folder).mkdir(parents=True)
    for number in range(items):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)).resize((455, 256), Image.BICUBIC)
        fine = Image.fromarray(rng.integers(0, 256, (64, 114, 3), dtype=np.uint8)).resize((455, 256), Image.NEAREST)
        Image.blend(coarse, fine, 0.2).save(root / "frames" / f"{number:06d}.jpg", quality=90)
        pcm = 0.1 * rng.standard_normal(10 * rate).astype(np.float32)
        soundfile.write(root / "audio" / f"{number:06d}.wav", pcm, rate)
    return root


class NaiveSet(torch.utils.data.Dataset):
    """One item at a time, as public code of the field does: PIL for frames, PyAV for sound, SciPy's spectrogram."""

    def __init__(self, dataset: AVDataset, size: int):
        self.items = [(str(dataset.frame_path(id)), str(dataset.sound_path(id))) for id in dataset.ids]
        self.size, self.larger = size, round(1.1 * size)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        frame, sound = self.items[index]
        image = Image.open(frame).convert("RGB").resize((self.larger, self.larger), Image.Resampling.BICUBIC)
        left, top = (random.randint(0, self.larger - self.size) for _ in range(2))
        image = image.crop((left, top, left + self.size, top + self.size))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        tensor = (tensor - torch.tensor(augment.MEAN)[:, None, None]) / torch.tensor(augment.STD)[:, None, None]
        return tensor, torch.from_numpy(self.spectrogram(sound)), index

    @staticmethod
    def spectrogram(path: str, rate: int = 16000, seconds: float = 3.0) -> np.ndarray:
        with av.open(path) as container:
            stream = container.streams.audio[0]
            length = float(stream.duration * stream.time_base)
            start = max(0.0, length / 2 - seconds / 2)
            container.seek(int(start / stream.time_base), stream=stream)
            resampler = av.AudioResampler(format="s16p", layout="mono", rate=rate)
            chunks, held = [], 0
            for frame in container.decode(stream):
                for out in resampler.resample(frame):
                    chunks.append(out.to_ndarray()[0])
                    held += out.samples
                if held >= seconds * rate:
                    break
        pcm = np.concatenate(chunks)[: int(seconds * rate)].astype(np.float32) / 32768
        if len(pcm) < seconds * rate:
            pcm = np.tile(pcm, -(-int(seconds * rate) // len(pcm)))[: int(seconds * rate)]
        _, _, density = scipy.signal.spectrogram(pcm, rate, nperseg=512, noverlap=274)
        return (np.log(density + 1e-7) / 12).astype(np.float32)[None]


def naive(dataset: AVDataset, size: int, workers: int, device: torch.device) -> Iterator:
    loader = torch.utils.data.DataLoader(
        NaiveSet(dataset, size),
        BATCH,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        pin_memory=device.type == "cuda",
    )
    while True:
        for frames, sound, _ in loader:
            yield frames.to(device, non_blocking=True), sound.to(device, non_blocking=True)


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


def processor_times(dataset: AVDataset, size: int) -> dict[str, float]:
    """Processor milliseconds a sample of each row without workers: what stays true on a machine that others use."""
    cpu, found = torch.device("cpu"), {}
    for name, build in rows(dataset, size, 0, cpu).items():
        batches = build()
        next(batches)
        spent = []
        for _ in range(3):
            start = time.process_time()
            next(batches)
            spent.append(time.process_time() - start)
        found[name] = 1000 * statistics.median(spent) / BATCH
    return found


def stages(dataset: AVDataset, view: View, device: torch.device) -> dict[str, float]:
    """Milliseconds a sample of each stage alone: processor time of one thread, or wall time beside a GPU."""
    ids = dataset.ids[:BATCH]
    frames = [str(dataset.frame_path(id)) for id in ids]
    sounds = [str(dataset.sound_path(id)) for id in ids]
    plan = Plan(0, BATCH, 0, BATCH)
    raw = read_batch(dataset.table(ids, 3), plan, view, 0).to(device)
    quiet = View(view.size, view.front_ends, augment=True, audio_augment="none")
    draws = augment.draw(0, 0, BATCH)
    silent = raw.pcm[16000]

    def each(function: Callable, values: list) -> Callable[[], None]:
        return lambda: [function(value) for value in values]

    work = {
        "frame: read, decode, resize (PIL)": each(lambda path: read_frame(path, view.resize), frames),
        "sound: read, mono, resample": each(lambda path: read_sound(path, view.rates), sounds),
        "spectrogram": lambda: spectrogram(silent),
        "both views of the frame and spectrogram": lambda: augment.apply(raw, draws, quiet, ids),
        "the same and varied sound": lambda: augment.apply(raw, draws, view, ids),
    }
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, function in work.items():
        function()
        rounds = []
        for _ in range(3):
            synchronise(device)
            start = clock()
            function()
            synchronise(device)
            rounds.append(clock() - start)
        times[name] = 1000 * statistics.median(rounds) / BATCH
    torch.set_num_threads(threads)
    return times


def rows(dataset: AVDataset, size: int, workers: int, device: torch.device) -> dict[str, Callable[[], Iterator]]:
    plan = Plan(0, len(dataset.ids), 0, BATCH)

    def ours(audio_augment: str, **options) -> Callable[[], Iterator]:
        view = View(size, ("spectrogram",), audio_augment=audio_augment)
        return lambda: iter(
            make_loader(dataset, [], dataset.ids, plan, view, workers=workers, device=device, **options)
        )

    found = {"naive": lambda: naive(dataset, size, workers, device)}
    kinds = {"torch": {"kind": "torch", "cache": "none"}, "cache": {"cache": "host"}}
    try:
        import nvidia.dali  # noqa: F401

        kinds[f"dali-{'gpu' if device.type == 'cuda' else 'cpu'}"] = {"kind": "dali", "cache": "none"}
    except ImportError:
        print("DALI is not installed: its rows are left out", file=sys.stderr)
    if device.type == "cuda":
        kinds["cache on device"] = {"cache": "device"}
    for name, options in kinds.items():
        found[f"{name}, same outputs"] = ours("none", **options)
        found[f"{name}, both sounds"] = ours("full", **options)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a data set in the field's layout; without it files are written")
    parser.add_argument("--items", type=int, default=1024, help="files to write")
    parser.add_argument("--sound-rate", type=int, default=16000, help="of the files to write")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, default=12, help="measured in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processor-only", action="store_true", help="leave out the rates: for machines in use")
    parser.add_argument("--out", type=Path, help="JSON; default bench/results/loaders-<processor>-<date>.json")
    args = parser.parse_args()
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        root = args.root or write_files(Path(folder) / "set", args.items, args.sound_rate)
        dataset = AVDataset(root, annotations=None)
        spent = processor_times(dataset, args.size)
        if args.processor_only:
            args.rounds = 0
        made = {name: build() for name, build in rows(dataset, args.size, args.workers, device).items() if args.rounds}
        rates: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(args.rounds):
            for name, build in rows(dataset, args.size, args.workers, device).items():
                # Caches are filled once and their filling is not counted; workers start anew in every round, because
                # idle ones would go on preparing batches while another row is measured.
                batches = made[name] if name.startswith("cache") else build()
                rates[name].append(rate_of(batches, args.batches, device))
                if not name.startswith("cache"):
                    batches.close()
        view = View(args.size, ("spectrogram",))
        shares = stages(dataset, view, device)
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    report(rates, spent, shares, args, chip)


def report(rates: dict[str, list[float]], spent: dict[str, float], shares: dict[str, float], args, chip: str) -> None:
    if rates:
        base = statistics.median(rates["naive"])
        print(f"\n{chip}, {args.workers} workers, {args.size} px, batch {BATCH}, median of {args.rounds} rounds")
        print(f"{'loader':34}{'samples/s':>10}{'x naive':>9}   rounds")
        for name, values in rates.items():
            middle = statistics.median(values)
            print(f"{name:34}{middle:10.0f}{middle / base:9.2f}   {', '.join(f'{v:.0f}' for v in values)}")
    print(f"\n{'processor time, no workers':34}{'ms/sample':>10}{'naive /':>9}")
    for name, value in spent.items():
        print(f"{name:34}{value:10.2f}{spent['naive'] / value:9.2f}")
    print("\nmilliseconds a sample, one thread:")
    for name, value in shares.items():
        print(f"  {name:44}{value:7.2f}")
    out = args.out or ROOT / "bench" / "results" / f"loaders-{chip.replace(' ', '-')}-{date.today()}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "chip": chip,
        "cores": args.workers,
        "device": args.device,
        "load": os.getloadavg(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "settings": {
            "size": args.size,
            "batch": BATCH,
            "batches": args.batches,
            "items": args.items,
            "root": bool(args.root),
        },
        "samples_per_second": rates,
        "processor_milliseconds_per_sample": spent,
        "milliseconds_per_sample": shares,
    }
    out.write_text(json.dumps(record, indent=1))
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    main()

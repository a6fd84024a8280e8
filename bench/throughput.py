"""Training samples a second: the field's way, a careful user's, FastDMT, and FastDMT with one thing taken away.

    python bench/throughput.py --quick                     # the demo's networks, minutes on two cores
    python bench/throughput.py --device cuda --preset vggsound-10k --data DATA --price 2.5

An unlabelled sample is two teachers' forward passes on the weak view, and two students' forward and backward passes
on the strong one. Variants run in turn, `--rounds` times; the table shows medians and the spread between quartiles.
`--stage compute` trains on one cached batch, `data` only loads, `e2e` does both. In the rows `half kept` every second
unlabelled clip is accepted, first as masked rows, then packed into half as many (--pack-accepted).

    python bench/throughput.py --gpus 1,2,4,8              # or --workers-cpu 1,2: the same batch in every process
    python bench/throughput.py --gpus 1,2,4,8 --strong     # the same batch shared by all of them
    python bench/throughput.py --host --against COMMIT     # what a step costs the processor alone: see host.py
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import date
from itertools import repeat
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
for folder in ("", "kernels", "loaders", "bench"):
    sys.path.insert(0, str(ROOT / folder))

import naive  # noqa: E402

import fastdmt_kernels  # noqa: E402
from fastdmt.algorithm import reference  # noqa: E402
from fastdmt.algorithm.pseudo_labels import DualMeanTeacher  # noqa: E402
from fastdmt.config import TrainConfig  # noqa: E402
from fastdmt.presets import preset  # noqa: E402
from fastdmt.training.schedule import UNBIASED  # noqa: E402
from fastdmt.training.step_graph import WARM_UP  # noqa: E402
from fastdmt.training.trainer import Trainer  # noqa: E402
from fastdmt_kernels import Consensus  # noqa: E402
from fastdmt_loaders.parallel import cores  # noqa: E402

# Dense bf16 TFLOP/s of the data sheets.
PEAKS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "B200": 2250, "RTX 4090": 165}
GOALS = {
    # MFU: what bench/ledger.py derives for the compiled step on an H100.
    "cuda": {"e2e / eager": 5.0, "e2e / careful": 2.0, "e2e / compute": 0.95, "mfu": 0.26, "wait": 0.02},
    "cpu": {"e2e / eager": 2.5, "decoding / eager": 1.5},
}
DECODING = {"loader": "torch", "cache": "none"}
AHEAD = 2 * cores() + 1  # batches that workers prepare before the first is asked for: not counted


@dataclasses.dataclass
class Variant:
    """One row: a trainer of its own, a step, and the batches it draws from."""

    name: str
    trainer: Trainer
    step: Callable[[Iterator], None]
    kernels: str = "auto"
    overlap: bool = True
    rival: bool = False

    def __post_init__(self) -> None:
        (self.loader,) = self.trainer.begin(UNBIASED)
        self.cached = next(self.open())
        self.seconds: dict[str, list[float]] = {}
        self.wait = math.nan

    def open(self) -> Iterator:
        """Batches from the beginning; what a cache holds is not read again."""
        if self.rival:  # the loader that the field writes, on the same clips
            data, cfg, plan = self.trainer.data, self.trainer.cfg, self.loader.plan
            rows = plan.batch_labelled, plan.batch_unlabelled
            workers = cores() if cfg.data.workers < 0 else cfg.data.workers
            return naive.pair_batches(
                data.dataset, data.labelled, data.unlabelled, rows, self.loader.view, workers, self.trainer.device
            )
        return iter(self.loader) if self.overlap else map(self.loader._finish, self.loader.source.batches(0))

    def time(self, stage: str, steps: int) -> None:
        """Seconds a step, one more measurement.

        Workers end with it: idle ones would prepare batches while another row is measured, and give them away after.
        """
        fastdmt_kernels.use(self.kernels)
        device = self.trainer.device
        batches = repeat(self.cached) if stage == "compute" else self.open()
        act = (lambda: next(batches)) if stage == "data" else (lambda: self.step(batches))
        recording = WARM_UP + 1 if self.trainer.graph else 1
        for _ in range(recording if stage == "compute" else AHEAD):
            act()
        self.trainer.clock.read()
        synchronise(device)
        began = time.perf_counter()
        for _ in range(steps):
            act()
        synchronise(device)
        self.seconds.setdefault(stage, []).append((time.perf_counter() - began) / steps)
        laps, wall = self.trainer.clock.read()
        if stage == "e2e" and "data" in laps:
            self.wait = laps["data"] / (1e3 * wall)
        self.trainer.bad.forget()


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def trained(cfg: TrainConfig, folder: Path, name: str, data: dict, scale: dict, **own: object) -> Trainer:
    cfg = dataclasses.replace(
        cfg,
        run=folder / name.replace(" ", "-"),
        data=dataclasses.replace(cfg.data, **data),
        scale=dataclasses.replace(cfg.scale, **scale),
    )
    return Trainer(cfg, Console(quiet=True), **own)


def fast(cfg: TrainConfig, folder: Path, name: str, data: dict | None = None, **scale: object) -> Variant:
    """FastDMT's own step."""
    kernels, overlap = scale.pop("kernels", "auto"), scale.pop("overlap", True)
    own = {key: scale.pop(key, None) for key in ("algorithm", "recorder")}
    trainer = trained(cfg, folder, name, data or {}, scale, **own)
    return Variant(name, trainer, lambda batches: trainer.step([batches]), kernels, overlap)


class EverySecond(DualMeanTeacher):
    """The same step when the teachers accept every second clip, whatever they see."""

    def pseudo_labels(self, *args) -> list[Consensus]:
        label = super().pseudo_labels(*args)[0]
        keep = torch.arange(len(label.keep), device=label.keep.device) % 2 == 0
        return [label._replace(keep=keep)] * 2


def plain(cfg: TrainConfig, folder: Path, name: str, careful: bool) -> Variant:
    """The page of reference.py with the loader that the field writes, which decodes every item every time.

    `careful`: channels_last, the fused optimizer, and bf16 where there is a GPU.
    """
    scale = {"compile": "none", "amp": "auto" if careful else "none", "tf32": careful}
    trainer = trained(cfg, folder, name, DECODING, scale)
    students, teachers = trainer.model.students, trainer.model.teachers
    if not careful:
        students.to(memory_format=torch.contiguous_format)
        teachers.to(memory_format=torch.contiguous_format)
    students.train()
    parameters = [p for p in students.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=cfg.optim.lr, **({"fused": True} if careful else {"foreach": False}))
    size = (cfg.data.size, cfg.data.size)

    def step(batches: Iterator) -> None:
        batch = next(batches)
        if not careful:
            batch = dataclasses.replace(
                batch, frames_weak=batch.frames_weak.contiguous(), frames_strong=batch.frames_strong.contiguous()
            )
        with trainer.autocast() if careful else nullcontext():
            reference.train_step(
                students, teachers, optimizer, batch, cfg.pseudo, size, trainer.data.dataset.min_agree, 0.999
            )

    return Variant(name, trainer, step, rival=True)


def variants(cfg: TrainConfig, folder: Path, device: str) -> list[Variant]:
    compiled = {"compile": "inductor"} if device == "cuda" else {}
    rows = [
        plain(cfg, folder, "eager", careful=False),
        plain(cfg, folder, "careful", careful=True),
        fast(cfg, folder, "FastDMT", **compiled),
        fast(cfg, folder, "decoding every time", DECODING, **compiled),
        fast(cfg, folder, "without kernels", kernels="reference", **compiled),
    ]
    rows += [
        fast(cfg, folder, "half kept", algorithm=EverySecond(cfg.pseudo), **compiled),
        fast(cfg, folder, "half kept, packed", algorithm=EverySecond(cfg.pseudo), pack_accepted=0.5, **compiled),
    ]
    if device == "cuda":
        rows += [
            fast(cfg, folder, "without overlap", overlap=False, **compiled),
            fast(cfg, folder, "one CUDA graph", compile="graphs"),
            fast(cfg, folder, "without compile", compile="none"),
            fast(cfg, folder, "without AMP", amp="none", **compiled),
            fast(cfg, folder, "DALI, no cache", {"loader": "dali", "cache": "none"}, **compiled),
        ]
    return rows


def flops(variant: Variant) -> int:
    """Arithmetic of one step, counted operator by operator while the plain step runs once."""
    with FlopCounterMode(display=False) as counter:
        variant.step(repeat(variant.cached))
    return counter.get_total_flops()


def peak(device: torch.device) -> tuple[float, str]:
    """FLOP/s of the device: its data sheet's bf16, or what a matrix product reaches here."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for key, tera in PEAKS.items():
            if key in name:
                return tera * 1e12, "data sheet, bf16 dense"
    n = 1024 if device.type == "cpu" else 8192
    a = torch.randn(n, n, device=device)
    times = []
    for _ in range(5):
        synchronise(device)
        began = time.perf_counter()
        a @ a
        synchronise(device)
        times.append(time.perf_counter() - began)
    return 2 * n**3 / min(times), f"float32 product of {n} x {n}, measured"


def chart(rows: list[tuple[str, float]], title: str, path: Path) -> None:
    """Horizontal bars."""
    font, width, height = ImageFont.load_default(15), 820, 30
    image = Image.new("RGB", (width, height * (len(rows) + 1) + 20), "white")
    draw = ImageDraw.Draw(image)
    draw.text((10, 8), title, "black", font)
    top = max(value for _, value in rows)
    for i, (name, value) in enumerate(rows, 1):
        y = height * i + 8
        draw.rectangle((190, y, 190 + 520 * value / top, y + 20), "#2a78b8" if name == "FastDMT" else "#b8c4cc")
        draw.text((10, y), name, "black", font)
        draw.text((196 + 520 * value / top, y), f"{value:,.0f}", "black", font)
    image.save(path)


def profile(row: Variant, path: Path, steps: int = 3) -> None:
    """Where the time of a step goes: a table by operator, and a trace beside it for chrome://tracing or Perfetto."""
    device = row.trainer.device.type
    kinds = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * (device == "cuda")
    batches = row.open()
    row.step(batches)  # workers begin
    with torch.profiler.profile(activities=kinds) as found:
        for _ in range(steps):
            row.step(batches)
        synchronise(row.trainer.device)
    table = found.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=30, max_name_column_width=60)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{row.name}, {steps} steps\n{table}\n", encoding="utf-8")
    found.export_chrome_trace(str(path.with_suffix(".trace.json")))
    print(f"written: {path}, {path.with_suffix('.trace.json')}")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default=None, help="default: demo on the CPU, vggsound-10k's networks on a GPU")
    parser.add_argument("--data", type=Path, help="data folder; default: the demo's files, made for this")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--stage", choices=("compute", "data", "e2e"), action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10, help="steps a measurement")
    parser.add_argument("--batch", type=int, help="clips a step; default: the preset's")
    parser.add_argument("--gpus", type=counts, default=[], help="numbers of GPUs, 1,2,4,8: the scaling table alone")
    parser.add_argument("--workers-cpu", type=counts, default=[], help="the same with processes on the CPU, 1,2")
    parser.add_argument("--strong", action="store_true", help="with --gpus, --workers-cpu: one batch shared by all")
    parser.add_argument("--clips", type=int, default=1600, help="of the files made for this")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 5 steps, on 320 clips")
    parser.add_argument("--host", action="store_true", help="the host's share of a step, on networks of no size")
    parser.add_argument("--against", metavar="COMMIT", help="with --host: measured in turn with this commit")
    parser.add_argument("--price", type=float, help="of an hour of the device")
    parser.add_argument(
        "--profile", type=Path, help="text file for a table of FastDMT's operators; a trace goes beside"
    )
    parser.add_argument("--out", type=Path, help="JSON; default: bench/results/throughput-<machine>-<date>.json")
    return parser


def main() -> None:
    args = parser().parse_args()
    if args.quick:
        args.rounds, args.steps, args.clips = 3, 5, 320
    if args.host:
        import host

        found = host.compare(args.preset or "vggsound-144k", args.against, args.rounds)
        write(args.out, "host", torch.device("cpu"), found)
        return
    stages = args.stage or ["compute", "data", "e2e"]
    kind = torch.device(args.device).type
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        base, demo = preset(args.preset or ("demo" if kind == "cpu" else "vggsound-10k")), preset("demo")
        data = dataclasses.replace(base.data, root=args.data or folder / "demo")
        if args.data is None:
            data = dataclasses.replace(data, annotations=demo.data.annotations)
            make_files(data.root, args.clips)
        optim = dataclasses.replace(base.optim, batch=args.batch or base.optim.batch)
        cfg = dataclasses.replace(base, device=args.device, data=data, optim=optim)
        if args.gpus or args.workers_cpu:
            cfg = dataclasses.replace(cfg, run=folder / "scaling", device="cuda" if args.gpus else "cpu")
            import scaling

            table = scaling.measure(cfg, args.gpus or args.workers_cpu, args.strong, args.rounds, args.steps)
            scaling.show(table)
            record = {"preset": cfg.preset, "batch": cfg.optim.batch, "strong": args.strong, "samples_per_s": table}
            write(args.out, "scaling", torch.device(cfg.device), record)
            return
        rows = variants(cfg, folder, kind)
        device = rows[0].trainer.device
        work, (limit, limit_from) = flops(rows[0]), peak(device)
        for row in rows:  # compilation, caches, allocator
            row.time("compute", 1)
            row.time("e2e", 1)
            row.seconds.clear()
        for number in range(args.rounds):
            order = rows if number % 2 == 0 else rows[::-1]
            for stage in stages:
                for row in order:
                    row.time(stage, args.steps)
        report(args, cfg, rows, stages, work, limit, limit_from, device)
        if args.profile:
            profile(next(row for row in rows if row.name == "FastDMT"), args.profile)
        for row in rows:
            row.loader.close()


def counts(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def make_files(root: Path, clips: int) -> None:
    from fastdmt_loaders.tools.demo import make_demo

    make_demo(root, clips=clips, labelled=min(96, clips // 3))


def report(args, cfg, rows, stages, work, limit, limit_from, device) -> None:
    """Table, goals, JSON and chart."""
    unlabelled = cfg.batch_unlabelled
    results = {}
    for row in rows:
        entry = {}
        for stage in stages:
            seconds = sorted(row.seconds[stage])
            quarter = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
            entry[stage] = {"samples_per_s": unlabelled / statistics.median(seconds), "seconds": seconds}
            entry[stage]["spread"] = (quarter[2] - quarter[0]) / statistics.median(seconds)
        if "compute" in entry and "packed" not in row.name:  # which does less work a step than was counted
            entry["mfu"] = work / statistics.median(row.seconds["compute"]) / limit
        if not math.isnan(row.wait):
            entry["wait"] = row.wait
        results[row.name] = entry
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    machine = platform_name(device)
    print(f"{cfg.preset}, {unlabelled} unlabelled + {cfg.batch_labelled} labelled clips a step, {machine}")
    print(f"{work / 1e9:,.1f} GFLOP a step; peak {limit / 1e12:,.2f} TFLOP/s ({limit_from})")
    head = "".join(f"{stage:>10}" for stage in stages)
    print(f"\n{'unlabelled samples/s':<22}{head}    spread      MFU     wait")
    for name, entry in results.items():
        cells = "".join(f"{entry[stage]['samples_per_s']:>10,.1f}" for stage in stages)
        spread = max(entry[stage]["spread"] for stage in stages)
        wait = f"{entry['wait']:>8.1%}" if "wait" in entry else "       -"
        mfu = f"{entry['mfu']:>9.1%}" if "mfu" in entry else "        -"
        print(f"{name:<22}{cells}{spread:>10.0%}{mfu} {wait}")
    ours = results["FastDMT"]
    measured: dict[str, float] = {}
    if "e2e" in stages:
        speed = ours["e2e"]["samples_per_s"]
        measured["e2e / eager"] = speed / results["eager"]["e2e"]["samples_per_s"]
        decoding = results["decoding every time"]["e2e"]["samples_per_s"]
        measured["decoding / eager"] = decoding / results["eager"]["e2e"]["samples_per_s"]
        measured["e2e / careful"] = speed / results["careful"]["e2e"]["samples_per_s"]
        if "wait" in ours:
            measured["wait"] = ours["wait"]
        if "compute" in stages:
            measured["e2e / compute"] = speed / ours["compute"]["samples_per_s"]
        if args.price:
            print(f"\na million samples: {args.price * 1e6 / speed / 3600:,.2f} at {args.price} an hour")
        half, packed = (results[name]["e2e"]["samples_per_s"] for name in ("half kept", "half kept, packed"))
        measured["packed / masked"] = packed / half
        print(f"\npacked / masked rows, half of the clips kept: {measured['packed / masked']:.2f}")
    if "compute" in stages:
        measured["mfu"] = ours["mfu"]
    print(f"\n{'FastDMT':<16}{'measured':>10}{'goal':>8}")
    for goal_of in ("cpu", "cuda"):
        for name, goal in GOALS[goal_of].items():
            value = f"{measured[name]:.2f}" if goal_of == device.type and name in measured else "unmeasured"
            print(f"{name + ' (' + goal_of + ')':<20}{value:>12}{goal:>8}")
    record = {
        "threads": torch.get_num_threads(),
        "preset": cfg.preset,
        "batch": [cfg.batch_labelled, unlabelled],
        "rounds": args.rounds,
        "steps": args.steps,
        "gflop_a_step": work / 1e9,
        "peak_flops": limit,
        "memory_gib": memory,
        "results": results,
        "measured": measured,
        "goals": GOALS[device.type],
    }
    out = write(args.out, "throughput", device, record)
    stage = "e2e" if "e2e" in stages else stages[-1]
    bars = [(name, entry[stage]["samples_per_s"]) for name, entry in results.items()]
    chart(bars, f"Unlabelled samples a second, {stage}: {machine}", out.with_suffix(".png"))
    print(f"written: {out.with_suffix('.png')}")


def write(out: Path | None, kind: str, device: torch.device, record: dict) -> Path:
    """The JSON of a measurement, with its machine and date."""
    machine = platform_name(device)
    slug = "".join(c if c.isalnum() else "-" for c in machine.lower()).strip("-")
    out = out or ROOT / "bench" / "results" / f"{kind}-{slug}-{date.today()}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine, "torch": torch.__version__, "date": str(date.today()), **record}
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten: {out}")
    return out


def platform_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} threads of {platform.machine()}"


if __name__ == "__main__":
    main()

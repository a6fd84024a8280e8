"""Everything that only a GPU can prove, in stages in the order of their worth: half an hour of a GPU is dear.

    bench/on_gpu.sh [--minutes 30] [--stage NAME ...] [--tune] [--dry]

A stage has a time limit and a JSON of its own, written when it ends; a stage that is red is recorded and the others
still run. The exit code is 1 when any of them was red, or was cut by its own limit. `--minutes` ends everything
cleanly: what did not begin is recorded as not run. `--tune` first searches launch configurations for this GPU and keeps
them. `--dry` runs the same commands at tiny sizes on the CPU and measures nothing.

Below `--out` (bench/results/<gpu>-<date>): STAGE.json, STAGE.log, what the stage's command wrote, clocks.csv (clocks,
power, temperature, every second), and summary.json.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GRACE_S = 15  # from SIGTERM to SIGKILL
LEAST_S = 20  # a stage that has less left does not begin
TAIL = 15  # lines of a red stage's log in its record
SMI = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "utilization.gpu", "memory.used")


@dataclass(frozen=True)
class Stage:
    """One proof.

    Args:
        name: also of its files.
        minutes: its limit.
        commands: words after `python`; {out} is the folder of the results, {gpus} the numbers of GPUs to scale over.
        small: the same commands for `--dry`.
    """

    name: str
    minutes: float
    commands: tuple[str, ...]
    small: tuple[str, ...]


STAGES = (
    Stage(
        "tests",
        8,
        (
            "-m pytest tests/kernels tests/fastdmt tests/loaders -m gpu -q --junitxml {out}/tests.xml",
            "-m pytest tests/kernels -q --deselect tests/kernels/test_aot.py --junitxml {out}/kernel-tests.xml",
        ),
        ("-m pytest tests/kernels/test_on_gpu.py tests/fastdmt/training/test_precision.py -m gpu -q",),
    ),
    Stage(
        "step",
        12,
        (
            "bench/steps.py matrix --device cuda --rows 128,64,256,16 --amp bf16,none --compile none,inductor,graphs "
            "--out {out}/step-times.json",
        ),
        (
            "bench/steps.py matrix --device cpu --preset demo --clips 48 --size 32 --rows 8 --amp bf16,none "
            "--compile none,aot_eager --rounds 1 --steps 1 --out {out}/step-times.json",
        ),
    ),
    Stage(
        "kernels",
        6,
        ("bench/kernels.py {tune} --out {out}/kernel-times.json",),
        ("bench/kernels.py --dry-run --quick --rounds 2 --op similarity_map ema --out {out}/kernel-times.json",),
    ),
    Stage(
        "parity",
        6,
        ("bench/steps.py parity --device cuda --steps 200 --out {out}/losses.json",),
        (
            "bench/steps.py parity --device cpu --preset demo --clips 48 --size 32 --rows 8 --steps 3 "
            "--out {out}/losses.json",
        ),
    ),
    Stage(
        "end-to-end",
        10,
        ("bench/throughput.py --device cuda --out {out}/throughput.json",),
        (
            "bench/throughput.py --device cpu --preset demo --clips 48 --batch 8 --rounds 2 --steps 1 "
            "--out {out}/throughput.json",
        ),
    ),
    Stage(
        "caches",
        5,
        ("bench/caches.py --device cuda --items 144000 --out {out}/cache-rates.json",),
        (
            "bench/caches.py --device cpu --size 32 --files 16 --items 128 --batches 1 --rounds 1 "
            "--out {out}/cache-rates.json",
        ),
    ),
    Stage(  # nvJPEG for pictures, NVDEC for clips
        "decoders",
        6,
        ("bench/loaders.py --device cuda --sources 720p,clips --items 512 --out {out}/decoder-rates.json",),
        (
            "bench/loaders.py --device cpu --sources small --items 64 --size 32 --batches 1 --rounds 1 --workers 1 "
            "--out {out}/decoder-rates.json",
        ),
    ),
    Stage(
        "scaling",
        10,
        (
            "bench/throughput.py --gpus {gpus} --out {out}/scaling-weak.json",
            "bench/throughput.py --gpus {gpus} --strong --out {out}/scaling-strong.json",
        ),
        (
            "bench/throughput.py --workers-cpu 1,2 --strong --preset demo --clips 48 --batch 12 --rounds 1 --steps 1 "
            "--out {out}/scaling-strong.json",
        ),
    ),
    Stage(
        "resume",
        6,
        ("bench/steps.py resume --device cuda --steps 60 --out {out}/resumed.json",),
        (
            "bench/steps.py resume --device cpu --preset demo --clips 48 --size 32 --rows 8 --steps 6 "
            "--out {out}/resumed.json",
        ),
    ),
    Stage(
        "profile",
        4,
        ("bench/steps.py profile --device cuda --out {out}/profile.txt",),
        ("bench/steps.py profile --device cpu --preset demo --clips 48 --size 32 --rows 8 --out {out}/profile.txt",),
    ),
    Stage(
        "host",
        3,
        ("bench/throughput.py --host --out {out}/host-times.json",),
        ("bench/throughput.py --host --preset demo --rounds 1 --out {out}/host-times.json",),
    ),
)


@dataclass
class Record:
    """What a stage did."""

    stage: str
    status: str = "not run"  #: passed, failed, out of time (its own), stopped (--minutes were over), not run
    seconds: float = 0.0
    limit_s: float = 0.0
    commands: list[str] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    clocks: dict[str, dict[str, float]] = field(default_factory=dict)
    tail: list[str] = field(default_factory=list)  #: of the log, where it was red

    @property
    def red(self) -> bool:
        return self.status in ("failed", "out of time")


class Clocks:
    """nvidia-smi beside the stages, a line a second; nothing where there is none."""

    def __init__(self, path: Path) -> None:
        self.path, self.process = path, None
        if shutil.which("nvidia-smi"):
            query = f"--query-gpu=timestamp,index,{','.join(SMI)}"
            command = ["nvidia-smi", query, "--format=csv,noheader,nounits", "--loop=1"]
            self.file = path.open("w", encoding="utf-8")
            self.file.write(",".join(("timestamp", "index", *SMI)) + "\n")
            self.file.flush()
            self.process = subprocess.Popen(command, stdout=self.file, stderr=subprocess.DEVNULL)

    def mark(self) -> int:
        """Where the log stands."""
        return self.path.stat().st_size if self.process else 0

    def since(self, mark: int) -> dict[str, dict[str, float]]:
        """Least, median and largest value of every column since a mark, over all GPUs."""
        if self.process is None:
            return {}
        with self.path.open(encoding="utf-8") as file:
            file.seek(mark)
            text = file.read()
        return summary(text)

    def close(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.file.close()


def summary(text: str) -> dict[str, dict[str, float]]:
    r"""Least, median and largest value of every column of nvidia-smi's lines; what is no number is left out.

    >>> summary("2026/01/01 10:00:00, 0, 1980, 2619, 650.5, 61, 99, 4000\n")["power.draw"]
    {'least': 650.5, 'median': 650.5, 'largest': 650.5}
    """
    columns: dict[str, list[float]] = {name: [] for name in SMI}
    for row in csv.reader(text.splitlines()):
        if len(row) == len(SMI) + 2:
            for name, value in zip(SMI, row[2:]):
                with contextlib.suppress(ValueError):
                    columns[name].append(float(value))
    return {
        name: {"least": min(values), "median": statistics.median(values), "largest": max(values)}
        for name, values in columns.items()
        if values
    }


def run(stage: Stage, out: Path, seconds: float, words: dict[str, str], dry: bool, clocks: Clocks) -> Record:
    """Run a stage's commands, at most for so long, and write its record."""
    limit = min(60 * stage.minutes, seconds)
    record, began, mark = Record(stage.name, limit_s=round(limit, 1)), time.monotonic(), clocks.mark()
    record.status = "passed"
    log = out / f"{stage.name}.log"
    with log.open("w", encoding="utf-8") as file:
        for command in stage.small if dry else stage.commands:
            command = " ".join(command.format(**words).split())
            record.commands.append(command)
            file.write(f"$ python {command}\n")
            file.flush()
            code = call(command, file, limit - (time.monotonic() - began))
            if code is None:
                record.status = "out of time"
                break
            record.exit_codes.append(code)
            if code:
                record.status = "failed"  # its other commands still run
    record.seconds = round(time.monotonic() - began, 1)
    record.clocks = clocks.since(mark)
    if record.red:
        record.tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
    (out / f"{stage.name}.json").write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    return record


def call(command: str, log, seconds: float) -> int | None:
    """Exit code of a command, None where its time was over: it and all that it started are ended."""
    process = subprocess.Popen(
        [sys.executable, *shlex.split(command)], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        return process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return None
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """End a process and its group: politely, then not."""
    for number, patience in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        if process.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # what it left behind


def everything(
    stages: Sequence[Stage], out: Path, minutes: float | None, words: dict[str, str], dry: bool
) -> list[Record]:
    """Run the stages one after the other; each has what is left of the minutes, and at most its own limit."""
    began, records, clocks = time.monotonic(), [], Clocks(out / "clocks.csv")
    try:
        for stage in stages:
            left = float("inf") if minutes is None else 60 * minutes - (time.monotonic() - began)
            if left < min(LEAST_S, 60 * stage.minutes):
                record = Record(stage.name)
            else:
                print(f"{stage.name}: at most {min(stage.minutes, left / 60):.1f} minutes ...", flush=True)
                record = run(stage, out, left, words, dry, clocks)
                if record.status == "out of time" and left < 60 * stage.minutes:
                    record.status = "stopped"  # the whole time was over, which is nobody's fault
            records.append(record)
            print(f"{stage.name}: {record.status} ({record.seconds:.0f} s)", flush=True)
    finally:
        clocks.close()
    return records


def machine(dry: bool) -> dict[str, object]:
    """What the results were measured on. SystemExit: no GPU."""
    import torch

    if not dry and not torch.cuda.is_available():
        raise SystemExit("error: PyTorch sees no CUDA device; --dry runs every stage on the CPU and measures nothing")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    found = {"date": str(date.today()), "commit": commit, "torch": torch.__version__, "dry": dry}
    if dry:
        return found | {"gpu": "none", "gpus": 0}
    found |= {"gpu": torch.cuda.get_device_name(), "gpus": torch.cuda.device_count(), "cuda": torch.version.cuda}
    if shutil.which("nvidia-smi"):
        names = ("driver_version", "power.limit", "clocks.max.sm", "clocks.max.mem", "memory.total")
        query = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
        lines = subprocess.run(query, capture_output=True, text=True).stdout.strip().splitlines()
        found["nvidia_smi"] = dict(zip(names, lines[0].split(", "))) if lines else {}
    return found


@contextlib.contextmanager
def folder(out: Path | None, about: dict[str, object]) -> Iterator[Path]:
    """Where the results go; a dry run's are thrown away unless a place is named."""
    if out is None and about["dry"]:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    slug = re.sub(r"[^a-z0-9]+", "-", str(about["gpu"]).lower()).strip("-")
    out = out or ROOT / "bench" / "results" / f"{slug}-{about['date']}"
    out.mkdir(parents=True, exist_ok=True)
    yield out


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [stage.name for stage in STAGES]
    parser.add_argument("--stage", action="append", choices=names, help="this one alone; may be given several times")
    parser.add_argument("--minutes", type=float, help="of all stages together")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU: nothing is measured")
    parser.add_argument("--tune", action="store_true", help="search launch configurations first and keep them")
    parser.add_argument("--out", type=Path, help="folder of the results")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    args = parser().parse_args(words)
    about = machine(args.dry)
    chosen = [stage for stage in STAGES if not args.stage or stage.name in args.stage]
    gpus = ",".join(str(n) for n in (1, 2, 4, 8) if n <= max(1, int(str(about["gpus"]))))
    with folder(args.out, about) as out:
        values = {"out": shlex.quote(str(out)), "gpus": gpus, "tune": "--tune" if args.tune else ""}
        records = everything(chosen, out, args.minutes, values, args.dry)
        text = json.dumps(about | {"stages": [asdict(record) for record in records]}, indent=1)
        (out / "summary.json").write_text(text + "\n", encoding="utf-8")
        for record in records:
            print(f"{record.stage:<12}{record.status:<14}{record.seconds:>7.0f} s")
            if record.red:
                print("".join(f"    {line}\n" for line in record.tail), end="")
        if args.out or not args.dry:
            print(f"written: {out}")
    return int(any(record.red for record in records))


if __name__ == "__main__":
    raise SystemExit(main())

"""Each fused op beside its plain definition and the compiled one, and beside the bytes that it has to move.

    python bench/kernels.py                          # every op and size; without a GPU: bytes, floors, resources
    python bench/kernels.py --op consensus ema --out bench/results/mine.json
    python bench/kernels.py --tune                   # also searches launch configurations and writes them for this GPU

Rows run in turn, `--rounds` times, with the cache cleared between; the table shows medians. A row whose parity check
fails in the same run shows no speed-up. `of copy` is the share of the bandwidth of a large copy on this device.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "kernels"))

import fastdmt_kernels as fk  # noqa: E402
from fastdmt_kernels import reference, tuning  # noqa: E402

HBM, TENSOR_CORE = 3.35e12, 989e12  # bytes/s and bf16 FLOP/s of an H100 SXM, by its data sheet
D = 512
GOALS = (
    "at least 80% of the measured copy bandwidth on similarity_map and ema_update at the large sizes",
    "never slower than the compiled reference",
    "mil_logits at N = M = 2048, 16x16: under a tenth of the reference's memory",
    "consensus at N = 256, 256x256: at least 10x faster than eager",
)


@dataclass
class Case:
    """One size of one op. `make` gives the tensors; `kernel` and `plain` take them and return what is compared."""

    op: str
    size: str
    bytes: float
    make: Callable[[torch.device], tuple]
    kernel: Callable
    plain: Callable
    flops: float = 0.0
    limit: float = 1e-2  # both sides round to bfloat16

    @property
    def floor_us(self) -> float:
        return 1e6 * max(self.bytes / HBM, self.flops / TENSOR_CORE)


@dataclass
class Row:
    op: str
    size: str
    bytes: float
    floor_us: float
    parity: float | None = None  #: error ratio, or share of differing pixels
    agrees: bool | None = None
    us: dict[str, float] = field(default_factory=dict)  #: median microseconds: kernel, eager, compiled
    peak: dict[str, int] = field(default_factory=dict)  #: bytes allocated at the worst moment beyond the inputs
    of_copy: float | None = None

    def speed_up(self, rival: str) -> str:
        """How many times faster than the rival: nothing without a time, and nothing on a red check."""
        if not self.agrees:
            return "" if self.agrees is None else "PARITY FAILED"
        return f"{self.us[rival] / self.us['kernel']:.2f}x" if rival in self.us and "kernel" in self.us else ""


FORMULAS = {
    "similarity_map": "V 2NDhw + a 2ND + S, norms 8Nhw",
    "similarity_map+grad": "V twice, dV once: 6NDhw + a, da 6ND + S, norms, g 20Nhw",
    "mil_logits": "V 2NDhw + a 2MD + L, P 6NM + norms 4Nhw; 2NMDhw FLOP",
    "mil_logits+grad": "V three times, dV once: 8NDhw + a, da 8MD + L, P, g 22NM; 4NMDhw FLOP",
    "consensus": "maps 8Nhw + packed mask NHW/8 + verdicts 9N",
    "localization_loss+grad": "S, dz, dS 20Nhw + packed mask NHW/8",
    "ema_update": "12 a parameter: teacher read and written, student read",
}


def gradients(function: Callable, leaves: int, *tensors: Tensor) -> list[Tensor]:
    tensors = [t.detach().requires_grad_() if i < leaves else t for i, t in enumerate(tensors)]
    value = function(*tensors)
    return [value, *torch.autograd.grad(value.square().sum(), tensors[:leaves])]


def features(n: int, m: int, cells: int, device: torch.device) -> tuple:
    v = torch.randn(n, D, cells, cells, device=device, dtype=torch.bfloat16)
    return v.to(memory_format=torch.channels_last), torch.randn(m, D, device=device, dtype=torch.bfloat16)


def maps(n: int, cells: int, pixels: int, device: torch.device) -> tuple:
    affine = torch.tensor([10.0, -1.0], device=device)
    common = torch.randn(n, cells, cells, device=device)
    mask = fk.pack_mask(torch.rand(n, pixels, pixels, device=device) > 0.5)
    return common, common + 0.1 * torch.randn_like(common), affine, mask, torch.rand(n, device=device)


def parameters(count: int, device: torch.device) -> tuple:
    """A network's worth of tensors: convolutions of 512 x 512 x 3 x 3, each with two vectors of 512."""
    sizes = [(512, 512, 3, 3), (512,), (512,)] * max(1, round(count / 2_360_320))
    teachers, students = ([torch.randn(s, device=device) for s in sizes] for _ in range(2))
    return teachers, students, torch.tensor(0.99, device=device)


def run_agreement(function: Callable, pixels: int, *tensors: Tensor) -> list[Tensor]:
    s_a, s_b, affine = tensors[:3]
    result = function(s_a, s_b, affine, affine, 0.6, 0.7, (pixels, pixels))
    return [result.mask, result.iou, result.keep]


def run_loss(function: Callable, pixels: int, *tensors: Tensor) -> list[Tensor]:
    s, _, affine, mask, weight = tensors
    return gradients(lambda s, c: function(s, c, mask, weight, size=(pixels, pixels)), 2, s, affine)


def run_foreach(teachers: list[Tensor], students: list[Tensor], m: Tensor) -> list[Tensor]:
    torch._foreach_lerp_(teachers, students, 1 - 0.99)
    return teachers


def run_ema(teachers: list[Tensor], students: list[Tensor], m: Tensor) -> list[Tensor]:
    fk.ema_update(teachers, students, m)
    return teachers


def pair(op: str, wrap: Callable) -> tuple[Callable, Callable]:
    """The op as this package runs it, and its definition."""
    return wrap(getattr(fk, op)), wrap(getattr(reference, op))


def alone(function: Callable) -> Callable:
    return lambda *tensors: [function(*tensors)]


def leaves(count: int) -> Callable:
    """The function with the gradients of its first `count` arguments."""
    return lambda function: partial(gradients, function, count)


def cases(quick: bool) -> Iterator[Case]:
    batches = (32, 128) if quick else (32, 128, 512, 2048)
    grids = (7, 16) if quick else (7, 14, 16, 20)
    for n, c in itertools.product(batches, grids):
        cells, make, size = n * c * c, partial(features, n, n, c), f"N {n} {c}x{c}"
        moved = 2 * cells * D + 2 * n * D + 8 * cells
        yield Case("similarity_map", size, moved, make, *pair("similarity_map", alone))
        moved = 6 * cells * D + 6 * n * D + 20 * cells
        yield Case("similarity_map+grad", size, moved, make, *pair("similarity_map", leaves(2)))
    for n, c in itertools.product(batches, grids):
        cells, make, size = n * c * c, partial(features, n, n, c), f"N M {n} {c}x{c}"
        moved, flops = 2 * cells * D + 2 * n * D + 6 * n * n + 4 * cells, 2.0 * n * cells * D
        yield Case("mil_logits", size, moved, make, *pair("mil_logits", alone), flops=flops)
        moved = 8 * cells * D + 8 * n * D + 22 * n * n
        yield Case("mil_logits+grad", size, moved, make, *pair("mil_logits", leaves(2)), flops=2 * flops)
    for n, (c, pixels) in itertools.product((*batches, 256), ((7, 224), (14, 224), (16, 256), (20, 256))):
        cells, make, size = n * c * c, partial(maps, n, c, pixels), f"N {n} {c}x{c} to {pixels}"
        mask = 4 * n * pixels * -(-pixels // 32)
        verdict = pair("consensus", lambda f, pixels=pixels: partial(run_agreement, f, pixels))
        yield Case("consensus", size, 8 * cells + mask + 9 * n, make, *verdict)
        loss = pair("localization_loss", lambda f, pixels=pixels: partial(run_loss, f, pixels))
        yield Case("localization_loss+grad", size, 20 * cells + mask, make, *loss, limit=1e-4)
    for millions in (11, 45) if quick else (11, 45, 99, 140):
        make = partial(parameters, millions * 10**6)
        yield Case("ema_update", f"{millions} M parameters", 12e6 * millions, make, run_ema, run_foreach, limit=1e-5)


def disagreement(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The worst error ratio of the floats; of packed masks the share of differing pixels."""
    worst = 0.0
    for x, y in zip(ours, theirs, strict=True):
        if x.dtype == torch.int32:
            bits = fk.unpack_mask(x ^ y, 32 * x.shape[2])
            worst = max(worst, bits.float().mean().item())
        elif x.dtype == torch.bool:
            worst = max(worst, (x != y).float().mean().item() * 1e-2)  # a kept clip may hang on one pixel
        else:
            x, y = x.double(), y.double()
            worst = max(worst, ((x - y).norm() / y.norm().clamp(min=1e-30)).item())
    return worst if worst == worst else float("inf")


def check(case: Case, row: Row, device: torch.device) -> None:
    """Both sides from the same tensors; an in-place op gets its own copy."""
    torch.manual_seed(int.from_bytes(os.urandom(4), "little"))
    tensors = case.make(device)
    results = []
    for function in (case.kernel, case.plain):
        own = [[t.clone() for t in x] if isinstance(x, list) else x for x in tensors]
        results.append([t.clone() for t in function(*own)])
    row.parity = disagreement(*results)
    row.agrees = row.parity <= case.limit


class Clock:
    """Microseconds of one call on the GPU, with the level-2 cache cleared before it."""

    def __init__(self) -> None:
        self.flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")

    def __call__(self, call: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.flush.zero_()
        start.record()
        call()
        end.record()
        end.synchronize()
        return 1e3 * start.elapsed_time(end)


def copy_bandwidth(clock: Clock) -> float:
    """Bytes a second, read and written, of a copy of 1 GiB on this device."""
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    return 2 * a.numel() / (1e-6 * statistics.median(clock(lambda: b.copy_(a)) for _ in range(20)))


def time_case(case: Case, row: Row, clock: Clock, rounds: int, bandwidth: float) -> None:
    tensors = case.make(torch.device("cuda"))
    torch._dynamo.reset()
    rivals = {"kernel": case.kernel, "eager": case.plain, "compiled": torch.compile(case.plain)}
    calls: dict[str, Callable[[], object]] = {}
    for name, function in rivals.items():
        try:
            for _ in range(3):
                function(*tensors)
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            function(*tensors)
            torch.cuda.synchronize()
            row.peak[name] = torch.cuda.max_memory_allocated() - before
            calls[name] = partial(function, *tensors)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(clock(call))
    row.us = {name: statistics.median(values) for name, values in times.items()}
    row.of_copy = case.bytes / (1e-6 * row.us["kernel"]) / bandwidth


CANDIDATES = {
    "similarity_forward": {"BLOCK_P": (32, 64, 128), "BLOCK_D": (32, 64, 128), "num_warps": (4, 8)},
    "similarity_backward": {"BLOCK_P": (32, 64, 128), "BLOCK_D": (32, 64, 128), "num_warps": (4, 8)},
    "mil_forward_half": {"BLOCK_P": (64, 128), "BLOCK_M": (64, 128, 256), "BLOCK_D": (32, 64), "num_warps": (4, 8),
                         "num_stages": (3, 4)},
    "mil_backward_v_half": {"BLOCK_P": (64, 128), "BLOCK_M": (32, 64), "BLOCK_D": (64, 128), "num_warps": (4, 8),
                            "num_stages": (2, 3)},
    "mil_backward_a": {"BLOCK_N": (8, 16, 32), "BLOCK_D": (64, 128, 256), "num_warps": (2, 4)},
    "consensus": {"TILE": (1024, 2048, 4096), "num_warps": (4, 8, 16)},
    "localization_loss": {"TILE": (1024, 2048, 4096), "num_warps": (4, 8, 16)},
    "ema_update": {"BLOCK": (2048, 4096, 8192), "num_warps": (4, 8)},
}  # fmt: skip
TUNED_ON = {
    "similarity_map": ("similarity_forward",), "similarity_map+grad": ("similarity_backward",),
    "mil_logits": ("mil_forward_half",), "mil_logits+grad": ("mil_backward_v_half", "mil_backward_a"),
    "consensus": ("consensus",), "localization_loss+grad": ("localization_loss",), "ema_update": ("ema_update",),
}  # fmt: skip


def tune(clock: Clock, gpu: str) -> None:
    """Tries every candidate on one middle size an op and writes the fastest that agrees, for this GPU's name."""
    table = tuning.load(gpu)
    chosen = {}
    device = torch.device("cuda")
    middle = ("N 128 16x16", "N M 512 16x16", "N 128 16x16 to 256", "45 M parameters")
    for case in (c for c in cases(False) if c.size in middle):
        tensors = case.make(device)
        for kernel in TUNED_ON[case.op]:
            best, default = (float("inf"), None), dict(table[kernel])
            options = CANDIDATES[kernel]
            for values in itertools.product(*options.values()):
                table[kernel] = {**default, **dict(zip(options, values, strict=True))}
                row = Row(case.op, case.size, case.bytes, case.floor_us)
                try:
                    check(case, row, device)
                    time = statistics.median(clock(partial(case.kernel, *tensors)) for _ in range(15))
                except Exception as error:  # a configuration may need more shared memory than there is
                    print(f"  {kernel} {table[kernel]}: {type(error).__name__}")
                    continue
                if row.agrees and time < best[0]:
                    best = (time, table[kernel])
            table[kernel] = best[1] or default
            chosen[kernel] = table[kernel]
            print(f"  {kernel}: {best[0]:.1f} us with {table[kernel]}")
    file = tuning.FOLDER / f"{tuning.slug(gpu)}.json"
    file.write_text("{\n" + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in chosen.items()) + "\n}\n")
    print(f"wrote {file}")


KERNELS = {
    "similarity_map": "similarity_", "mil_logits": "mil_", "consensus": "consensus_", "localization_loss": "loss_",
    "ema_update": "ema_",
}  # fmt: skip


def resources(target: str, ops: list[str]) -> list[dict]:
    """Registers, spills and shared memory of every kernel, compiled for a GPU that need not be here."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT / "kernels")
    chosen = [kernels for op, kernels in KERNELS.items() if not ops or op.startswith(tuple(ops))]
    command = [sys.executable, "-m", "fastdmt_kernels.aot", "--target", target, "--kernels", *chosen]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        print(f"kernels were not compiled: {result.stderr.strip().splitlines()[-1]}")
    return [json.loads(line) for line in result.stdout.splitlines()]


def line(row: Row) -> str:
    text = f"{row.op:24}{row.size:22}{row.bytes / 1e6:9.2f} MB{row.floor_us:9.2f}"
    if not row.us:
        return text
    times = "".join(
        f"{row.us[name]:10.1f}" if name in row.us else "    no room" for name in ("kernel", "eager", "compiled")
    )
    peaks = "/".join(f"{row.peak[name] / 1e6:.0f}" if name in row.peak else "-" for name in ("kernel", "eager"))
    share = "" if row.of_copy is None else f"{100 * row.of_copy:5.0f}%"
    return f"{text}{times}{share:>8}{row.speed_up('eager'):>15}{row.speed_up('compiled'):>15}  {peaks}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--op", nargs="+", default=[], help="names, or beginnings of names")
    parser.add_argument("--quick", action="store_true", help="fewer sizes")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tune", action="store_true", help="search configurations first and write them")
    parser.add_argument("--target", default="sm_90", help="whose resources are shown")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--static", action="store_true", help="compare the machine code with the committed record")
    parser.add_argument("--update", action="store_true", help="with --static: write the record")
    parser.add_argument("--host", action="store_true", help="time the host's part of every call")
    arguments = parser.parse_args()
    if arguments.static or arguments.host:
        sys.path.insert(0, str(ROOT / "bench"))
        import kernels_static

        if arguments.host:
            kernels_static.host()
        raise SystemExit(kernels_static.static(arguments.update) if arguments.static else 0)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    clock = bandwidth = None
    print(f"torch {torch.__version__}, {gpu or 'no GPU'}, {date.today()}")
    for op, formula in FORMULAS.items():
        print(f"bytes of {op}: {formula}")
    print(f"floors: {HBM / 1e12} TB/s and {TENSOR_CORE / 1e12:.0f} TFLOP/s, an H100 SXM's data sheet")
    for goal in GOALS:
        print(f"goal, on a Hopper GPU: {goal}")
    if gpu:
        fk.use("triton")
        clock = Clock()
        bandwidth = copy_bandwidth(clock)
        print(f"copy: {bandwidth / 1e12:.2f} TB/s")
        if arguments.tune:
            tune(clock, gpu)
    rows = []
    header = (
        "      kernel     eager  compiled us  of copy   times eager    compiled  peak MB kernel/eager" if gpu else ""
    )
    print(f"\n{'op':24}{'size':22}{'moves':>12}{'floor us':>9}{header}")
    for case in cases(arguments.quick):
        if arguments.op and not any(case.op.startswith(name) for name in arguments.op):
            continue
        row = Row(case.op, case.size, case.bytes, case.floor_us)
        if gpu:
            check(case, row, torch.device("cuda"))
            time_case(case, row, clock, arguments.rounds, bandwidth)
            torch.cuda.empty_cache()
        rows.append(row)
        print(line(row), flush=True)
    compiled = resources(arguments.target, arguments.op)
    print(f"\n{'kernel for ' + arguments.target:24}{'case':26}warps registers spilled shared B")
    for r in compiled:
        numbers = f"{r['warps']:5}{r.get('registers', 0):10}{r['spilled']:8}{r['shared']:9}"
        print(f"{r['kernel']:24}{r['case']:26}{numbers} {' '.join(r['tensor_core'])}")
    if not gpu:
        print("\nNo GPU here: nothing was timed.")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        record = {"gpu": gpu, "date": str(date.today()), "torch": torch.__version__, "timed": gpu is not None,
                  "copy_bytes_per_s": bandwidth, "goals": GOALS, "formulas": FORMULAS,
                  "rows": [asdict(row) for row in rows], "resources": compiled}  # fmt: skip
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
        print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()

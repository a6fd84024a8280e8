"""Each fused op beside its plain definition and the compiled one, and beside the bytes that it has to move.

    python bench/kernels.py                          # every op and size; without a GPU: bytes, floors, resources
    python bench/kernels.py --op consensus ema --out bench/results/mine.json
    python bench/kernels.py --tune                   # also searches launch configurations and writes them for this GPU
    python bench/kernels.py --dry-run                # every line of it at tiny sizes on the CPU; its times mean nothing

Columns run in turn, `--rounds` times, with the cache cleared between; the table shows medians. `us` is the device's
time of a replayed graph, `wall` the eager call until the device is done, host included. `eager` and `compiled` are the
definition; `rival` is what a good engineer writes for this size (bench/kernels_timing.py). A column whose parity check
fails in the same run shows no time. `of copy` is the share of the bandwidth of a large copy on this device.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
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
sys.path[:0] = [str(ROOT / "kernels"), str(ROOT / "bench")]

import kernels_timing  # noqa: E402

import fastdmt_kernels as fk  # noqa: E402
from fastdmt_kernels import reference  # noqa: E402

HBM, TENSOR_CORE = 3.35e12, 989e12  # bytes/s and bf16 FLOP/s of an H100 SXM, by its data sheet
D = 512
GOALS = (
    "at least 80% of the measured copy bandwidth on similarity_map and ema_update at the large sizes",
    "never slower than the fastest of the definition, compiled, and the rival of the same size",
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
    rival: Callable | None = None  # what a good engineer writes, to be compiled
    compiles: bool = True  # whether the definition is worth compiling
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
    us: dict[str, float] = field(default_factory=dict)  #: median microseconds on the device, by column
    wall_us: dict[str, float] = field(default_factory=dict)  #: of an eager call, the host's part included
    peak: dict[str, int] = field(default_factory=dict)  #: bytes allocated at the worst moment beyond the inputs
    of_copy: float | None = None

    def speed_up(self, *names: str) -> str:
        """How many times faster than the fastest of these columns: nothing without a time, nor on a red check."""
        if not self.agrees:
            return "" if self.agrees is None else "PARITY FAILED"
        others = [self.us[name] for name in names if name in self.us]
        return f"{min(others) / self.us['kernel']:.2f}x" if others and "kernel" in self.us else ""


FORMULAS = {
    "similarity_map": "V 2NDhw + a 2ND + S, norms 8Nhw",
    "similarity_map+grad": "V twice, dV once: 6NDhw + a, da 6ND + S, norms, g 20Nhw",
    "mil_logits": "V 2NDhw + a 2MD + L, P 6NM + norms 4Nhw; 2NMDhw FLOP",
    "mil_logits+grad": "V three times, dV once: 8NDhw + a, da 8MD + L, P, g 22NM; 4NMDhw FLOP",
    "localize": "as mil_logits + S 4Nhw",
    "localize+grad": "as mil_logits+grad + S twice, its g 12Nhw",
    "consensus": "maps 8Nhw + packed mask NHW/8 + verdicts 9N",
    "localization_loss+grad": "S, dz, dS 20Nhw + packed mask NHW/8",
    "ema_update": "12 a parameter: teacher read and written, student read",
}


def gradients(function: Callable, leaves: int, *tensors: Tensor) -> list[Tensor]:
    tensors = [t.detach().requires_grad_() if i < leaves else t for i, t in enumerate(tensors)]
    values = outputs(function(*tensors))
    # The gradient of half the sum of squares, without a pass for it.
    return [*values, *torch.autograd.grad(values, tensors[:leaves], [x.detach() for x in values])]


def outputs(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


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


PREPARED: list = [None, None]


def run_ema(teachers: list[Tensor], students: list[Tensor], m: Tensor) -> list[Tensor]:
    """One object over all steps, as a training loop has it."""
    if PREPARED[0] is not teachers:
        PREPARED[:] = teachers, fk.EMA(teachers, students)
    PREPARED[1].step(m)
    return teachers


def pair(op: str, wrap: Callable) -> tuple[Callable, Callable]:
    """The op as this package runs it, and its definition."""
    return wrap(getattr(fk, op)), wrap(getattr(reference, op))


def alone(function: Callable) -> Callable:
    return lambda *tensors: list(outputs(function(*tensors)))


def leaves(count: int) -> Callable:
    """The function with the gradients of its first `count` arguments."""
    return lambda function: partial(gradients, function, count)


def cases(quick: bool, tiny: bool = False) -> Iterator[Case]:
    """Every op and size; `quick` gives fewer sizes, `tiny` one size of each that a CPU makes in no time."""
    batches = (2,) if tiny else (32, 128) if quick else (32, 128, 512, 2048)
    grids = (7,) if tiny else (7, 16) if quick else (7, 14, 16, 20)
    both = leaves(2)
    one_pass, gemm = kernels_timing.one_pass_map, kernels_timing.gemm_logits
    two_passes = kernels_timing.map_and_logits
    for n, c in itertools.product(batches, grids):
        cells, make, size = n * c * c, partial(features, n, n, c), f"N {n} {c}x{c}"
        moved = 2 * cells * D + 2 * n * D + 8 * cells
        yield Case("similarity_map", size, moved, make, *pair("similarity_map", alone), rival=alone(one_pass))
        moved = 6 * cells * D + 6 * n * D + 20 * cells
        yield Case("similarity_map+grad", size, moved, make, *pair("similarity_map", both), rival=both(one_pass))
    for n, c in itertools.product(batches, grids):
        cells, make, size = n * c * c, partial(features, n, n, c), f"N M {n} {c}x{c}"
        moved, flops = 2 * cells * D + 2 * n * D + 6 * n * n + 4 * cells, 2.0 * n * cells * D
        yield Case("mil_logits", size, moved, make, *pair("mil_logits", alone), alone(gemm), flops=flops)
        yield Case("localize", size, moved + 4 * cells, make, *pair("localize", alone), alone(two_passes), flops=flops)
        moved = 8 * cells * D + 8 * n * D + 22 * n * n
        yield Case("mil_logits+grad", size, moved, make, *pair("mil_logits", both), both(gemm), flops=2 * flops)
        moved += 12 * cells
        yield Case("localize+grad", size, moved, make, *pair("localize", both), both(two_passes), flops=2 * flops)
    sizes = ((7, 32),) if tiny else ((7, 224), (14, 224), (16, 256), (20, 256))
    for n, (c, pixels) in itertools.product(batches if tiny else (*batches, 256), sizes):
        cells, make, size = n * c * c, partial(maps, n, c, pixels), f"N {n} {c}x{c} to {pixels}"
        mask = 4 * n * pixels * -(-pixels // 32)
        verdict = pair("consensus", lambda f, pixels=pixels: partial(run_agreement, f, pixels))
        yield Case("consensus", size, 8 * cells + mask + 9 * n, make, *verdict)
        loss = pair("localization_loss", lambda f, pixels=pixels: partial(run_loss, f, pixels))
        yield Case("localization_loss+grad", size, 20 * cells + mask, make, *loss, limit=1e-4)
    for millions in (1,) if tiny else (11, 45) if quick else (11, 45, 99, 140):
        make, size = partial(parameters, millions * 10**6), f"{millions} M parameters"
        yield Case("ema_update", size, 12e6 * millions, make, run_ema, run_foreach, compiles=False, limit=1e-5)


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
    """All sides from the same tensors; an in-place op gets its own copy. A rival that differs does not run."""
    torch.manual_seed(int.from_bytes(os.urandom(4), "little"))
    tensors = case.make(device)
    results = []
    for function in (case.plain, case.kernel, *([case.rival] if case.rival else [])):
        own = [[t.clone() for t in x] if isinstance(x, list) else x for x in tensors]
        results.append([t.clone() for t in function(*own)])
    row.parity = disagreement(results[1], results[0])
    row.agrees = row.parity <= case.limit
    if case.rival and disagreement(results[2], results[0]) > case.limit:
        print(f"{case.op} {case.size}: the rival is not what the definition is; it is not timed")
        case.rival = None


def passes(case: Case, device: torch.device) -> bool:
    row = Row(case.op, case.size, case.bytes, case.floor_us)
    check(case, row, device)
    return bool(row.agrees)


KERNELS = {
    "similarity_map": "similarity_", "mil_logits": "mil_", "localize": "mil_", "consensus": "consensus_",
    "localization_loss": "loss_", "ema_update": "ema_",
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


COLUMNS = ("kernel", "eager", "compiled", "rival")


def line(row: Row) -> str:
    text = f"{row.op:24}{row.size:22}{row.bytes / 1e6:9.2f} MB{row.floor_us:9.2f}"
    if not row.us:
        return text
    times = "".join(f"{row.us[name]:10.1f}" if name in row.us else f"{'-':>10}" for name in COLUMNS)
    share = "" if row.of_copy is None else f"{100 * row.of_copy:4.0f}%"
    against = f"{row.speed_up('eager'):>14}{row.speed_up(*COLUMNS[1:]):>14}"
    walls = "/".join(f"{row.wall_us[name]:.0f}" if name in row.wall_us else "-" for name in COLUMNS)
    peaks = "/".join(f"{row.peak[name] / 1e6:.0f}" if name in row.peak else "-" for name in COLUMNS)
    return f"{text}{times}{share:>8}{against}  {walls:24}{peaks}"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--op", nargs="+", default=[], help="names, or beginnings of names")
    parser.add_argument("--quick", action="store_true", help="fewer sizes")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tune", action="store_true", help="search configurations first and write them")
    parser.add_argument("--dry-run", action="store_true", help="all of it at tiny sizes on the CPU: times mean nothing")
    parser.add_argument("--target", default="sm_90", help="whose resources are shown")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--static", action="store_true", help="compare the machine code with the committed record")
    parser.add_argument("--update", action="store_true", help="with --static: write the record")
    parser.add_argument("--host", action="store_true", help="time the host's part of every call")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    if arguments.static or arguments.host:
        import kernels_static

        if arguments.host:
            kernels_static.host()
        raise SystemExit(kernels_static.static(arguments.update) if arguments.static else 0)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() and not arguments.dry_run else None
    device = torch.device("cuda" if gpu else "cpu")
    clock = bandwidth = None
    print(f"torch {torch.__version__}, {gpu or 'no GPU'}, {date.today()}")
    for op, formula in FORMULAS.items():
        print(f"bytes of {op}: {formula}")
    print(f"floors: {HBM / 1e12} TB/s and {TENSOR_CORE / 1e12:.0f} TFLOP/s, an H100 SXM's data sheet")
    for goal in GOALS:
        print(f"goal, on a Hopper GPU: {goal}")
    if arguments.dry_run:
        print("DRY RUN: definitions on the CPU, at sizes that nobody has; no time below says anything of a kernel")
    if gpu or arguments.dry_run:
        fk.use("triton" if gpu else "auto")
        clock = kernels_timing.Clock(device)
        bandwidth = clock.copy_bandwidth()
        print(f"copy: {bandwidth / 1e12:.2f} TB/s")
        if arguments.tune and gpu:
            middle = ("N 128 16x16", "N M 512 16x16", "N 128 16x16 to 256", "45 M parameters")
            chosen = (case for case in cases(False) if case.size in middle)
            kernels_timing.tune(chosen, partial(passes, device=device), clock, gpu)
    rows = []
    header = "".join(f"{name:>10}" for name in COLUMNS) + " us of copy   times eager    times best  wall us"
    print(f"\n{'op':24}{'size':22}{'moves':>12}{'floor us':>9}{f'{header:78}peak MB' if clock else ''}")
    for case in cases(arguments.quick, arguments.dry_run):
        if arguments.op and not any(case.op.startswith(name) for name in arguments.op):
            continue
        row = Row(case.op, case.size, case.bytes, case.floor_us)
        if clock:
            check(case, row, device)
            backend = "inductor" if gpu else "eager"
            kernels_timing.time_case(case, row, clock, arguments.rounds, bandwidth, backend)
            torch.cuda.empty_cache()
        rows.append(row)
        print(line(row), flush=True)
    compiled = [] if arguments.dry_run else resources(arguments.target, arguments.op)
    if compiled:
        print(f"\n{'kernel for ' + arguments.target:24}{'case':26}warps registers spilled shared B")
    for r in compiled:
        numbers = f"{r['warps']:5}{r.get('registers', 0):10}{r['spilled']:8}{r['shared']:9}"
        print(f"{r['kernel']:24}{r['case']:26}{numbers} {' '.join(r['tensor_core'])}")
    if not gpu and not arguments.dry_run:
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

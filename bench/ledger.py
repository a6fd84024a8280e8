"""What a training step costs, counted operator by operator on the meta device, and what a GPU would make of it.

    python bench/ledger.py --preset vggsound-144k --gpu h100

FLOPs, bytes, launches and collectives are counted while the step's own code runs on tensors without memory, so no GPU
and no data are needed. Times follow from data sheets and the assumptions below: every line says "derived", none is a
measurement. `compiled` counts chains of elementwise operators as one pass over memory; `graph` is `compiled` without
the host. Eight GPUs: each with the whole batch (weak scaling), and the same batch shared (strong).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ROOT = Path(__file__).resolve().parents[1]
for folder in ("", "kernels", "loaders"):
    sys.path.insert(0, str(ROOT / folder))

from fastdmt.algorithm.dmt import VGGSS_AGREE, DualMeanTeacherStep  # noqa: E402
from fastdmt.algorithm.pseudo_labels import CLASSES  # noqa: E402
from fastdmt.config import TrainConfig  # noqa: E402
from fastdmt.distributed.processes import World  # noqa: E402
from fastdmt.models.pair import Model  # noqa: E402
from fastdmt.presets import PRESETS, preset  # noqa: E402
from fastdmt.training.nonfinite import BadSteps  # noqa: E402
from fastdmt.training.optimizer import Update  # noqa: E402
from fastdmt_loaders import Batch, View, augment  # noqa: E402
from fastdmt_loaders.batch import RawBatch  # noqa: E402

META = torch.device("meta")


@dataclasses.dataclass(frozen=True)
class Card:
    """Of a data sheet: dense FLOP/s in bf16 and TF32, bytes/s of the memory and of NVLink in one direction."""

    bf16: float
    tf32: float
    memory: float
    link: float


CARDS = {
    "h100": Card(989e12, 494e12, 3.35e12, 450e9),
    "h200": Card(989e12, 494e12, 4.8e12, 450e9),
    "a100": Card(312e12, 156e12, 2.04e12, 300e9),
}
# Assumptions, printed with every table.
ARITHMETIC, BANDWIDTH, WIRE = 0.6, 0.8, 0.8  # shares of the data sheet that convolutions, memory, NVLink reach
LAUNCH_US, COLLECTIVE_US = 2.0, 25.0  # the least that a kernel, a collective takes
HOST_US = {"eager": 7.0, "compiled": 5.0}  # of the host, an operator
REPLAY_MS = 0.3  # of the host, a step that is one graph
BUCKET = 25 * 2**20  # bytes of a gradient all-reduce
FUSED_ELEMENTS = 320 * 65536  # that one launch of a multi-tensor kernel takes

COMPILED_PARTS = ("teachers", "consensus", "students forward", "backward")
KINDS = ("eager", "compiled", "graph")
aten = torch.ops.aten


@dataclasses.dataclass
class Op:
    """An operator that launches: its reads and writes are (storage, bytes)."""

    part: str
    name: str
    flops: int = 0
    half: bool = False  #: arithmetic in bf16
    reads: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    writes: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    launches: int = 1
    fuses: str = "no"  #: "no", "pointwise", or "reduction": ends a chain
    wire: int = 0  #: bytes of a collective on this process

    @property
    def bytes(self) -> int:
        return sum(n for _, n in self.reads) + sum(n for _, n in self.writes)


class Recorder(TorchDispatchMode):
    """Writes down every operator; `part` is a name that the caller sets."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.part = ""
        self._kept: list[Any] = []  # tensors stay, so that a storage's number stays its own

    @contextmanager
    def within(self, part: str):
        before, self.part = self.part, part
        yield
        self.part = before

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        self._kept += made
        name = function._overloadpacket.__name__
        written = given if function._schema.is_mutable else []  # in place: all that it names, read and written
        fresh = [x for x in made if storage(x) not in {storage(y) for y in given}]
        if function.namespace in ("c10d", "_c10d_functional"):
            if name != "wait_tensor":
                self.ops.append(Op(self.part, name, wire=max((size(x) for x in given), default=0)))
            return out
        if (not fresh and not written) or name.startswith(("empty", "new_empty", "detach", "lift")):
            return out  # a view, or memory
        count = flop_registry.get(function._overloadpacket) or FLOPS.get(name)
        op = Op(self.part, name, count(*args, **kwargs, out_val=out) if count else 0, half=is_half(given))
        op.reads, op.writes = sizes(given), sizes(fresh) or sizes(written[:1])
        if name.startswith(("_foreach", "_fused")):
            op.writes = sizes(written or fresh)
            op.launches = 1 + sum(x.numel() for x in given) // (3 * FUSED_ELEMENTS)
        elif torch.Tag.pointwise in function.tags or name in POINTWISE:
            op.fuses = "pointwise"
        elif name in REDUCTIONS:
            op.fuses = "reduction"
        if "batch_norm" in name and (args[5] if "backward" not in name else args[7]):
            # Statistics first, over all that is read; then what they are applied to, once more.
            big = [(s, n) for s, n in op.reads if n >= max(n for _, n in op.reads)]
            self.ops.append(Op(self.part, f"{name}: statistics", reads=big, writes=op.writes[1:], fuses="reduction"))
            op.writes, op.fuses = op.writes[:1], "pointwise"
        elif "batch_norm" in name:
            op.fuses = "pointwise"
        self.ops.append(op)
        return out


POINTWISE = {
    "_to_copy",
    "clone",
    "copy_",
    "fill_",
    "zero_",
    "zeros",
    "ones",
    "full",
    "zeros_like",
    "ones_like",
    "arange",
}
REDUCTIONS = {"sum", "mean", "amax", "amin", "logsumexp", "max", "var_mean", "linalg_vector_norm"}


def _all_pairs(v: Tensor, a: Tensor, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    return 2 * v.numel() * a.shape[0]


FLOPS = {
    "localize": _all_pairs,  # every cell of every frame with every sound; mil_logits is the same op
    "similarity_map": lambda v, a, *args, out_val=None, **kwargs: 2 * v.numel(),
}


class Half(TorchFunctionMode):
    """What autocast does to convolutions and linear layers, on a device that has no autocast."""

    layers = (torch.conv1d, torch.conv2d, torch.nn.functional.linear)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in self.layers:
            args = tuple(x.to(torch.bfloat16) if isinstance(x, Tensor) else x for x in args)
        return function(*args, **kwargs or {})


def storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def size(x: Tensor) -> int:
    return min(x.numel() * x.element_size(), x.untyped_storage().nbytes())


def sizes(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    return [(storage(x), size(x)) for x in tensors if x.numel()]


def is_half(tensors: list[Tensor]) -> bool:
    return any(x.dtype == torch.bfloat16 for x in tensors)


def record(cfg: TrainConfig, processes: int = 1) -> list[Op]:
    """The operators of one step of stage 2 of one process; the batch of `cfg` is shared by `processes`."""
    if processes > 1:
        dist.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
    try:
        return _record(cfg, World(META, size=processes, group=dist.group.WORLD if processes > 1 else None))
    finally:
        if processes > 1:
            dist.destroy_process_group()


def _record(cfg: TrainConfig, world: World) -> list[Op]:
    model, _ = Model.build(cfg, pretrained=False)
    model.to(META)
    for student in model.students:
        student.train()
    scheme = CLASSES[cfg.algorithm](cfg.pseudo, cfg.model.probability)
    size = (cfg.data.size, cfg.data.size)
    step = DualMeanTeacherStep(
        model.students, model.teachers, scheme, cfg.pseudo, size=size, min_agree=VGGSS_AGREE, group=world.group
    )
    update, bad = Update(model.students, cfg.optim, "adamw", world, sharded=False), BadSteps(cfg, world)
    recorder = Recorder()
    judge = scheme.pseudo_labels

    def judged(*args):
        with recorder.within("consensus"):
            return judge(*args)

    object.__setattr__(scheme, "pseudo_labels", judged)
    with recorder:
        with recorder.within("augmentation"):
            batch = augmented(cfg, model.front_ends, world.size)
        with recorder.within("check of the batch"):
            bad.saw(batch)
        with Half():
            with recorder.within("teachers"):
                labels = step.pseudo_labels(batch)
            with recorder.within("students forward"):
                losses = step.learn(batch, labels)
        with recorder.within("backward"):
            losses.total.backward()
        with recorder.within("optimizer"):
            update(losses.total.detach())
    moved = [t for t in model.teachers.state_dict().values() if t.is_floating_point()]
    ema = Op("ema", "ema_update", reads=2 * sizes(moved), writes=sizes(moved))  # meta has nothing to move
    gradients = sum(size_of(p) for s in model.students for p in s.parameters() if p.requires_grad)
    buckets = math.ceil(gradients / BUCKET) if world.size > 1 else 0
    wire = [Op("backward", "all_reduce of gradients", wire=gradients // buckets) for _ in range(buckets)]
    return [*recorder.ops, *wire, ema]


def size_of(x: Tensor) -> int:
    return x.numel() * x.element_size()


def augmented(cfg: TrainConfig, front_ends: tuple[str, ...], processes: int) -> Batch:
    """This process's rows of a batch, through the loaders' own augmentation."""
    view = View(size=cfg.data.size, front_ends=front_ends, audio_augment=cfg.data.audio_augment)
    labelled, unlabelled = cfg.batch_labelled // processes, cfg.batch_unlabelled // processes
    n = labelled + unlabelled
    raw = RawBatch(
        torch.empty(n, 3, view.resize, view.resize, dtype=torch.uint8, device=META),
        {rate: torch.empty(n, view.samples(rate), device=META) for rate in view.rates},
        torch.empty(n, view.max_boxes, 4, device=META),
        torch.empty(n, dtype=torch.bool, device=META),
        np.arange(n),
        labelled,
        0,
    )
    return augment.apply(raw, augment.draw(0, 0, n), view, [str(i) for i in range(n)])


def fused(ops: list[Op]) -> list[Op]:
    """The operators as a compiler leaves them: each chain of elementwise ones reads and writes memory once."""
    last = {}
    for i, op in enumerate(ops):
        last |= {s: i for s, _ in op.reads}
    out: list[Op] = []
    chain: list[int] = []

    def close() -> None:
        if not chain:
            return
        inside = [ops[i] for i in chain]
        made, reads, writes = set(), {}, {}
        for op in inside:
            reads |= {s: n for s, n in op.reads if s not in made}
            made |= {s for s, _ in op.writes}
            writes |= {s: n for s, n in op.writes if last.get(s, chain[-1] + 1) > chain[-1]}
        whole = Op(inside[0].part, "chain", sum(op.flops for op in inside), any(op.half for op in inside))
        whole.reads, whole.writes, whole.launches = list(reads.items()), list(writes.items()), islands(inside)
        out.append(whole)
        chain.clear()

    for i, op in enumerate(ops):
        if op.fuses == "no" or op.part not in COMPILED_PARTS or (chain and ops[chain[0]].part != op.part):
            close()
        if op.fuses == "no" or op.part not in COMPILED_PARTS:
            out.append(op)
            continue
        chain.append(i)
        if op.fuses == "reduction":
            close()
    close()
    return out


def islands(ops: list[Op]) -> int:
    """Kernels of a chain: groups that share a tensor."""
    groups: list[set[int]] = []
    for op in ops:
        touched = {s for s, _ in (*op.reads, *op.writes)}
        apart = [g for g in groups if not g & touched]
        groups = [*apart, touched.union(*(g for g in groups if g & touched))]
    return len(groups)


def seconds(op: Op, card: Card) -> float:
    """On the device, alone."""
    if op.wire:
        return 0.0
    arithmetic = op.flops / ((card.bf16 if op.half else card.tf32) * ARITHMETIC)
    return max(arithmetic, op.bytes / (card.memory * BANDWIDTH), 1e-6 * LAUNCH_US * op.launches)


def wire_seconds(ops: list[Op], card: Card, processes: int) -> tuple[float, float]:
    """Of collectives: behind the backward (gradients), and in the way of the step."""
    ring = 2 * (processes - 1) / processes / (card.link * WIRE)
    times = {False: 0.0, True: 0.0}
    for op in (op for op in ops if op.wire):
        times["gradients" in op.name] += 1e-6 * COLLECTIVE_US + op.wire * ring
    return times[True], times[False]


@dataclasses.dataclass
class Prediction:
    """Of a step on every one of `processes` GPUs."""

    ms: float
    device_ms: float
    host_ms: float
    pairs_per_s: float
    mfu: float


def predict(ops: list[Op], card: Card, kind: str, unlabelled: int, processes: int) -> Prediction:
    """A step of one process whose operators are known; `unlabelled` rows over all processes."""
    run = ops if kind == "eager" else fused(ops)
    device = sum(seconds(op, card) for op in run)
    backward = sum(seconds(op, card) for op in run if op.part == "backward")
    hidden, shown = wire_seconds(ops, card, processes)
    device += shown + max(0.0, hidden - backward)
    launches = sum(op.launches for op in run)
    host = 1e-3 * REPLAY_MS if kind == "graph" else 1e-6 * HOST_US[kind] * launches
    time = max(device, host)
    work = sum(op.flops for op in ops)
    return Prediction(1e3 * time, 1e3 * device, 1e3 * host, unlabelled / time, work / time / card.bf16)


def parts(ops: list[Op], card: Card) -> dict[str, dict[str, float]]:
    """Part of the step -> its counts and derived milliseconds."""
    table = {}
    shorter = fused(ops)
    for name in dict.fromkeys(op.part for op in ops):
        own, compiled = ([op for op in these if op.part == name] for these in (ops, shorter))
        table[name] = {
            "tflop": sum(op.flops for op in own) / 1e12,
            "gb": sum(op.bytes for op in own) / 1e9,
            "launches": sum(op.launches for op in own if not op.wire),
            "compiled_gb": sum(op.bytes for op in compiled) / 1e9,
            "compiled_launches": sum(op.launches for op in compiled if not op.wire),
            "collectives": sum(op.wire > 0 for op in own),
            "eager_ms": 1e3 * sum(seconds(op, card) for op in own),
            "compiled_ms": 1e3 * sum(seconds(op, card) for op in compiled),
        }
    return table


def ledger(cfg: TrainConfig, card: Card) -> dict[str, Any]:
    """All counts and predictions of a configuration."""
    eight = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, batch=8 * cfg.optim.batch))
    one, weak, strong = record(cfg), record(eight, 8), record(cfg, 8)
    runs = {"1 GPU": (one, cfg, 1), "8 GPUs, weak": (weak, eight, 8), "8 GPUs, strong": (strong, cfg, 8)}
    return {
        "parts": parts(one, card),
        "collectives": {
            name: {"count": sum(op.wire > 0 for op in ops), "mb": sum(op.wire for op in ops) / 1e6}
            for name, (ops, _, _) in runs.items()
        },
        "predictions": {
            name: {kind: dataclasses.asdict(predict(ops, card, kind, c.batch_unlabelled, n)) for kind in KINDS}
            for name, (ops, c, n) in runs.items()
        },
    }


def show(cfg: TrainConfig, gpu: str, found: dict[str, Any]) -> None:
    """The tables; every line of figures says that it is derived."""
    card = CARDS[gpu]
    print(f"{cfg.preset}: {cfg.batch_labelled} labelled + {cfg.batch_unlabelled} unlabelled clips a step, on one {gpu}")
    print(
        f"data sheet: {card.bf16 / 1e12:.0f} TFLOP/s bf16, {card.memory / 1e12:.2f} TB/s, {card.link / 1e9:.0f} GB/s "
        f"to others; assumed: {ARITHMETIC:.0%} of the arithmetic, {BANDWIDTH:.0%} of the memory, {WIRE:.0%} of the "
        f"wire, {LAUNCH_US} us a launch, {HOST_US['eager']} us of the host an "
        f"operator ({HOST_US['compiled']} compiled)\n"
    )
    head = ("TFLOP", "GB", "launches", "eager ms", "GB", "launches", "compiled ms")
    print(f"{'part':<20}" + "".join(f"{h:>12}" for h in head))
    keys = ("tflop", "gb", "launches", "eager_ms", "compiled_gb", "compiled_launches", "compiled_ms")
    rows = found["parts"] | {"step": {key: sum(part[key] for part in found["parts"].values()) for key in keys}}
    for name, part in rows.items():
        cells = [f"{part[key]:>12.2f}" if "launches" not in key else f"{part[key]:>12.0f}" for key in keys]
        print(f"{name:<20}{''.join(cells)}   derived")
    print(f"\n{'GPUs':<20}{'mode':>12}{'step ms':>12}{'device ms':>12}{'host ms':>12}{'pairs/s':>12}{'MFU':>12}")
    for name, kinds in found["predictions"].items():
        for kind, p in kinds.items():
            cells = f"{p['ms']:>12.1f}{p['device_ms']:>12.1f}{p['host_ms']:>12.1f}{p['pairs_per_s']:>12,.0f}"
            print(f"{name:<20}{kind:>12}{cells}{p['mfu']:>12.1%}   derived")
    for name, wire in found["collectives"].items():
        if wire["count"]:
            print(f"{name:<20}{wire['count']:>12} collectives of {wire['mb']:,.0f} MB in all   derived")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="vggsound-144k")
    parser.add_argument("--gpu", choices=CARDS, default="h100")
    parser.add_argument("--batch", type=int, help="clips a step; default: the preset's")
    parser.add_argument("--out", type=Path, help="JSON")
    args = parser.parse_args()
    cfg = preset(args.preset)
    cfg = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, batch=args.batch or cfg.optim.batch))
    found = ledger(cfg, CARDS[args.gpu])
    show(cfg, args.gpu, found)
    if args.out:
        args.out.write_text(json.dumps({"preset": cfg.preset, "gpu": args.gpu, "derived": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

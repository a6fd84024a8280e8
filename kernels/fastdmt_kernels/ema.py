"""ema_update: every tensor of the teachers moves towards its student in one launch.

    t <- t + (1 - m) (s - t)      integer buffers: t <- s      shadow <- t, rounded

A table of addresses in device memory tells each program its tensor and its chunk. It is made once and kept while the
addresses stay; m is read from device memory, so a schedule changes no launch and a captured graph stays valid.
"""

from __future__ import annotations

import functools
import sys
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import checks, reference
from .backend import cdiv, jit, launch, launches, tl
from .tuning import config

COLUMNS = 7  # of the table: teacher, student, shadow, elements, and the three types' codes
CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
BYTES, NO_SHADOW = 3, -1
PLANS = 8  # kept at once: one for each set of teachers that a process trains


@jit
def load_floats(address, code, o, mask, WHOLE: tl.constexpr):
    if code == 0:
        p = tl.multiple_of(address.to(tl.pointer_type(tl.float32)), 16)
        x = tl.load(p + o) if WHOLE else tl.load(p + o, mask, other=0.0)
    elif code == 1:
        q = tl.multiple_of(address.to(tl.pointer_type(tl.bfloat16)), 16)
        x = tl.load(q + o).to(tl.float32) if WHOLE else tl.load(q + o, mask, other=0.0).to(tl.float32)
    else:
        r = tl.multiple_of(address.to(tl.pointer_type(tl.float16)), 16)
        x = tl.load(r + o).to(tl.float32) if WHOLE else tl.load(r + o, mask, other=0.0).to(tl.float32)
    return x


@jit
def store_floats(address, code, o, x, mask, WHOLE: tl.constexpr):
    if code == 0:
        p = tl.multiple_of(address.to(tl.pointer_type(tl.float32)), 16)
        if WHOLE:
            tl.store(p + o, x)
        else:
            tl.store(p + o, x, mask)
    elif code == 1:
        q = tl.multiple_of(address.to(tl.pointer_type(tl.bfloat16)), 16)
        if WHOLE:
            tl.store(q + o, x.to(tl.bfloat16))
        else:
            tl.store(q + o, x.to(tl.bfloat16), mask)
    elif code == 2:
        r = tl.multiple_of(address.to(tl.pointer_type(tl.float16)), 16)
        if WHOLE:
            tl.store(r + o, x.to(tl.float16))
        else:
            tl.store(r + o, x.to(tl.float16), mask)


@jit
def move(row, teacher_code, student_code, begin, count, keep, WHOLE: tl.constexpr, BLOCK: tl.constexpr):
    o = begin + tl.arange(0, BLOCK)
    mask = tl.arange(0, BLOCK) < count
    teacher = tl.load(row)
    old = load_floats(teacher, teacher_code, o, mask, WHOLE)
    aim = load_floats(tl.load(row + 1), student_code, o, mask, WHOLE)
    new = old + (1.0 - keep) * (aim - old)
    store_floats(teacher, teacher_code, o, new, mask, WHOLE)
    store_floats(tl.load(row + 2), tl.load(row + 6), o, new, mask, WHOLE)


@jit
def ema_kernel(table, chunks, m, COLUMNS: tl.constexpr, BYTES: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0)
    row = table + tl.load(chunks + 2 * i).to(tl.int64) * COLUMNS
    begin = tl.load(chunks + 2 * i + 1).to(tl.int64) * BLOCK
    count = tl.load(row + 3) - begin
    keep = tl.load(m)
    teacher_code, student_code = tl.load(row + 4), tl.load(row + 5)
    if teacher_code == BYTES:
        o = begin + tl.arange(0, BLOCK)
        mask = tl.arange(0, BLOCK) < count
        source = tl.load(row + 1).to(tl.pointer_type(tl.uint8))
        tl.store(tl.load(row).to(tl.pointer_type(tl.uint8)) + o, tl.load(source + o, mask, other=0), mask)
    elif count < BLOCK:
        move(row, teacher_code, student_code, begin, count, keep, False, BLOCK)
    elif (teacher_code == 0) & (student_code == 0):
        # Nearly all bytes go this way: whole chunks of float32. Without a mask loads are 16 bytes wide, and with the
        # types known no layout has to suit another type.
        move(row, 0, 0, begin, count, keep, True, BLOCK)
    else:
        move(row, teacher_code, student_code, begin, count, keep, True, BLOCK)


class Plan(NamedTuple):
    table: Tensor  #: [tensors, COLUMNS] int64
    chunks: Tensor  #: [programs, 2] int32: row of the table, chunk of the tensor
    rest: list[int]  #: positions of the tensors that the kernel does not take


_plans: OrderedDict[tuple, Plan] = OrderedDict()
_captured: list[Plan] = []  # plans whose addresses a CUDA graph holds: never freed


def _one_block(t: Tensor) -> bool:
    return t.is_contiguous() or (t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last))


def _row(teacher: Tensor, student: Tensor, shadow: Tensor | None) -> list[int] | None:
    """The table's row of one tensor, None when the kernel does not take it: unaligned, float64, unlike strides."""
    tensors = [teacher, student] if shadow is None else [teacher, student, shadow]
    if not all(_one_block(t) and t.data_ptr() % 16 == 0 and t.stride() == teacher.stride() for t in tensors):
        return None
    addresses = [teacher.data_ptr(), student.data_ptr(), 0 if shadow is None else shadow.data_ptr()]
    if not teacher.is_floating_point():
        same = teacher.dtype == student.dtype and shadow is None
        return [*addresses, teacher.numel() * teacher.element_size(), BYTES, BYTES, NO_SHADOW] if same else None
    if any(t.dtype not in CODES for t in tensors):
        return None
    code = NO_SHADOW if shadow is None else CODES[shadow.dtype]
    return [*addresses, teacher.numel(), CODES[teacher.dtype], CODES[student.dtype], code]


def _make_plan(
    teachers: Sequence[Tensor], students: Sequence[Tensor], shadows: Sequence[Tensor | None], block: int
) -> Plan:
    rows, chunks, rest = [], [], []
    for i, tensors in enumerate(zip(teachers, students, shadows, strict=True)):
        row = _row(*tensors)
        if row is None:
            rest.append(i)
        else:
            chunks += [(len(rows), chunk) for chunk in range(cdiv(row[3], block))]
            rows.append(row)
    device = teachers[0].device
    table = torch.tensor(rows, dtype=torch.int64).view(len(rows), COLUMNS)
    return Plan(table.to(device), torch.tensor(chunks, dtype=torch.int32).view(len(chunks), 2).to(device), rest)


def _plan(teachers: Sequence[Tensor], students: Sequence[Tensor], shadows: list[Tensor | None], block: int) -> Plan:
    present = [t for t in (*teachers, *students, *shadows) if t is not None]
    places = tuple(-1 if s is None else i for i, s in enumerate(shadows))
    key = (block, places, tuple((t.data_ptr(), t.dtype, t.stride(), t.numel()) for t in present))
    if key not in _plans:
        while len(_plans) >= PLANS:
            _plans.popitem(last=False)
        _plans[key] = _make_plan(teachers, students, shadows, block)
    _plans.move_to_end(key)
    return _plans[key]


def _spread(shadow: Sequence[Tensor], places: Sequence[int], count: int) -> list[Tensor | None]:
    shadows: list[Tensor | None] = [None] * count
    for place, tensor in zip(places, shadow, strict=True):
        shadows[place] = tensor
    return shadows


def update(
    teachers: Sequence[Tensor], students: Sequence[Tensor], m: Tensor, shadow: Sequence[Tensor], places: Sequence[int]
) -> None:
    """`shadow` are the shadows of the teachers at `places`."""
    shadows = _spread(shadow, places, len(teachers))
    options = config("ema_update", m.device)
    plan = _plan(teachers, students, shadows, options["BLOCK"])
    if m.is_cuda and torch.cuda.is_current_stream_capturing():
        _captured.append(plan)
    launch(
        ema_kernel, len(plan.chunks), plan.table, plan.chunks, m,
        device=m.device, COLUMNS=COLUMNS, BYTES=BYTES, **options,
    )  # fmt: skip
    if plan.rest:
        pick = [[tensors[i] for i in plan.rest] for tensors in (teachers, students, shadows)]
        foreach(pick[0], pick[1], m, pick[2])


def foreach(
    teachers: Sequence[Tensor], students: Sequence[Tensor], m: Tensor | float, shadows: Sequence[Tensor | None]
) -> None:
    """The same with PyTorch's multi-tensor functions, grouped by type: the path of CPU tensors."""
    groups: dict[tuple, list[int]] = {}
    for i, (teacher, student) in enumerate(zip(teachers, students, strict=True)):
        groups.setdefault((teacher.dtype, torch.promote_types(teacher.dtype, student.dtype)), []).append(i)
    for (dtype, wider), members in groups.items():
        old, aim = [teachers[i] for i in members], [students[i] for i in members]
        if not dtype.is_floating_point:
            torch._foreach_copy_(old, aim)
        elif dtype != wider:
            reference.ema_update(old, aim, m)
        else:
            aim = [student.to(dtype) for student in aim]
            if isinstance(m, Tensor) and m.is_cuda:  # its value stays on the device: no lerp takes it there
                step = torch._foreach_sub(aim, old)
                torch._foreach_mul_(step, 1 - m.to(dtype))
                torch._foreach_add_(old, step)
            else:
                torch._foreach_lerp_(old, aim, 1 - float(m))
    wanted = [i for i, shadow in enumerate(shadows) if shadow is not None]
    if wanted:
        torch._foreach_copy_([shadows[i] for i in wanted], [teachers[i] for i in wanted])


_update = torch.library.custom_op(
    "fastdmt::ema_update", update, mutates_args=("teachers", "shadow"), device_types="cuda"
)


@_update.register_kernel("cpu")
def _(teachers, students, m, shadow, places):
    if launches(m):
        return update(teachers, students, m, shadow, places)
    return foreach(teachers, students, m, _spread(shadow, places, len(teachers)))


@_update.register_fake
def _(teachers, students, m, shadow, places):
    return None


@functools.lru_cache(maxsize=16)
def _device_scalar(m: float, device: torch.device) -> Tensor:
    return torch.full((), m, dtype=torch.float32, device=device)


def _scalar(m: Tensor | float, device: torch.device) -> Tensor:
    if isinstance(m, Tensor):
        return m.to(device, torch.float32)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return torch.full((), m, dtype=torch.float32, device=device)  # the graph's own, so it lives as long
    return _device_scalar(m, device)


def _local(t: Tensor | None) -> Tensor | None:
    """This rank's shard of a DTensor; any other tensor itself."""
    module = sys.modules.get("torch.distributed.tensor")  # a DTensor exists only where somebody imported it
    return t.to_local() if module is not None and isinstance(t, module.DTensor) else t


def _check(i: int, teacher: Tensor, student: Tensor, shadow: Tensor | None) -> None:
    checks.same_device(f"teachers[{i}]", teacher, **{f"students[{i}]": student, f"shadow[{i}]": shadow})
    for name, other in ((f"students[{i}]", student), (f"shadow[{i}]", shadow)):
        if other is not None and other.shape != teacher.shape:
            came, wanted = list(other.shape), list(teacher.shape)
            raise ValueError(f"{name} has shape {came}, teachers[{i}] {wanted}; the same shape is wanted")
    if getattr(teacher, "placements", None) != getattr(student, "placements", None):
        raise ValueError(
            f"teachers[{i}] and students[{i}] are sharded differently (a root module of FSDP2 stays gathered after a "
            "forward without gradient: call its reshard() before the update)"
        )
    if teacher.is_floating_point() != student.is_floating_point() or teacher.is_complex():
        raise TypeError(f"teachers[{i}] is {teacher.dtype}, students[{i}] {student.dtype}; both float or both integer")


def ema_update(
    teachers: Sequence[Tensor],
    students: Sequence[Tensor],
    m: Tensor | float,
    shadow: Sequence[Tensor | None] | None = None,
) -> None:
    """Moves the teachers' tensors towards their students', in place: t <- m t + (1 - m) s.

    teachers, students  parameters and buffers in the same order: any shapes and float types (float32 teachers of
             bfloat16 students too), integer buffers (copied), DTensors sharded alike (each rank moves its shards).
             A student that is a Parameter without gradient is frozen and skipped, unless it has a shadow.
    m        momentum 0..1: a float, or a tensor of one element, which a schedule or a CUDA graph's replay may change
    shadow   None, or for each teacher None or a tensor of its shape (bfloat16, say), which receives the new value

    Before a CUDA graph is captured run the update once, with m a tensor on the device: that makes the plan.
    Arithmetic is float32. Keep teachers in float32: at m = 0.999 a bfloat16 one stops moving, each step being below
    half of its last bit. Raises ValueError or TypeError naming the tensor's position.
    Source: Tarvainen & Valpola 2017 (mean teacher); buffers too after EMAN (Cai et al. 2021).
    """
    if len(teachers) != len(students):
        raise ValueError(f"students holds {len(students)} tensors, teachers {len(teachers)}; the same number is wanted")
    if shadow is not None and len(shadow) != len(teachers):
        raise ValueError(f"shadow holds {len(shadow)} entries, teachers {len(teachers)}; the same number is wanted")
    if not isinstance(m, Tensor):
        checks.number("m", m, -1e-9, 1 + 1e-9, "a momentum from 0 to 1")
    elif m.numel() != 1 or not m.is_floating_point():
        raise ValueError(f"m has shape {list(m.shape)} and is {m.dtype}; one float is wanted")
    moving: list[tuple[Tensor, Tensor, Tensor | None]] = []
    for i, (t, s, h) in enumerate(zip(teachers, students, shadow or [None] * len(teachers), strict=True)):
        _check(i, t, s, h)
        if h is not None or s.requires_grad or not isinstance(s, torch.nn.Parameter):
            moving.append((t, s, h))
    with torch.no_grad():
        for device in _devices(moving):
            here = [tuple(_local(x) for x in row) for row in moving if row[0].device == device]
            _run(*zip(*here, strict=True), m)


def _devices(rows: Iterable[tuple]) -> list[torch.device]:
    return list(dict.fromkeys(row[0].device for row in rows))


def _run(teachers: tuple, students: tuple, shadows: tuple, m: Tensor | float) -> None:
    device = teachers[0].device
    places = [i for i, shadow in enumerate(shadows) if shadow is not None]
    if not launches(next((t for t in teachers if t.dtype != torch.float64), teachers[0])):
        foreach(teachers, students, m, shadows)
    else:
        _update(list(teachers), list(students), _scalar(m, device), [shadows[i] for i in places], places)

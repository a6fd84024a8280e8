"""EMA and ema_update: every tensor of the teachers moves towards its student in one launch.

    t <- t + (1 - m) (s - t)      integer buffers: t <- s

A table of addresses in device memory tells each program its tensor and its chunk. The constructor makes it; a step
compares addresses and launches. m is an argument of the launch, or read on the device: a captured graph follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, library
from torch._subclasses.fake_tensor import FakeTensor

from . import checks
from .backend import cdiv, jit, launch, launches, tl
from .tuning import config

COLUMNS = 5  # of the table: teacher, student, elements, and the two types' codes
CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
BYTES = 3


@jit
def read(p, o, mask, WHOLE: tl.constexpr):
    return (tl.load(p + o) if WHOLE else tl.load(p + o, mask, other=0.0)).to(tl.float32)


@jit
def write(p, o, x, mask, WHOLE: tl.constexpr):
    x = x.to(p.dtype.element_ty)
    if WHOLE:
        tl.store(p + o, x)
    else:
        tl.store(p + o, x, mask)


@jit
def load_floats(address, code, o, mask, WHOLE: tl.constexpr):
    if code == 0:
        x = read(tl.multiple_of(address.to(tl.pointer_type(tl.float32)), 16), o, mask, WHOLE)
    elif code == 1:
        x = read(tl.multiple_of(address.to(tl.pointer_type(tl.bfloat16)), 16), o, mask, WHOLE)
    else:
        x = read(tl.multiple_of(address.to(tl.pointer_type(tl.float16)), 16), o, mask, WHOLE)
    return x


@jit
def store_floats(address, code, o, x, mask, WHOLE: tl.constexpr):
    if code == 0:
        write(tl.multiple_of(address.to(tl.pointer_type(tl.float32)), 16), o, x, mask, WHOLE)
    elif code == 1:
        write(tl.multiple_of(address.to(tl.pointer_type(tl.bfloat16)), 16), o, x, mask, WHOLE)
    else:
        write(tl.multiple_of(address.to(tl.pointer_type(tl.float16)), 16), o, x, mask, WHOLE)


@jit
def move(row, teacher_code, student_code, begin, count, keep, WHOLE: tl.constexpr, BLOCK: tl.constexpr):
    o = begin + tl.arange(0, BLOCK)
    mask = tl.arange(0, BLOCK) < count
    teacher = tl.load(row)
    old = load_floats(teacher, teacher_code, o, mask, WHOLE)
    aim = load_floats(tl.load(row + 1), student_code, o, mask, WHOLE)
    # From the nearer end, as torch.lerp: exact at both ends, whatever the other end holds.
    way = aim - old
    new = tl.where(keep < 0.5, aim - keep * way, old + (1.0 - keep) * way)
    new = tl.where(keep == 0.0, aim, tl.where(keep == 1.0, old, new))
    store_floats(teacher, teacher_code, o, new, mask, WHOLE)


@jit
def ema_kernel(
    table, chunks, m,
    ON_DEVICE: tl.constexpr, COLUMNS: tl.constexpr, BYTES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    row = table + tl.load(chunks + 2 * i).to(tl.int64) * COLUMNS
    begin = tl.load(chunks + 2 * i + 1).to(tl.int64) * BLOCK
    count = tl.load(row + 2) - begin
    if ON_DEVICE:
        keep = tl.load(m).to(tl.float32)
    else:
        keep = m + 0.0
    teacher_code, student_code = tl.load(row + 3), tl.load(row + 4)
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


Row = tuple[Tensor, Tensor]  # teacher, student


class Tables(NamedTuple):
    """What the kernel reads, and the addresses that it was made from."""

    table: Tensor  #: [tensors, COLUMNS] int64
    chunks: Tensor  #: [programs, 2] int32: row of the table, chunk of the tensor
    addresses: list[int]
    rest: list[Row]  #: rows that the kernel does not take
    stream: object  #: the stream that the tables' memory belongs to


def _entry(teacher: Tensor, student: Tensor) -> list[int] | None:
    """The table's row of one tensor, None when the kernel does not take it: unaligned, float64, unlike strides."""
    dense = teacher.is_contiguous() or (teacher.dim() == 4 and teacher.is_contiguous(memory_format=torch.channels_last))
    addresses = [teacher.data_ptr(), student.data_ptr()]
    if not dense or teacher.stride() != student.stride() or any(address % 16 for address in addresses):
        return None
    if not teacher.is_floating_point():
        size = teacher.numel() * teacher.element_size()
        return [*addresses, size, BYTES, BYTES] if teacher.dtype == student.dtype else None
    if teacher.dtype not in CODES or student.dtype not in CODES:
        return None
    return [*addresses, teacher.numel(), CODES[teacher.dtype], CODES[student.dtype]]


def _addresses(rows: Sequence[Row]) -> list[int]:
    return [t.data_ptr() for row in rows for t in row]


def _tabulate(rows: Sequence[Row], block: int) -> Tables:
    entries, chunks, rest = [], [], []
    for row in rows:
        entry = _entry(*row)
        if entry is None:
            rest.append(row)
        else:
            chunks += [(len(entries), chunk) for chunk in range(cdiv(entry[2], block))]
            entries.append(entry)
    device = rows[0][0].device
    table = torch.tensor(entries, dtype=torch.int64).view(len(entries), COLUMNS).to(device)
    chunked = torch.tensor(chunks, dtype=torch.int32).view(len(chunks), 2).to(device)
    return Tables(table, chunked, _addresses(rows), rest, _stream(device)[0])


def _stream(device: torch.device) -> tuple[object, bool]:
    """The device's current stream, and whether a graph captures it."""
    if device.type != "cuda":
        return None, False
    with torch.cuda.device(device):
        return torch.cuda.current_stream(), torch.cuda.is_current_stream_capturing()


class Kernel:
    """The rows of one device, moved by one launch."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows, self.options = rows, config("ema_update", rows[0][0].device)
        self.captured: list[Tables] = []
        self.prepare()

    def prepare(self) -> None:
        self.tables = _tabulate(self.rows, self.options["BLOCK"])
        self.plain = Foreach(self.tables.rest)

    def step(self, m: Tensor | float) -> None:
        device = self.rows[0][0].device
        stream, capturing = _stream(device)
        if _addresses(self.rows) != self.tables.addresses:
            if capturing:
                raise RuntimeError("tensors moved since the last step; take one step before the capture")
            self.prepare()
        tables = self.tables
        if capturing and not any(tables is known for known in self.captured):
            self.captured.append(tables)  # a graph reads them for as long as this object lives
        if stream != tables.stream:
            for memory in (tables.table, tables.chunks):
                memory.record_stream(stream)
        on_device = isinstance(m, Tensor)
        launch(
            ema_kernel, len(tables.chunks), tables.table, tables.chunks, m.to(device) if on_device else float(m),
            device=device, ON_DEVICE=on_device, COLUMNS=COLUMNS, BYTES=BYTES, **self.options,
        )  # fmt: skip
        if tables.rest:
            self.plain.step(m)


class Foreach:
    """The same with PyTorch's multi-tensor functions, grouped by type: the path of all other devices."""

    def __init__(self, rows: Sequence[Row]) -> None:
        groups: dict[tuple[torch.dtype, torch.dtype], list[Row]] = {}
        for row in rows:
            groups.setdefault((row[0].dtype, row[1].dtype), []).append(row)
        self.groups = [(*types, [r[0] for r in g], [r[1] for r in g]) for types, g in groups.items()]

    def step(self, m: Tensor | float) -> None:
        # A plain tensor in host memory is a number; any other keeps its value to itself.
        if type(m) is Tensor and m.device.type == "cpu":
            m = float(m)
        for own, other, teachers, students in self.groups:
            if not own.is_floating_point:
                torch._foreach_copy_(teachers, students)
            elif own == other:
                _lerp(teachers, students, m)
            else:
                # Float32 arithmetic where a half-precision type is involved, float64 beside a float64.
                wide = torch.promote_types(torch.promote_types(own, other), torch.float32)
                values = [t.to(wide, copy=True) for t in teachers]
                _lerp(values, [s.to(wide) for s in students], m)
                torch._foreach_copy_(teachers, values)


def _lerp(old: list[Tensor], aim: list[Tensor], m: Tensor | float) -> None:
    if not isinstance(m, Tensor):
        if m == 0:
            torch._foreach_copy_(old, aim)
        elif m != 1:
            torch._foreach_lerp_(old, aim, 1 - m)
        return
    keep = m.to(old[0].device, old[0].dtype).reshape(())
    for t, s in zip(old, aim, strict=True):
        moved = t.lerp(s, 1 - keep)
        t.copy_(torch.where(keep == 0, s, torch.where(keep == 1, t, moved)))


def _local(t: Tensor) -> Tensor:
    """This rank's shard of a DTensor; any other tensor itself."""
    return t.to_local() if hasattr(t, "placements") else t  # type: ignore[attr-defined]  # a DTensor's


def _check(i: int, teacher: Tensor, student: Tensor) -> None:
    own, other = f"teachers[{i}]", f"students[{i}]"
    checks.same_device(own, teacher, **{other: student})
    if student.shape != teacher.shape:
        came, wanted = list(student.shape), list(teacher.shape)
        raise ValueError(f"{other} has shape {came}, {own} {wanted}; the same shape is wanted")
    if any(getattr(student, x, None) != getattr(teacher, x, None) for x in ("device_mesh", "placements")):
        raise ValueError(
            f"{own} and {other} are sharded differently (a root module of FSDP2 stays gathered after a forward without "
            "gradient: call its reshard() before the update)"
        )
    if _local(student).shape != _local(teacher).shape:
        raise ValueError(f"{other} and {own} have different shapes on this rank; the same shards are wanted")
    if teacher.is_floating_point() != student.is_floating_point() or teacher.is_complex():
        raise TypeError(f"{own} is {teacher.dtype}, {other} {student.dtype}; both float or both integer")


def _moving(teachers: Sequence[Tensor], students: Sequence[Tensor]) -> list[tuple[int, Row]]:
    """The rows that move, each with its position."""
    if len(teachers) != len(students):
        raise ValueError(f"students holds {len(students)} tensors, teachers {len(teachers)}; the same number is wanted")
    rows = []
    for i, (t, s) in enumerate(zip(teachers, students, strict=True)):
        _check(i, t, s)
        if s.requires_grad or not isinstance(s, torch.nn.Parameter):
            rows.append((i, (t, s)))
    return rows


def _place(t: Tensor) -> tuple:
    """Where a tensor's elements are; works without memory (meta) too."""
    t = _local(t)
    return t.untyped_storage()._cdata, t.storage_offset(), t.stride(), t.dtype


def _unique(rows: list[tuple[int, Row]]) -> list[Row]:
    seen: dict[tuple, tuple[int, tuple]] = {}
    for i, row in rows:
        teacher, student = (_place(t) for t in row)
        first, known = seen.setdefault(teacher, (i, student))
        if known != student:
            raise ValueError(f"teachers[{i}] is teachers[{first}] once more, with another student")
    firsts = {i for i, _ in seen.values()}
    return [row for i, row in rows if i in firsts]


class EMA:
    """A prepared `ema_update`: validates once, then a step is one launch. t <- m t + (1 - m) s, in place.

    Args:
        teachers, students: parameters and buffers in the same order: any shapes and float types (float32 teachers of
            bfloat16 students too), integer buffers (copied), DTensors sharded alike (each rank moves its shards). A
            student that is a Parameter without gradient is frozen and skipped. A pair that appears twice (tied
            weights) moves once.

    The lists and the mode (`use`) are read here: make a new object when tensors are frozen or replaced. Storage may
    move: the step notices. A CUDA graph may hold a step, after one outside it; keep the object as long as the graph.
    Without memory (meta, fake tensors) a step does nothing. Arithmetic is float32. Keep teachers in float32: at
    m = 0.999 a bfloat16 one stops moving, each step being below half of its last bit.

    Raises:
        ValueError, TypeError: naming the position of the tensor.

    Source: Tarvainen & Valpola 2017 (mean teacher); buffers too after EMAN (Cai et al. 2021).
    """

    def __init__(self, teachers: Sequence[Tensor], students: Sequence[Tensor]) -> None:
        self._rows = _unique(_moving(list(teachers), list(students)))
        self._sharded = any(hasattr(row[0], "placements") for row in self._rows)
        with torch.no_grad():
            self._prepare(self._local_rows())

    def _local_rows(self) -> list[Row]:
        return [(_local(t), _local(s)) for t, s in self._rows] if self._sharded else self._rows

    def _prepare(self, rows: list[Row]) -> None:
        self._shards = rows
        self._parts = []
        # A tensor without memory, on the meta device or a fake one, has nothing to move.
        for device in dict.fromkeys(r[0].device for r in rows if not (r[0].is_meta or isinstance(r[0], FakeTensor))):
            here = [row for row in rows if row[0].device == device]
            floats = (row[0] for row in here if row[0].dtype != torch.float64)
            self._parts.append((Kernel if launches(next(floats, here[0][0])) else Foreach)(here))

    @torch.no_grad()
    def step(self, m: Tensor | float) -> None:
        """Moves every teacher; m is the momentum 0..1, a float or a tensor of one element.

        m = 0 copies and m = 1 keeps, bit for bit. The host reads no tensor on another device, so that one on the
        teachers' device may change between the replays of a CUDA graph.
        """
        if isinstance(m, Tensor):
            checks.scalar("m", m)
        else:
            checks.number("m", m, -1e-9, 1 + 1e-9, "a momentum from 0 to 1")
        if torch.compiler.is_compiling():
            _compiled(*zip(*self._local_rows(), strict=True), m=m)
            return
        if self._sharded:
            rows = self._local_rows()
            if any(
                new is not old for pair in zip(rows, self._shards, strict=True) for new, old in zip(*pair, strict=True)
            ):
                self._prepare(rows)
        for part in self._parts:
            part.step(m)


def ema_update(teachers: Sequence[Tensor], students: Sequence[Tensor], m: Tensor | float) -> None:
    """`EMA(teachers, students).step(m)`, for one-off use: in a loop make the object once."""
    if not torch.compiler.is_compiling():
        EMA(teachers, students).step(m)
    elif rows := [row for _, row in _moving(list(teachers), list(students))]:
        _compiled(*zip(*rows, strict=True), m=m)


@library.custom_op("fastdmt::ema_update", mutates_args=("teachers",))
def _update(teachers: Sequence[Tensor], students: Sequence[Tensor], m: Tensor) -> None:
    """Inside a compiled region."""
    EMA(teachers, [s.detach() for s in students]).step(m)


@_update.register_fake
def _(teachers, students, m):
    return None


def _compiled(teachers: Sequence[Tensor], students: Sequence[Tensor], m: Tensor | float) -> None:
    if not isinstance(m, Tensor):
        m = torch.full((), m, dtype=torch.float32, device=teachers[0].device)
    _update(list(teachers), list(students), m)

"""ema_update against its definition: any types, layouts and lists; plans that follow the storage; shards."""

import multiprocessing
import socket

import pytest
import torch
from closeness import assert_close
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastdmt_kernels
from fastdmt_kernels import EMA, ema, ema_update

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MODES = pytest.mark.parametrize("mode", ["kernels", "poisoned_memory"])  # the second is the CPU's path


def expected(teacher, student, m):
    if not teacher.is_floating_point():
        return student
    return m * teacher.double() + (1 - m) * student.double()


def check(teachers, students, m, step=None):
    truth = [expected(t, s, float(m)) for t, s in zip(teachers, students, strict=True)]
    if step is None:
        ema_update(teachers, students, m)
    else:
        step(m)
    for t, want in zip(teachers, truth, strict=True):
        if not t.is_floating_point():
            assert torch.equal(t, want.to(t.dtype))
        elif t.numel():
            assert_close(t, want, torch.float32 if t.dtype == torch.float64 else t.dtype)


def mixture(device):
    def last(*shape):
        return torch.randn(*shape, device=device).to(memory_format=torch.channels_last)

    pairs = [
        (torch.randn(7, 5), torch.randn(7, 5).bfloat16()),
        (torch.randn(300, 300), torch.randn(300, 300)),
        (torch.randn(70_000), torch.randn(70_000).half()),
        (torch.randn(5).bfloat16(), torch.randn(5)),
        (torch.randn(6).double(), torch.randn(6).double()),
        (last(3, 4, 5, 5), last(3, 4, 5, 5)),
        (last(3, 4, 5, 5), torch.randn(3, 4, 5, 5)),
        (torch.randn(10)[1:], torch.randn(10)[1:]),
        (torch.randn(()), torch.randn(())),
        (torch.randn(0), torch.randn(0)),
        (torch.tensor(5), torch.tensor(9)),
        (torch.tensor([1, 2, 3], dtype=torch.int32), torch.tensor([4, 5, 6])),
        (torch.tensor([True, False]), torch.tensor([False, True])),
    ]
    return [list(column) for column in zip(*[(t.to(device), s.to(device)) for t, s in pairs], strict=True)]


@MODES
@pytest.mark.parametrize("m", [0.9, 0.0, 1.0, "tensor"])
def test_a_mixed_list(request, device, mode, m):
    request.getfixturevalue(mode)
    teachers, students = mixture(device)
    check(teachers, students, torch.tensor(0.75, device=device) if m == "tensor" else m)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 5000), st.sampled_from(DTYPES), st.sampled_from(DTYPES)), min_size=1, max_size=4),
    st.floats(0, 1),
)
def test_any_list(kernels, device, entries, m):
    teachers = [torch.randn(n, device=device).to(t) for n, t, _ in entries]
    students = [torch.randn(n, device=device).to(s) for n, _, s in entries]
    check(teachers, students, torch.tensor(m, device=device))


def test_one_launch_and_one_table_for_many_steps(kernels, device, monkeypatch):
    launched, tabulated = [], []
    start, make = ema.launch, ema._tabulate
    monkeypatch.setattr(ema, "launch", lambda *a, **k: (launched.append(a[1]), start(*a, **k)))
    monkeypatch.setattr(ema, "_tabulate", lambda *a: (tabulated.append(1), make(*a))[1])
    teachers, students = ([torch.randn(n, device=device) for n in (3, 70_000, 5)] for _ in range(2))
    prepared = EMA(teachers, students)
    m = torch.tensor(0.5, device=device)
    for step in range(3):
        m.fill_(0.5 + 0.1 * step)  # a schedule: nothing is rebuilt
        check(teachers, students, m, step=prepared.step)
    assert len(launched) == 3 and len(tabulated) == 1
    teachers[1].data = torch.randn(70_000, device=device)  # a checkpoint was loaded: the storage moved
    check(teachers, students, 0.25, step=prepared.step)
    assert len(tabulated) == 2


@MODES
def test_tied_weights_move_once(request, device, mode):
    request.getfixturevalue(mode)
    teacher, student = torch.zeros(3, device=device), torch.ones(3, device=device)
    EMA([teacher, teacher, teacher.view(3)], [student, student, student.view(3)]).step(0.5)
    assert teacher.tolist() == [0.5] * 3
    with pytest.raises(ValueError, match=r"teachers\[1\] is teachers\[0\] once more"):
        EMA([teacher, teacher], [student, student.clone()])


@MODES
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_both_ends_are_exact(request, device, mode, dtype, as_tensor):
    request.getfixturevalue(mode)
    for m, wanted in ((0.0, -1.0), (1.0, 3e4)):
        teacher = torch.full((5000,), 3e4, dtype=dtype, device=device)
        before = teacher.clone()
        student = torch.full((5000,), -1.0, dtype=dtype, device=device)
        student[7] = teacher[8] = float("inf") if m == 0 else -1.0
        if m == 1:
            student[9] = float("nan")
            before = teacher.clone()
        ema_update([teacher], [student], torch.tensor(m, device=device) if as_tensor else m)
        assert torch.equal(teacher, student if m == 0 else before) and teacher[0] == torch.tensor(wanted).to(dtype)
    teacher = torch.full((2,), 1e30, device=device)
    ema_update([teacher], [torch.full((2,), -1.0, device=device)], 0.0)
    assert teacher.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("mode", fastdmt_kernels.backend.MODES)
def test_on_the_meta_device_a_step_changes_nothing(mode):
    before = fastdmt_kernels.use(mode)
    try:
        teachers, students = ([torch.empty(n, device="meta") for n in (3, 4)] for _ in range(2))
        prepared = EMA(teachers, students)
        prepared.step(0.5)
        prepared.step(torch.empty((), device="meta"))
        with pytest.raises(ValueError, match="the same shape is wanted"):
            EMA(teachers, students[::-1])
    finally:
        fastdmt_kernels.use(before)


@MODES
def test_under_fake_tensors_and_under_compile(request, device, mode):
    request.getfixturevalue(mode)
    teachers, students = mixture(device)
    prepared = EMA(teachers, students)
    m = torch.tensor(0.25, device=device)
    check(teachers, students, m, step=torch.compile(prepared.step, fullgraph=True, backend="aot_eager"))
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        EMA([torch.empty(3, device=device)], [torch.empty(3, device=device)]).step(torch.empty((), device=device))


@MODES
def test_frozen_parameters_are_skipped_and_buffers_are_not(request, device, mode):
    request.getfixturevalue(mode)
    frozen = torch.nn.Parameter(torch.ones(3, device=device), requires_grad=False)
    moving = torch.nn.Parameter(torch.ones(3, device=device))
    teachers = [torch.zeros(3, device=device) for _ in range(3)]
    ema_update(teachers, [frozen, moving, torch.ones(3, device=device)], 0.5)
    assert [t[0].item() for t in teachers] == [0.0, 0.5, 0.5]


@MODES
def test_no_gradient_is_recorded(request, device, mode):
    request.getfixturevalue(mode)
    teacher = torch.nn.Parameter(torch.zeros(3, device=device))
    student = torch.nn.Parameter(torch.ones(3, device=device))
    ema_update([teacher], [student], 0.25)
    assert teacher.grad_fn is None and teacher.requires_grad and teacher[0].item() == 0.75


@pytest.mark.parametrize(
    "teachers,students,m,words",
    [
        ([torch.zeros(2)], [], 0.5, "students holds 0 tensors, teachers 1"),
        ([torch.zeros(2)], [torch.zeros(3)], 0.5, r"students\[0\] has shape \[3\], teachers\[0\] \[2\]"),
        ([torch.zeros(2)], [torch.zeros(2, dtype=torch.int64)], 0.5, "both float or both integer"),
        ([torch.zeros(2)], [torch.zeros(2)], 1.5, "m is 1.5"),
        ([torch.zeros(2)], [torch.zeros(2)], torch.zeros(2), r"m has shape \[2\]"),
        ([torch.zeros(2)], [torch.zeros(2, device="meta")], 0.5, r"students\[0\] is on meta"),
    ],
)
def test_errors_name_the_tensor(teachers, students, m, words):
    with pytest.raises((ValueError, TypeError), match=words):
        ema_update(teachers, students, m)


def rank_main(rank, port, queue):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    full = torch.arange(15.0).view(5, 3)  # 5 rows on 2 ranks: uneven shards
    answers = []
    for mode in ("auto", "triton"):
        fastdmt_kernels.use(mode)
        teacher = distribute_tensor(torch.zeros(5, 3), mesh, [Shard(0)])
        student = torch.nn.Parameter(distribute_tensor(full, mesh, [Shard(0)]))
        ema_update([teacher], [student], 0.75)
        answers.append(teacher.full_tensor().numpy())
    whole, other = torch.zeros(5, 3), init_device_mesh("cpu", (2, 1))
    replicated = distribute_tensor(whole, mesh, [Replicate()])
    mixed = [
        ([whole], [student]),
        ([replicated], [student]),  # which holds half of the rows
        ([teacher], [replicated]),
        ([teacher], [whole]),
        ([teacher], [distribute_tensor(whole, other, [Shard(0), Replicate()])]),
    ]
    for lists in mixed:
        try:
            EMA(*lists)
        except ValueError as error:
            answers.append(str(error))
    queue.put((rank, answers))
    torch.distributed.destroy_process_group()


@pytest.mark.dist
def test_shards_of_two_ranks():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    ranks = [context.Process(target=rank_main, args=(rank, port, queue)) for rank in range(2)]
    for process in ranks:
        process.start()
    for _, (reference, kernel, *messages) in (queue.get(timeout=120) for _ in ranks):
        want = 0.25 * torch.arange(15.0).view(5, 3)
        torch.testing.assert_close(torch.from_numpy(reference), want)
        torch.testing.assert_close(torch.from_numpy(kernel), want)
        assert len(messages) == 5 and all("reshard()" in message for message in messages), messages
    for process in ranks:
        process.join(timeout=60)
        assert process.exitcode == 0

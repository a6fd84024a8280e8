"""ema_update against its definition: any types, layouts and lists; plans that follow the storage; shards."""

import multiprocessing
import socket

import pytest
import torch
from closeness import assert_close
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastdmt_kernels
from fastdmt_kernels import ema, ema_update

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MODES = pytest.mark.parametrize("mode", ["kernels", "poisoned_memory"])  # the second is the CPU's path


def expected(teacher, student, m):
    if not teacher.is_floating_point():
        return student
    return m * teacher.double() + (1 - m) * student.double()


def check(teachers, students, m, shadow=None):
    truth = [expected(t, s, float(m)) for t, s in zip(teachers, students, strict=True)]
    ema_update(teachers, students, m, shadow)
    for i, (t, want) in enumerate(zip(teachers, truth, strict=True)):
        if not t.is_floating_point():
            assert torch.equal(t, want.to(t.dtype))
        elif t.numel():
            assert_close(t, want, torch.float32 if t.dtype == torch.float64 else t.dtype)
        if shadow is not None and shadow[i] is not None:
            assert_close(shadow[i], want, shadow[i].dtype)


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


@MODES
def test_the_shadow_is_the_rounded_teacher(request, device, mode):
    request.getfixturevalue(mode)
    teachers, students = mixture(device)
    shadow = [
        torch.full_like(t, float("nan"), dtype=torch.bfloat16) if t.is_floating_point() else None for t in teachers
    ]
    shadow[3] = None
    check(teachers, students, 0.9, shadow)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5000), st.sampled_from(DTYPES), st.sampled_from(DTYPES), st.sampled_from([None, *DTYPES])
        ),
        min_size=1,
        max_size=4,
    ),
    st.floats(0, 1),
)
def test_any_list(kernels, device, entries, m):
    teachers = [torch.randn(n, device=device).to(t) for n, t, _, _ in entries]
    students = [torch.randn(n, device=device).to(s) for n, _, s, _ in entries]
    shadow = [None if h is None else torch.empty(n, device=device, dtype=h) for n, _, _, h in entries]
    check(teachers, students, torch.tensor(m, device=device), shadow)


def test_one_launch_and_one_plan_for_many_steps(kernels, device, monkeypatch):
    launched, planned = [], []
    start, plan = ema.launch, ema._make_plan
    monkeypatch.setattr(ema, "launch", lambda *a, **k: (launched.append(a[1]), start(*a, **k)))
    monkeypatch.setattr(ema, "_make_plan", lambda *a: (planned.append(1), plan(*a))[1])
    teachers, students = ([torch.randn(n, device=device) for n in (3, 70_000, 5)] for _ in range(2))
    m = torch.tensor(0.5, device=device)
    for step in range(3):
        m.fill_(0.5 + 0.1 * step)  # a schedule: nothing is rebuilt
        check(teachers, students, m)
    assert len(launched) == 3 and len(planned) == 1
    teachers[1] = torch.randn(70_000, device=device)  # a checkpoint was loaded: the storage moved
    check(teachers, students, m)
    assert len(planned) == 2


def test_many_sets_of_tensors_do_not_pile_up(kernels, device):
    for n in range(1, ema.PLANS + 4):
        check([torch.randn(n, device=device)], [torch.randn(n, device=device)], 0.5)
    assert len(ema._plans) <= ema.PLANS


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
    from torch.distributed.tensor import Shard, distribute_tensor

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
    try:
        ema_update([torch.zeros(5, 3)], [student], 0.75)
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
    for _, (reference, kernel, message) in (queue.get(timeout=120) for _ in ranks):
        want = 0.25 * torch.arange(15.0).view(5, 3)
        torch.testing.assert_close(torch.from_numpy(reference), want)
        torch.testing.assert_close(torch.from_numpy(kernel), want)
        assert "reshard()" in message
    for process in ranks:
        process.join(timeout=60)
        assert process.exitcode == 0

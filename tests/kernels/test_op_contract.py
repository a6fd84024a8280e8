"""What holds for every op: the dispatcher's rules, torch.compile, autocast, empty batches, errors, the switch."""

import os
import subprocess
import sys

import pytest
import torch
from torch.autograd import forward_ad

import fastdmt_kernels
from fastdmt_kernels import (
    consensus,
    localization_loss,
    localize,
    mil_logits,
    similarity_map,
)

SIZE = (20, 40)


def features(n, device):
    return [torch.randn(n, 6, 3, 4, device=device), torch.randn(n, 6, device=device)]


def maps(n, device):
    pair = [torch.randn(n, 3, 4, device=device), torch.tensor([5.0, 0.0], device=device)]
    return [*pair, torch.zeros(n, 20, 2, dtype=torch.int32, device=device), torch.ones(n, device=device)]


def two_maps(n, device):
    return [*(torch.randn(n, 3, 4, device=device) for _ in range(2)), torch.tensor([5.0, 0.0], device=device)]


#: name -> function, its tensors for a batch of n, how many of them get a gradient
OPS = {
    "similarity_map": (similarity_map, features, 2),
    "mil_logits": (mil_logits, features, 2),
    "localize": (lambda v, a: torch.cat([x.flatten(1) for x in localize(v, a)], 1), features, 2),
    "localization_loss": (lambda s, c, target, w: localization_loss(s, c, target, w, size=SIZE), maps, 2),
    "consensus": (lambda a, b, c: consensus(a, b, c, c, 0.6, 0.5, SIZE, soft="product", ignore_below=0.2), two_maps, 0),
}


def first(output):
    return output if isinstance(output, torch.Tensor) else output.iou


def ops_with_arguments(device):
    ops = torch.ops.fastdmt
    v, a = torch.randn(2, 6, 3, 4, device=device), torch.randn(2, 6, device=device)
    s, affine = torch.randn(2, 3, 4, device=device), torch.tensor([5.0, 0.0], device=device)
    mask, weight = torch.zeros(2, 20, 2, dtype=torch.int32, device=device), torch.ones(2, device=device)
    last = v.to(memory_format=torch.channels_last)
    m = torch.tensor(0.9, device=device)
    levels, two = torch.rand(3, device=device), (s.detach(), s.detach(), affine, affine)
    tensors = [torch.randn(4, device=device), torch.randn(3, device=device)]
    yield ops.similarity_map.default, (v.requires_grad_(), a.requires_grad_(), 1e-6)
    yield ops.localize.default, (last.requires_grad_(), a, 0.03, 1e-6, None)
    yield ops.localize.default, (last, a, 0.03, 1e-6, 0)
    yield ops.localization_loss.default, (s.requires_grad_(), affine, mask, weight, mask, m, *SIZE, True)
    yield ops.localization_loss.default, (s.detach(), affine, mask, weight, None, None, *SIZE, False)
    yield ops.consensus.default, (*two, None, 0.6, 0.5, *SIZE, "minmax", "none", None)
    yield ops.consensus.default, (*two, levels, 0.6, 0.5, *SIZE, "sigmoid", "product", 0.2)
    yield ops.boxes_to_mask.default, (torch.rand(2, 3, 4, device=device) * 20, *SIZE, 2)
    yield ops.ema_update.default, (tensors, [t + 1 for t in tensors], m)


def test_opcheck(kernels, device):
    for op, arguments in ops_with_arguments(device):
        torch.library.opcheck(op, arguments)


@pytest.mark.parametrize("name", OPS)
def test_compiles_without_a_break_and_once_for_all_sizes(name, mode, device):
    compiled = []

    def backend(graph, inputs):
        compiled.append(1)
        return torch._dynamo.backends.debugging.aot_eager(graph, inputs)

    torch._dynamo.reset()
    function, inputs, leaves = OPS[name]
    fast = torch.compile(function, fullgraph=True, backend=backend)
    for n in (3, 4, 6):
        tensors = inputs(n, device)
        wanted = [t.requires_grad_() for t in tensors[:leaves]]
        got, want = first(fast(*tensors)), first(function(*tensors))
        torch.testing.assert_close(got, want)
        if leaves:
            grads = [torch.autograd.grad(x.sum(), wanted) for x in (got, want)]
            torch.testing.assert_close(*grads)
    assert len(compiled) <= 2, "one graph for the first size and one for all others"


@pytest.mark.parametrize("name", OPS)
def test_an_empty_batch(name, mode, device):
    function, inputs, leaves = OPS[name]
    tensors = inputs(0, device)
    wanted = [t.requires_grad_() for t in tensors[:leaves]]
    output = function(*tensors)
    if name == "consensus":
        assert output.keep.shape == (0,) and output.mask.shape == (0, 20, 2) and output.empty_share == 0
        return
    shapes = {"similarity_map": (0, 3, 4), "mil_logits": (0, 0), "localize": (0, 12), "localization_loss": ()}
    assert output.shape == shapes[name]
    grads = torch.autograd.grad(output.sum(), wanted)
    assert all(torch.isfinite(g).all() and g.shape == t.shape for g, t in zip(grads, wanted, strict=True))


def test_frames_without_sounds_and_sounds_without_frames(mode, device):
    for n, m in ((0, 3), (3, 0)):
        v = torch.randn(n, 6, 2, 2, device=device, requires_grad=True)
        a = torch.randn(m, 6, device=device, requires_grad=True)
        logits = mil_logits(v, a)
        assert logits.shape == (n, m)
        logits.sum().backward()
        assert (v.grad == 0).all() and (a.grad == 0).all()


@pytest.mark.parametrize("name", OPS)
def test_autocast_changes_nothing(name, mode, device):
    function, inputs, _ = OPS[name]
    tensors = inputs(3, device)
    want = first(function(*tensors))
    with torch.autocast(device.type, torch.bfloat16):
        got = first(function(*tensors))
    assert got.dtype == torch.float32 and torch.equal(got, want)


def python(code):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240)


def forward_mode(function, x, tangent):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, tangent))).tangent


@pytest.mark.parametrize("name", [name for name in OPS if name != "consensus"])
def test_transforms_give_what_the_definition_gives(name, mode, device):
    function, inputs, _ = OPS[name]
    first_one, *others = inputs(3, device)
    tangent = torch.randn_like(first_one)

    def of_first(x):
        return function(x, *others).square().sum()

    derivatives = {
        "jvp": lambda: torch.func.jvp(of_first, (first_one,), (tangent,))[1],
        "grad": lambda: torch.func.grad(of_first)(first_one),
        "forward mode": lambda: forward_mode(of_first, first_one, tangent),
    }
    for derivative in derivatives.values():
        got = derivative()
        before = fastdmt_kernels.use("reference")
        want = derivative()
        fastdmt_kernels.use(before)
        assert want.abs().sum() > 0
        torch.testing.assert_close(got, want)


def test_vmap(mode, device):
    v, a = torch.randn(3, 2, 6, 3, 4, device=device), torch.randn(3, 2, 6, device=device)
    for op in (similarity_map, mil_logits):
        want = torch.stack([op(*row) for row in zip(v, a, strict=True)])
        torch.testing.assert_close(torch.func.vmap(op)(v, a), want)


def test_a_second_derivative_is_refused_or_right(mode, device):
    v, a = (t.requires_grad_() for t in features(2, device))
    grads = torch.autograd.grad(similarity_map(v, a).square().sum(), v, create_graph=True)
    if mode == "triton":
        with pytest.raises(RuntimeError, match="no autograd formula"):
            torch.autograd.grad(grads[0].square().sum(), v)
    else:
        assert torch.autograd.grad(grads[0].square().sum(), v)[0].abs().sum() > 0


@pytest.mark.parametrize("mode_name", fastdmt_kernels.backend.MODES)
@pytest.mark.parametrize("name", OPS)
def test_on_the_meta_device_shapes_come_out(name, mode_name):
    before = fastdmt_kernels.use(mode_name)
    try:
        function, inputs, leaves = OPS[name]
        tensors = inputs(3, torch.device("meta"))
        wanted = [t.requires_grad_() for t in tensors[:leaves]]
        got, want = function(*tensors), function(*inputs(3, torch.device("cpu")))
        for x, y in zip(*((r,) if isinstance(r, torch.Tensor) else r for r in (got, want)), strict=True):
            assert x.is_meta and x.shape == y.shape and x.dtype == y.dtype
        if leaves:
            grads = torch.autograd.grad(got.sum(), wanted)
            assert [g.shape for g in grads] == [t.shape for t in wanted]
    finally:
        fastdmt_kernels.use(before)


def test_a_norm_beyond_float32_is_nan_everywhere(mode, device):
    v, a = features(2, device)
    v[0, :, 1, 2] = 3e19
    assert similarity_map(v, a)[0, 1, 2].isnan() and similarity_map(v, a).isnan().sum() == 1
    assert torch.equal(mil_logits(v, a).isnan().any(1), torch.tensor([True, False], device=device))
    a[1] = 3e19
    assert similarity_map(v, a)[1].isnan().all() and mil_logits(v, a)[:, 1].isnan().all()


def test_a_schedule_of_levels_and_temperatures_compiles_once(mode, device):
    compiled = []

    def backend(graph, inputs):
        compiled.append(1)
        return torch._dynamo.backends.debugging.aot_eager(graph, inputs)

    torch._dynamo.reset()
    s_a, s_b, affine = two_maps(3, device)
    v, a = features(3, device)

    def step(delta, tau, ignore_below, temperature):
        agreed = consensus(s_a, s_b, affine, affine, delta, tau, SIZE, ignore_below=ignore_below)
        return agreed.iou, agreed.keep, agreed.mask, agreed.valid, mil_logits(v, a, temperature)

    fast = torch.compile(step, fullgraph=True, backend=backend)
    for i in range(12):
        numbers = (0.5 + i / 40, 0.02 * i, 0.3 + i / 100, 0.03 + i / 50)
        scalars = [torch.tensor(x, device=device) for x in numbers]
        for got, again, want in zip(fast(*scalars), step(*scalars), step(*numbers), strict=True):
            torch.testing.assert_close(got, want)
            torch.testing.assert_close(again, want)
    assert len(compiled) == 1


def test_a_schedule_of_numbers_compiles_no_second_kernel():
    """Levels, temperatures, eps, boxes and their votes are arguments of a launch, not constants of a kernel."""
    result = python("""
import torch
from fastdmt_kernels import aot, backend, masks, mil, similarity, tuning
from fastdmt_kernels.consensus import agree
e = aot.empty
v, a, s, c, best = e(2, 8, 4, 4), e(2, 8), e(2, 4, 4), e(2), e(2, 2, dtype=torch.int16)
makers = {
    "similarity": lambda x: similarity.forward(v, a, x),
    "mil": lambda x: mil.forward(v, a, x, x, None),
    "mil backward": lambda x: mil.backward(s, e(2, 2), v, a, s, e(2, 2), best, e(2, 16), e(2), x, 0, True, True),
    "consensus": lambda x: agree(s, s, c, c, None, x, x, 32, 32, "sigmoid", "none", x / 2),
    "boxes": lambda x: masks.rasterize(e(2, int(100 * x), 4), 32, 32, int(50 * x)),
}
for name, make in makers.items():
    seen = set()
    for x in (0.25, 0.5, 0.75):
        with tuning.pretending("any"), backend.recording() as calls:
            make(x)
        sources = [aot.source(kernel, args, options) for kernel, args, options in calls]
        seen.add(str([sorted(source.constants.items()) for source in sources]))
    assert len(seen) == 1, (name, seen)
""")
    assert result.returncode == 0, result.stderr

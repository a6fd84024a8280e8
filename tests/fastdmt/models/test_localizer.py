"""The default localizer, the contrastive losses' rows that take no part, and negatives from several ranks."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from localizer_cases import N, features, output, small
from torch._subclasses.fake_tensor import FakeTensorMode

from fastdmt.errors import FastDMTError
from fastdmt.models.encoders import SmallLogMel, SmallVisual
from fastdmt.models.localizer import Localizer, build_localizer
from fastdmt.names import LOCALIZERS


def brute_force(v, a, tau):
    """EZ-VSL's loss in plain loops."""
    v, a = v.numpy(), a.numpy()
    n = len(v)
    logits = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            cells = v[i].reshape(len(a[j]), -1)
            cosines = [c @ a[j] / np.linalg.norm(c) / np.linalg.norm(a[j]) for c in cells.T]
            logits[i, j] = max(cosines) / tau
    rows = sum(np.log(np.exp(logits[i]).sum()) - logits[i, i] for i in range(n)) / n
    columns = sum(np.log(np.exp(logits[:, i]).sum()) - logits[i, i] for i in range(n)) / n
    return rows + columns


@pytest.mark.parametrize("tau", [0.03, 0.5])
def test_default_loss_is_ezvsls(tau):
    v, a = features("dmt")
    found = small(tau=tau).contrastive_loss(output([v, a]), torch.ones(N))
    assert found.item() == pytest.approx(brute_force(v, a, tau), rel=1e-9)


@pytest.mark.parametrize("name", LOCALIZERS)
@settings(max_examples=15, deadline=None)
@given(mask=st.lists(st.booleans(), min_size=N, max_size=N), poison=st.sampled_from([1.0, 1e6, 0.0]))
def test_rows_without_weight_take_no_part(name, mask, poison):
    keep = torch.tensor(mask)
    parts = features(name)
    for x in parts:
        x[~keep] *= poison
    leaves = [x.clone().requires_grad_() for x in parts]
    loss = small(name).contrastive_loss(output(leaves), keep.float())
    loss.backward()
    compact = [x[keep].clone().requires_grad_() for x in parts]
    if keep.sum() < 2:
        assert loss.item() == 0
        assert all(x.grad is None or not x.grad.any() for x in leaves)
        return
    expected = small(name).contrastive_loss(output(compact), torch.ones(len(compact[0])))
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    for x, y in zip(leaves, compact, strict=True):
        torch.testing.assert_close(x.grad[keep], y.grad, rtol=1e-7, atol=1e-10)
        assert not x.grad[~keep].any()


@pytest.mark.parametrize("name", LOCALIZERS)
def test_weights_weigh(name):
    """A weight is a share in the mean; who is a negative does not depend on it."""
    parts, loss = features(name), small(name).contrastive_loss

    def of(*weight):
        return loss(output(parts), torch.tensor(weight, dtype=torch.float64)).item()

    full = of(1, 1, 1, 1, 1, 1)
    assert of(2, 2, 2, 2, 2, 2) == pytest.approx(full)
    singles = [of(*[1e9 if i == j else 1.0 for j in range(N)]) for i in range(N)]
    assert np.mean(singles) == pytest.approx(full, rel=1e-6)


@pytest.mark.parametrize("name", LOCALIZERS)
def test_gradcheck(name):
    parts = [x.requires_grad_() for x in features(name, n=3)]
    localizer = small(name, tau=0.3)
    weight = torch.tensor([1.0, 0.5, 1.0])
    assert torch.autograd.gradcheck(lambda *p: localizer.contrastive_loss(output(p), weight), parts, atol=1e-6)


@pytest.mark.parametrize("name", LOCALIZERS)
def test_extreme_features_stay_finite(name):
    for scale in (0.0, 1e-4, 1e4):
        parts = [(scale * x).float().requires_grad_() for x in features(name)]
        loss = small(name).contrastive_loss(output(parts), torch.ones(N))
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(x.grad).all() for x in parts)


@pytest.mark.parametrize("name", LOCALIZERS)
def test_loss_never_waits_for_the_device(name):
    """A fake tensor has no values: reading one, or a shape that depends on one, raises."""
    localizer = small(name)
    with FakeTensorMode(allow_non_fake_inputs=True):
        parts = [torch.empty(x.shape, requires_grad=True) for x in features(name)]
        loss = localizer.contrastive_loss(output(parts), torch.empty(N))
        loss.backward()
    assert loss.shape == () and all(x.grad.shape == x.shape for x in parts)


@pytest.mark.parametrize("name", LOCALIZERS)
def test_bfloat16_autocast_keeps_the_digits_of_the_loss(name):
    parts = [x.float() for x in features(name)]
    exact = small(name).contrastive_loss(output(parts), torch.ones(N))
    with torch.autocast("cpu", torch.bfloat16):
        found = small(name).contrastive_loss(output(parts), torch.ones(N))
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LOCALIZERS)
@pytest.mark.parametrize("dim", [128, 64])
def test_both_losses_reach_every_parameter(name, dim):
    localizer = small(name, dim=dim).train()
    g = torch.Generator().manual_seed(1)
    out = localizer(torch.randn(3, 3, 64, 64, generator=g), torch.randn(3, 3, 1, 96, 64, generator=g))
    assert out.map.shape == (3, 8, 8) and out.v.shape == (3, dim, 8, 8) and out.a.shape == (3, dim)
    assert out.map.dtype == torch.float32 and out.map.abs().max() <= 1 + 1e-6
    w, b = localizer.affine
    for loss in ((w * out.map + b).square().mean(), localizer.contrastive_loss(out, torch.ones(3))):
        localizer.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        for key, p in localizer.named_parameters():
            if not p.requires_grad:
                assert p.grad is None and key.startswith("slow."), key
            elif key != "affine":
                assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0, key


def test_heads():
    same, other = small(dim=128), small(dim=64, affine_init=(4.0, -1.0))
    assert isinstance(same.visual_head, torch.nn.Identity)
    assert other.visual_head.weight.shape == (64, 128, 1, 1)
    assert [type(m).__name__ for m in same.audio_head] == ["Linear", "ReLU", "Linear"]
    assert same.affine.tolist() == [10.0, -5.0] and other.affine.tolist() == [4.0, -1.0]
    assert same.front_end == "logmel" and same.affine.requires_grad


def test_map_is_the_cosine():
    localizer = small(dim=64).double().eval()
    g = torch.Generator().manual_seed(1)
    frames = torch.randn(2, 3, 64, 64, generator=g, dtype=torch.float64)
    sound = torch.randn(2, 3, 1, 96, 64, generator=g, dtype=torch.float64)
    with torch.no_grad():
        out = localizer(frames, sound)
        v = localizer.visual_head(localizer.visual(frames)).numpy()
        a = localizer.audio_head(localizer.audio(sound)).numpy()
    for n, y, x in ((0, 0, 0), (1, 7, 3)):
        cosine = v[n, :, y, x] @ a[n] / np.linalg.norm(v[n, :, y, x]) / np.linalg.norm(a[n])
        assert out.map[n, y, x].item() == pytest.approx(cosine, abs=1e-6)


@pytest.mark.parametrize("name", LOCALIZERS)
def test_map_and_logits_of_one_pass_are_those_of_two(name, monkeypatch):
    localizer = small(name, dim=64).double().train()
    assert localizer.gives_pairs == (name in ("dmt", "ezvsl"))
    if not localizer.gives_pairs:
        return
    g = torch.Generator().manual_seed(1)
    inputs = [torch.randn(3, 3, *s, generator=g, dtype=torch.float64) for s in ((64, 64), (1, 96, 64))]
    results = []
    for pairs in (False, True):
        if pairs:  # the loss computes no logits of its own
            monkeypatch.setattr("fastdmt.models.localizer.mil_logits", None)
        out = localizer(*inputs, pairs)
        loss = localizer.contrastive_loss(out, torch.ones(3))
        localizer.zero_grad(set_to_none=True)
        (loss + out.map.square().sum()).backward()
        grads = {key: p.grad for key, p in localizer.named_parameters() if p.grad is not None}
        results.append((out.map.detach(), loss.detach(), grads))
    torch.testing.assert_close(*results)


def test_a_method_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from fastdmt.models.localizer import Localizer\n"
        "class Mine(Localizer):\n"
        "    def contrastive_loss(self, output, weight, group=None):\n"
        "        return output.map.sum() * 0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    localizer = build_localizer("mine:Mine", "small", "small-spectrogram", dim=64)
    assert isinstance(localizer, Localizer) and type(localizer).__name__ == "Mine"
    sys.modules.pop("mine")


@pytest.mark.parametrize(
    "name,message",
    [
        ("avsl", "'avsl' is unknown; choose one of dmt, ezvsl"),
        ("nowhere.at_all:Thing", "cannot be imported"),
        ("fastdmt.errors:Thing", "cannot be imported"),
        ("fastdmt.errors:FastDMTError", "not a subclass"),
    ],
)
def test_unknown_localizers(name, message):
    with pytest.raises(FastDMTError, match=message):
        build_localizer(name, "small", "small-logmel")


def test_encoders_can_be_ones_own():
    localizer = Localizer(SmallVisual(), SmallLogMel(), dim=32).eval()
    assert localizer(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 1, 96, 64)).map.shape == (1, 4, 4)


@pytest.mark.parametrize("name", ["dmt", *[pytest.param(n, marks=pytest.mark.slow) for n in ("ezvsl", "lvs", "slavc")]])
def test_compiles_as_one_graph(name):
    localizer = small(name, dim=64, **({"dropout": 0.0} if name == "slavc" else {})).train()
    g = torch.Generator().manual_seed(1)
    frames, sound = torch.randn(4, 3, 64, 64, generator=g), torch.randn(4, 3, 1, 96, 64, generator=g)
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0])

    def loss(frames, sound, weight):
        out = localizer(frames, sound)
        return out.map.square().mean() + localizer.contrastive_loss(out, weight)

    results = []
    for f in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        localizer.zero_grad(set_to_none=True)
        value = f(frames, sound, weight)
        value.backward()
        results.append((value, [p.grad for p in localizer.parameters() if p.grad is not None]))
    torch.testing.assert_close(*results)

"""The ledger of a step against counts by hand: layers from the papers' tables, bytes from shapes."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fastdmt.presets import preset

FILE = Path(__file__).parents[1] / "bench" / "ledger.py"


@pytest.fixture(scope="module")
def ledger():
    spec = importlib.util.spec_from_file_location("bench_ledger", FILE)
    module = sys.modules["bench_ledger"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def resnet18(side):
    """Multiplications and additions of a frame at output stride 16; the first layer's apart."""
    first = 2 * 3 * 64 * 49 * (side // 2) ** 2
    rest, before = 0, 64
    for width, stride in ((64, 4), (128, 8), (256, 16), (512, 16)):
        cells = (side // stride) ** 2
        rest += 2 * 9 * (before * width + 3 * width * width) * cells
        rest += 2 * before * width * cells if before != width else 0
        before = width
    return first, rest


def vggish():
    """Of three patches of 96 x 64."""
    layers = [(64, 128, 48 * 32), (128, 256, 24 * 16), (256, 256, 24 * 16), (256, 512, 12 * 8), (512, 512, 12 * 8)]
    rest = sum(2 * 9 * a * b * cells for a, b, cells in layers)
    rest += 2 * (12288 * 4096 + 4096 * 4096 + 4096 * 128)
    return 3 * 2 * 9 * 64 * 96 * 64, 3 * rest


def soundnet():
    """Of 66150 samples; padding of half a kernel, stride 2."""
    length, before, counts = 66150, 1, []
    for i, (width, kernel) in enumerate(zip((16, 32, 64, 128, 256, 512, 1024), (64, 32, 16, 8, 4, 4, 4)), start=1):
        length = (length + 2 * (kernel // 2) - kernel) // 2 + 1
        counts.append(2 * before * width * kernel * length)
        length //= {1: 8, 2: 8, 5: 4}.get(i, 1)
        before = width
    return counts[0], sum(counts[1:])


def head(dim):
    return 0, 2 * (dim * 512 + 512 * 512)


def test_flops_of_a_step_are_those_counted_by_hand(ledger):
    cfg = preset("vggsound-144k")
    ops = ledger.record(cfg)
    labelled, unlabelled = 32, 96
    assert (cfg.batch_labelled, cfg.batch_unlabelled, cfg.data.size) == (labelled, unlabelled, 256)
    networks = [resnet18(256), resnet18(256), vggish(), head(128), soundnet(), head(1024)]
    first, rest = (sum(network[i] for network in networks) for i in (0, 1))
    # Backward: twice the forward, but nothing flows into the first layers' inputs.
    expected = {
        "teachers": unlabelled * (first + rest),
        "students forward": (labelled + unlabelled) * (first + rest),
        "backward": (labelled + unlabelled) * (first + 2 * rest),
    }
    for part, count in expected.items():
        assert sum(op.flops for op in ops if op.part == part) == pytest.approx(count, rel=0.02), part
    assert sum(op.flops for op in ops) == pytest.approx(sum(expected.values()), rel=0.02)
    assert 10.0e12 < sum(expected.values()) < 10.3e12


def test_bytes_and_chains_of_a_small_network(ledger):
    layer, recorder = nn.Linear(64, 32, device="meta"), ledger.Recorder()
    with recorder, recorder.within("students forward"):
        x = torch.empty(16, 64, device="meta")
        (layer(x).relu() * 2 + 1).sum()
    linear, relu, times, plus, total = recorder.ops
    out = 4 * 16 * 32
    assert linear.flops == 2 * 16 * 64 * 32 and linear.bytes == 4 * (16 * 64 + 64 * 32 + 32) + out
    assert [op.bytes for op in (relu, times, plus, total)] == [2 * out, 2 * out, 2 * out, out + 4]
    kept, chain = ledger.fused(recorder.ops)
    # One kernel reads the product and writes the sum; relu's output is kept by nobody.
    assert kept is linear and chain.bytes == out + 4 and chain.launches == 1


def test_every_gradient_is_reduced_once_and_the_prediction_pays_for_it(ledger):
    cfg = preset("demo")
    ops = ledger.record(cfg, 2)
    model, _ = ledger.Model.build(cfg, pretrained=False)
    gradients = 4 * sum(p.numel() for p in model.students.parameters())
    assert sum(op.wire for op in ops if "gradients" in op.name) == pytest.approx(gradients, abs=64)
    card = ledger.CARDS["h100"]
    alone = [op for op in ops if not op.wire]
    slow = dataclasses.replace(card, link=1e6)
    with_wire, without = (ledger.predict(these, slow, "graph", 32, 2).ms for these in (ops, alone))
    assert with_wire > without + 1e3 * 0.5 * gradients / 1e6


def test_every_line_of_figures_says_derived(ledger, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ledger.py", "--preset", "demo", "--gpu", "a100"])
    ledger.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    figures = [line for line in lines[2:] if not line.startswith(("part", "GPUs"))]
    assert len(figures) > 15 and all(line.endswith("derived") for line in figures)

"""Number formats, compilation, accumulation and optimizers of the step; on a GPU also that nothing in it waits."""

import dataclasses
import json

import pytest
import torch
from tiny_runs import QUIET, scaled
from torch import nn
from torch._dynamo.utils import counters

from fastdmt.errors import FastDMTError
from fastdmt.training.precision import chosen_compiler
from fastdmt.training.schedule import UNBIASED
from fastdmt.training.trainer import Trainer


def logged(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], key, line[key]) for line in lines for key in ("loss_a", "loss_b", "loss") if key in line]


@pytest.fixture(scope="module")
def eager(files, tmp_path_factory):
    run = tmp_path_factory.mktemp("eager") / "run"
    Trainer(scaled(files, run), QUIET).run()
    return logged(run)


def assert_close(found, expected, rel):
    assert [entry[:2] for entry in found] == [entry[:2] for entry in expected]
    for (step, key, a), (_, _, b) in zip(found, expected):
        assert a == pytest.approx(b, rel=rel), (step, key)


def test_the_compiled_step_is_four_graphs_without_a_break(files, eager, tmp_path):
    torch._dynamo.reset()
    counters.clear()
    trainer = Trainer(scaled(files, tmp_path / "run", compile="aot_eager"), QUIET)
    graphs = []
    step = trainer.step

    def counted():
        values = step()
        graphs.append(counters["stats"]["unique_graphs"])
        return values

    trainer.step = counted
    trainer.run()
    assert not counters["graph_break"]
    # Warm-up of A and of B; then the teachers and the students. Nothing is compiled again, whatever the step.
    assert graphs == [2] * 4 + [4] * 6
    assert_close(logged(tmp_path / "run"), eager, 1e-4)


def test_bf16_autocast_stays_near_float32_and_keeps_float32_weights(files, eager, tmp_path):
    trainer = Trainer(scaled(files, tmp_path / "run", amp="bf16"), QUIET)
    trainer.run()
    found = logged(tmp_path / "run")
    assert found != eager
    assert_close(found[:8], eager[:8], 0.03)  # later, one pixel over a threshold makes two runs part
    assert {t.dtype for t in trainer.model.tensors().values()} == {torch.float32, torch.int64}


def test_auto_compiles_for_a_gpu_alone(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert chosen_compiler("auto", gpu) == ("inductor", "auto: a GPU")
    assert chosen_compiler("auto", cpu)[0] == "none"
    for device in (cpu, gpu):
        assert chosen_compiler("aot_eager", device) == ("aot_eager", "--compile aot_eager")
    monkeypatch.setattr("fastdmt_kernels.backend.triton", None)
    assert chosen_compiler("auto", gpu)[0] == "none"


def test_fp16_needs_a_gpu(files, tmp_path):
    with pytest.raises(FastDMTError, match="--amp fp16 needs a GPU"):
        Trainer(scaled(files, tmp_path / "run", amp="fp16", gpus=0), QUIET)


def still(self, mode=True):
    """BatchNorm that stays in evaluation: its statistics are the one thing that parts of a batch do not share."""
    self.training = False
    return self


def test_parts_of_a_batch_give_the_gradient_of_the_batch(files, tmp_path, monkeypatch):
    monkeypatch.setattr(nn.modules.batchnorm._BatchNorm, "train", still)
    gradients = {}
    for parts in (1, 2, 4):
        cfg = scaled(files, tmp_path / str(parts), accumulate=parts)
        cfg = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, labelled_share=0.5))
        trainer = Trainer(cfg, QUIET)
        if parts == 1:
            whole = next(iter(trainer.begin("warm-up")[0]))
        rows = [slice(i, i + 8 // parts) for i in range(0, 8, 8 // parts)]
        student = trainer.model.students[0]
        student.train()
        for own in rows:
            batch = dataclasses.replace(whole.map(lambda t, own=own: t[own]), labelled=8 // parts, ids=whole.ids[own])
            trainer.backward(trainer.algorithm.warmup(0, batch))
        gradients[parts] = [p.grad for p in student.parameters()]
    for parts in (2, 4):
        for a, b in zip(gradients[parts], gradients[1], strict=True):
            assert (a - b).norm() <= 1e-5 * b.norm() + 1e-9


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["none", "inductor", "graphs"])
@pytest.mark.parametrize("packed", [0.0, 0.5])
def test_nothing_in_a_step_waits_for_the_device(files, tmp_path, kind, packed):
    cfg = dataclasses.replace(scaled(files, tmp_path / "run", compile=kind, pack_accepted=packed), device="cuda")
    trainer = Trainer(cfg, QUIET)
    trainer.begin(UNBIASED)
    for _ in range(4):  # compilation, the allocator, the loader's streams
        trainer.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            values = trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert values["loss"].isfinite()


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
@pytest.mark.parametrize("kind", ["none", "inductor", "graphs"])
def test_a_run_on_the_gpu_stays_near_the_processors(files, eager, tmp_path, amp, kind):
    cfg = dataclasses.replace(scaled(files, tmp_path / "run", amp=amp, compile=kind, tf32=False), device="cuda")
    Trainer(cfg, QUIET).run()
    assert_close(logged(cfg.run)[:8], eager[:8], 2e-3 if amp == "none" else 0.03)

"""Number formats, compilation, accumulation and optimizers of the step; on a GPU also that nothing in it waits."""

import dataclasses
import json

import pytest
import torch
from tape import OnTape
from tiny_runs import QUIET, scaled
from torch import nn

from fastdmt.distributed.processes import start
from fastdmt.errors import FastDMTError
from fastdmt.training.precision import chosen_compiler, chosen_recorder
from fastdmt.training.schedule import UNBIASED
from fastdmt.training.step_graph import WARM_UP
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


# What brings other shapes than the training batches of stage 2. Validation clips: 3 of 48, one batch of its own shape.
SHAPES = {
    "a warm-up batch smaller than stage 2's": ({"labels": 4}, {}),
    "packed rows": ({}, {"pack_accepted": 0.5}),
    "a last validation batch that is odd": ({"val": 1}, {}),
}
# A process alone compiles regions: warm-up of A and of B, then teachers and students. Several compile encoders: A and B
# share the visual one's graph: three for the students of stage 1, three for those of stage 2, three for the teachers.
GRAPHS = {"one process": (2, 4), "ddp": (3, 9), "fsdp": (3, 9)}


def run_compiled(files, run, mode, data, scale):
    processes = {"gpus": 0} if mode == "one process" else {"gpus": 0, "workers_cpu": 2, "parallel": mode}
    cfg = scaled(files, run, compile="aot_eager", **processes, **scale)
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **data))
    # 4 labelled and 4 unlabelled rows of two processes each: none of its shapes is met in another place.
    cfg = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, batch=12, labelled_share=1 / 3))
    return start(cfg, "dist_worker:counting")


def assert_compiled_once(found, mode):
    warm_up, all_of_them = GRAPHS[mode]
    for interrupted, graphs, breaks in found:
        assert not interrupted and breaks == 0
        # From the first step of a stage to its last, over every validation: nothing is compiled again.
        assert graphs == [("warm-up", warm_up)] * 4 + [("unbiased", all_of_them)] * 6


@pytest.mark.timeout(900)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_nothing_is_compiled_again_in_one_process(files, tmp_path, shapes):
    found = run_compiled(files, tmp_path / "run", "one process", *shapes)
    assert_compiled_once(found, "one process")


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_nothing_is_compiled_again_in_several_processes(files, tmp_path, mode, shapes):
    assert_compiled_once(run_compiled(files, tmp_path / "run", mode, *shapes), mode)


def test_the_compiled_step_learns_what_the_eager_one_does(files, eager, tmp_path):
    torch._dynamo.reset()
    Trainer(scaled(files, tmp_path / "run", compile="aot_eager"), QUIET).run()
    assert_close(logged(tmp_path / "run"), eager, 1e-4)


def test_auto_compiles_for_a_gpu_alone(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert chosen_compiler("auto", gpu) == ("inductor", "auto: a GPU")
    assert chosen_compiler("auto", cpu)[0] == "none"
    for device in (cpu, gpu):
        assert chosen_compiler("aot_eager", device) == ("aot_eager", "--compile aot_eager")
    monkeypatch.setattr("fastdmt_kernels.backend.triton", None)
    assert chosen_compiler("auto", gpu)[0] == "none"


def test_a_step_is_recorded_where_graphs_are_asked_for_and_a_gpu_is_there(files, tmp_path, monkeypatch):
    monkeypatch.setattr("fastdmt.training.precision.CudaRecorder", lambda device: f"graphs of {device}")
    assert chosen_recorder("graphs", torch.device("cuda:1")) == "graphs of cuda:1"
    assert chosen_recorder("auto", torch.device("cuda")) is chosen_recorder("graphs", torch.device("cpu")) is None
    trainer = Trainer(scaled(files, tmp_path / "run", compile="graphs"), QUIET)
    assert trainer.graph is None and "those of inductor" in trainer.compiled.notes[0]
    trainer = Trainer(scaled(files, tmp_path / "tape", compile="graphs"), QUIET, recorder=OnTape())
    assert "the whole step is one CUDA graph" in trainer.compiled.notes[0]


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
        for part, own in enumerate(rows):
            trainer.algorithm.place(part)
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
    for _ in range(WARM_UP + 2):  # compilation, the allocator, the loader's streams, a recording
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

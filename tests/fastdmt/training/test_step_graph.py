"""A recorded step against the step as it is; on the processor a tape of operators stands for the CUDA graph."""

import contextlib
import dataclasses

import pytest
import torch
from tape import OnTape
from tiny_runs import QUIET, scaled, tiny

from fastdmt.errors import FastDMTError
from fastdmt.names import ALGORITHMS, LOCALIZERS
from fastdmt.runs import checkpoint
from fastdmt.training import step_graph
from fastdmt.training.schedule import UNBIASED, WARMUP
from fastdmt.training.step_graph import WARM_UP, CudaRecorder
from fastdmt.training.trainer import Trainer


def both(cfg, tmp_path, stage=UNBIASED, steps=WARM_UP + 4, record=OnTape):
    """The same steps of two trainers, one of which records: the losses of each, and their whole states."""
    losses, states = {}, {}
    for name in ("as it is", "recorded"):
        torch.manual_seed(0)
        recorder = record()
        trainer = Trainer(dataclasses.replace(cfg, run=tmp_path / name), QUIET, recorder=recorder)
        trainer.begin(stage)
        if name == "as it is":
            trainer.graph.ahead = steps
        losses[name] = [{key: float(x) for key, x in trainer.step().items()} for _ in range(steps)]
        states[name] = {key: t.clone() for key, t in trainer.state_dict()["tensors"].items()}
        trainer.close_loaders()
    if record is OnTape:
        (tape,) = recorder.tapes
        assert tape.plays == steps - WARM_UP
    return losses, states


def assert_equal(losses, states):
    assert losses["recorded"] == losses["as it is"] and losses["recorded"][-2] != losses["recorded"][-1]
    assert states["recorded"].keys() == states["as it is"].keys()
    for key, value in states["as it is"].items():
        assert torch.equal(states["recorded"][key], value), key


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_replays_what_it_does(files, tmp_path, algorithm):
    cfg = dataclasses.replace(scaled(files, tmp_path), algorithm=algorithm)
    assert_equal(*both(cfg, tmp_path))


@pytest.mark.parametrize("stage", [WARMUP, UNBIASED])
@pytest.mark.parametrize("localizer", LOCALIZERS)
def test_every_localizer_replays_what_it_does(files, tmp_path, localizer, stage):
    cfg = scaled(files, tmp_path)
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, localizer=localizer))
    assert_equal(*both(cfg, tmp_path, stage))


OPTIONS = {
    "negatives and foreground": {"pseudo": {"negatives": 0.5, "foreground": 0.25}},
    "accepted clips wait": {"scale": {"pack_accepted": 0.5}},
    "parts, clipping, a rate for encoders": {
        "optim": {"clip": 0.1, "lr_encoders": 0.1, "labelled_share": 0.5},
        "scale": {"accumulate": 2},
        "pseudo": {"negatives": 0.5},
    },
    "statistics copied, soft labels": {"pseudo": {"bn": "copy", "soft": "product"}},
    "dropout": {"model": {"head": "conv", "head_dropout": 0.3}},
    "rates that rise and fall, momentum by half-life": {
        "optim": {"lr_warmup": 0.5, "lr_unbiased": 3e-4},
        "pseudo": {"half_life": 0.3},
    },
    "sound as it is": {"data": {"audio_augment": "none"}},  # one tensor twice in a batch
}


def with_options(cfg, options):
    for group, values in options.items():
        cfg = dataclasses.replace(cfg, **{group: dataclasses.replace(getattr(cfg, group), **values)})
    return cfg


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_replays_what_it_does(files, tmp_path, options):
    assert_equal(*both(with_options(scaled(files, tmp_path), options), tmp_path))


@pytest.mark.gpu
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_cuda_graph_replays_what_the_step_does(files, tmp_path, options):
    device = torch.device("cuda")
    cfg = with_options(scaled(files, tmp_path, compile="none", amp="none"), options)
    cfg = dataclasses.replace(cfg, device="cuda")
    losses, _ = both(cfg, tmp_path, record=lambda: CudaRecorder(device))
    for mine, plain in zip(losses["recorded"], losses["as it is"], strict=True):
        assert mine == pytest.approx(plain, rel=2e-3, abs=1e-4)


def test_a_broken_step_is_skipped_in_a_replay_too(files, tmp_path):
    """Weights, statistics and moments stay as they were, the flag is up, and the next step learns again."""
    trainer = Trainer(scaled(files, tmp_path / "run"), QUIET, recorder=OnTape())
    (loader,) = trainer.begin(UNBIASED)
    batch = next(iter(loader))
    broken = dataclasses.replace(batch, frames_strong=batch.frames_strong.clone())
    broken.frames_strong[0, 0, 0, 0] = float("nan")

    def students():
        tensors = trainer.model.students.state_dict().items()
        return {key: t.clone() for key, t in tensors if t.is_floating_point()}

    for _ in range(WARM_UP + 1):
        trainer.step([iter([batch])])
    trainer.bad.forget()
    for given, flag in ((broken, 1.0), (batch, 0.0)):
        before = students()
        trainer.step([iter([given])])
        (_, _, bad, _), trainer.bad._recent = trainer.bad._recent[-1], []
        assert bad == flag
        moved = [key for key, t in students().items() if not torch.equal(t, before[key])]
        assert bool(moved) == (not flag) and all(t.isfinite().all() for t in students().values())
    trainer.close_loaders()


def test_a_recorded_run_is_the_run(files, tmp_path, monkeypatch):
    """Both stages, validation between steps, stopped and resumed: the losses of every step and the last weights."""
    seen = {}

    def take(cfg, recorder, stop=None):
        def sink(step, stage, values):
            if "loss" in values:
                seen.setdefault(cfg.run.name, {})[step] = values["loss"]
            trainer.interrupted |= step == stop

        trainer = Trainer(cfg, QUIET, (sink,), recorder=recorder)
        trainer.run()
        return trainer

    cfg = tiny(files, tmp_path / "as it is")
    cfg = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, steps=8))
    monkeypatch.setattr(step_graph, "WARM_UP", 100)
    take(cfg, OnTape())
    monkeypatch.setattr(step_graph, "WARM_UP", 1)
    recorders = [OnTape(), OnTape()]
    cfg = dataclasses.replace(cfg, run=tmp_path / "recorded")
    take(cfg, recorders[0], stop=8)
    trainer = take(dataclasses.replace(cfg, resume=True), recorders[1])
    assert trainer.global_step == 12
    assert [[tape.plays for tape in recorder.tapes] for recorder in recorders] == [[3, 3], [3]]
    assert len(seen["recorded"]) == 8 and seen["recorded"] == seen["as it is"]
    last = [checkpoint.load_tensors(checkpoint.newest(tmp_path / name)[0], ("",)) for name in ("as it is", "recorded")]
    assert last[0].keys() == last[1].keys() and all(torch.equal(t, last[1][key]) for key, t in last[0].items())


def test_batches_of_another_shape_are_refused(files, tmp_path):
    trainer = Trainer(scaled(files, tmp_path / "run"), QUIET, recorder=OnTape())
    (loader,) = trainer.begin(UNBIASED)
    batch = next(iter(loader))
    for _ in range(WARM_UP + 1):
        trainer.step([iter([batch])])
    less = dataclasses.replace(batch.map(lambda t: t[:-1]), ids=batch.ids[:-1])
    with pytest.raises(RuntimeError, match="a step was recorded on batches"):
        trainer.step([iter([less])])
    trainer.close_loaders()


def test_a_step_that_cannot_be_recorded_says_how_to_go_on(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **options: contextlib.nullcontext())

    def waits():
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might ...")

    with pytest.raises(FastDMTError, match=r"\(operation not permitted when stream is capturing\).*--compile inductor"):
        CudaRecorder(torch.device("cuda")).record(waits)


def test_the_tape_shows_what_a_graph_would_not_follow():
    kept, host = torch.zeros(()), {"step": 0.0, "moved": torch.zeros(())}

    def body():
        kept.add_(1)
        host["step"] += 1
        host["moved"] = host["moved"] + 1  # another tensor every time
        return kept * 1, kept * 0 + host["step"], host["moved"]

    (follows, baked, moved), play = OnTape().record(body)
    for _ in range(3):
        play()
    assert (follows, baked, moved) == (3, 1, 1)

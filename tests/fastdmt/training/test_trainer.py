"""Whole runs on small real files: the stages, resuming, faults, and the command line as a person uses it."""

import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from one_line import refused, refused_alone
from tiny_runs import QUIET, final, tiny, train

from fastdmt import load
from fastdmt.config import to_dict
from fastdmt.errors import FastDMTError
from fastdmt.runs import checkpoint
from fastdmt.runs.checkpoint import read_weights
from fastdmt.training.trainer import Trainer
from fastdmt_loaders.tools.demo import make_demo

TINY = ["--size", "32", "--batch", "8", "--warmup-steps", "4", "--steps", "6", "--eval-every", "2", "--log-every", "1"]


@pytest.mark.parametrize("algorithm", ["dmt", "mean-teacher", "supervised", "self-supervised"])
def test_every_algorithm_trains_and_leaves_a_complete_run(files, tmp_path, algorithm):
    run = tmp_path / "run"
    outcome = train(tiny(files, run, algorithm=algorithm))
    assert outcome.step == (6 if algorithm == "self-supervised" else 10) and not outcome.interrupted
    for name in ("config.json", "split.json", "metrics.jsonl", "train.log", "best.safetensors", "lists/test.txt"):
        assert (run / name).stat().st_size > 0, name
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "kept", "teachers_iou"} <= {key for line in lines for key in line}
    assert list((run / "tensorboard").glob("events*"))
    assert (run / "best.safetensors").stat().st_mode == (run / "config.json").stat().st_mode, "others cannot read it"
    model = load(run)
    assert model.cfg.algorithm == algorithm
    held = set((run / "lists" / "test.txt").read_text().split()) | set(
        (run / "lists" / "validation.txt").read_text().split()
    )
    for name in ("train_labelled", "train_unlabelled"):
        assert not held & set((run / "lists" / f"{name}.txt").read_text().split())


def test_same_seed_same_run_and_teachers_differ_from_students(files, whole, tmp_path):
    train(tiny(files, tmp_path / "b"))
    a, b = final(whole), final(tmp_path / "b")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert (whole / "metrics.jsonl").read_text() == (tmp_path / "b" / "metrics.jsonl").read_text()
    assert any(not torch.equal(a[k], a[k.replace("students", "teachers")]) for k in a if k.startswith("students"))


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(tiny(files, run))
    return run


@pytest.mark.parametrize("stop_after", [1, 3, 4, 5, 8])
def test_interrupted_and_resumed_equals_uninterrupted(files, whole, tmp_path, stop_after):
    cfg = tiny(files, tmp_path / "parts")
    trainer = Trainer(cfg, QUIET)
    step = trainer.step

    def counted():
        values = step()
        if trainer.global_step == stop_after:
            os.kill(os.getpid(), signal.SIGINT)
        return values

    trainer.step = counted
    assert trainer.run().interrupted
    assert checkpoint.last_step(cfg.run) == stop_after
    outcome = train(dataclasses.replace(cfg, resume=True))
    assert outcome.step == 10
    expected, parts = final(whole), final(cfg.run)
    assert all(torch.equal(expected[key], parts[key]) for key in expected)
    assert (whole / "metrics.jsonl").read_text() == (cfg.run / "metrics.jsonl").read_text()
    best_whole, best_parts = (read_weights(run / "best.safetensors") for run in (whole, cfg.run))
    assert all(torch.equal(best_whole[key], best_parts[key]) for key in best_whole)


def test_full_disk_keeps_the_last_good_checkpoint(files, tmp_path, monkeypatch):
    cfg = tiny(files, tmp_path / "run")
    calls = []
    real = checkpoint._write_state

    def full(path, state):
        calls.append(path)
        if len(calls) == 3:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, state)

    monkeypatch.setattr(checkpoint, "_write_state", full)
    with pytest.raises(FastDMTError, match=r"disk is full.*checkpoint of step 4 is whole.*--resume"):
        train(cfg)
    monkeypatch.setattr(checkpoint, "_write_state", real)
    assert checkpoint.last_step(cfg.run) == 4
    assert train(dataclasses.replace(cfg, resume=True)).step == 10


def test_resume_refuses_other_settings_and_other_models(files, tmp_path):
    cfg = tiny(files, tmp_path / "run")
    train(cfg)
    other = dataclasses.replace(cfg, resume=True, optim=dataclasses.replace(cfg.optim, lr=0.5))
    with pytest.raises(FastDMTError, match=r"lr was .* and is now 0.5"):
        Trainer(other, QUIET)
    with pytest.raises(FastDMTError, match="already holds a run"):
        Trainer(cfg, QUIET)
    config = to_dict(cfg)
    config["model"]["dim"] = 64
    (cfg.run / "config.json").write_text(json.dumps(config))
    with pytest.raises(FastDMTError, match="holds another model"):
        load(cfg.run)


# ------------------------------------------------------------------ bad input through the command line


def run_args(data, tmp_path, *more):
    return ["train", "--data", data, "--run", tmp_path / "run", *TINY, *more]


def first_training_id(data) -> str:
    return (data / "labelled.txt").read_text().split()[0]


def test_broken_media_name_the_file(data, tmp_path):
    clip = first_training_id(data)
    frame = data / "frames" / f"{clip}.jpg"
    frame.write_bytes(frame.read_bytes()[:200])
    assert frame.name in refused(*run_args(data, tmp_path, "--max-bad-files", "0"))
    frame.write_text("not a picture")
    line = refused(*run_args(data, tmp_path, "--max-bad-files", "0", "--run", tmp_path / "run2"))
    assert frame.name in line
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


def test_empty_sound_file(data, tmp_path):
    sound = next((data / "audio").glob(f"{first_training_id(data)}.*"))
    sound.write_bytes(b"")
    assert sound.name in refused(*run_args(data, tmp_path, "--max-bad-files", "0"))


# ------------------------------------------------------------------ loaders


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_loader_trains_to_the_same_quality(tmp_path):
    """The same items in the same views: what is left are the decoders' rounding and the sums'."""
    make_demo(tmp_path / "data", clips=240, labelled=60, seed=3)

    def quality(name: str, seed: int, **data) -> tuple[float, float]:
        cfg = tiny(tmp_path / "data", tmp_path / name, seed=seed)
        cfg = dataclasses.replace(
            cfg,
            eval_every=50,
            data=dataclasses.replace(cfg.data, size=64, **data),
            optim=dataclasses.replace(cfg.optim, batch=24, warmup_steps=60, steps=40),
        )
        train(cfg)
        lines = [json.loads(line) for line in (cfg.run / "metrics.jsonl").read_text().splitlines()]
        first = [line["loss_a"] + line["loss_b"] for line in lines if "loss_a" in line]
        last = [line["supervised"] for line in lines if "supervised" in line]
        return sum(first[:10]) / 20, sum(last[-20:]) / 20

    start, torch_workers = quality("torch", 0, loader="torch", cache="none", workers=2)
    assert torch_workers < 0.7 * start, "nothing was learnt"
    noise = abs(torch_workers - quality("seed", 1, loader="torch", cache="host")[1])
    for name, options in (("dali", {"loader": "dali", "cache": "none", "workers": 2}), ("cache", {"cache": "host"})):
        other = quality(name, 0, **options)[1]
        assert abs(other - torch_workers) < max(noise, 0.05 * torch_workers), (name, other, torch_workers, noise)


# ------------------------------------------------------------------ kill -9


def start(run, data, *more):
    command = [
        sys.executable,
        "-m",
        "fastdmt",
        "train",
        "--data",
        data,
        "--run",
        run,
        *TINY,
        "--save-every",
        "1",
        *more,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)


@pytest.fixture(scope="module")
def never_killed(files, tmp_path_factory) -> dict[str, torch.Tensor]:
    run = tmp_path_factory.mktemp("whole") / "run"
    process = start(run, files)
    assert process.wait(600) == 0, process.stdout.read()
    return final(run)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("attempt", range(20))
def test_kill_at_a_random_step_then_resume(files, tmp_path, never_killed, attempt):
    """Killed somewhere between two lines of the log, where checkpoints are written, it ends with the same bits."""
    rng, run = random.Random(attempt), tmp_path / "run"
    lines, moment = rng.randrange(14), rng.uniform(0.0, 0.2)
    process, log = start(run, files), run / "metrics.jsonl"
    while process.poll() is None and (not log.is_file() or len(log.read_bytes().splitlines()) < lines):
        time.sleep(0.002)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process = start(run, files, "--resume")
    assert process.wait(600) == 0, process.stdout.read()
    found = final(run)
    assert found.keys() == never_killed.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in never_killed.items())


def test_a_second_training_in_the_folder_is_refused_and_touches_nothing(files, tmp_path):
    run = tmp_path / "run"
    process = start(run, files, "--steps", "4000")
    while not (run / "checkpoints" / "last").is_file():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    settings = (run / "config.json").read_text()
    for words in (run_args(files, tmp_path, "--seed", "5"), ["train", "--run", run, "--resume"]):
        assert f"process {process.pid} " in refused(*words)
    assert (run / "config.json").read_text() == settings
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    (run / "checkpoints" / "last").unlink()  # as a crash between the folder's renaming and the pointer leaves it
    assert Trainer(dataclasses.replace(load(run).cfg, resume=True), QUIET).global_step > 0


# ------------------------------------------------------------------ a full disk, a small set, damaged notes


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.parametrize("logger", ["tensorboard", "jsonl"])
@pytest.mark.parametrize("kib", [16, 48, 200, 1000, 3000, 6000, 9000, 12000])
def test_a_full_disk_is_one_line_and_leaves_no_part(files, tmp_path, kib, logger):
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", disk], capture_output=True)
    if made.returncode:
        pytest.skip("cannot mount a small disk here")
    words = ["train", "--data", files, "--run", disk / "run", *TINY]
    try:
        line = refused_alone(*words, "--workers", "0", "--logger", logger)
        assert line.startswith("error: ") and str(disk) in line and ("full" in line or "No space left" in line), line
        assert not [path for path in disk.rglob(".*partial*")]
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("algorithm", ["dmt", "supervised"])
def test_one_labelled_clip_is_enough(data, tmp_path, algorithm):
    (data / "labelled.txt").write_text(first_training_id(data) + "\n")
    cfg = tiny(data, tmp_path / "run", algorithm=algorithm)
    train(dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, warmup_steps=1, steps=1)))
    assert load(cfg.run)


def test_a_batch_of_more_clips_than_there_are_is_refused(data, tmp_path):
    clips = len({*(data / "train.txt").read_text().split(), *(data / "labelled.txt").read_text().split()})
    for algorithm in ("dmt", "supervised"):
        line = refused(*run_args(data, tmp_path, "--algorithm", algorithm, "--batch", 10**9))
        assert f"--batch 1,000,000,000 is more than the {clips} training clips of {data}" in line
    cfg = tiny(data, tmp_path / "fits")
    train(dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, batch=clips, warmup_steps=1, steps=1)))


def test_a_step_of_one_clip_is_refused(data, tmp_path):
    assert "less than two" in refused(
        *run_args(data, tmp_path, "--algorithm", "supervised", "--batch", "4", "--labelled-share", "0.25")
    )


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", "[" * 100_000, "\xff"])
@pytest.mark.parametrize("name", ["origins.json", "split.json"])
def test_damaged_notes_are_found_before_the_evaluation(finished, tmp_path, name, content):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / name).write_bytes(content.encode("latin1"))
    assert name in refused("eval", run)
    assert name in refused("export", run, tmp_path / "out")
    assert not (run / "eval").exists() and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory) -> Path:
    cfg = tiny(files, tmp_path_factory.mktemp("finished") / "run")
    train(dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, warmup_steps=1, steps=1)))
    return cfg.run


def test_a_run_folder_that_cannot_be_made_is_one_line(data, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in refused(*run_args(data, tmp_path, "--run", tmp_path / "file"))
    assert "file" in refused(*run_args(data, tmp_path, "--run", tmp_path / "file" / "run"))

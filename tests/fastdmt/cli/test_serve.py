"""`fastdmt serve` as a process: the address that it prints answers, and it ends when told to."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from rich.console import Console

from fastdmt.presets import preset
from fastdmt.training.trainer import Trainer
from fastdmt_loaders.tools.demo import make_demo


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_examples_of_the_runs_data_until_it_is_told_to_end(run, end, tmp_path):
    words = [sys.executable, "-m", "fastdmt", "serve", str(run), "--examples", "3", "--device", "cpu"]
    env = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as process:
        address = re.fullmatch(r"open (http://127\.0\.0\.1:\d+/\S{32}/)\n", process.stdout.readline()).group(1)
        clips = json.load(urllib.request.urlopen(address + "clips", timeout=60))["clips"]
        assert len(clips) == 3 and all(clip["sound"] and clip["thumbnail"] for clip in clips)
        assert b"What sounds here?" in urllib.request.urlopen(address, timeout=60).read()
        assert len(list(tmp_path.glob("fastdmt-serve-*"))) == 1
        process.send_signal(end)
        try:
            assert "ended" in process.communicate(timeout=60)[0]
        finally:
            process.kill()
    assert process.returncode == 0
    assert not list(tmp_path.glob("fastdmt-serve-*"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the demo, cut short."""
    folder = tmp_path_factory.mktemp("served")
    root = make_demo(folder / "data", clips=48, labelled=10, seed=1).root
    cfg = preset("demo")
    optim = dataclasses.replace(cfg.optim, batch=8, warmup_steps=1, steps=1)
    data = dataclasses.replace(cfg.data, root=root)
    Trainer(dataclasses.replace(cfg, run=folder / "run", data=data, optim=optim), Console(quiet=True)).run()
    return folder / "run"

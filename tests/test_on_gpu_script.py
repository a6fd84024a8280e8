"""bench/on_gpu.sh without a GPU: every command parses, a red or endless stage costs the others nothing, a dry run."""

import importlib
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "bench"
WORDS = {"out": "results", "gpus": "1,2", "tune": "--tune"}


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(BENCH))
    try:
        yield importlib.import_module("on_gpu")
    finally:
        sys.path.remove(str(BENCH))


def commands(script):
    for stage in script.STAGES:
        for small, group in ((False, stage.commands), (True, stage.small)):
            for command in group:
                yield stage.name, small, shlex.split(command.format(**WORDS))


def test_every_command_of_every_stage_parses(script):
    seen = set()
    for name, small, (what, *words) in commands(script):
        seen.add((name, small))
        if what == "-m":
            assert words[0] == "pytest"
            places = [word for word in words if word.startswith("tests/")]
            assert places and all((ROOT / place).exists() for place in places), words
            continue
        assert (ROOT / what).is_file(), what
        args = importlib.import_module(Path(what).stem).parser().parse_args(words)  # SystemExit: it does not parse
        assert str(args.out).startswith("results/"), "the stage writes its numbers elsewhere"
        assert not small or getattr(args, "device", "cpu") == "cpu"
    names = [stage.name for stage in script.STAGES]
    assert seen == {(name, small) for name in names for small in (False, True)} and len(set(names)) == len(names)


def test_a_command_that_does_not_parse_would_be_found(script):
    with pytest.raises(SystemExit):
        importlib.import_module("steps").parser().parse_args(["matrix", "--rovs", "8"])


def sleeping(marker):
    """Starts a process of its own, which writes a line every tenth of a second, and waits for ever."""
    child = f"import time\nwhile True:\n open({str(marker)!r}, 'a').write('x'); time.sleep(0.1)"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    return f"-c {shlex.quote(code)}"


def test_a_red_or_endless_stage_is_recorded_and_the_others_run(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "GRACE_S", 2)
    marker = tmp_path / "marker"
    red = "-c \"print('it is broken'); raise SystemExit(3)\""
    stages = [
        script.Stage("red", 1, (), (red, "-c \"print('goes on')\"")),
        script.Stage("endless", 0.05, (), (sleeping(marker),)),
        script.Stage("green", 1, (), ("-c \"open(r'{out}/numbers', 'w').write('1')\"",)),
    ]
    monkeypatch.setattr(script, "STAGES", stages)
    began = time.monotonic()
    assert script.main(["--dry", "--out", str(tmp_path / "out")]) == 1
    assert time.monotonic() - began < 30
    out = tmp_path / "out"
    found = {name: json.loads((out / f"{name}.json").read_text()) for name in ("red", "endless", "green")}
    assert [record["status"] for record in found.values()] == ["failed", "out of time", "passed"]
    assert found["red"]["exit_codes"] == [3, 0] and "it is broken" in found["red"]["tail"]
    assert (out / "numbers").read_text() == "1" and not found["green"]["tail"]
    assert [record["stage"] for record in json.loads((out / "summary.json").read_text())["stages"]] == list(found)
    size = marker.stat().st_size
    time.sleep(0.5)
    assert size > 0 and marker.stat().st_size == size, "what the endless stage started is still alive"
    printed = capsys.readouterr().out
    assert "it is broken" in printed


def test_minutes_end_everything_cleanly(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "GRACE_S", 2)
    stages = [
        script.Stage("first", 5, (), (sleeping(tmp_path / "marker"),)),
        script.Stage("second", 5, (), ("-c 1",)),
    ]
    monkeypatch.setattr(script, "STAGES", stages)
    monkeypatch.setattr(script, "LEAST_S", 1)
    assert script.main(["--dry", "--minutes", "0.04", "--out", str(tmp_path / "out")]) == 0, (
        "nobody's fault is no fault"
    )
    records = json.loads((tmp_path / "out" / "summary.json").read_text())["stages"]
    assert [record["status"] for record in records] == ["stopped", "not run"]
    assert records[1]["seconds"] == 0 and not records[1]["commands"]


def test_one_stage_alone_and_no_other(script, tmp_path, monkeypatch):
    stages = [script.Stage(name, 1, (), (f"-c \"open(r'{{out}}/{name}.ran', 'w')\"",)) for name in ("a", "b")]
    monkeypatch.setattr(script, "STAGES", stages)
    assert script.main(["--dry", "--stage", "b", "--out", str(tmp_path)]) == 0
    assert not (tmp_path / "a.ran").exists() and (tmp_path / "b.ran").exists()
    with pytest.raises(SystemExit):
        script.main(["--dry", "--stage", "c", "--out", str(tmp_path)])


def test_without_a_gpu_it_says_so(script):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="no CUDA device; --dry"):
        script.main([])


def test_clocks_are_summed_up_and_what_is_no_number_left_out(script):
    text = "\n".join(
        f"2026/01/01 10:00:0{k}, 0, {clock}, 2619, [N/A], 61, 99, 4000" for k, clock in enumerate((5, 3, 4))
    )
    found = script.summary(text + "\n2026/01/01 10:0")  # a line that is being written
    assert found["clocks.sm"] == {"least": 3, "median": 4, "largest": 5} and "power.draw" not in found


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_dry_run_of_everything_takes_less_than_five_minutes(tmp_path):
    began = time.monotonic()
    command = [str(BENCH / "on_gpu.sh"), "--dry", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable})
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 300
    records = json.loads((tmp_path / "summary.json").read_text())["stages"]
    assert all(record["status"] == "passed" for record in records) and len(records) >= 10
    for name in ("step-times", "losses", "throughput", "cache-rates", "decoder-rates", "scaling-strong", "resumed"):
        assert json.loads((tmp_path / f"{name}.json").read_text()), name
    assert (tmp_path / "profile.txt").is_file() and (tmp_path / "profile.trace.json.gz").is_file()

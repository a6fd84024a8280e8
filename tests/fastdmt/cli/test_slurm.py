"""The batch file is a script that bash takes and that passes on what Slurm does not."""

import os
import shlex
import subprocess
import sys

import pytest
from one_line import refused
from tones import write_video

from fastdmt.cli.main import main


def test_the_file_starts_the_run_with_its_cores_and_asks_again_until_it_is_finished(tmp_path):
    script, run = tmp_path / "job.sh", tmp_path / "run"
    options = ["--nodes", "2", "--gpus", "4", "--cpus-per-gpu", "3", "--train=--preset demo --seed 1"]
    assert main(["slurm", str(script), "--run", str(run), *options]) == 0
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in {
        "scontrol": 'if [ "$1" = show ]; then printf "n1\\nn2\\n"; else echo "requeue $2" >> "$LOG"; fi',
        "srun": 'printf "%s\\n" "$*" >> "$LOG"',
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    log = tmp_path / "log"
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "LOG": str(log), "SLURM_JOB_ID": "7"}

    def job() -> list[str]:
        log.write_text("")
        subprocess.run(["bash", str(script)], env=environment | {"SLURM_JOB_NODELIST": "n[1-2]"}, check=True)
        return log.read_text().splitlines()

    first, again = job()
    words = first.split()
    assert words[0] == "--cpus-per-task=12" and again == "requeue 7"  # srun does not take it from the job
    assert first.endswith(f"train --preset demo --seed 1 --run {run} --gpus 4 --nodes 2 --rdzv n1:29500")
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last").write_text("step-0000001")
    assert "--resume" in job()[0].split()
    (run / "state.txt").write_text("finished after 3 steps\n")
    assert len(job()) == 1, "a finished run is not queued again"


@pytest.mark.parametrize("option", ["--nodes", "--gpus", "--hours"])
def test_nothing_to_run_on_is_one_line(tmp_path, option):
    assert "at least 1" in refused("slurm", tmp_path / "job.sh", "--run", tmp_path / "run", option, "0")


def test_an_array_prepares_every_video_once_and_again_only_what_is_missing(tmp_path):
    (tmp_path / "my videos").mkdir()
    for name in ("a", "b", "c"):
        write_video(tmp_path / "my videos" / f"{name}.mp4", each=1)
    script, out = tmp_path / "prepare.sh", tmp_path / "out"
    words = shlex.join([str(tmp_path / "my videos"), str(out), "--side", "32"])
    options = ["--run", str(tmp_path / "logs"), "--parts", "2", "--cpus-per-gpu", "1", f"--prepare={words}"]
    assert main(["slurm", str(script), *options]) == 0
    assert "#SBATCH --array=1-2\n" in script.read_text() and (tmp_path / "logs").is_dir()
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in {"srun": 'shift; exec "$@"', "fastdmt": f'exec "{sys.executable}" -m fastdmt "$@"'}.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    path = os.pathsep.join(p for p in sys.path if p)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": path}

    def job(number: int) -> str:
        done = subprocess.run(
            ["bash", str(script)],
            env=environment | {"SLURM_ARRAY_TASK_ID": str(number)},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    assert "2 made, 0 were there" in job(1)
    assert sorted(path.stem for path in (out / "frames").iterdir()) == ["a", "c"]
    assert "1 made, 0 were there" in job(2) and "0 made, 2 were there" in job(1)
    assert sorted(path.stem for path in (out / "audio").iterdir()) == ["a", "b", "c"]


def test_arguments_that_prepare_does_not_take_are_one_line(tmp_path):
    for words in ("videos", "videos out --sides 3", "'videos out"):
        assert "--prepare" in refused("slurm", tmp_path / "job.sh", "--run", tmp_path / "run", f"--prepare={words}")

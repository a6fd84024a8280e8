"""The command line on real files, as a person uses it: options, what is written, and what is refused."""

import errno
import os
import subprocess
import sys

import pytest
from one_line import refused

from fastdmt.cli.main import COMMANDS, main

TINY = ["--size", "32", "--batch", "8", "--warmup-steps", "2", "--steps", "2", "--eval-every", "2", "--log-every", "1"]


# ------------------------------------------------------------------ eval


def test_tables_are_whole_in_a_pipe(run, files):
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "fastdmt", "eval", str(run)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "…" not in done.stdout
    assert all(word in done.stdout for word in ("threshold", "blind disc", "other sound", "drop", "blind disc: a disc"))


# ------------------------------------------------------------------ what the machine lacks


def test_too_many_open_files_wherever_it_is_noticed(files, monkeypatch):
    def refuse(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "too many open files: raise the limit with `ulimit -n 65536`" in refused("data", "check", files)


# ------------------------------------------------------------------ export, import


# ------------------------------------------------------------------ parsing


def test_help_of_every_command_names_each_option_once(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([*command.split(), "--help"])
        assert stop.value.code == 0
        assert f"fastdmt {command}" in capsys.readouterr().out
    assert main(["nope"]) == 2


def test_arguments_are_refused_before_torch_is_imported():
    code = "import sys; from fastdmt.cli.main import main; main(['train', '--preset', 'nope'])"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "unknown preset 'nope'" in done.stderr and done.stdout.strip() == "False"

"""Bad input, asked of a command: it must end in one line that says why, exit code 2, and no traceback."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

from fastdmt.cli.main import main


def refused(*args) -> str:
    """The line with which a command, called in this process, refuses its arguments."""
    said, printed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
        code = main([str(a) for a in args])
    return _line(code, said.getvalue(), printed.getvalue())


def refused_alone(*args, cwd: Path | None = None, timeout: float = 120, **environment: str) -> str:
    """The same of a process of its own, whose threads, signals and closing prints count as well."""
    done = command(*args, cwd=cwd, timeout=timeout, **environment)
    return _line(done.returncode, done.stderr, done.stdout)


def command(*args, cwd: Path | None = None, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess:
    """`fastdmt ARGS` in a process of its own, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "fastdmt", *map(str, args)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
    )


def _line(code: int, said: str, printed: str) -> str:
    assert code == 2, f"exit code {code}\n{said}\n{printed}"
    assert "Traceback" not in said + printed, said + printed
    lines = said.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), said
    return lines[0]

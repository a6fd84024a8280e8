"""What the demo shows in a terminal of 80 x 24 and in a pipe, captured from real processes and read."""

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios

import pytest
from one_line import command

from fastdmt.evaluation.result import RULES

SMALL = "--size 32 --batch 8 --warmup-steps 2 --steps 2 --log-every 1 --eval-every 2".split()
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]")
PAIR = r"\d+\.\d / \d+\.\d"


def in_terminal(*words, rows: int = 24, columns: int = 80) -> str:
    """Everything that `fastdmt WORDS` writes to a terminal of this size, colours and cursor movements left out."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    told = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CI")}
    process = subprocess.Popen(
        [sys.executable, "-m", "fastdmt", *map(str, words)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=told | {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    os.close(theirs)
    captured = b""
    try:
        while block := os.read(ours, 1 << 16):
            captured += block
    except OSError:  # how Linux ends a terminal that nobody writes to any more
        pass
    os.close(ours)
    text = ESCAPE.sub("", captured.decode("utf-8"))
    assert process.wait() == 0, text
    return text


@pytest.fixture(scope="module")
def screens(files, tmp_path_factory) -> dict[str, list[str]]:
    """Lines of the demo's output, by where it went."""
    home = tmp_path_factory.mktemp("screens")
    data = shutil.copytree(files, home / "data", ignore=shutil.ignore_patterns("videos"))  # they take most of the time
    piped = command("demo", "--data", data, "--run", home / "piped", *SMALL, timeout=280)
    assert piped.returncode == 0, piped.stderr
    shown = in_terminal("demo", "--data", data, "--run", home / "shown", *SMALL)
    return {"pipe": piped.stdout.splitlines(), "terminal": re.split(r"[\r\n]+", shown)}


@pytest.mark.parametrize("stage", ["warm-up", "unbiased"])
def test_a_terminal_shows_bar_count_and_time_left(screens, stage):
    frames = [line for line in screens["terminal"] if line.startswith(f"{stage} ")]
    assert frames
    for line in frames:
        assert len(line.rstrip()) <= 80 and "…" not in line, line
    assert re.search(r"━{5,} 2/2 +\d+\.\d step/s +\d+:\d\d:\d\d left", frames[-1]), frames[-1]
    assert any(re.search(r"val_ciou\S* \d+\.\d%", line) for line in screens["terminal"])


@pytest.mark.parametrize("stage", ["warm-up", "unbiased"])
def test_a_pipe_has_lines_with_count_time_and_figures(screens, stage):
    lines = [line for line in screens["pipe"] if line.startswith(f"{stage} ")]
    assert re.fullmatch(rf"{stage} 2 of 2, (took|\d+:\d\d left) ?\d*:?\d*  .*loss\S* \d+\.\d+ .*", lines[-1]), lines
    assert not any("━" in line for line in lines) and "\x1b" not in "".join(screens["pipe"])


@pytest.mark.parametrize("place", ["terminal", "pipe"])
def test_figures_are_whole_and_the_end_is_in_words(screens, place):
    lines = screens[place]
    table = [line for line in lines if "│" in line or "┃" in line]
    assert table and "…" not in "".join(lines)
    for line in table:
        assert len(line) <= (80 if place == "terminal" else 120)
    heads = [head for line in table if "┃" in line for head in re.split(r" *┃ *", line.strip("┃ "))]
    assert set(heads) == {"threshold", "CIoU@0.5", "AUC", "other sound", "drop", "cap", "blind disc"}
    rows = [re.split(r" *│ *", line.strip("│ ")) for line in table if "│" in line]
    assert {row[0] for row in rows} <= set(RULES) and "absolute" in {row[0] for row in rows}
    for row in rows:
        for cell in row[1:]:
            assert re.fullmatch(rf"-?\d+\.\d|\d+\.\d ±\d+\.\d|{PAIR}|-?\d+\.\d / -?\d+\.\d", cell), row
    said = next(i for i, line in enumerate(lines) if line.startswith("With its own sound it finds"))
    bars = [i for i, line in enumerate(lines) if re.match(r"(warm-up|unbiased|localizing|evaluating) ", line)]
    end = next(i for i, line in enumerate(lines) if line.startswith("Everything lies in"))
    assert max(bars, default=0) < said < lines.index(table[0]) < end

"""What a person sees of a long task: in a terminal of 80 columns, and in a pipe."""

import ast
import io
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from fastdmt import console
from fastdmt.console import Meter, bar, clock, one_line, say

FIGURES = "loss 0.412  kept 35.0%  teachers_iou 61.0%  empty 0.0%  pseudo_iou 71.3%  val_ciou 51.3%  val_auc 48.9%"


def terminal(width=80) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False)


def test_bar_count_and_time_stand_before_the_figures_at_80_columns():
    screen = terminal()
    meter = Meter(screen, "unbiased", 600)
    meter.start()
    meter.update(150)
    meter.show(FIGURES, "12.3 step/s")
    meter.stop()
    lines = screen.file.getvalue().splitlines()
    first = next(line for line in reversed(lines) if "unbiased" in line)
    assert "━" in first and "150/600" in first and "12.3 step/s" in first and "left" in first and "…" not in first
    assert all(f"{name} " in screen.file.getvalue() for name in ("kept", "val_ciou", "val_auc"))
    below = lines[lines.index(first) + 1 :]
    assert "loss 0.412" in below[0] and "51.3%" in " ".join(below)
    assert max(map(len, below)) <= 80


def test_without_a_terminal_a_line_comes_every_so_often(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    pipe = Console(file=io.StringIO(), width=120)
    meter = Meter(pipe, "unbiased", 600)
    meter.start()
    for done in range(1, 301):
        now[0] = float(done)
        meter.show(f"loss {done / 1000:.3f}")
        meter.update(done)
    meter.stop()
    lines = pipe.file.getvalue().splitlines()
    assert lines[0] == "unbiased 2 of 600, 9:58 left  loss 0.002"
    assert lines[1] == "unbiased 12 of 600, 9:48 left  loss 0.012"
    assert lines[-1] == "unbiased 300 of 600, took 5:00  loss 0.300"
    assert len(lines) == 31


def test_lines_of_a_long_run_thin_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    pipe = Console(file=io.StringIO(), width=120)
    meter = Meter(pipe, "unbiased", 7 * 86400)
    for done in range(0, 7 * 86400, 5):
        now[0] = float(done)
        meter.update(done)
    lines = pipe.file.getvalue().splitlines()
    assert 1000 < len(lines) < 3000 and "6 d 23:5" in lines[40]


def test_what_is_quickly_done_prints_no_line(monkeypatch):
    monkeypatch.setattr(console, "LINE_S", 3600.0)
    pipe = Console(file=io.StringIO(), width=120)
    with bar(pipe, "reading") as tick:
        tick(1, 2)
        tick(2, 2)
    assert pipe.file.getvalue() == ""
    monkeypatch.setattr(console, "LINE_S", 0.0)
    with bar(pipe, "reading") as tick:
        tick(1, 2)
    assert pipe.file.getvalue().startswith("reading 1 of 2, ")


@pytest.mark.parametrize("seconds, text", [(0.4, "0:00"), (59.6, "1:00"), (3671, "1:01:11"), (200000, "2 d 7:33:20")])
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize("name", ["[bold] x", "[/x]", "Dog [dQw4w9WgXcQ].mp4", ":smile:", "a" * 300, "100 %s {}"])
def test_a_name_is_said_as_it_is(name):
    """Even on a console that reads markup, as rich's own does."""
    terminal = Console(file=io.StringIO(), width=80)
    say(terminal, f"written: {name}")
    with bar(terminal, f"reading {name}") as tick:
        tick(1, 1)
    assert terminal.file.getvalue() == f"written: {name}\n"
    drawn = Console(file=io.StringIO(), width=400, force_terminal=True, color_system=None)
    with Meter(drawn, f"reading {name}", 1) as tick:
        tick(1, 1)
    assert name in drawn.file.getvalue()


def test_what_would_break_a_line_is_an_escape():
    surrogate = os.fsdecode(b"\xff")
    assert one_line(f"a\nb\x1b[31m{surrogate}\u2028é ") == "a\\nb\\x1b[31m\\udcff\\u2028é "
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say(Console(file=narrow), f"± {surrogate}")
    narrow.flush()
    assert narrow.buffer.getvalue() == b"? \\udcff\n"


def test_the_commands_console_reads_no_markup():
    shown = console.make_console()
    assert shown.render_str("[bold]x[/bold] :smile:").plain == "[bold]x[/bold] :smile:"


def test_lines_are_printed_in_one_place():
    """Where else `print` were given a text, a name in it could be read as markup."""
    package = Path(console.__file__).parent
    wrong = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "print":
                if path.name != "console.py" and any(isinstance(a, (ast.JoinedStr, ast.Constant)) for a in node.args):
                    wrong.append(f"{path}:{node.lineno}")
    assert not wrong, wrong

"""The terminal: one console for all commands, and how far something is, as a bar or as a line now and then."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

PIPE_WIDTH = 120  # columns where nobody can say: in a pipe, rich would take 80 and cut the tables
FIRST_S = 2.0  # until the first line, so that nobody thinks that it hangs
LINE_S = 10.0  # seconds between two lines where there is no terminal; a long run's lines thin out


# Control characters, line separators, and the halves of bytes that are no UTF-8 in a file's name.
UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def make_console() -> Console:
    """As wide as the terminal, or wide enough for every table where there is none; brackets in names are no markup."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, markup=False, emoji=False, highlight=False)


def one_line(text: str) -> str:
    """Text that may hold names of files, with whatever would break or colour a line written as an escape."""
    return UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(console: Console, text: str) -> None:
    """One line as it is: brackets are no markup, long paths are not cut, what the stream cannot show is replaced."""
    shown = one_line(text).encode(console.encoding, "replace").decode(console.encoding)
    console.print(shown, markup=False, emoji=False, highlight=False, soft_wrap=True)


def forgive_encodings() -> None:
    """A standard output that is not UTF-8 (cron, a Windows pipe) shows ? for what it lacks, and ends no command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


CONSOLE = make_console()


class Meter:
    """How far something is: what, bar, count, time left; the latest figures stand on lines below.

    Where there is no terminal (a pipe, a batch job, a notebook's shell) a line appears at first, every `LINE_S`
    seconds, more rarely in a run of hours, and at the end.

    Args:
        console: where it is drawn.
        text: what is done.
        total, done: steps in all, steps done before; the total may come later.
        brief: print nothing at all without a terminal when everything is over within `LINE_S` seconds.
    """

    def __init__(
        self, console: Console, text: str, total: int | None = None, done: int = 0, brief: bool = False
    ) -> None:
        self.console, self.text, self.total, self.done, self.first = console, text, total, done, done
        self.brief, self.figures = brief, ""
        self.began = time.perf_counter()
        self.due = self.began + (LINE_S if brief else FIRST_S)
        self.shown: int | None = None
        self.bar = _drawn(console, brief)
        self.task = self.bar.add_task(text, total=total, completed=done, rate="")

    def __enter__(self) -> Callable[[int, int], None]:
        self.start()
        return self.update

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        self.bar.start()

    def stop(self) -> None:
        self.bar.stop()
        if self.shown is not None or not self.brief:
            self._line(last=True)

    def update(self, done: int, total: int | None = None) -> None:
        """So much is done."""
        self.done = done
        self.total = self.total if total is None else total
        self.bar.update(self.task, completed=done, total=self.total)
        if time.perf_counter() >= self.due:
            self._line()

    def show(self, figures: str, rate: str = "") -> None:
        """The latest figures, one line of text or several."""
        self.figures = self.bar.figures = figures
        self.bar.update(self.task, rate=rate)

    @property
    def left(self) -> float | None:
        """Seconds left at the mean speed so far; None before the first step."""
        steps = self.done - self.first
        if not steps or self.total is None:
            return None
        return (time.perf_counter() - self.began) / steps * (self.total - self.done)

    def _line(self, last: bool = False) -> None:
        if self.console.is_terminal or self.shown == self.done:
            return
        now = time.perf_counter()
        count = f"{self.done:,}" + ("" if self.total is None else f" of {self.total:,}")
        left = self.left
        if last:
            when = f", took {clock(now - self.began)}"
        else:
            when = "" if left is None else f", {clock(left)} left"
        figures = f"  {' '.join(self.figures.split())}" if self.figures else ""
        say(self.console, f"{self.text} {count}{when}{figures}")
        self.shown = self.done
        # An hour has 360 lines at most, a week no more than a few thousand.
        self.due = now + min(max(LINE_S, 0.02 * (now - self.began)), 300.0)


def _drawn(console: Console, transient: bool) -> Any:
    """One of rich's bars with a few lines of `figures` below."""
    # Imported here: a typing error is answered without it.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    class Bar(Progress):
        figures = ""

        def get_renderables(self) -> Iterable[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            if self.figures:
                yield Text(self.figures, style="dim")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    return Bar(*columns, console=console, transient=transient, disable=not console.is_terminal)


def bar(console: Console, text: str) -> Meter:
    """Show how far something long has come: what `with` yields is called with (done, total)."""
    return Meter(console, text, brief=True)


def clock(seconds: float) -> str:
    """Seconds as 0:42, 12:05, 3:07:30 or 2 d 4:00:00."""
    whole = max(0, round(seconds))
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    text = f"{hours}:{minutes:02}:{rest:02}" if hours or days else f"{minutes}:{rest:02}"
    return f"{days} d {text}" if days else text

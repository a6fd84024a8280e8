"""The terminal: one console for all commands, and progress bars as plain callbacks."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PIPE_WIDTH = 120  # columns where nobody can say: in a pipe, rich would take 80 and cut the tables


def make_console() -> Console:
    """As wide as the terminal, or wide enough for every table where there is none."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)


CONSOLE = make_console()


class bar:
    """A progress bar as a `progress(done, total)` callback, for whatever takes long."""

    def __init__(self, console: Console, text: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, transient=True)
        self.task = self.progress.add_task(text, total=None)

    def __enter__(self):
        self.progress.start()
        return lambda done, total: self.progress.update(self.task, completed=done, total=total)

    def __exit__(self, *exc) -> None:
        self.progress.stop()

"""A table, drawn from one object by a terminal and by a page."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rich.console import Console, ConsoleOptions
from rich.table import Table as Drawn
from rich.text import Text

FRAME = 3  # characters that a column costs beside its content
WORDS = 30  # characters from which a column of words is folded where there is no room


class Score(NamedTuple):
    """A cell that matters, and what belongs to it in small letters."""

    text: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.note}".rstrip()


@dataclass
class Table:
    """Names of rows in the first column, figures in the others.

    Attributes:
        heads: one a column.
        rows: as many cells each; of `Score`s the text is emphasised.
        title, caption: before and below.
        strong: rows that are emphasised as a whole.
        parted: rows before which a line is drawn.
        left: columns of words, beside the first.
        fold: column that begins what goes below, in a terminal that is too narrow for all.
    """

    heads: Sequence[str]
    rows: list[Sequence[str | Score]] = field(default_factory=list)
    title: str = ""
    caption: str = ""
    strong: set[int] = field(default_factory=set)
    parted: set[int] = field(default_factory=set)
    left: set[int] = field(default_factory=set)
    fold: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Drawn | Text]:
        """On a terminal: columns that do not fit its width go below, under the same names of rows; no figure is cut."""
        needed = [FRAME + max(len(str(row[c])) for row in [self.heads, *self.rows]) for c in range(len(self.heads))]
        needed = [min(n, WORDS) if c in self.left else n for c, n in enumerate(needed)]
        parts, following = [], 1
        whole = sum(needed) < options.max_width
        while following < len(self.heads) or not parts:
            shown, room = [0], options.max_width - 1 - needed[0]
            while following < len(self.heads) and (needed[following] <= room or shown == [0]):
                if following == self.fold and not whole and shown != [0]:
                    break
                shown.append(following)
                room -= needed[following]
                following += 1
            parts.append(self._part(shown))
        # Not rich's own title and caption, which are folded to the width of a table.
        if self.title:
            yield Text(self.title, style="italic")
        yield from parts
        if self.caption:
            yield Text(self.caption, style="dim")

    def _part(self, columns: Sequence[int]) -> Drawn:
        drawn = Drawn()
        for c in columns:
            words = c in self.left
            drawn.add_column(Text(self.heads[c]), justify="right" if c and not words else "left", no_wrap=not words)
        for i, row in enumerate(self.rows):
            if i in self.parted:
                drawn.add_section()
            cells = [row[c] for c in columns]
            texts = [
                Text.assemble((cell.text, "bold"), f" {cell.note}" if cell.note else "")
                if isinstance(cell, Score)
                else Text(cell)
                for cell in cells
            ]
            drawn.add_row(*texts, style="bold" if i in self.strong else "")
        return drawn

    def page(self) -> str:
        """HTML; every text is escaped."""
        words = ' class="words"'

        def cell(c: int, value: str | Score) -> str:
            kind = words if c in self.left else ' class="score"' if isinstance(value, Score) else ""
            note = f" <small>{html.escape(value.note)}</small>" if isinstance(value, Score) and value.note else ""
            return f"<td{kind}>{html.escape(value.text if isinstance(value, Score) else value)}{note}</td>"

        heads = "".join(
            f"<th{words if c in self.left else ''}>{html.escape(head)}</th>" for c, head in enumerate(self.heads)
        )
        rows = []
        for i, row in enumerate(self.rows):
            kinds = [name for name, which in (("strong", self.strong), ("parted", self.parted)) if i in which]
            opening = f'<tr class="{" ".join(kinds)}">' if kinds else "<tr>"
            rows.append(f"{opening}{''.join(cell(c, value) for c, value in enumerate(row))}</tr>")
        caption = f'<p class="note">{html.escape(self.caption)}</p>' if self.caption else ""
        title = f"<h3>{html.escape(self.title)}</h3>" if self.title else ""
        table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        return f'{title}<div class="scroll">{table}</div>{caption}'

"""Tables as plain text and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Table:
    """A title, rows whose first cell is a name, and notes below them."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self, before: str, between: str, after: str) -> list[str]:
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        rule = [
            "-" * width if not at else "-" * (width - 1) + ":" for at, width in enumerate(widths)
        ]
        return [
            before
            + between.join(
                cell.rjust(width) if at else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            + after
            for row in [self.columns, rule, *self.rows]
        ]

    def text(self) -> str:
        head, rule, *rows = self.lines("", "  ", "")
        return "\n".join([self.title, "", head, rule.replace(":", "-"), *rows, "", *self.notes, ""])

    def markdown(self) -> str:
        notes = [f"- {note}" for note in self.notes]
        return "\n".join([f"## {self.title}", "", *self.lines("| ", " | ", " |"), "", *notes, ""])

# -*- test-case-name: tests.logtools.test_summary -*-
"""A table of sessions, one in a row, with a column for each plugin that has said something."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from qpsmtpd.logtools.lines import printable
from qpsmtpd.logtools.registry import UNKNOWN, Plugin
from qpsmtpd.logtools.sessions import Finding, Session

__all__ = ["SYMBOLS", "Summary", "fit"]

#: What stands for what a plugin found.
SYMBOLS: Final = {
    Finding.PASS: "o",
    Finding.POSITIVE: "o",
    Finding.SKIP: "-",
    Finding.TOLERATED: "x",
    Finding.NEGATIVE: "x",
    Finding.FAIL: "X",
    Finding.ERROR: "!",
}

#: Colours of symbols: what a terminal is told before them.
_COLOURS: Final = {"o": "\x1b[32m", "x": "\x1b[33m", "X": "\x1b[31m", "!": "\x1b[35m"}

_NO_COLOUR: Final = "\x1b[0m"

#: Rows between two headers.
ROWS: Final = 20

#: Columns of plugins at most; what any client can make a log say does not widen the table further.
COLUMNS_LIMIT: Final = 60


class Column(NamedTuple):
    """A column of the table.

    :ivar place: Columns stand in this order.
    :ivar from_end: The end of a text that is too long is kept, not its beginning.
    """

    place: tuple[float, str]
    title: str
    width: int
    value: Callable[[Session], str]
    from_end: bool = False


#: Widths of plugins' columns that are not one symbol: short and long.
_WIDTHS: Final = {
    "ident::geoip": (6, 20),
    "ident::p0f": (10, 10),
    "connection_time": (4, 4),
    "unrecognized_commands": (5, 5),
}


class Summary:
    """Makes rows.

    :param long: Wide columns, with longer names.
    :param colour: Symbols are coloured.
    """

    def __init__(self, *, long: bool = False, colour: bool = False) -> None:
        self._long = long
        self._colour = colour
        self._columns: list[Column] = self._first_columns()
        self._seen: set[str] = set()
        self._rows = 0

    def lines(self, session: Session) -> Iterator[str]:
        """A session's row, with a header before it where one is due."""
        if self._add_columns(session) or self._rows % ROWS == 0:
            self._rows = 0
            yield " ".join(fit(column.title, column.width) for column in self._columns).rstrip()
        self._rows += 1
        yield " ".join(self._cell(column, session) for column in self._columns).rstrip()

    def _first_columns(self) -> list[Column]:
        return [
            Column((0, ""), "ip", 39 if self._long else 15, lambda session: session.ip),
            Column((10_000, ""), "result", 7, lambda session: session.outcome),
        ]

    def _add_columns(self, session: Session) -> bool:
        """Add the columns that a session is the first to need."""
        before = len(self._columns)
        for column in self._optional_columns(session):
            if column.title not in self._seen:
                self._seen.add(column.title)
                self._columns.append(column)
        for plugin in session.findings:
            if plugin.name not in self._seen and len(self._columns) < COLUMNS_LIMIT:
                self._seen.add(plugin.name)
                self._columns.append(self._plugin_column(plugin))
        self._columns.sort(key=lambda column: column.place)
        return len(self._columns) > before

    def _optional_columns(self, session: Session) -> Iterator[Column]:
        wide = 20 if self._long else 8
        if self._long and session.hostname:
            yield Column((1, ""), "hostname", 20, lambda session: session.hostname, True)
        if session.distance:
            yield Column((2, ""), "dist", 5, lambda session: session.distance)
        if session.helo:
            yield Column((300.5, ""), "HELO", wide, lambda session: session.helo, True)
        if session.transactions:
            yield Column((499.5, ""), "MAIL FROM", wide, _reverse_path, True)
            yield Column((599.5, ""), "RCPT TO", wide, _recipients)

    def _plugin_column(self, plugin: Plugin) -> Column:
        known = plugin.id != UNKNOWN
        width = (5 if self._long else 3) if known else 10
        if plugin.name in _WIDTHS:
            width = _WIDTHS[plugin.name][self._long]
        title = plugin.longer if self._long else plugin.short

        def value(session: Session) -> str:
            if plugin.name == "connection_time" and session.seconds:
                return session.seconds
            finding, text = session.findings.get(plugin, ("", ""))
            return SYMBOLS.get(finding, text)

        return Column((plugin.id if known else 9000, plugin.name), title, width, value)

    def _cell(self, column: Column, session: Session) -> str:
        value = column.value(session)
        cell = fit(
            f" {value}" if value in _COLOURS or value == "-" else value,
            *column[2:3],
            from_end=column.from_end,
        )
        if self._colour and value in _COLOURS:
            return cell.replace(value, _COLOURS[value] + value + _NO_COLOUR)
        return cell


def _reverse_path(session: Session) -> str:
    path = session.reverse_path
    return "<>" if path == "" else path or ""


def _recipients(session: Session) -> str:
    recipients = session.recipients
    if len(recipients) > 1:
        return f"{recipients[0]} +{len(recipients) - 1}"
    return recipients[0] if recipients else ""


def fit(text: str, width: int, *, from_end: bool = False) -> str:
    """A text as wide as a column, on any terminal and without power over it.

    :param from_end: Keep the end of one that is too long.
    """
    text = printable(text)
    if text.isascii():  # nearly all; each is one wide
        kept = text[-width:] if from_end else text[:width]
        return kept.ljust(width)
    if from_end:
        return _left(text[::-1], width, lambda kept: kept[::-1])
    return _left(text, width, lambda kept: kept)


def _left(text: str, width: int, turn: Callable[[str], str]) -> str:
    kept = ""
    free = width
    for each in text:
        size = _width(each)
        if size > free:
            break
        free -= size
        kept += each
    return turn(kept) + " " * free


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def draw(header: Sequence[str], rows: Sequence[Sequence[str | int]]) -> Iterator[str]:
    """Figures as a table: texts to the left, numbers to the right, as wide as they need.

    :param rows: Their texts are shown with :func:`~qpsmtpd.logtools.lines.printable`.
    """
    cells = [[printable(str(cell)) for cell in row] for row in [header, *rows]]
    widths = [max(sum(map(_width, row[each])) for row in cells) for each in range(len(header))]
    right = [bool(rows) and isinstance(cell, int) for cell in (rows[0] if rows else header)]
    for number, row in enumerate(cells):
        yield "  ".join(
            _pad(cell, width, to_right)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        if number == 0:
            yield "  ".join("-" * width for width in widths)


def _pad(text: str, width: int, to_right: bool) -> str:
    space = " " * (width - sum(map(_width, text)))
    return space + text if to_right else text + space

# -*- test-case-name: tests.logtools.test_show -*-
"""All lines of the sessions that somebody asks for.

Files are read twice, for the sessions, then for their lines, and for a transaction once more. So
nothing is kept but keys, however large a log is, and lines that stand before the one that was
asked for are found as well.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from qpsmtpd.logtools.files import read
from qpsmtpd.logtools.lines import Line, parse, printable
from qpsmtpd.logtools.sessions import Keys, address_of

__all__ = ["show"]

#: Sessions to show at most.
SHOWN_LIMIT: Final = 10_000

#: Digits of a line's number that are the session's; those before are the process's.
SESSION_DIGITS: Final = 6

_PID: Final = re.compile(r"\d{1,13}")
_SESSION: Final = re.compile(r"([0-9a-f]+-[0-9a-f]+-[0-9a-f]+)(?:\.(\d+))?")
_MAIL: Final = re.compile(r"dispatching MAIL[ \t]", re.IGNORECASE)


def show(wanted: str, paths: Sequence[Path], *, every: bool = False) -> Iterator[str]:
    """What was said for one message or connection.

    :param wanted: The number of a session's lines, the id of a process, session or transaction; a
        client's IP address; or what stands in a line: a Message-ID, a mail address.
    :param paths: The log's files, from the oldest on.
    :param every: For what may stand for many sessions, an address or a Message-ID: all of them,
        not the last one alone.

    :returns: Lines without time stamps and ids, an empty one between two sessions' lines. None
        when nothing was found.

    :raises OSError: A file cannot be read.
    """
    log = _Log(paths)
    matches = _matcher(wanted)
    found: dict[str, None] = {}
    count = 0
    for key, line in log.lines():
        if key not in found and matches(line):
            count += 1
            found[key] = None
            if len(found) > SHOWN_LIMIT:
                del found[next(iter(found))]
    if not found:
        return
    if not (_PID.fullmatch(wanted) or _SESSION.fullmatch(wanted)):
        yield from _how_many(wanted, count, every)
        if not every:
            found = dict.fromkeys(list(found)[-1:])
    yield from _shown(log, found, _part(log, wanted, found))


class _Log:
    """Files that are read several times; no more of each than was there at first."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = [(path, path.stat().st_size) for path in paths]

    def lines(self) -> Iterator[tuple[str, Line]]:
        """Lines that are of a session or process, with its key."""
        keys = Keys()
        for path, size in self._paths:
            with path.open("rb") as file:
                for octets in read(file, size=size):
                    line = parse(octets)
                    if key := keys.key(line):
                        yield key, line


def _shown(log: _Log, found: dict[str, None], part: range | None) -> Iterator[str]:
    last = ""
    number = 0
    for key, line in log.lines():
        if key not in found:
            continue
        number += 1
        if part is not None and number not in part:
            continue
        if last not in ("", key):
            yield ""
        last = key
        yield printable(line.rest)


def _part(log: _Log, wanted: str, found: dict[str, None]) -> range | None:
    """Which of a session's lines are of a transaction; ``None`` for all.

    Each MAIL begins one, and a trace, which has the transaction's id, is the last thing that is
    said of it. Where there is none, nobody can tell.
    """
    if not (match := _SESSION.fullmatch(wanted)) or not match[2]:
        return None
    number = began = 0
    for key, line in log.lines():
        if key not in found:
            continue
        number += 1
        if _MAIL.match(line.text) and not line.plugin:
            began = number
        if line.text.startswith(f"transaction {wanted} trace: ") and not line.plugin:
            return range(began or 1, number + 1)
    return None


def _how_many(wanted: str, count: int, every: bool) -> Iterator[str]:
    named = f"{printable(wanted)} had {count} connection{'s' if count > 1 else ''}"
    if count > 1 and not every:
        yield f"{named}; this is the last one, --all shows each."
    else:
        yield f"{named}."
    yield ""


def _matcher(wanted: str) -> Callable[[Line], bool]:
    if _PID.fullmatch(wanted):
        return lambda line: (
            wanted in (line.pid, line.pid[:-SESSION_DIGITS])
            or (line.session != "" and number_of(line.session) == wanted)
        )
    if found := _SESSION.fullmatch(wanted):
        session = found[1]
        number = number_of(session)
        return lambda line: line.session == session or (not line.session and line.pid == number)
    try:
        address = ipaddress.ip_address(wanted.strip("[]"))
    except ValueError:
        return _text_matcher(wanted)
    return lambda line: _same_address(address_of(line), address)


def number_of(session: str) -> str:
    """The number that lines of a session begin with, by its id."""
    found = _SESSION.fullmatch(session)
    if found is None:
        return ""
    _, pid, number = found[1].split("-")
    modulo = 10**SESSION_DIGITS
    return str(int(pid, 16) * modulo + int(number, 16) % modulo)


def _same_address(text: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if not text:
        return False
    try:
        return ipaddress.ip_address(text) == address
    except ValueError:
        return False


def _text_matcher(wanted: str) -> Callable[[Line], bool]:
    """Find a text that is not part of a longer word: an address, a Message-ID."""
    pattern = re.compile(
        rf"(?<![\w.+@-]){re.escape(wanted.strip('<>'))}(?![\w+@-]|\.\w)", re.IGNORECASE
    )
    return lambda line: pattern.search(line.text) is not None

# -*- test-case-name: tests.logtools.test_sessions -*-
"""Sessions as a log tells them: lines of many at a time in, what is known of each out.

A line belongs to the session whose id or number it has. The number comes again: the Perl qpsmtpd
writes the process's id, which serves one client after the other. So a new connection under the
same number is another session.

A log may tell of sessions without end, and of clients that do anything without end. So sessions
that did not log lately are given out as they are, and of each session only so much is kept.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from qpsmtpd.logtools import registry
from qpsmtpd.logtools.lines import Line, time_of
from qpsmtpd.logtools.registry import Plugin

__all__ = ["Finding", "Keys", "Outcome", "Session", "Sessions", "address_of", "finding_of"]

#: Sessions that are open at a time. What a server has at most, and many more than are needed.
OPEN_LIMIT: Final = 20_000

#: Numbers of sessions to remember.
PIDS_LIMIT: Final = 100_000

#: Transactions, recipients, refusals and findings that are kept of a session, and of all.
KEPT_LIMIT: Final = 2000
ALL_KEPT_LIMIT: Final = 200_000

#: Characters of a text that are kept.
TEXT_LIMIT: Final = 512

#: Digits of a process's id; a number with more is a session's.
PID_DIGITS: Final = 7

#: Lines that may come until a session that was closed is given out, since plugins are told of the
#: end, too.
LINGER: Final = 100


class Outcome:
    """What became of a session, from the best to the worst that is known."""

    QUEUED: Final = "queued"
    REFUSED: Final = "refused"
    TIMEOUT: Final = "timeout"
    NOTHING: Final = ""


class Finding:
    """What the first word of a plugin's line says, by the convention of all plugins."""

    PASS: Final = "pass"
    POSITIVE: Final = "positive"
    SKIP: Final = "skip"
    TOLERATED: Final = "tolerated"
    NEGATIVE: Final = "negative"
    FAIL: Final = "fail"
    ERROR: Final = "error"
    OTHER: Final = "other"


_WORD: Final = re.compile("(pass|positive|skip|negative|fail|error)(?:$|[,: ])", re.IGNORECASE)


def finding_of(text: str) -> str:
    """The :class:`Finding` that a plugin's line tells of."""
    if text.startswith("TLS setup returning"):
        return Finding.PASS
    if re.match("fail, tolerated", text, re.IGNORECASE):
        return Finding.TOLERATED
    found = _WORD.match(text)
    return found[1].lower() if found else Finding.OTHER


#: Findings that no later line of the plugin replaces.
_FINAL: Final = frozenset({Finding.PASS, Finding.FAIL, Finding.TOLERATED, Finding.SKIP})


@dataclass(slots=True)
class Session:
    """What a log tells of one session.

    :ivar key: What names it: its id, or the number of its lines and which use of that it is.
    :ivar started: The line that tells of the connection was there: ``Connection from``. Nothing
        depends on the one that some servers write just before.
    :ivar transactions: For each ``MAIL``, the reverse-path and the forward-paths. The first has
        no reverse-path where the log begins behind its ``MAIL``.
    :ivar findings: What plugins said, in the order of their first lines.
    :ivar refusals: Negative replies and the like.
    :ivar queued: Messages that were queued.
    :ivar closed_at: The number of the line that told of its end; 0 while it goes on.
    :ivar kept: Transactions, recipients, refusals and findings.
    """

    key: str
    pid: str = ""
    session: str = ""
    started: bool = False
    time: float | None = None
    ip: str = ""
    hostname: str = ""
    helo: str = ""
    distance: str = ""
    seconds: str = ""
    transactions: list[tuple[str | None, list[str]]] = field(default_factory=list)
    findings: dict[Plugin, tuple[str, str]] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    queued: int = 0
    timed_out: bool = False
    closed_at: int = 0
    kept: int = 0

    @property
    def outcome(self) -> str:
        """The :class:`Outcome`."""
        if self.queued:
            return Outcome.QUEUED
        failed = any(finding == Finding.FAIL for finding, _ in self.findings.values())
        if self.timed_out:
            return Outcome.TIMEOUT
        return Outcome.REFUSED if self.refusals or failed else Outcome.NOTHING

    @property
    def told(self) -> bool:
        """Whether there is anything to tell: of a session, or more of one that began before."""
        return bool(
            self.has_client or self.findings or self.refusals or self.queued or self.timed_out
        )

    @property
    def has_client(self) -> bool:
        """Whether this is surely a session, not a process that says something of its own.

        The Perl qpsmtpd asks some plugins where a process serves nobody.
        """
        numbered = bool(self.session) or len(self.pid) > PID_DIGITS
        return bool(self.started or self.helo or self.transactions or (numbered and self.findings))

    @property
    def reverse_path(self) -> str | None:
        """The first one."""
        return self.transactions[0][0] if self.transactions else None

    @property
    def recipients(self) -> list[str]:
        """The forward-paths of all transactions."""
        return [each for _, recipients in self.transactions for each in recipients]


_CONNECTION: Final = re.compile(r"(?:Connection from|connect) (.*) \[([^\[\] ]*)\]$")
_ACCEPTED: Final = re.compile(r"Accepted connection(?: \S+ from (\S+)(?: / (\S+))?)?")
_CLEANING: Final = re.compile(r"cleaning up after (\d+)")
_HELO: Final = re.compile(r"dispatching (?:EHLO|HELO|LHLO)[ \t]+(.*)", re.IGNORECASE)
_PATH: Final = re.compile(
    r'dispatching (MAIL FROM|RCPT TO)[ \t]*:[ \t]*(?:<((?:"(?:\\.|[^"\\])*"|[^>"])*)>|(\S*))',
    re.IGNORECASE,
)
_REFUSAL: Final = re.compile(r"[45]\d\d |deny mail from|denysoft mail from")
_QUEUED: Final = re.compile(r"250[ -](?:\d\.\d+\.\d+ )?Queued\b")
_TIMEOUT: Final = re.compile(r"Connection Timed Out|421[ -].*\btime(?:out|d out)\b", re.IGNORECASE)
_CLOSE: Final = re.compile(r"click, disconnecting|close |Connection Timed Out|Lost connection")
_DISTANCE: Final = re.compile(r"(\d{1,6}) km\b")
_SECONDS: Final = re.compile(r"(\d[\d.]{0,12}) s")


def address_of(line: Line) -> str:
    """The client's address, if the line tells of a new connection."""
    if line.plugin or line.hook:
        return ""
    if found := _CONNECTION.match(line.text):
        return found[2]
    found = _ACCEPTED.match(line.text)
    return (found[1] or "") if found else ""


class Keys:
    """Names the session of each line."""

    def __init__(self) -> None:
        # By process: the number of its session, and whether its connection was told.
        self._pids: OrderedDict[str, tuple[int, bool]] = OrderedDict()

    def key(self, line: Line) -> str:
        """The session's key; empty if the line is of no session."""
        if line.session:
            return line.session
        pid = line.pid
        plain = not (line.plugin or line.hook)
        if plain and (found := _CLEANING.match(line.text)):
            pid = found[1]
        if not pid:
            return ""
        number, connected = self._pids.pop(pid, (0, False))
        if plain and _ACCEPTED.match(line.text):
            number, connected = number + 1, False
        elif plain and _CONNECTION.match(line.text):
            number, connected = (number + 1 if connected or not number else number), True
        self._pids[pid] = number, connected
        if len(self._pids) > PIDS_LIMIT:
            self._pids.popitem(last=False)
        return f"{pid}/{number}"


class Sessions:
    """Puts lines together."""

    def __init__(self) -> None:
        self._keys = Keys()
        self._open: OrderedDict[str, Session] = OrderedDict()
        self._closed: OrderedDict[str, None] = OrderedDict()
        self._count = 0
        self._kept = 0

    def feed(self, line: Line) -> Iterator[Session]:
        """Give a line.

        :returns: Sessions that are over, or at which nothing happened for long.
        """
        self._count += 1
        if key := self._keys.key(line):
            yield from self._before(key, line)
            session = self._session(key, line)
            self._kept -= session.kept
            closed = _take(session, line)
            self._kept += session.kept
            if closed:
                self._closed[key] = None
                session.closed_at = self._count
        while len(self._open) > OPEN_LIMIT or self._kept > ALL_KEPT_LIMIT:
            yield from self._give(next(iter(self._open)))
        while self._closed:
            key = next(iter(self._closed))
            if self._open[key].closed_at + LINGER > self._count:
                break
            yield from self._give(key)

    def idle(self) -> Iterator[Session]:
        """Nothing is logged at the moment.

        :returns: Sessions that are over.
        """
        for key in list(self._closed):
            yield from self._give(key)

    def end(self) -> Iterator[Session]:
        """There are no more lines.

        :returns: All sessions that were not given yet.
        """
        for key in list(self._open):
            yield from self._give(key)

    def _before(self, key: str, line: Line) -> Iterator[Session]:
        """A process that has a new connection is through with the one before."""
        if not line.session:
            pid, _, number = key.partition("/")
            yield from self._give(f"{pid}/{int(number) - 1}")

    def _session(self, key: str, line: Line) -> Session:
        session = self._open.get(key)
        if session is None:
            session = self._open[key] = Session(key, line.pid, line.session)
            session.time = time_of(line.stamp)
        else:
            self._open.move_to_end(key)
        return session

    def _give(self, key: str) -> Iterator[Session]:
        self._closed.pop(key, None)
        session = self._open.pop(key, None)
        if session is not None:
            self._kept -= session.kept
            if session.told:
                yield session


def _take(session: Session, line: Line) -> bool:
    """Add what a line tells.

    :returns: Whether the session is closed with it.
    """
    if line.plugin:
        # A word and a colon may begin any text; a plugin that is asked has its hook before it.
        # Some work goes on behind the hook. The server's numbers are longer than a process's id.
        known = registry.find(line.plugin).id != registry.UNKNOWN
        if line.hook or (known and (line.session or len(line.pid) > PID_DIGITS)):
            _take_finding(session, line)
        return False
    if line.hook:
        return False
    text = line.text
    if found := _CONNECTION.match(text):
        session.started = True
        session.hostname, session.ip = found[1][:TEXT_LIMIT], found[2][:TEXT_LIMIT]
    elif found := _ACCEPTED.match(text):
        session.ip, session.hostname = found[1] or "", (found[2] or "")[:TEXT_LIMIT]
    elif found := _HELO.match(text):
        session.helo = found[1].strip()[:TEXT_LIMIT]
    elif found := _PATH.match(text):
        _take_path(session, found)
    elif _QUEUED.match(text):
        session.queued += 1
    elif _REFUSAL.match(text) and (_may_keep(session) or not session.refusals):
        session.refusals.append(text[:TEXT_LIMIT])
        session.kept += 1
    session.timed_out = session.timed_out or bool(_TIMEOUT.match(text))
    return bool(_CLOSE.match(text) or _CLEANING.match(text))


def _take_finding(session: Session, line: Line) -> None:
    plugin = registry.find(line.plugin)
    if plugin.name == "naughty":  # it says once more what another plugin found
        return
    text = line.text[:TEXT_LIMIT]
    if plugin.name == "ident::geoip" and (found := _DISTANCE.search(text)):
        session.distance = found[1]
    if plugin.name == "connection_time" and (found := _SECONDS.search(text)):
        session.seconds = found[1]
    before = session.findings.get(plugin)
    if before is None:
        if not _may_keep(session):
            return
        session.kept += 1
    if before is None or (
        before[0] not in _FINAL and (before[0] == Finding.OTHER or finding_of(text) in _FINAL)
    ):
        session.findings[plugin] = finding_of(text), text


def _take_path(session: Session, found: re.Match[str]) -> None:
    if not _may_keep(session):
        return
    session.kept += 1
    path = (found[2] if found[2] is not None else found[3])[:TEXT_LIMIT]
    if found[1].upper().startswith("MAIL"):
        session.transactions.append((path, []))
    elif session.transactions:
        session.transactions[-1][1].append(path)
    else:
        session.transactions.append((None, [path]))


def _may_keep(session: Session) -> bool:
    return session.kept < KEPT_LIMIT

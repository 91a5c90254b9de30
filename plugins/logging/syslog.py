# -*- test-case-name: tests.plugins.logging.test_syslog -*-
"""Log to syslog.

::

    logging/syslog loglevel LOGINFO
    logging/syslog loglevel LOGINFO facility LOG_LOCAL3 ident mx1
    logging/syslog logsock udp,unix priority LOG_NOTICE

A line is ``<ident>[<number>]: (<hook>) <plugin>: <text>``; hook and plugin are left out where
there is none. The number is the process's id with six digits for the session behind it, which is
what RFC 5424, 6.2.6 suggests to mail servers.

loglevel
    The least severe level to log, by number or name. ``LOGWARN`` is the default.
priority
    The priority of every line, a number or ``LOG_NOTICE`` and so on. Without it, each has that of
    its level.
ident
    The name before the line, ``qpsmtpd`` by default.
facility
    ``LOG_MAIL`` by default.
logsock
    Ways to syslog, the first that can be had is taken: ``unix`` and ``stream`` for its socket on
    this machine, ``udp`` and ``tcp`` for port 514 on it, ``console``. ``unix,udp`` by default.
socket
    Where the socket of ``unix`` and ``stream`` is; ``/dev/log`` by default.

Nothing waits for syslog. Where it cannot be reached, standard error says so once, and a line
tells later how many were lost.
"""

from __future__ import annotations

import re
import socket as sockets
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from zope.interface import implementer

from qpsmtpd.component import PluginMaker, argument, component
from qpsmtpd.configuration.values import choice, converter, list_of, log_level, path
from qpsmtpd.interfaces import ILifecycle, ILogging
from qpsmtpd.services.logs import END_LIMIT, LineWriter, lines_of, number_of, standard_error

NAME = "logging/syslog"

#: Octets of one line. Some syslogs take no more; RFC 5424, 6.1 wants 2048 to be taken.
LINE_LIMIT: Final = 8192

#: Seconds that a write may take.
TIME_LIMIT: Final = 5.0

PORT: Final = 514

#: The facilities by number (RFC 5424, 6.2.1), as syslog(3) calls them.
FACILITIES: Final = {
    name: number
    for number, name in enumerate(
        "KERN USER MAIL DAEMON AUTH SYSLOG LPR NEWS UUCP CRON AUTHPRIV FTP".split()  # noqa: SIM905
    )
} | {f"LOCAL{number}": 16 + number for number in range(8)}

_PRIORITIES: Final = {
    "EMERG": 0,
    "PANIC": 0,
    "ALERT": 1,
    "CRIT": 2,
    "ERR": 3,
    "ERROR": 3,
    "WARNING": 4,
    "WARN": 4,
    "NOTICE": 5,
    "INFO": 6,
    "DEBUG": 7,
}

_WAYS: Final = ("unix", "stream", "udp", "tcp", "console")


@converter("a facility of syslog, as in LOG_MAIL or LOG_LOCAL0")
def facility(text: str) -> int:
    """Take a facility, with or without ``LOG_``."""
    try:
        return FACILITIES[text.upper().removeprefix("LOG_")]
    except KeyError:
        raise ValueError(text) from None


@converter("a priority of syslog: 0 to 7, or LOG_EMERG and so on to LOG_DEBUG")
def priority(text: str) -> int:
    """Take a priority, with or without ``LOG_``."""
    if re.fullmatch("[0-7]", text):
        return int(text)
    try:
        return _PRIORITIES[text.upper().removeprefix("LOG").removeprefix("_")]
    except KeyError:
        raise ValueError(text) from None


@converter("letters, digits, dots, hyphens and underscores")
def ident(text: str) -> str:
    """Take the name of a program."""
    if re.fullmatch(r"[\w.-]{1,48}", text, re.ASCII) is None:
        raise ValueError(text)
    return text


class Line(NamedTuple):
    """A line on its way to syslog."""

    priority: int
    time: float
    number: str
    text: str


@implementer(ILogging, ILifecycle)
@component
class Syslog:
    """Hands lines to a thread, which has the socket."""

    loglevel: int = argument(log_level, default=4, help="the least severe level to log")
    priority: int | None = argument(priority, default=None, help="the priority of every line")
    ident: str = argument(ident, default="qpsmtpd", help="the name before each line")
    facility: int = argument(facility, default=FACILITIES["MAIL"], help="syslog's facility")
    logsock: tuple[str, ...] = argument(
        list_of(choice(*_WAYS)), default=("unix", "udp"), help="ways to syslog, the first best"
    )
    socket: str = argument(path, default="/dev/log", help="the socket of unix and stream")

    def __post_init__(self) -> None:
        if not self.logsock:
            raise ValueError("expected a way to syslog for logsock")
        self._way = Way(self.logsock, self.socket, self.ident, self.facility)
        self._writer = LineWriter(self._way.write, self._lost, self._way.close)

    def start(self) -> None:
        """The first line opens the socket."""

    def stop(self) -> None:
        self._writer.close(END_LIMIT)

    def logging(self, level: int, event: dict[str, Any]) -> None:
        if level > self.loglevel:
            return
        now = event.get("log_time") or time.time()
        severity = level if self.priority is None else self.priority
        number = number_of(event)
        for line in lines_of(event, pid=False):
            self._writer.put(Line(severity, now, number, line))

    def _lost(self, count: int) -> Line:
        text = f"{count} lines of the log were lost: they could not be written in time"
        return Line(4 if self.priority is None else self.priority, time.time(), number_of({}), text)


class Way:
    """How lines come to syslog. All of it runs in the writer's thread.

    :param ways: What to try, in order.
    :param path: The socket of ``unix`` and ``stream``.
    """

    def __init__(self, ways: Sequence[str], path: str, ident: str, facility: int) -> None:
        self._ways = ways
        self._path = path
        self._ident = ident
        self._facility = facility
        self._open: tuple[str, Any] | None = None
        self._complained = False

    def write(self, lines: Sequence[Line]) -> None:
        """Write lines.

        :raises OSError: No way is open.
        """
        for line in lines:
            try:
                self._put(line)
            except OSError:
                self.close()  # syslog was started anew, perhaps
                self._put(line)

    def close(self) -> None:
        """Close what is open."""
        if self._open is not None:
            _, file = self._open
            self._open = None
            file.close()

    def _put(self, line: Line) -> None:
        way, file = self._open or self._find()
        octets = self._octets(line, local=way not in ("udp", "tcp"))
        if way == "console":
            file.write(octets.partition(b">")[2] + b"\r\n")
        elif way in ("udp", "unix"):
            file.send(octets)
        else:
            file.sendall(octets + (b"\n" if way == "tcp" else b"\0"))  # RFC 6587, 3.4.2

    def _octets(self, line: Line, local: bool) -> bytes:
        """A line in the form of RFC 3164, 4.1; syslog itself adds the host to a local one."""
        now = time.localtime(line.time)
        # The names of months are English, whatever the locale.
        month = "JanFebMarAprMayJunJulAugSepOctNovDec"[now.tm_mon * 3 - 3 : now.tm_mon * 3]
        stamp = f"{month} {now.tm_mday:2} {time.strftime('%H:%M:%S', now)}"
        host = "" if local else f" {sockets.gethostname()}"
        head = f"<{self._facility * 8 + line.priority}>{stamp}{host} {self._ident}[{line.number}]"
        return f"{head}: {line.text}".encode("utf-8", "backslashreplace")[:LINE_LIMIT]

    def _find(self) -> tuple[str, Any]:
        errors: list[str] = []
        for way in self._ways:
            try:
                self._open = way, self._connect(way)
            except OSError as error:
                errors.append(f"{way}: {error.strerror or error}")
            else:
                self._complained = False
                return self._open
        if not self._complained:
            self._complained = True
            text = f"logging/syslog: syslog cannot be reached: {'; '.join(errors)}"
            print(text, file=standard_error(), flush=True)
        raise OSError(f"{NAME}: {errors}")

    def _connect(self, way: str) -> Any:
        if way == "console":
            return open("/dev/console", "ab", buffering=0)
        if way == "tcp":
            return sockets.create_connection(("127.0.0.1", PORT), TIME_LIMIT)
        family = sockets.AF_INET if way == "udp" else sockets.AF_UNIX
        kind = sockets.SOCK_STREAM if way == "stream" else sockets.SOCK_DGRAM
        made = sockets.socket(family, kind)
        try:
            made.settimeout(TIME_LIMIT)
            made.connect(("127.0.0.1", PORT) if way == "udp" else self._path)
        except OSError:
            made.close()
            raise
        return made


maker = PluginMaker(NAME, Syslog)

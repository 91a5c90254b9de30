# -*- test-case-name: tests.services.test_logs -*-
"""The log of a process: from ``twisted.logger`` to the components with the hook ``logging``.

Everything is logged with :class:`twisted.logger.Logger`. :class:`LogService` hands each event to
the components of a chain, with secrets removed. Where no component logs, it writes to standard
error, in the form of the Perl qpsmtpd::

    2412000031 (rcpt) rcpt_ok: pass: example.org in rcpthosts

The number in front is the session's, or the process's id (see docs/reference/log-format.md).

A logging component writes through a :class:`LineWriter`, so that nobody waits for its disk or
pipe, and with :func:`lines_of` in the same form.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from threading import Condition, Lock, Thread, get_ident
from typing import Any, Final, Generic, TextIO, TypeVar

from twisted.logger import (
    ILogObserver,
    LogEvent,
    LoggingFile,
    formatEvent,
    globalLogBeginner,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from qpsmtpd import logs
from qpsmtpd.chain import Ask, Chain
from qpsmtpd.configuration.lines import PluginLine

__all__ = [
    "LineWriter",
    "LogService",
    "PlainLog",
    "StreamWriter",
    "begin_plainly",
    "levels_of",
    "lines_of",
    "log_name",
    "number_of",
    "old_lines_of",
    "plain_log",
    "plugin_of",
    "redacted",
    "shifts_of",
    "standard_error",
    "text_of",
    "traceback_of",
]

T = TypeVar("T")

#: Lines that may wait to be written; a megabyte or so.
WAITING_LIMIT: Final = 10_000

#: Seconds that the end waits for lines still to be written.
END_LIMIT: Final = 1.0

REMOVED: Final = "[removed]"


@implementer(ILogObserver)
class LogService:
    """Listens to all that is logged in this process.

    Events come from any thread; one is handed over at a time. What a logging component logs
    itself while it has an event is dropped, and its errors are too.

    Under ``twistd``, whose own log has every event already, nothing is written beside what
    components write. Its log is not looked through for secrets; whoever logs keeps them out.

    :param ask: A chain's ``logging``, or ``None`` if no component has this hook.
    :param loglevel: What is written where no component logs; as in ``loglevel``.
    :param stream: Where it is written; standard error if ``None``.
    :param levels: What the components listen to, from :func:`levels_of`. Nothing else is made.
        When not given, every event is made for them, which costs more than most of what is
        told.
    :param shifts: The argument ``loglevel`` of plugins, by their names without numbers.
    """

    def __init__(
        self,
        ask: Ask | None,
        loglevel: int,
        stream: TextIO | None = None,
        *,
        levels: Iterable[int] | None = None,
        shifts: Mapping[str, logs.Shift] | None = None,
    ) -> None:
        self._ask = ask
        self._shifts = shifts or {}
        self._loglevel = loglevel
        self._stream = stream
        self._writer: StreamWriter | None = None
        if ask is not None:
            self._loglevel = max(levels, default=7) if levels is not None else 7
        self._lock = Lock()
        self._thread = 0  # who hands over an event
        self._before = 0
        self._started = False

    @classmethod
    def of(cls, chain: Chain, loglevel: int, stream: TextIO | None = None) -> LogService:
        """The log of a chain, with the levels of its components."""
        levels, shifts = levels_of(chain), shifts_of(chain)
        return cls(chain.logging, loglevel, stream, levels=levels, shifts=shifts)

    def start(self) -> None:
        """Begin to listen."""
        if self._started:
            return
        self._started = True
        # With twistd's log, standard error leads there, and every line would come back.
        plainly = PlainLog.begun or not isinstance(sys.stderr, LoggingFile)
        if self._ask is None and (self._stream or plainly):
            self._writer = StreamWriter(self._stream or standard_error())
        self._before = logs.threshold.level
        logs.threshold.level = self._loglevel
        logs.shifts.clear()
        logs.shifts.update(self._shifts)
        globalLogPublisher.addObserver(self)
        PlainLog.others += 1

    def stop(self) -> None:
        """Listen no more, and write what waits to be written, within a second."""
        if not self._started:
            return
        self._started = False
        PlainLog.others -= 1
        globalLogPublisher.removeObserver(self)
        logs.threshold.level = self._before
        logs.shifts.clear()
        if self._writer is not None:
            self._writer.close(END_LIMIT)
            self._writer = None

    def __call__(self, event: LogEvent) -> None:
        """Take an event."""
        level = logs.level_of(event)
        if self._shifts:
            level = _shifted(event, level)
        if level > self._loglevel or self._thread == get_ident():
            return
        with self._lock:
            self._thread = get_ident()
            try:
                self._hand_over(level, redacted(event))
            except Exception:
                pass  # an error in a log has nowhere to go
            finally:
                self._thread = 0

    def _hand_over(self, level: int, event: dict[str, Any]) -> None:
        if self._ask is not None:
            self._ask(level, event)
        elif self._writer is not None:
            for line in lines_of(event):
                self._writer.put(line)


def levels_of(chain: Chain) -> list[int]:
    """What the logging components of a chain listen to: their attribute ``loglevel``.

    A component without one listens to everything.
    """
    levels: list[int] = []
    for link in chain.links:
        if isinstance(link.component, Chain):
            levels += levels_of(link.component)
        elif getattr(link.component, "logging", None) is not None:
            level = getattr(link.component, "loglevel", None)
            levels.append(level if isinstance(level, int) else 7)
    return levels


def shifts_of(chain: Chain) -> dict[str, logs.Shift]:
    """The argument ``loglevel`` of a chain's plugins, by their names without numbers."""
    shifts: dict[str, logs.Shift] = {}
    for link in chain.links:
        if isinstance(link.component, Chain):
            shifts.update(shifts_of(link.component))
        elif link.log_shift is not None:
            shifts[link.name.partition(":")[0]] = link.log_shift
    return shifts


def _shifted(event: LogEvent, level: int) -> int:
    """The level of an event that a plugin has logged itself; :mod:`qpsmtpd.policy` has shifted
    the others, which say so with their severity."""
    namespace = event.get("log_namespace")
    if not isinstance(namespace, str) or not namespace.startswith(_PLUGINS):
        return level
    return logs.shifted(namespace.removeprefix(_PLUGINS).replace(".", "/"), level)


# Secrets.

_SECRET_NAME: Final = re.compile("passw|secret|credential|token|private_?key", re.IGNORECASE)

_MECHANISM: Final = (
    r"(?:PLAIN|LOGIN|CRAM-\w+|DIGEST-\w+|SCRAM-[\w-]+|XOAUTH2?|OAUTHBEARER|EXTERNAL|NTLM|GSSAPI)"
)

#: A line of the client, all of it; a mechanism that nobody knows in capitals only, since texts
#: such as "auth success cleared naughty" are no commands.
_AUTH_LINE: Final = re.compile(
    rf"(?s)^((?:dispatching )?(?:(?i:auth[ \t]+{_MECHANISM})|AUTH[ \t]+[A-Z0-9_-]+)[ \t]+)"
    r"(?!<hidden credentials>$)\S.*"
)

#: The initial response (RFC 4954, 4) somewhere in a text.
_AUTH_RESPONSE: Final = re.compile(
    rf"(?i)\b(auth[ \t]+{_MECHANISM}[ \t]+)(?:[a-z0-9+/]{{4}})+(?:[a-z0-9+/]{{2,3}}=*)?(?![a-z])"
)


def redacted(event: dict[str, Any]) -> dict[str, Any]:
    """An event without its secrets: the same one if it has none.

    Fields with names such as ``password`` or ``secret``, and what a client sent with AUTH.
    """
    clean = event
    for name, value in event.items():
        kept = _without_secret(name, value)
        if kept is not value:
            if clean is event:
                clean = event.copy()
            clean[name] = kept
    return clean


def _without_secret(name: str, value: Any) -> Any:
    if isinstance(value, str):
        if _SECRET_NAME.search(name):
            return REMOVED
        if "auth" not in value.lower():
            return value
        if name != "log_format":
            value = _AUTH_LINE.sub(_first_part, value)
        return _AUTH_RESPONSE.sub(_first_part, value)
    if isinstance(value, bytes):
        text = value.decode("latin-1")
        kept = _without_secret(name, text)
        return value if kept is text else kept.encode("latin-1")
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    return REMOVED if _SECRET_NAME.search(name) else value


def _first_part(match: re.Match[str]) -> str:
    return match[1] + REMOVED


# The form of a line.

#: Control characters, and what some reader takes for the end of a line (RFC 5198, 2).
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_PLUGINS: Final = "qpsmtpd.plugins."


@lru_cache(maxsize=1000)
def log_name(name: str) -> str:
    """A plugin's name as the Perl qpsmtpd logs it: ``queue::maildir``."""
    return PluginLine(name, None, (), "", 0).log_name


def plugin_of(event: dict[str, Any]) -> str | None:
    """The plugin that an event comes from, as in :func:`log_name`."""
    plugin = event.get("plugin")
    if plugin:
        return log_name(str(plugin))
    namespace = event.get("log_namespace")
    if isinstance(namespace, str) and namespace.startswith(_PLUGINS):
        return log_name(namespace.removeprefix(_PLUGINS).replace(".", "/"))
    return None


def text_of(event: dict[str, Any]) -> str:
    """What an event says, on one line; control characters are written as ``\\n`` or ``\\x1b``."""
    text = event["text"] if event.get("log_format") == "{text}" else formatEvent(event)
    return _escaped(str(text))


def lines_of(event: dict[str, Any], *, pid: bool = True, session: bool = False) -> Iterator[str]:
    """An event as lines of a log; one, unless it has a traceback.

    :param pid: Begin with :func:`number_of`.
    :param session: Put the session's id before the rest.
    """
    head = f"{number_of(event)} " if pid else ""
    if session and event.get("session"):
        head += f"[{_escaped(str(event['session']))}] "
    hook = event.get("hook")
    plugin = plugin_of(event)
    if hook:
        head += f"({hook}) "
    if plugin or hook:
        head += f"{plugin or 'running plugin'}: "
    return _lines(head, event)


def old_lines_of(event: dict[str, Any], first: str) -> Iterator[str]:
    """An event as the Perl qpsmtpd's plugins ``adaptive`` and ``connection_id`` write it::

        2412 ` relay plugin: pass

    :param first: What the line begins with.
    """
    head = f"{first} "
    plugin = plugin_of(event)
    if plugin:
        head += f"{plugin} plugin: "
    elif event.get("hook"):
        head += f"running plugin ({event['hook']}): "
    return _lines(head, event)


def _lines(head: str, event: dict[str, Any]) -> Iterator[str]:
    yield head + text_of(event)
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        for line in traceback_of(failure):
            yield f"{head}  {line}"


def number_of(event: dict[str, Any]) -> str:
    """The number of an event's session; the process's id if it has none.

    The Perl qpsmtpd has a process for each session, and tools take its id for the session.
    """
    session = event.get("session")
    number = _session_number(session) if isinstance(session, str) else None
    return number or str(os.getpid())


@lru_cache(maxsize=10_000)
def _session_number(session: str) -> str | None:
    match = _SESSION_ID.match(session)
    return match and f"{int(match[1], 16)}{int(match[2], 16) % 1_000_000:06}"


#: What :attr:`qpsmtpd.session.Session.id` gives.
_SESSION_ID: Final = re.compile("[0-9a-f]+-([0-9a-f]+)-([0-9a-f]+)$")


def traceback_of(failure: Failure) -> Iterator[str]:
    """The lines of a traceback, without the values of variables, which may be secrets."""
    try:
        text = failure.getTraceback(elideFrameworkCode=True)
    except Exception:
        text = "".join(traceback.format_exception_only(failure.value))
    for line in _AUTH_RESPONSE.sub(_first_part, text).split("\n"):
        if line.strip():
            yield _escaped(line)


def _escaped(text: str) -> str:
    return text if text.isprintable() else _CONTROL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


# Writing.


class LineWriter(Generic[T]):
    """Writes what it is given in a thread of its own, so that nobody waits for a disk or pipe.

    When more waits than the limit, further lines are dropped and counted; how many, is
    written as soon as it can be.

    :param write: Writes some of them, in the thread. What it raises is dropped, and counts as
        lost.
    :param lost: Makes the line that tells of a loss.
    :param end: Called in the thread, when nothing more will be written.
    :param limit: Lines that may wait.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], None],
        lost: Callable[[int], T],
        end: Callable[[], None] | None = None,
        *,
        limit: int = WAITING_LIMIT,
    ) -> None:
        self._write = write
        self._lost_line = lost
        self._end = end
        self._limit = limit
        # Under the condition:
        self._changed = Condition()
        self._waiting: list[T] = []
        self._lost = 0
        self._thread: Thread | None = None
        self._closed = False
        #: Lines lost since the start.
        self.lost = 0

    def put(self, line: T) -> None:
        """Have a line written; from any thread, and never waiting for it."""
        with self._changed:
            if self._closed or len(self._waiting) >= self._limit:
                self._lost += 1
                self.lost += 1
                return
            self._waiting.append(line)
            if self._thread is None:  # not before: the process may fork when it starts
                self._thread = Thread(target=self._work, name="log", daemon=True)
                self._thread.start()
            elif len(self._waiting) == 1:
                self._changed.notify()

    def close(self, wait: float = 0.0) -> None:
        """Take nothing more; what waits is written still.

        :param wait: Seconds to wait for that.
        """
        with self._changed:
            closed, self._closed = self._closed, True
            thread = self._thread
            self._changed.notify()
        if thread is None:
            if not closed and self._end is not None:
                self._end()
        elif wait:
            thread.join(wait)

    def _work(self) -> None:
        while lines := self._take():
            told = self._lost
            try:
                self._write([*lines, self._lost_line(told)] if told else lines)
            except Exception:
                self._count(len(lines))
            else:
                self._count(-told)
        if self._end is not None:
            self._end()

    def _take(self) -> list[T]:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            lines, self._waiting = self._waiting, []
        return lines

    def _count(self, change: int) -> None:
        with self._changed:
            self._lost += change
            self.lost += max(change, 0)


def standard_error() -> TextIO:
    """The process's own standard error, also where Twisted's log has taken its place."""
    if isinstance(sys.stderr, LoggingFile) and sys.__stderr__ is not None:
        return sys.__stderr__
    return sys.stderr


class StreamWriter(LineWriter[str]):
    """Writes lines of text to a stream, such as standard error.

    :param stream: It stays open.
    """

    def __init__(self, stream: TextIO, *, limit: int = WAITING_LIMIT) -> None:
        super().__init__(self._to_stream, _lost_line, limit=limit)
        self._stream = stream

    def _to_stream(self, lines: Sequence[str]) -> None:
        text = "".join([line + "\n" for line in lines])
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        # A terminal that is not UTF-8 must not cost a line.
        self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        self._stream.flush()


@implementer(ILogObserver)
class PlainLog:
    """A process's log on standard error as it is, without time stamps: for ``multilog``.

    It takes the place of Twisted's own log. Until the server's own log listens, and when that
    has ended, it writes warnings and worse, as the Perl qpsmtpd does until it has read its
    configuration.
    """

    #: Whether this process logs so.
    begun = False

    #: Logs that listen now and write what there is to write.
    others = 0

    def __call__(self, event: LogEvent) -> None:
        """Take an event."""
        if PlainLog.others or logs.level_of(event) > 4:
            return
        stream = standard_error()
        try:
            for line in lines_of(redacted(event)):
                stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):
            pass  # an error in a log has nowhere to go


def plain_log() -> PlainLog:
    """Make the log of ``twistd --logger qpsmtpd.services.logs.plain_log qpsmtpd``."""
    PlainLog.begun = True
    return PlainLog()


def begin_plainly() -> None:
    """Let this process log to standard error as it is, where it is not ``twistd``'s."""
    globalLogBeginner.beginLoggingTo([plain_log()], redirectStandardIO=False)


def _lost_line(count: int) -> str:
    return f"{os.getpid()} {count} lines of the log were lost: they could not be written in time"

# -*- test-case-name: tests.plugins.logging.test_file -*-
"""Log to a file, or to a command's standard input.

::

    logging/file loglevel LOGINFO /var/log/qpsmtpd/mx.log
    logging/file:1 loglevel LOGERROR reopen |/usr/local/bin/alarm
    logging/file tsformat %FT%T /var/log/qpsmtpd/mx-%Y-%m-%d.log
    logging/file nosplit loglevel LOGDEBUG /var/log/qpsmtpd/%i.log

What follows the arguments is the target: a path, or ``|`` and a command for the shell. Codes of
``strftime`` stand for the time of the line, ``%i`` for the id of its session; lines of no
session have ``parent`` there. The file is opened when the first line comes, made if need be
and appended to; missing folders are not made.

A line is ``<time stamp> <hostname>[<number>]: (<hook>) <plugin>: <text>``; hook and plugin are
left out where there is none. The number is the process's id, with six digits for the session behind
it.

loglevel
    The least severe level to log, by number or name. ``LOGWARN`` is the default.
tsformat
    The time stamp in ``strftime`` codes; ``%a %b %d %T %Y`` is the default.
nosplit
    The lines of a session stay in the file that its first line went to.
reopen
    The target is opened anew at the first line of each session, for files that are moved away.
    Without it they are opened anew when the configuration is read again (SIGHUP).
session
    Write the session's id into the line, too.

Nothing waits for the disk or the command. Where they cannot keep up, or cannot be opened, lines
are lost, and as soon as it can, a line tells how many. The Perl qpsmtpd left out plugins and hooks,
and forgot ``nosplit``, ``reopen`` and the session's id at the first MAIL.
"""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import IO, Any, Final, NamedTuple

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from zope.interface import implementer

from qpsmtpd.component import PluginMaker, argument, component, service
from qpsmtpd.configuration.values import log_level, text
from qpsmtpd.interfaces import ILifecycle, ILogging
from qpsmtpd.services.logs import LineWriter, lines_of, number_of, standard_error

NAME = "logging/file"

#: Sessions that ``nosplit`` and ``reopen`` remember, the last ones to log.
SESSIONS_LIMIT: Final = 10_000

#: Seconds that the end waits for lines still to be written, and for a command to end.
END_LIMIT: Final = 5.0

_CODE: Final = re.compile("%(.)", re.DOTALL)


class Line(NamedTuple):
    """A line on its way to the file."""

    time: float
    session: str | None
    text: str


@implementer(ILogging, ILifecycle)
@component
class File:
    """Hands lines to a thread, which has the file."""

    target: tuple[str, ...] = argument(
        text, many=True, positional=True, help="a path, or | and a command; with strftime codes"
    )
    loglevel: int = argument(log_level, default=4, help="the least severe level to log")
    tsformat: str = argument(text, default="%a %b %d %T %Y", help="the time stamp, for strftime")
    nosplit: bool = argument(text, flag=True, help="keep the lines of a session in one file")
    reopen: bool = argument(text, flag=True, help="open the file anew for each session")
    session: bool = argument(text, flag=True, help="write the session's id, too")
    reactor: IReactorThreads = service(IReactorThreads)
    clock: IReactorTime = service(IReactorTime)

    def __post_init__(self) -> None:
        target = " ".join(self.target)
        if target.strip() in ("", "|"):
            raise ValueError("expected the path of a log file, or | and a command")
        self._ended: Deferred[None] = Deferred()
        self._file = LogFile(target, self.tsformat, nosplit=self.nosplit, reopen=self.reopen)
        self._writer = LineWriter(self._file.write, _lost, self._end)

    def start(self) -> None:
        """The file is opened by the first line, since an old one may have to be moved first."""

    def stop(self) -> Deferred[None]:
        self._writer.close()
        return self._ended.addTimeout(END_LIMIT, self.clock).addErrback(_gave_up)

    def logging(self, level: int, event: dict[str, Any]) -> None:
        if level > self.loglevel:
            return
        now = event.get("log_time") or time.time()
        session = event.get("session")
        for line in lines_of(event, pid=False, session=self.session):
            self._writer.put(Line(now, session, line))

    def _end(self) -> None:
        self._file.close()
        self.reactor.callFromThread(self._has_ended)

    def _has_ended(self) -> None:
        if not self._ended.called:  # it gave up
            self._ended.callback(None)


def _lost(count: int) -> Line:
    text = f"logging::file: {count} lines were lost: they could not be written in time"
    return Line(time.time(), None, text)


def _gave_up(failure: Any) -> None:
    failure.trap(TimeoutError)


class LogFile:
    """The file or command that lines go to. All of it runs in the writer's thread.

    :param target: A path or ``|command``, with codes.
    :param tsformat: The time stamp before a line, in codes.
    """

    def __init__(
        self, target: str, tsformat: str, *, nosplit: bool = False, reopen: bool = False
    ) -> None:
        self._target = target
        self._tsformat = tsformat
        self._nosplit = nosplit
        self._reopen = reopen
        self._hostname = socket.gethostname()
        #: Sessions that have logged, and where.
        self._sessions: OrderedDict[str, str] = OrderedDict()
        self._stamp = (-1, "")
        self._name = ""
        self._file: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._complained = ""

    def write(self, lines: Sequence[Line]) -> None:
        """Write lines, each to where it belongs.

        :raises OSError: It cannot be opened or written.
        """
        gathered: list[bytes] = []
        for line in lines:
            name, anew = self._place(line)
            if anew or name != self._name:
                self._flush(gathered)
                self._switch(name)
            head = (
                f"{self._time(line.time)} {self._hostname}[{number_of({'session': line.session})}]"
            )
            stamped = f"{head}: {line.text}\n"
            gathered.append(stamped.encode("utf-8", "backslashreplace"))
        self._flush(gathered)

    def close(self) -> None:
        """Close what is open; a command gets the end of its input and some time to end."""
        file, self._file = self._file, None
        process, self._process = self._process, None
        if file is not None:
            try:
                file.close()
            except OSError:
                pass  # each write was flushed, and said so
        if process is not None:
            try:
                process.wait(END_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _place(self, line: Line) -> tuple[str, bool]:
        """Where a line goes, and whether that is to be opened anew."""
        session = line.session
        if session is None or not (self._nosplit or self._reopen):
            return self._expand(line), False
        name = self._sessions.get(session)
        if name is not None:
            self._sessions.move_to_end(session)
            return (name if self._nosplit else self._expand(line)), False
        name = self._sessions[session] = self._expand(line)
        if len(self._sessions) > SESSIONS_LIMIT:
            self._sessions.popitem(last=False)
        return name, self._reopen

    def _expand(self, line: Line) -> str:
        if "%" not in self._target:
            return self._target
        # An id holds no percent sign, so it is safe before strftime runs.
        target = _CODE.sub(
            lambda code: (line.session or "parent") if code[1] == "i" else code[0], self._target
        )
        return time.strftime(target, time.localtime(line.time))

    def _time(self, seconds: float) -> str:
        if int(seconds) != self._stamp[0]:
            stamp = time.strftime(self._tsformat, time.localtime(seconds))
            self._stamp = (int(seconds), stamp)
        return self._stamp[1]

    def _flush(self, gathered: list[bytes]) -> None:
        octets = b"".join(gathered)
        gathered.clear()
        if not octets:
            return
        if self._file is None:
            self._open()
        try:
            self._put(octets)
        except OSError:
            self.close()
            if not self._name.startswith("|"):
                raise
            self._open()  # the command has ended; another one may do better
            self._put(octets)

    def _put(self, octets: bytes) -> None:
        assert self._file is not None
        rest = memoryview(octets)
        while rest:
            rest = rest[self._file.write(rest) :]

    def _switch(self, name: str) -> None:
        self.close()
        self._name = name

    def _open(self) -> None:
        try:
            if self._name.startswith("|"):
                self._process = subprocess.Popen(
                    self._name[1:], shell=True, stdin=subprocess.PIPE, bufsize=0
                )
                self._file = self._process.stdin
            else:
                self._file = open(self._name, "ab", buffering=0)  # noqa: SIM115 - kept open
        except OSError as error:
            self._complain(error)
            raise
        self._complained = ""

    def _complain(self, error: OSError) -> None:
        """Tell standard error why there is no log, once for each reason."""
        kind = f"to command {self._name[1:]}" if self._name.startswith("|") else self._name
        text = f"Error opening log output {kind}: {error.strerror}"
        if text != self._complained:
            self._complained = text
            print(text, file=standard_error(), flush=True)


maker = PluginMaker(NAME, File)

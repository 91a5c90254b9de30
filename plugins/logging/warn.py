# -*- test-case-name: tests.plugins.logging.test_warn -*-
"""Log to standard error, like the server does without a logging plugin, at a level of its own.

::

    logging/warn
    logging/warn LOGINFO
    logging/warn 6 session

A line is ``<number> (<hook>) <plugin>: <text>``; hook and plugin are left out where there is none.
The number is the process's id, with six digits for the session behind it; ``session`` puts
the session's id after it: ``2412000031 [65610d1a-96c-1f] (rcpt) rcpt_ok: pass``. Log tools
want the form without, after a time stamp that ``multilog`` adds.

Under ``twistd -n`` it is the real standard error, beside Twisted's own log; to have no other, start
``twistd -n --logger qpsmtpd.services.logs.plain_log qpsmtpd``.
"""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from qpsmtpd.component import PluginMaker, argument, component
from qpsmtpd.configuration.values import log_level, text
from qpsmtpd.interfaces import ILifecycle, ILogging
from qpsmtpd.services.logs import END_LIMIT, StreamWriter, lines_of, standard_error

NAME = "logging/warn"


@implementer(ILogging, ILifecycle)
@component
class Warn:
    """Writes lines in a thread, since standard error may be a pipe that nobody reads."""

    loglevel: int = argument(
        log_level, default=4, positional=True, help="the least severe level to log"
    )
    session: bool = argument(text, flag=True, default=False, help="write the session's id, too")

    def __post_init__(self) -> None:
        self._writer = StreamWriter(standard_error())

    def start(self) -> None:
        """Nothing to open: standard error is."""

    def stop(self) -> None:
        self._writer.close(END_LIMIT)

    def logging(self, level: int, event: dict[str, Any]) -> None:
        if level <= self.loglevel:
            for line in lines_of(event, session=self.session):
                self._writer.put(line)


maker = PluginMaker(NAME, Warn)

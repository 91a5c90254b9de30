# -*- test-case-name: tests.plugins.logging.test_connection_id -*-
"""Log to standard error, with the id of the session in front of each line.

::

    logging/connection_id
    logging/connection_id LOGINFO

A line is ``<id> <plugin> plugin: <text>``, or ``<id> <text>`` where no plugin speaks;
``???`` stands for the id where a line belongs to no session. No two sessions have the same id, also
not of several servers and after a restart. The Perl qpsmtpd's refuses to load.
"""

from __future__ import annotations

from typing import Any, ClassVar

from zope.interface import implementer

from qpsmtpd.component import PluginMaker, argument, component
from qpsmtpd.configuration.values import log_level
from qpsmtpd.interfaces import ILifecycle, ILogging
from qpsmtpd.services.logs import END_LIMIT, StreamWriter, old_lines_of, standard_error

NAME = "logging/connection_id"


@implementer(ILogging, ILifecycle)
@component
class ConnectionId:
    """Writes lines in a thread, since standard error may be a pipe that nobody reads."""

    loglevel: int = argument(
        log_level, default=4, positional=True, help="the least severe level to log"
    )

    #: The field of an event that has the id.
    field: ClassVar[str] = "session"

    def __post_init__(self) -> None:
        self._writer = StreamWriter(standard_error())

    def start(self) -> None:
        """Nothing to open: standard error is."""

    def stop(self) -> None:
        self._writer.close(END_LIMIT)

    def logging(self, level: int, event: dict[str, Any]) -> None:
        if level <= self.loglevel:
            for line in old_lines_of(event, str(event.get(self.field) or "???")):
                self._writer.put(line)


maker = PluginMaker(NAME, ConnectionId)

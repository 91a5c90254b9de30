# -*- test-case-name: tests.plugins.test_connection_time -*-
"""Log how long each connection lasted.

::

    connection_time
    connection_time LOGNOTICE

The word is the level of the line, ``LOGINFO`` without it. The line is ``0.118 s.``, as the log
tools expect it. It is written when the plugins that stand after this one have been told
of the end, so what they wait for then counts; to count everything, put it first.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from qpsmtpd import policy
from qpsmtpd.component import PluginMaker, argument, component, service
from qpsmtpd.configuration.values import log_level
from qpsmtpd.interfaces import Call, IMiddleware, Proceed

NAME = "connection_time"


@implementer(IMiddleware)
@component
class ConnectionTime:
    """Stands around the first and the last hook of a session."""

    level: int = argument(log_level, default=6, positional=True, help="the level of the line")
    clock: IReactorTime = service(IReactorTime)

    hooks = frozenset({"pre_connection", "post_connection"})

    async def __call__(self, call: Call, proceed: Proceed) -> Any:
        session = call.arguments[0]
        if call.hook == "pre_connection":
            session.notes[NAME] = self.clock.seconds()
            return await proceed()
        try:
            return await proceed()
        finally:
            began = session.note(NAME)
            if began is not None:
                took = self.clock.seconds() - began
                policy.report(session, NAME, f"{took:.3f} s.", self.level)


maker = PluginMaker(NAME, ConnectionTime)

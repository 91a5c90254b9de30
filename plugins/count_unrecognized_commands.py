# -*- test-case-name: tests.plugins.test_count_unrecognized_commands -*-
"""Close the connection of a client that keeps giving commands which are none.

::

    count_unrecognized_commands 4

The argument is the number of such commands that ends the session; ``0`` is 4. A command
that another plugin answers is counted only if that plugin is listed behind this one.
Reply: 521, after a 500 for each command before.
"""

from __future__ import annotations

from typing import Final

from zope.interface import implementer

from qpsmtpd import policy
from qpsmtpd.component import PluginMaker, argument, component
from qpsmtpd.configuration.values import integer
from qpsmtpd.interfaces import IUnrecognizedCommand
from qpsmtpd.session import Session
from qpsmtpd.verdicts import Verdict, deny

_NAME: Final = "count_unrecognized_commands"
_DEFAULT: Final = 4


@implementer(IUnrecognizedCommand)
@component
class CountUnrecognizedCommands:
    """Counts in the session's note ``unrec_cmd_count``."""

    limit: int = argument(
        integer, default=_DEFAULT, positional=True, help="the number that ends the session"
    )

    def unrecognized_command(self, session: Session, verb: str, argument: str) -> Verdict | None:
        count = session.notes["unrec_cmd_count"] = (session.notes["unrec_cmd_count"] or 0) + 1
        if count < (self.limit or _DEFAULT):
            policy.report(session, _NAME, f"{verb[:_SHOWN]!a}, ({count})")
            return None
        policy.report(session, _NAME, f"fail, {verb[:_SHOWN]!a} ({count})")
        return deny(
            f"Closing connection, {count} unrecognized commands. Perhaps you should read RFC 5321?",
            "5.5.1",
            disconnect=True,
        )


_SHOWN: Final = 40

maker = PluginMaker(_NAME, CountUnrecognizedCommands)

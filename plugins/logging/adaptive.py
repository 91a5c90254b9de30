# -*- test-case-name: tests.plugins.logging.test_adaptive -*-
"""Log what is accepted in few lines, and what is refused in many.

::

    logging/adaptive accept 4 reject 6
    logging/adaptive 4 6
    logging/adaptive accept LOGNOTICE reject LOGDEBUG prefix !

Everything up to the level ``reject`` is written to standard error at once. When a message was
taken and nobody was refused since the one before it, what was said up to the level ``accept``
is written once more, with the prefix, so that a program such as ``multilog`` can sort it::

    2412000031 rcpt_ok plugin: pass: mail.example in rcpthosts
    2412000031 ` rcpt_ok plugin: pass: mail.example in rcpthosts

A file of refusals gets the lines without the prefix, and one of what was accepted those with it.

accept
    The least severe level to write once more; ``LOGERROR`` is the default.
reject
    The least severe level to write at once; ``LOGWARN`` is the default.
prefix
    What stands before lines that are written once more; a back quote is the default.

In the Perl qpsmtpd one refusal ends this for the rest of the process, and two words without names
mean nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from zope.interface import implementer

from qpsmtpd.component import PluginMaker, argument, component, state
from qpsmtpd.configuration.values import log_level, text
from qpsmtpd.interfaces import (
    IDeny,
    ILifecycle,
    ILogging,
    IPostConnection,
    IPreConnection,
    IResetTransaction,
)
from qpsmtpd.services.logs import (
    END_LIMIT,
    StreamWriter,
    number_of,
    old_lines_of,
    standard_error,
)
from qpsmtpd.session import Session, Transaction
from qpsmtpd.verdicts import Verdict

NAME = "logging/adaptive"

#: Lines of one session that are kept, the last ones.
LINES_LIMIT: Final = 1000


class _Kept:
    """What a session has said since its last message."""

    __slots__ = ("denied", "lines")

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=LINES_LIMIT)
        self.denied = False


@implementer(ILogging, ILifecycle, IPreConnection, IDeny, IResetTransaction, IPostConnection)
@component
class Adaptive:
    """Keeps lines by the id of their session, from its first hook to its last."""

    accept: int = argument(
        log_level, default=3, positional=True, help="the least severe level to write once more"
    )
    reject: int = argument(
        log_level, default=4, positional=True, help="the least severe level to write at once"
    )
    prefix: str = argument(text, default="`", help="stands before lines written once more")
    _sessions: dict[str, _Kept] = state(dict)

    def __post_init__(self) -> None:
        #: What events are made for.
        self.loglevel = max(self.accept, self.reject)
        self._writer = StreamWriter(standard_error())

    def start(self) -> None:
        """Nothing to open: standard error is."""

    def stop(self) -> None:
        self._writer.close(END_LIMIT)

    def logging(self, level: int, event: dict[str, Any]) -> None:
        if level <= self.reject:
            for line in old_lines_of(event, number_of(event)):
                self._writer.put(line)
        if level <= self.accept:
            kept = self._sessions.get(event.get("session", ""))
            if kept is not None:
                kept.lines.extend(old_lines_of(event, f"{number_of(event)} {self.prefix}"))

    def pre_connection(self, session: Session) -> None:
        self._sessions[session.id] = _Kept()

    def deny(
        self, scope: Session | Transaction, component: str, hook: str, verdict: Verdict
    ) -> None:
        session = scope.session if isinstance(scope, Transaction) else scope
        kept = self._sessions.get(session.id)
        if kept is not None:
            kept.denied = True

    def reset_transaction(self, transaction: Transaction) -> None:
        kept = self._sessions.get(transaction.session.id)
        if kept is None:
            return
        if not kept.denied:
            for line in kept.lines:
                self._writer.put(line)
        kept.lines.clear()
        kept.denied = False

    def post_connection(self, session: Session) -> None:
        self._sessions.pop(session.id, None)


maker = PluginMaker(NAME, Adaptive)

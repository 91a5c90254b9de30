# -*- test-case-name: tests.plugins.test_naughty -*-
"""Refuse, at a moment of one's choice, what other plugins have found to be bad.

A plugin with ``reject naughty`` does not refuse but leaves a mark; this one refuses what is
marked, with the texts of all of them::

    naughty reject data

Arguments:

``reject``
    When: ``connect``, ``mail``, ``rcpt`` (the default), ``data`` or ``data_post``. The end of the
    message is looked at in any case.
``reject_type``
    ``perm``, ``temp``, ``disconnect`` (the default) or ``temp_disconnect``. It counts where the
    plugin that left the mark has none.

List it behind the plugins that mark at the same moment and, with ``rcpt``, before those that
accept recipients. A mark on a client lasts for its session, one on a message or its
sender for that message. A client that has authenticated is not refused, so from ``mail`` on
users can log in from anywhere. Replies: 550 or 450 at first, 552 or 452 at the end of the message.
"""

from __future__ import annotations

from typing import Final

from zope.interface import alsoProvides, implementer

from qpsmtpd import policy
from qpsmtpd.component import PluginMaker, argument, component
from qpsmtpd.configuration.values import choice
from qpsmtpd.interfaces import HOOKS, Answer, IDataPost
from qpsmtpd.policy import NAUGHTY, NAUGHTY_TYPE, RejectType
from qpsmtpd.session import Session, Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.verdicts import Verdict, defer, deny

_NAME: Final = "naughty"


@implementer(IDataPost)
@component
class Naughty:
    """Waits for the tests that still go on, and then for its moment."""

    reject: str = argument(
        choice("connect", "mail", "rcpt", "data", "data_post"),
        default="rcpt",
        help="when to refuse: connect, mail, rcpt, data or data_post",
    )
    reject_type: RejectType = argument(
        policy.reject_type,
        default=RejectType.DISCONNECT,
        help="perm, temp, disconnect or temp_disconnect, where the mark has none",
    )

    def __post_init__(self) -> None:
        alsoProvides(self, HOOKS[self.reject].interface)

    async def connect(self, session: Session) -> Verdict | None:
        await policy.tests_done(session)
        return self._verdict(session, None)

    async def mail(self, transaction: Transaction, reverse_path: Address) -> Verdict | None:
        await policy.tests_done(transaction.session)
        return self._verdict(transaction.session, transaction)

    async def rcpt(self, transaction: Transaction, recipient: Address) -> Verdict | None:
        if policy.is_exempt(transaction, (recipient,)):
            return None
        await policy.tests_done(transaction.session)
        return self._verdict(transaction.session, transaction)

    def data(self, transaction: Transaction) -> Answer:
        return self.data_post(transaction)

    async def data_post(self, transaction: Transaction) -> Verdict | None:
        if policy.is_exempt(transaction, transaction.recipients):
            return None
        await policy.tests_done(transaction.session)
        return self._verdict(transaction.session, transaction)

    def _verdict(self, session: Session, transaction: Transaction | None) -> Verdict | None:
        marked = [scope for scope in (session, transaction) if scope and scope.note(NAUGHTY)]
        if not marked or session.relay_client:
            return None
        text = "\n".join(str(scope.note(NAUGHTY)) for scope in marked)
        kind = marked[0].note(NAUGHTY_TYPE) or self.reject_type
        policy.report(session, _NAME, "disconnecting" if kind in _CLOSING else "refusing")
        if kind in (RejectType.TEMP, RejectType.TEMP_DISCONNECT):
            return defer(text, "4.7.1", disconnect=kind in _CLOSING)
        return deny(text, "5.7.1", disconnect=kind in _CLOSING)


_CLOSING: Final = frozenset({RejectType.DISCONNECT, RejectType.TEMP_DISCONNECT})

maker = PluginMaker(_NAME, Naughty)

# -*- test-case-name: tests.plugins.test_noop_counter -*-
"""Close the connection of a client that gives NOOP again and again.

::

    noop_counter 3

The argument is the number of NOOPs in a row that ends the session; ``0`` is 3. HELO, EHLO,
MAIL, RCPT, DATA, VRFY, HELP and the end of a transaction begin a new count; RSET without a
transaction, AUTH and unknown commands do not. List it early: a plugin that answers a command
before it hides that command from it. Reply: 500 5.5.1, and the connection closes.

``relay_clients``
    ``no`` does not count the NOOPs of clients that may relay; mail programs keep connections
    open with them.
"""

from __future__ import annotations

from typing import Final

from zope.interface import implementer

from qpsmtpd import policy
from qpsmtpd.component import PluginMaker, argument, component
from qpsmtpd.configuration.values import integer, yes_no
from qpsmtpd.interfaces import (
    IData,
    IEhlo,
    IHelo,
    IHelp,
    IMail,
    INoop,
    IRcpt,
    IResetTransaction,
    IVrfy,
)
from qpsmtpd.session import Session, Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.verdicts import Verdict, deny

_NAME: Final = "noop_counter"
_DEFAULT: Final = 3


@implementer(INoop, IHelo, IEhlo, IMail, IRcpt, IData, IResetTransaction, IVrfy, IHelp)
@component
class NoopCounter:
    """Counts in the session's note ``noop_counter``."""

    limit: int = argument(
        integer, default=_DEFAULT, positional=True, help="the number that ends the session"
    )
    relay_clients: bool = argument(
        yes_no, default=True, help="whether clients that may relay are counted"
    )

    def noop(self, session: Session, argument: str) -> Verdict | None:
        if session.relay_client and not self.relay_clients:
            return None
        count = session.notes[_NAME] = (session.notes[_NAME] or 0) + 1
        if count < (self.limit or _DEFAULT):
            return None
        policy.report(session, _NAME, f"fail, {count} NOOPs")
        return deny("Stop wasting my time, too many consecutive NOOPs", "5.5.1", disconnect=True)

    def ehlo(self, session: Session, host: str) -> None:
        _begin(session)

    def helo(self, session: Session, host: str) -> None:
        _begin(session)

    def mail(self, transaction: Transaction, reverse_path: Address) -> None:
        _begin(transaction.session)

    def rcpt(self, transaction: Transaction, recipient: Address) -> None:
        _begin(transaction.session)

    def data(self, transaction: Transaction) -> None:
        _begin(transaction.session)

    def reset_transaction(self, transaction: Transaction) -> None:
        _begin(transaction.session)

    def vrfy(self, session: Session, argument: str) -> None:
        _begin(session)

    def help(self, session: Session, argument: str) -> None:
        _begin(session)


def _begin(session: Session) -> None:
    if session.note(_NAME):
        session.notes[_NAME] = 0


maker = PluginMaker(_NAME, NoopCounter)

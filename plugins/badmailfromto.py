# -*- test-case-name: tests.plugins.test_badmailfromto -*-
"""Refuse mail from one sender to one recipient.

::

    badmailfromto
    badmailfromto no_such_user

Each line of the control file ``badmailfromto`` has a reverse-path, or ``@`` and its domain,
and a recipient. The case of letters never counts, and what stands behind is ignored::

    joe@example.net         alice@example.org
    @stalker.example        alice@example.org

The client is told ``550 5.1.1 mail to <alice@example.org> not accepted here``. With the
argument ``no_such_user`` it is told ``550 5.1.1 No such user``: use it where that is what the
server says of recipients that do not exist, so that the sender learns nothing.

Every client is tested, also one that may relay. In the Perl qpsmtpd only the last line that listed
the sender counted.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from zope.interface import implementer

from qpsmtpd import policy
from qpsmtpd.component import PluginMaker, argument, component, control_file, state
from qpsmtpd.configuration.values import ConversionError, address, converter, text
from qpsmtpd.interfaces import IRcpt
from qpsmtpd.session import Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.verdicts import Verdict, deny

_NAME: Final = "badmailfromto"


class Entry(NamedTuple):
    """A line of the file, in lower case."""

    sender: str
    recipient: str


@converter("an address or @domain, and a recipient's address")
def entry(line: str) -> Entry:
    """Take a line of the file ``badmailfromto``."""
    words = line.split()
    if len(words) < 2:
        raise ConversionError("there is no recipient")
    sender, recipient = words[:2]
    # An address of the domain shows whether it is one.
    return Entry(
        _mailbox(f"x{sender}")[1:] if sender.startswith("@") else _mailbox(sender),
        _mailbox(recipient),
    )


def _mailbox(written: str) -> str:
    try:
        parsed = address(written)
    except ValueError as error:
        raise ConversionError(str(error.__cause__)) from None
    if parsed.domain is None:
        raise ConversionError(f"there is no @ in {written}")
    return parsed.mailbox.lower()


@implementer(IRcpt)
@component
class BadMailFromTo:
    """Looks each recipient up, and its sender only if it is listed."""

    no_such_user: bool = argument(
        text, flag=True, default=False, help="say that the recipient does not exist"
    )
    entries: tuple[Entry, ...] = control_file(
        "badmailfromto",
        entry,
        default=(),
        example="boss@example.com staff@example.com",
        help="senders, each with a recipient it cannot write to",
    )
    _senders: dict[str, set[str]] = state(dict)

    def __post_init__(self) -> None:
        for each in self.entries:
            self._senders.setdefault(each.recipient, set()).add(each.sender)

    def rcpt(self, transaction: Transaction, recipient: Address) -> Verdict | None:
        senders = self._senders.get(recipient.mailbox.lower())
        if senders is None:
            policy.report(transaction, _NAME, "pass, recipient not listed")
            return None
        sender = transaction.reverse_path
        domain = f"@{sender.domain_lower or ''}"
        if domain not in senders and sender.mailbox.lower() not in senders:
            policy.report(transaction, _NAME, "pass, sender not listed")
            return None
        policy.report(transaction, _NAME, f"fail, {sender} to {recipient}")
        said = "No such user" if self.no_such_user else f"mail to {recipient} not accepted here"
        return deny(said, "5.1.1")


maker = PluginMaker(_NAME, BadMailFromTo)

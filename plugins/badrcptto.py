# -*- test-case-name: tests.plugins.test_badrcptto -*-
"""Refuse recipients that are listed by address, domain or pattern.

::

    badrcptto
    badrcptto reject 0

Each line of the control file ``badrcptto`` is an entry, and after white space, if one
likes, the text that the client is told::

    old.user@example.org
    @closed.example.org     This domain is closed
    ^test-.*@example\\.org$
    %                       No percent hack
    @.*@                    One at sign is enough

An entry with one of ``/ ^ $ * + ! % ? \\`` in it is a regular expression, searched in the
recipient without regard to the case of letters. An address with one of these in it matches
itself as well. An entry that begins with ``@`` is a domain, without its subdomains. Every other
is an address, the same in any case of letters.

The client is told ``550 5.1.1`` with the entry's text, or ``mail to <address> not accepted here``.
Relay clients, whitelisted hosts and whitelisted senders are not tested. ``<postmaster>`` without
a domain is always accepted (RFC 5321, 4.5.1).

In the Perl qpsmtpd a pattern was turned into lower case before use, so that ``\\S`` meant
``\\s``; ``reject`` and ``reject_type`` did nothing; and the client was shown the entry.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from zope.interface import implementer

from qpsmtpd import policy
from qpsmtpd.component import PluginMaker, argument, component, control_file, state
from qpsmtpd.configuration.patterns import compiled
from qpsmtpd.configuration.values import ConversionError, converter
from qpsmtpd.interfaces import IRcpt
from qpsmtpd.session import Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.verdicts import Verdict

NAME = "badrcptto"

_PATTERN_SIGNS: Final = re.compile(r"[/^$*+!%?\\]")


class Entry(NamedTuple):
    """A line of ``badrcptto``.

    :ivar text: What it names, in lower case: an address, or ``@`` and a domain.
    :ivar pattern: For a regular expression.
    :ivar reason: For the client; empty if none is given.
    """

    text: str
    pattern: re.Pattern[str] | None
    reason: str


@converter("an address, @domain or a regular expression, and a text for the client after it")
def entry(text: str) -> Entry:
    """Take a line of ``badrcptto``."""
    what, *rest = text.split(None, 1)
    reason = rest[0].strip() if rest else ""
    if _PATTERN_SIGNS.search(what):
        try:
            pattern = re.compile(compiled(what).pattern, re.IGNORECASE)
        except (ValueError, re.error, OverflowError, RecursionError) as error:
            raise ConversionError(f"{what} is no regular expression: {error}") from error
        return Entry(what.lower(), pattern, reason)
    if "@" not in what:
        raise ConversionError(f"there is no @ in {what}")
    return Entry(what.lower(), None, reason)


@implementer(IRcpt)
@component
class BadRcptTo:
    """Compares each recipient with a list."""

    reject: policy.Reject = argument(
        policy.reject,
        default=policy.Reject.YES,
        help="0 logs a match and goes on, naughty leaves the refusal to the plugin naughty",
    )
    reject_type: policy.RejectType = argument(
        policy.reject_type, default=policy.RejectType.PERM, help="what a refusal is"
    )
    entries: tuple[Entry, ...] = control_file(
        "badrcptto",
        entry,
        example="@old.example We have moved",
        help="addresses, domains and patterns to refuse",
    )
    _exact: dict[str, Entry] = state(dict)
    _patterns: tuple[tuple[re.Pattern[str], Entry], ...] = state(tuple)

    def __post_init__(self) -> None:
        for each in self.entries:
            self._exact.setdefault(each.text, each)
        self._patterns = tuple((each.pattern, each) for each in self.entries if each.pattern)

    def rcpt(self, transaction: Transaction, recipient: Address) -> Verdict | None:
        if not self.entries or recipient.domain is None:
            return None
        if exempt := policy.immunity(transaction):
            policy.report(transaction, NAME, f"skip, {exempt}")
            return None
        found = self._find(recipient)
        if found is None:
            policy.report(transaction, NAME, "pass")
            return None
        listed, how = found
        policy.adjust_karma(transaction, NAME, -2)
        return policy.rejection(
            transaction,
            NAME,
            listed.reason or f"mail to {recipient.mailbox} not accepted here",
            status="1.1",
            reject=self.reject,
            kind=self.reject_type,
            detail=how,
        )

    def _find(self, recipient: Address) -> tuple[Entry, str] | None:
        # The quotes of a local part are not what an operator writes or a pattern expects.
        domain = recipient.domain_lower
        mailbox = f"{recipient.local_part}@{domain}"
        if listed := self._exact.get(mailbox.lower()):
            return listed, "rcpt match"
        if listed := self._exact.get(f"@{domain}"):
            return listed, "host match"
        for pattern, listed in self._patterns:
            if pattern.search(mailbox):
                return listed, "pattern match"
        return None


maker = PluginMaker(NAME, BadRcptTo)

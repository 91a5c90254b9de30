# -*- test-case-name: tests.plugins.test_badmailfrom -*-
"""Refuse reverse-paths that are listed, by address, by domain or by pattern.

::

    badmailfrom
    badmailfrom reject naughty reject_type disconnect

Arguments:

``reject``
    ``1`` (the default) refuses, ``0`` only logs, ``naughty`` leaves it to the plugin ``naughty``.
``reject_type``
    ``perm`` (the default), ``temp``, ``disconnect`` or ``temp_disconnect``.

The control file ``badmailfrom`` has an entry on each line, and behind it, where the client
shall hear one, the reason::

    joe.spammer@example.net
    @bulk.example           No bulk mail from your host, thank you
    ^promo-.*@.*\\.example$  Go away

An entry that begins with ``@`` is a domain, without those below it; one with a character of
``/ ^ $ * + ! % ? \\`` is a regular expression, and also the very address that it spells. The
case of letters never counts. The null reverse-path cannot be listed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from zope.interface import implementer

from qpsmtpd import policy
from qpsmtpd.component import PluginMaker, argument, component, control_file, state
from qpsmtpd.configuration.values import ConversionError, converter, regex
from qpsmtpd.interfaces import IMail
from qpsmtpd.policy import Reject, RejectType
from qpsmtpd.session import Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.verdicts import Verdict

_NAME: Final = "badmailfrom"
_REASON: Final = "Your envelope sender is in my badmailfrom list"
_IN_PATTERN: Final = frozenset("/^$*+!%?\\")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the file.

    :ivar text: The address or ``@`` domain, in lower case.
    :ivar pattern: What it means as a pattern, if it is one.
    """

    text: str
    pattern: re.Pattern[str] | None
    reason: str


@converter("an address, an @domain or a regular expression, and perhaps a reason")
def entry(line: str) -> Entry:
    """Take a line of the file ``badmailfrom``."""
    text, *rest = line.split(None, 1)
    pattern = None
    if not _IN_PATTERN.isdisjoint(text):
        try:
            pattern = regex(f"(?i){text}")
        except ValueError:
            if not re.fullmatch(r"[^@^$*\\]+@[^@^$*\\]+", text):
                raise
    elif "@" not in text:
        raise ConversionError("there is no @")
    return Entry(text.lower(), pattern, rest[0] if rest else _REASON)


@implementer(IMail)
@component
class BadMailFrom:
    """Looks each reverse-path up; the first entry that lists it counts."""

    reject: Reject = argument(policy.reject, default=Reject.YES, help="1, 0 or naughty")
    reject_type: RejectType | None = argument(
        policy.reject_type,
        default=None,
        help="perm, temp, disconnect or temp_disconnect",
    )
    entries: tuple[Entry, ...] = control_file(
        "badmailfrom",
        entry,
        default=(),
        example="@bulk.example No bulk mail",
        help="addresses, domains and patterns, each with a reason",
    )

    _exact: dict[str, tuple[int, Entry]] = state(dict)
    _patterns: tuple[tuple[int, Entry], ...] = state(tuple)

    def __post_init__(self) -> None:
        for place, each in enumerate(self.entries):
            self._exact.setdefault(each.text, (place, each))
        self._patterns = tuple(
            (place, each) for place, each in enumerate(self.entries) if each.pattern is not None
        )

    def mail(self, transaction: Transaction, reverse_path: Address) -> Verdict | None:
        domain = reverse_path.domain_lower
        if not self.entries or domain is None:
            return None
        if reason := policy.immunity(transaction):
            policy.report(transaction, _NAME, f"skip, {reason}")
            return None
        listed = self._find(f"{reverse_path.local_part.lower()}@{domain}", f"@{domain}")
        if listed is None:
            policy.report(transaction, _NAME, "pass")
            return None
        policy.adjust_karma(transaction, _NAME, -1)
        return policy.rejection(
            transaction,
            _NAME,
            listed.reason,
            status="1.8",
            reject=self.reject,
            kind=self.reject_type,
        )

    def _find(self, sender: str, domain: str) -> Entry | None:
        """The first entry that lists a sender, which is given in lower case."""
        first = self._exact.get(sender)
        whole_domain = self._exact.get(domain)
        if first is None or (whole_domain is not None and whole_domain[0] < first[0]):
            first = whole_domain
        for place, each in self._patterns:
            if first is not None and first[0] < place:
                break
            assert each.pattern is not None
            if each.pattern.search(sender):
                return each
        return None if first is None else first[1]


maker = PluginMaker(_NAME, BadMailFrom)

# -*- test-case-name: tests.plugins.test_headers -*-
"""Check a message's header section: required fields, single fields, a sane date (RFC 5322, 3.6).

::

    headers require From,Date past 30 future 2

Arguments:

``require``
    Names of fields, with commas between them, that must be there and not be empty: ``From``
    unless given.
``past``, ``future``
    How many days old, or how many days ahead, the date may be. Unless given, it is not looked at;
    nor is one that cannot be read.
``reject``
    ``1`` (the default) refuses, ``0`` only logs, ``naughty`` leaves it to the plugin ``naughty``.
``reject_type``
    ``perm`` (the default), ``temp``, ``disconnect`` or ``temp_disconnect``.

The client is told everything that is wrong, with 552 or 452.
"""

from __future__ import annotations

from datetime import datetime
from email.utils import mktime_tz, parsedate_tz
from typing import Final

from zope.interface import implementer

from qpsmtpd import policy
from qpsmtpd.component import PluginMaker, argument, component
from qpsmtpd.configuration.values import converter, list_of, number
from qpsmtpd.interfaces import IDataPost
from qpsmtpd.message import HeaderSection
from qpsmtpd.policy import Reject, RejectType
from qpsmtpd.session import Transaction
from qpsmtpd.verdicts import Verdict

_NAME: Final = "headers"

_SINGLE: Final = (
    "Date",
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Bcc",
    "Message-Id",
    "In-Reply-To",
    "References",
    "Subject",
)

_DAY: Final = 86400

#: So many fields of one name are searched for one that is not empty.
_LOOKED_AT: Final = 10

#: Characters of a date that are read. Real ones, comments included, have fewer than 80.
_DATE_LIMIT: Final = 200


@converter("a field's name")
def field_name(text: str) -> str:
    """Take the name of a header field (RFC 5322, 2.2)."""
    if not text or not all("!" <= each <= "~" and each != ":" for each in text):
        raise ValueError(text)
    return text


@implementer(IDataPost)
@component
class Headers:
    """Looks at the fields that a rule is about, and at no others."""

    require: tuple[str, ...] = argument(
        list_of(field_name), default=("From",), help="fields that must be there"
    )
    past: float | None = argument(number, default=None, help="days that a date may be old")
    future: float | None = argument(number, default=None, help="days that a date may be ahead")
    reject: Reject = argument(policy.reject, default=Reject.YES, help="1, 0 or naughty")
    reject_type: RejectType | None = argument(
        policy.reject_type,
        default=None,
        help="perm, temp, disconnect or temp_disconnect",
    )

    def data_post(self, transaction: Transaction) -> Verdict | None:
        message = transaction.message
        if message is None or message.size == 0:
            return self._rejection(transaction, "You must send some data first", "6.0", "no data")
        if message.header_size == 0:
            return self._rejection(transaction, "Headers are missing", "6.0", "missing headers")
        if reason := policy.immunity(transaction):
            policy.report(transaction, _NAME, f"skip, {reason}")
            return None
        headers = message.headers
        faults = [
            *(
                f"We require a valid {name} header"
                for name in self.require
                if not _has(headers, name)
            ),
            *(
                f"Only one {name} header allowed. See RFC 5322, Section 3.6"
                for name in _SINGLE
                if headers.count(name) > 1
            ),
        ]
        date = headers.get("Date")
        if date is not None and (fault := self._date_fault(transaction, date)):
            faults.append(fault)
        if not faults:
            policy.report(transaction, _NAME, "pass")
            return None
        policy.adjust_karma(transaction, _NAME, -len(faults))
        return self._rejection(transaction, "\n".join(faults), "6.0", "; ".join(faults))

    def _date_fault(self, transaction: Transaction, text: str) -> str | None:
        if self.past is None and self.future is None:
            return None
        date = _seconds(text)
        if date is None:
            policy.report(transaction, _NAME, f"skip, date not parseable ({text[:80]!a})")
            return None
        age = transaction.started - date
        if self.past is not None and age > self.past * _DAY:
            return "The Date header is too far in the past"
        if self.future is not None and -age > self.future * _DAY:
            return "The Date header is too far in the future"
        return None

    def _rejection(
        self, transaction: Transaction, text: str, status: str, detail: str
    ) -> Verdict | None:
        return policy.rejection(
            transaction,
            _NAME,
            text,
            status=status,
            reject=self.reject,
            kind=self.reject_type,
            detail=detail,
        )


def _has(headers: HeaderSection, name: str) -> bool:
    count = min(headers.count(name), _LOOKED_AT)
    return any((headers.get(name, index=index) or "").strip() for index in range(count))


def _seconds(text: str) -> float | None:
    """A date in seconds since the epoch, by RFC 5322, 3.3 or ISO 8601; ``None`` if it is neither.

    Without a zone it is local time.
    """
    if len(text) > _DATE_LIMIT:
        return None
    try:
        if (parsed := parsedate_tz(text)) is not None:
            return mktime_tz(parsed)
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError, OSError):
        return None  # the library lets through what it did not expect


maker = PluginMaker(_NAME, Headers)

# -*- test-case-name: tests.test_policy -*-
"""What policy plugins share: who is exempt, how a finding becomes a verdict, what is logged.

A plugin that tests a client logs one line for each session, at ``LOGINFO``, that begins
with a word the log tools know: ``pass``, ``fail``, ``skip``, ``error``, ``info``,
``positive`` or ``negative``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

from twisted.logger import Logger

from qpsmtpd import logs
from qpsmtpd.configuration.values import converter
from qpsmtpd.interfaces import HOOKS
from qpsmtpd.scope import Work
from qpsmtpd.session import Session, Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.verdicts import Verdict, defer, deny

__all__ = [
    "AUTH_RESULTS",
    "NAUGHTY",
    "NAUGHTY_TYPE",
    "Reject",
    "RejectType",
    "add_auth_result",
    "adjust_karma",
    "exempt",
    "expect",
    "immunity",
    "is_exempt",
    "naughty",
    "reject",
    "reject_type",
    "rejection",
    "report",
    "tests_done",
]

log: Final = Logger()

#: The note with the texts of deferred rejections: the session's where a test was about the
#: client, the transaction's where it was about one message or its sender.
NAUGHTY: Final = "naughty"

#: The note beside it with the :class:`RejectType` of the first one.
NAUGHTY_TYPE: Final = "naughty_reject_type"

#: The note with results for the Authentication-Results field: the session's where they are about
#: the client, the transaction's where they are about one message or its sender.
AUTH_RESULTS: Final = "authentication_results"

_NO_RESULT: Final = re.compile(r"[^ -:<-~]")

_EXPECTED: Final = "naughty_expected"
_EXEMPT: Final = "naughty_exempt"


class Reject(Enum):
    """What the argument ``reject`` asks for when a test has failed."""

    #: Log it and go on.
    NO = "0"
    #: Refuse.
    YES = "1"
    #: Leave a note; the plugin ``naughty`` refuses later.
    NAUGHTY = "naughty"


class RejectType(Enum):
    """What the argument ``reject_type`` asks a refusal to be."""

    PERM = "perm"
    TEMP = "temp"
    DISCONNECT = "disconnect"
    TEMP_DISCONNECT = "temp_disconnect"


@converter("0, 1 or naughty")
def reject(text: str) -> Reject:
    """The argument ``reject``; as in upstream, other words are yes."""
    if text in ("", "0"):
        return Reject.NO
    return Reject.NAUGHTY if text == "naughty" else Reject.YES


_TYPES: Final = {
    "perm": RejectType.PERM,
    "hard": RejectType.PERM,
    "temp": RejectType.TEMP,
    "soft": RejectType.TEMP,
    "disconnect": RejectType.DISCONNECT,
    "temp_disconnect": RejectType.TEMP_DISCONNECT,
}


@converter("perm, temp, disconnect or temp_disconnect")
def reject_type(text: str) -> RejectType:
    """The argument ``reject_type``; ``hard`` and ``soft`` are old names."""
    try:
        return _TYPES[text.lower()]
    except KeyError:
        raise ValueError(text) from None


def rejection(
    scope: Session | Transaction,
    plugin: str,
    text: str,
    *,
    status: str = "7.1",
    reject: Reject = Reject.YES,
    kind: RejectType | None = None,
    detail: str = "",
) -> Verdict | None:
    """Turn a failed test into what the operator asked for, and log it.

    :param scope: What was tested: the session, or only the transaction. A deferred rejection
        lasts as long as this does.
    :param plugin: The name of the plugin, for the log and for deferred rejections.
    :param text: For the client.
    :param status: Subject and detail of the enhanced status code; the class follows ``kind``.
    :param kind: The argument ``reject_type``; ``None``, where it was not given, is ``PERM``, and
        for a deferred rejection leaves it to the plugin ``naughty``.
    :param detail: For the log.

    :returns: A refusal; ``None`` where it is tolerated or deferred.
    """
    tail = f", {detail}" if detail else ""
    if reject is Reject.NO:
        report(scope, plugin, f"fail, tolerated{tail}")
        return None
    if reject is Reject.NAUGHTY:
        report(scope, plugin, f"fail, NAUGHTY{tail}")
        _defer_rejection(scope, plugin, text, kind)
        return None
    report(scope, plugin, f"fail{tail}")
    disconnect = kind in (RejectType.DISCONNECT, RejectType.TEMP_DISCONNECT)
    if kind in (RejectType.TEMP, RejectType.TEMP_DISCONNECT):
        return defer(text, f"4.{status}", disconnect=disconnect)
    return deny(text, f"5.{status}", disconnect=disconnect)


def _defer_rejection(
    scope: Session | Transaction, plugin: str, text: str, kind: RejectType | None
) -> None:
    said = f"({plugin}) {text}"
    earlier = scope.note(NAUGHTY)
    scope.notes[NAUGHTY] = f"{earlier}\n{said}" if isinstance(earlier, str) else said
    if kind is not None:
        scope.notes.setdefault(NAUGHTY_TYPE, kind)


def naughty(scope: Session | Transaction) -> bool:
    """Whether a test of the client or its transaction has failed and its rejection is deferred."""
    session = _session(scope)
    transaction = session.transaction
    return bool(session.note(NAUGHTY)) or (
        transaction is not None and bool(transaction.note(NAUGHTY))
    )


def expect(session: Session, test: Work[Any]) -> None:
    """Say that a test goes on beside the session and may leave a deferred rejection."""
    session.notes.setdefault(_EXPECTED, []).append(test)


async def tests_done(session: Session) -> None:
    """Wait for the tests that may still leave a deferred rejection."""
    for test in session.note(_EXPECTED) or ():  # type: ignore[attr-defined]
        await test
    session.notes.pop(_EXPECTED, None)


def exempt(transaction: Transaction, recipient: Address) -> None:
    """Let a recipient be reached in this transaction in spite of deferred rejections."""
    transaction.notes.setdefault(_EXEMPT, set()).add(recipient)


def is_exempt(transaction: Transaction, recipients: Iterable[Address]) -> bool:
    """Whether all of these recipients are exempt from deferred rejections, and there are any."""
    exempted: set[Address] = transaction.notes[_EXEMPT] or set()
    wanted = set(recipients)
    return bool(wanted) and wanted <= exempted


def immunity(scope: Session | Transaction) -> str | None:
    """Why a client is exempt from tests, or ``None`` if it is not.

    A relay client, a host with the note ``whitelisthost``, and a sender with the
    note ``whitelistsender`` are exempt.
    """
    # Nearly every plugin asks, and nearly always there is nothing: this form takes half the time.
    session = scope.session if isinstance(scope, Transaction) else scope
    if session.relay_client:
        return "relay client"
    noted = session.noted
    if noted and noted.get("whitelisthost"):
        return "whitelisted host"
    transaction = session.transaction
    if transaction is not None and (noted := transaction.noted) and noted.get("whitelistsender"):
        return "whitelisted sender"
    return None


def add_auth_result(scope: Session | Transaction, result: str) -> None:
    """Have a result told in the Authentication-Results field (RFC 8601, 2.2).

    It is told where it was added before the message is queued.

    :param scope: What the result is about: the session, for all its messages; or the transaction.
    :param result: Such as ``spf=pass smtp.mailfrom=example.org``. What is no printable ASCII in it
        becomes ``?``, and so does ``;``, which would begin another result.
    """
    scope.notes.setdefault(AUTH_RESULTS, []).append(_NO_RESULT.sub("?", result))


def adjust_karma(scope: Session | Transaction, plugin: str, change: int) -> None:
    """Add to the reputation that a session has earned; note ``karma``."""
    session = _session(scope)
    total = (session.notes["karma"] or 0) + change
    session.notes["karma"] = total
    report(scope, plugin, f"karma {change} ({total})")


def report(scope: Session | Transaction, plugin: str, text: str, level: int = 6) -> None:
    """Log what a plugin found out.

    :param text: Begins with a word that the log tools know; see above.
    :param level: 0 to 7; ``LOGINFO`` is 6.
    """
    if logs.shifts:
        level = logs.shifted(plugin, level)
    if level <= logs.threshold.level:
        log.emit(
            logs.TWISTED_LEVELS[level],
            "{text}",
            text=text,
            severity=level,
            plugin=plugin,
            hook=_hook(),
            **logs.fields_of(scope),
        )


def _hook() -> str | None:
    """The hook that the caller is asked at: the nearest method on the stack with a hook's name.

    Looked for only when a line is written, so that nothing has to keep count of hooks.
    """
    frame = sys._getframe(2)
    for _ in range(_DEPTH):
        code = frame.f_code
        if code.co_name in HOOKS and code.co_varnames[:1] == ("self",):
            return code.co_name
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None


#: Calls between a hook's method and :func:`report`, at most.
_DEPTH: Final = 12


def _session(scope: Session | Transaction) -> Session:
    return scope.session if isinstance(scope, Transaction) else scope

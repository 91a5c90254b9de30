# -*- test-case-name: tests.test_policy -*-
"""What policy plugins share: who is exempt, how a finding becomes a verdict, what is logged.

A plugin that tests a client logs one line for each session, at ``LOGINFO``, that begins
with a word the log tools know: ``pass``, ``fail``, ``skip``, ``error``, ``info``,
``positive`` or ``negative``.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from twisted.logger import Logger, LogLevel

from qpsmtpd import logs
from qpsmtpd.configuration.values import converter
from qpsmtpd.session import Session, Transaction
from qpsmtpd.verdicts import Verdict, defer, deny

__all__ = [
    "NAUGHTY",
    "Reject",
    "RejectType",
    "adjust_karma",
    "immunity",
    "naughty",
    "reject",
    "reject_type",
    "rejection",
    "report",
]

log: Final = Logger()

#: The session's note with the texts of deferred rejections.
NAUGHTY: Final = "naughty"


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
    return _TYPES[text.lower()]


def rejection(
    scope: Session | Transaction,
    plugin: str,
    text: str,
    *,
    status: str = "7.1",
    reject: Reject = Reject.YES,
    kind: RejectType = RejectType.PERM,
    detail: str = "",
) -> Verdict | None:
    """Turn a failed test into what the operator asked for, and log it.

    :param plugin: The name of the plugin, for the log and for deferred rejections.
    :param text: For the client.
    :param status: Subject and detail of the enhanced status code; the class follows ``kind``.
    :param detail: For the log.

    :returns: A refusal; ``None`` where it is tolerated or deferred.
    """
    tail = f", {detail}" if detail else ""
    if reject is Reject.NO:
        report(scope, plugin, f"fail, tolerated{tail}")
        return None
    if reject is Reject.NAUGHTY:
        report(scope, plugin, f"fail, NAUGHTY{tail}")
        _defer_rejection(_session(scope), plugin, text, kind)
        return None
    report(scope, plugin, f"fail{tail}")
    disconnect = kind in (RejectType.DISCONNECT, RejectType.TEMP_DISCONNECT)
    if kind in (RejectType.PERM, RejectType.DISCONNECT):
        return deny(text, f"5.{status}", disconnect=disconnect)
    return defer(text, f"4.{status}", disconnect=disconnect)


def _defer_rejection(session: Session, plugin: str, text: str, kind: RejectType) -> None:
    said = f"({plugin}) {text}"
    earlier = session.note(NAUGHTY)
    session.notes[NAUGHTY] = f"{earlier}\n{said}" if isinstance(earlier, str) else said
    session.notes.setdefault("naughty_reject_type", kind)


def naughty(session: Session) -> bool:
    """Whether a test has failed already and its rejection is deferred."""
    return bool(session.note(NAUGHTY))


def immunity(scope: Session | Transaction) -> str | None:
    """Why a client is exempt from tests, or ``None`` if it is not.

    A relay client, a host with the note ``whitelisthost``, and a sender with the
    note ``whitelistsender`` are exempt.
    """
    session = _session(scope)
    if session.relay_client:
        return "relay client"
    if session.note("whitelisthost"):
        return "whitelisted host"
    transaction = session.transaction
    if transaction is not None and transaction.note("whitelistsender"):
        return "whitelisted sender"
    return None


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
    if logs.wanted(level):
        log.emit(
            _LEVELS[level],
            "{text}",
            text=text,
            severity=level,
            plugin=plugin,
            session=_session(scope).id,
        )


_LEVELS: Final = (
    LogLevel.critical,
    LogLevel.critical,
    LogLevel.critical,
    LogLevel.error,
    LogLevel.warn,
    LogLevel.info,
    LogLevel.info,
    LogLevel.debug,
)


def _session(scope: Session | Transaction) -> Session:
    return scope.session if isinstance(scope, Transaction) else scope

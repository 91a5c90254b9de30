# -*- test-case-name: tests.test_logs -*-
"""Log levels, and the cheap question whether anybody wants a level.

Levels are syslog's numbers, as in the Perl qpsmtpd: 0 is an emergency, 7 is
debugging. Components log with :class:`twisted.logger.Logger`. Code that runs for
each command asks :func:`wanted` first, since an event costs more than the
command it tells of.
"""

from __future__ import annotations

import re
from typing import Any, Final

from twisted.logger import Logger, LogLevel

from qpsmtpd.session import Session, Transaction

__all__ = [
    "LEVELS",
    "TWISTED_LEVELS",
    "Shift",
    "Threshold",
    "fields_of",
    "level_of",
    "shifted",
    "shifts",
    "tell",
    "threshold",
    "wanted",
]

log: Final = Logger()

#: Upstream's names of the levels.
LEVELS: Final = {
    "LOGDEBUG": 7,
    "LOGINFO": 6,
    "LOGNOTICE": 5,
    "LOGWARN": 4,
    "LOGERROR": 3,
    "LOGCRIT": 2,
    "LOGALERT": 1,
    "LOGEMERG": 0,
    "LOGRADAR": 0,
}

#: Twisted's levels, by number.
TWISTED_LEVELS: Final = (
    LogLevel.critical,
    LogLevel.critical,
    LogLevel.critical,
    LogLevel.error,
    LogLevel.warn,
    LogLevel.info,
    LogLevel.info,
    LogLevel.debug,
)

_NUMBERS: Final = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}


class Threshold:
    """The most talkative level that anybody listens to.

    :ivar level: Events of a greater number need not be made. One process has one log,
        so there is one threshold; each observer has its own beside it.
    """

    __slots__ = ("level",)

    def __init__(self, level: int) -> None:
        self.level = level


threshold: Final = Threshold(LEVELS["LOGWARN"])


def wanted(level: int) -> bool:
    """Whether an event of this level would reach anybody."""
    return level <= threshold.level


def tell(session: Session, text: str, level: int = 6) -> None:
    """Log what the engine does in a session; the caller has asked :func:`wanted`."""
    log.emit(TWISTED_LEVELS[level], "{text}", text=text, severity=level, **fields_of(session))


def fields_of(scope: Session | Transaction) -> dict[str, str]:
    """The fields of an event that say whose it is: ``session`` and ``transaction``."""
    session = scope.session if isinstance(scope, Transaction) else scope
    transaction = scope if isinstance(scope, Transaction) else scope.transaction
    if transaction is None:
        return {"session": session.id}
    return {"session": session.id, "transaction": transaction.id}


class Shift:
    """The argument ``loglevel`` of a plugin: what becomes of the levels of its lines.

    :ivar level: The level of every line, unless it is ``None``.
    :ivar change: What is added to a line's level otherwise.
    """

    __slots__ = ("change", "level")

    def __init__(self, level: int | None, change: int = 0) -> None:
        self.level = level
        self.change = change

    @classmethod
    def parse(cls, text: str) -> Shift | None:
        """Read ``5``, ``+1`` or ``-2``. ``0`` changes nothing, as in the Perl qpsmtpd.

        :raises ValueError: It is none of these.
        """
        match = _SHIFT.fullmatch(text)
        if match is None:
            raise ValueError(text)
        number = int(match[2])
        if not number:
            return None
        if not match[1]:
            return cls(number)
        return cls(None, -number if match[1] == "-" else number)

    def apply(self, level: int) -> int:
        """What becomes of a level."""
        if self.level is not None:
            return self.level
        return min(max(level + self.change, 0), 7)


_SHIFT: Final = re.compile("([+-]?)([0-7])")

#: By a plugin's name without its number: what its line says about levels. Empty where no line
#: says anything, so that it costs one look. One process has one log, so there is one of it.
shifts: Final[dict[str, Shift]] = {}


def shifted(plugin: str, level: int) -> int:
    """The level of what a plugin says, after the argument ``loglevel`` of its line."""
    shift = shifts.get(plugin)
    return level if shift is None else shift.apply(level)


def level_of(event: dict[str, Any]) -> int:
    """The number of an event's level: field ``severity`` if it has one, else Twisted's level."""
    severity = event.get("severity")
    if isinstance(severity, int):
        return severity
    return _NUMBERS.get(event.get("log_level"), LEVELS["LOGINFO"])

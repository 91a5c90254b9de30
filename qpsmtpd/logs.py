"""Log levels, and the cheap question whether anybody wants a level.

Levels are syslog's numbers, as in the Perl qpsmtpd: 0 is an emergency, 7 is
debugging. Components log with :class:`twisted.logger.Logger`. Code that runs for
each command asks :func:`wanted` first, since an event costs more than the
command it tells of.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.logger import LogLevel

__all__ = ["LEVELS", "Threshold", "level_of", "threshold", "wanted"]

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


def level_of(event: dict[str, Any]) -> int:
    """The number of an event's level: field ``severity`` if it has one, else Twisted's level."""
    severity = event.get("severity")
    if isinstance(severity, int):
        return severity
    return _NUMBERS.get(event.get("log_level"), LEVELS["LOGINFO"])

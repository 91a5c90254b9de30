# -*- test-case-name: tests.test_deadlines -*-
"""Many time limits of one length, watched with one timer.

A timer of the reactor's own for each question that waits is a good part of what waiting costs:
with it, and with the coroutines that the chain does without, a question takes half as long again
(22.5 us in place of 15.6; see ``python -m benchmarks waiting``). Limits of one length run out in
the order in which they began, so only the first needs a timer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

__all__ = ["Deadlines"]

log: Final = Logger()


class Limit(Protocol):
    """What has a time limit; equal to nothing but itself."""

    def expire(self) -> None:
        """The limit has run out."""


T = TypeVar("T", bound=Limit)


class Deadlines(Generic[T]):
    """Tells what was added when its time is over, unless it was taken out before.

    No timer is left behind when nothing waits.
    """

    __slots__ = ("_clock", "_ends", "_seconds", "_timer")

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        """Make limits of a length.

        :param clock: The reactor, or a ``task.Clock`` in tests.
        :param seconds: The length.
        """
        self._clock = clock
        self._seconds = seconds
        #: The first to run out stands first. What is done in time leaves at once, wherever it is.
        self._ends: dict[T, float] = {}
        self._timer: IDelayedCall | None = None

    def __iter__(self) -> Iterator[T]:
        """Go through what was added and is not over."""
        return iter(self._ends)

    def add(self, limit: T) -> None:
        """Begin a limit.

        :param limit: Is told when it has run out.
        """
        self._ends[limit] = self._clock.seconds() + self._seconds
        if self._timer is None:
            self._timer = self._clock.callLater(self._seconds, self._ring, self._ends[limit])

    def discard(self, limit: T) -> None:
        """End a limit in time; one that is over already changes nothing."""
        self._ends.pop(limit, None)
        if not self._ends and self._timer is not None:
            timer, self._timer = self._timer, None
            timer.cancel()

    def _ring(self, end: float) -> None:
        """The limit that ended then, if it is still there, and all before it are over."""
        self._timer = None
        # What the clock says may be a little less than what was asked for.
        now = max(self._clock.seconds(), end)
        due = []
        for limit, ends in self._ends.items():
            if ends > now:
                break
            due.append(limit)
        for limit in due:
            if self._ends.pop(limit, None) is not None:  # another one's end may have ended it
                try:
                    limit.expire()
                except Exception:  # or nobody would look at those behind it any more
                    log.failure("What has run out could not be ended")
        if self._ends and self._timer is None:
            end = next(iter(self._ends.values()))
            self._timer = self._clock.callLater(max(end - now, 0), self._ring, end)

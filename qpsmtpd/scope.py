# -*- test-case-name: tests.test_scope -*-
"""Scopes: what a component started for a session or a transaction ends with it."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, Final, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

__all__ = ["Scope", "Work"]

log: Final = Logger()

T = TypeVar("T")


class Work(Generic[T]):
    """Something that was started and goes on beside the session.

    It may be awaited any number of times, before and after it is done; each time
    gives its result or raises its error. Giving up waiting does not end the work.
    """

    __slots__ = ("_deferred", "_outcome", "_waiting")

    def __init__(self, work: Awaitable[T]) -> None:
        self._outcome: list[T | Failure] = []
        self._waiting: list[Deferred[T]] = []
        if isinstance(work, Deferred):
            self._deferred: Deferred[Any] = work
        elif isinstance(work, Coroutine):
            self._deferred = Deferred.fromCoroutine(work)
        else:
            self._deferred = Deferred.fromCoroutine(_wait_for(work))
        self._deferred.addBoth(self._finished)

    @property
    def done(self) -> bool:
        """Whether the result or the error is known."""
        return bool(self._outcome)

    def cancel(self) -> None:
        """End the work; whoever waits for it gets a ``CancelledError``."""
        self._deferred.cancel()

    def __await__(self) -> Generator[Deferred[T], Any, T]:
        waiting: Deferred[T] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        if self._outcome:
            self._tell()
        return (yield from waiting.__await__())

    def _finished(self, outcome: T | Failure) -> None:
        self._outcome.append(outcome)
        self._tell()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(self._outcome[0])


async def _wait_for(awaitable: Awaitable[T]) -> T:
    return await awaitable


class Scope:
    """A span of time that owns work: a session or a transaction.

    :ivar ended: Whether the span is over. Work started after that is cancelled at once.
    """

    __slots__ = ("_work", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._work: list[Work[Any]] | None = None

    def start(self, work: Awaitable[T]) -> Work[T]:
        """Start work that goes on beside the session and ends with this scope.

        :param work: A coroutine or a Deferred.

        :returns: What can be awaited where the result is needed.
        """
        started = Work(work)
        if self.ended:
            started.cancel()
        elif self._work is None:
            self._work = [started]
        else:
            self._work.append(started)
        return started

    def end(self) -> None:
        """End the scope: cancel what was started in it. Ending twice changes nothing."""
        self.ended = True
        work = self._work
        if work is None:
            return
        self._work = None
        for started in work:
            try:
                started.cancel()
            except Exception:
                log.failure("work cannot be cancelled")
            outcome = started._outcome[0] if started._outcome else None
            if isinstance(outcome, Failure) and not isinstance(outcome.value, CancelledError):
                log.debug("work ended with an error: {error}", error=outcome.getErrorMessage())

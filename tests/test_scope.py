"""Work that belongs to a session or a transaction."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import provider

from qpsmtpd.scope import Scope, Work


def asking(work: Work[Any]) -> Deferred[Any]:
    """Await some work."""

    async def wait() -> Any:
        return await work

    return Deferred.fromCoroutine(wait())


class WorkTests(SynchronousTestCase):
    def test_several_wait(self) -> None:
        """Whoever awaits the work gets its result, before and after it is done."""
        source: Deferred[int] = Deferred()
        work = Work(source)
        before, other = asking(work), asking(work)
        self.assertFalse(work.done)
        source.callback(7)
        self.assertTrue(work.done)
        self.assertEqual(
            [self.successResultOf(each) for each in (before, other, asking(work))], [7, 7, 7]
        )

    def test_error(self) -> None:
        """So it is with an error, which is raised each time."""
        source: Deferred[int] = Deferred()
        work = Work(source)
        before = asking(work)
        source.errback(ZeroDivisionError())
        for each in (before, asking(work), asking(work)):
            self.failureResultOf(each, ZeroDivisionError)

    def test_nothing(self) -> None:
        """A result that is None is a result."""
        source: Deferred[None] = Deferred()
        work = Work(source)
        source.callback(None)
        self.assertIsNone(self.successResultOf(asking(work)))

    def test_coroutine(self) -> None:
        """A coroutine begins at once."""
        steps: list[str] = []

        async def work() -> str:
            steps.append("begun")
            return "done"

        started = Work(work())
        self.assertEqual(steps, ["begun"])
        self.assertEqual(self.successResultOf(asking(started)), "done")

    def test_awaitable(self) -> None:
        """Work can be done on work."""
        source: Deferred[int] = Deferred()
        outer = Work(Work(source))
        source.callback(3)
        self.assertEqual(self.successResultOf(asking(outer)), 3)

    def test_one_gives_up(self) -> None:
        """One that gives up waiting leaves the work and the others alone."""
        source: Deferred[int] = Deferred()
        work = Work(source)
        impatient, patient = asking(work), asking(work)
        impatient.cancel()
        self.failureResultOf(impatient, CancelledError)
        source.callback(1)
        self.assertEqual(self.successResultOf(patient), 1)

    def test_cancel(self) -> None:
        """Who waits for work that is cancelled learns of it."""
        work: Work[None] = Work(Deferred())
        waiting = asking(work)
        work.cancel()
        self.failureResultOf(waiting, CancelledError)


class ScopeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)

    @provider(ILogObserver)
    def observe(self, event: LogEvent) -> None:
        if event.get("log_namespace") == "qpsmtpd.scope":
            self.events.append(event)

    def test_end(self) -> None:
        """All work of a scope ends with it, and has its chance to clean up."""
        scope = Scope()
        cleaned: list[int] = []

        async def work(number: int) -> None:
            try:
                await Deferred()
            finally:
                cleaned.append(number)

        works = [scope.start(work(number)) for number in (1, 2)]
        scope.end()
        self.assertEqual(cleaned, [1, 2])
        for each in works:
            self.failureResultOf(asking(each), CancelledError)

    def test_late(self) -> None:
        """Work that is started when the scope has ended is cancelled at once."""
        scope = Scope()
        scope.end()
        self.assertTrue(scope.ended)
        self.failureResultOf(asking(scope.start(Deferred())), CancelledError)

    def test_cannot_be_cancelled(self) -> None:
        """Work whose cancelling fails is logged, and the rest is cancelled all the same."""

        def fail(_: Deferred[None]) -> None:
            raise ZeroDivisionError

        scope = Scope()
        stubborn: Deferred[None] = Deferred(fail)
        scope.start(stubborn)
        other: Work[None] = scope.start(Deferred())
        scope.end()
        self.assertTrue(other.done)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_end_twice(self) -> None:
        """Ending twice, or without work, changes nothing."""
        scope = Scope()
        cancelled: list[object] = []
        scope.start(Deferred(cancelled.append))
        scope.end()
        scope.end()
        self.assertEqual(len(cancelled), 1)

    def test_done(self) -> None:
        """Work that is done keeps its result when the scope ends."""
        scope = Scope()
        source: Deferred[int] = Deferred()
        work = scope.start(source)
        source.callback(5)
        scope.end()
        self.assertEqual(self.successResultOf(asking(work)), 5)

    def test_error_nobody_heard(self) -> None:
        """An error of work that nobody awaited is logged, but is no fault."""
        scope = Scope()
        source: Deferred[int] = Deferred()
        scope.start(source)
        source.errback(ZeroDivisionError("lost"))
        scope.end()
        self.assertEqual([event["error"] for event in self.events], ["lost"])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_cancelled_is_silent(self) -> None:
        """Work that was cancelled is not worth a line."""
        scope = Scope()
        scope.start(Deferred())
        scope.end()
        self.assertEqual(self.events, [])

    def test_work_ends_its_scope(self) -> None:
        """Work may end the scope that it belongs to."""
        scope = Scope()
        source: Deferred[None] = Deferred()
        source.addCallback(lambda _: scope.end())
        scope.start(source)
        source.callback(None)
        self.assertTrue(scope.ended)

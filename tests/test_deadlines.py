"""Time limits of one length: each runs out exactly when it should, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.deadlines import Deadlines


class Limit:
    """Does something when it runs out."""

    def __init__(self, expire: Callable[[], None]) -> None:
        self.expire = expire


class DeadlinesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.deadlines: Deadlines[Limit] = Deadlines(self.clock, 30)
        self.rung: list[tuple[str, float]] = []

    def add(self, name: str) -> Limit:
        limit = Limit(lambda: self.rung.append((name, self.clock.seconds())))
        self.deadlines.add(limit)
        return limit

    def test_runs_out(self) -> None:
        """A limit runs out when its time is over, not before, and once."""
        self.add("one")
        self.clock.advance(29)
        self.assertEqual(self.rung, [])
        self.clock.advance(1)
        self.clock.advance(100)
        self.assertEqual(self.rung, [("one", 30.0)])

    def test_each_its_own(self) -> None:
        """Each has its own time, also when one that began before it ended in time."""
        first = self.add("first")
        self.clock.advance(10)
        self.add("second")
        self.clock.advance(5)
        self.add("third")
        self.deadlines.discard(first)
        self.clock.pump([1] * 40)
        self.assertEqual(self.rung, [("second", 40.0), ("third", 45.0)])

    def test_fails(self) -> None:
        """One that fails when it runs out costs no other its limit."""

        def fail() -> None:
            raise ZeroDivisionError

        self.deadlines.add(Limit(fail))
        self.add("second")
        self.clock.advance(10)
        self.add("third")
        self.clock.pump([1] * 40)
        self.assertEqual(self.rung, [("second", 30.0), ("third", 40.0)])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_nothing_left(self) -> None:
        """No timer is left when all are over, in time or not; and ending one twice is nothing."""
        for one in [self.add("one"), self.add("two")]:
            self.deadlines.discard(one)
            self.deadlines.discard(one)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.add("three")
        self.clock.advance(30)
        self.assertEqual((self.clock.getDelayedCalls(), list(self.deadlines)), ([], []))

    def test_one_timer(self) -> None:
        """However many there are, there is one timer."""
        for name in "abc":
            self.add(name)
            self.clock.advance(1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_ends_another(self) -> None:
        """One that runs out may end or begin others."""
        later: list[Limit] = []

        def expire() -> None:
            self.deadlines.discard(later[0])
            self.add("new")

        self.deadlines.add(Limit(expire))
        later.append(self.add("never"))
        self.clock.advance(30)
        self.clock.advance(30)
        self.assertEqual(self.rung, [("new", 60.0)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 59)), max_size=20))
    def test_as_many_timers(self, lives: list[tuple[int, int]]) -> None:
        """It is as if each had a timer: for any times at which they begin and are done."""
        clock = Clock()
        deadlines: Deadlines[Limit] = Deadlines(clock, 30)
        rung: list[tuple[int, float]] = []
        wanted: list[tuple[int, float]] = []
        for number, (begins, lasts) in enumerate(lives):

            def expire(number: int = number) -> None:
                rung.append((number, clock.seconds()))

            limit = Limit(expire)
            clock.callLater(begins, deadlines.add, limit)
            clock.callLater(begins + lasts + 0.5, deadlines.discard, limit)
            if lasts >= 30:
                wanted.append((number, begins + 30.0))
        clock.pump([0, *[0.5] * 210])
        self.assertEqual(sorted(rung), sorted(wanted))
        self.assertEqual(clock.getDelayedCalls(), [])

"""Tests for :mod:`qpsmtpd.testing.fakes`; what it shares with the real ones is in the contracts."""

from __future__ import annotations

from twisted.internet import task
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.services.interfaces import StoreError
from qpsmtpd.testing.fakes import FakeResolver, FakeStore
from tests.services import contracts


class FakeResolverContractTests(contracts.ResolverContract):
    def setUp(self) -> None:
        self.resolver = FakeResolver(**contracts.WORLD)


class FakeStoreContractTests(contracts.StoreContract):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.store = FakeStore(self.clock)


class FakeResolverTests(SynchronousTestCase):
    def test_questions(self) -> None:
        """It remembers what was asked, in order, also what it did not answer."""
        resolver = FakeResolver(silent={"slow.example"})
        for question in (resolver.mx("Slow.example"), resolver.ptr("192.0.2.1")):
            Deferred.fromCoroutine(question)
        self.assertEqual(resolver.questions, [("mx", "slow.example"), ("ptr", "192.0.2.1")])

    def test_the_world_changes(self) -> None:
        """A test may change the world while it runs."""
        world = {"a.example": ["192.0.2.1"]}
        resolver = FakeResolver(a=world)
        world["b.example"] = ["192.0.2.2"]
        answer = self.successResultOf(Deferred.fromCoroutine(resolver.a("b.example")))
        self.assertEqual(answer, ["192.0.2.2"])


class FakeStoreTests(SynchronousTestCase):
    def test_fails(self) -> None:
        """It can be made to fail, also when seen through a namespace, and recovers."""
        store = FakeStore(task.Clock())
        store.fails = True
        view = store.namespace("x")
        self.failureResultOf(Deferred.fromCoroutine(view.increment("k")), StoreError)
        store.fails = False
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(view.increment("k"))), 1)

    def test_silent(self) -> None:
        """It can be made to stay silent; the waiting can be cancelled."""
        store = FakeStore(task.Clock())
        store.silent = True
        asked = Deferred.fromCoroutine(store.get("k"))
        self.assertNoResult(asked)
        asked.cancel()
        self.failureResultOf(asked, CancelledError)

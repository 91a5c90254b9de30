"""Tests for :mod:`qpsmtpd.testing.fakes`; what it shares with the real ones is in the contracts."""

from __future__ import annotations

from typing import Any

from twisted.internet import task
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qpsmtpd.chain import ComponentError
from qpsmtpd.interfaces import IConfiguration
from qpsmtpd.services.interfaces import StoreError
from qpsmtpd.smtp.address import Address
from qpsmtpd.testing.fakes import FakeConfiguration, FakeResolver, FakeStore
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


class FakeConfigurationTests(SynchronousTestCase):
    def ask(self, configuration: FakeConfiguration, *question: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(configuration.lines(*question)))

    def test_interface(self) -> None:
        """It is the service that components declare."""
        verifyObject(IConfiguration, FakeConfiguration())

    def test_precedence(self) -> None:
        """Users come before everybody, and everybody before the default."""
        joe, ann = Address("joe", "example.org"), Address("ann", "example.org")
        found = FakeConfiguration(
            {"timeout": ["7"]}, users={"joe@example.org": {"timeout": ["5"], "me": []}}
        )
        self.assertEqual(self.ask(found, "timeout", joe), ("5",))
        self.assertEqual(self.ask(found, "timeout", ann), ("7",))
        self.assertEqual(self.ask(found, "timeout"), ("7",))
        self.assertEqual(self.ask(found, "me", joe), ())
        self.assertEqual(self.ask(FakeConfiguration(), "timeout"), ("1200",))
        self.assertEqual(self.ask(found, "other", joe), ())
        first = self.successResultOf(Deferred.fromCoroutine(found.first("timeout", joe)))
        self.assertEqual(first, "5")
        self.assertEqual(found.questions[:2], [("timeout", joe), ("timeout", ann)])

    def test_trouble(self) -> None:
        """It can fail and stay silent."""
        found = FakeConfiguration(fails={"broken"}, silent={"slow"})
        failing = Deferred.fromCoroutine(found.lines("broken"))
        self.failureResultOf(failing, ComponentError)
        waiting = Deferred.fromCoroutine(found.lines("slow"))
        self.assertNoResult(waiting)
        waiting.cancel()
        self.failureResultOf(waiting)

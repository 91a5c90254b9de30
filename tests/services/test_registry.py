"""One service of each sort in a process, made when it is first asked for."""

import os

from twisted.internet import reactor
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from twisted.trial.unittest import TestCase
from zope.interface import Interface
from zope.interface.verify import verifyObject

from qpsmtpd.services.interfaces import IResolver, IStore, StoreError
from qpsmtpd.services.registry import ServiceRegistry


class RegistryTests(TestCase):
    def setUp(self) -> None:
        self.state = os.path.join(os.path.abspath(self.mktemp()), "state")
        self.registry = ServiceRegistry(reactor, self.state)
        self.addCleanup(self.registry.close)

    def test_reactor(self) -> None:
        """What the reactor provides is the reactor."""
        self.assertIs(self.registry(IReactorTime), reactor)
        self.assertIs(self.registry(IReactorThreads), reactor)

    def test_each_is_what_it_says(self) -> None:
        """A service provides the interface that it was asked for by."""
        for interface in (IResolver, IStore):
            self.assertTrue(verifyObject(interface, self.registry(interface)))

    def test_once(self) -> None:
        """All who ask get the same one."""
        self.assertIs(self.registry(IStore), self.registry(IStore))
        self.assertIs(self.registry(IResolver), self.registry(IResolver))

    def test_unknown(self) -> None:
        """What nobody offers raises KeyError."""

        class INothing(Interface):
            """Nobody offers it."""

        self.assertRaises(KeyError, self.registry, INothing)

    def test_nothing_is_opened(self) -> None:
        """Asking for a service opens nothing; who uses the store needs its folder first."""
        self.assertEqual(self.registry.folders(), [])
        self.registry(IResolver)
        self.assertEqual(self.registry.folders(), [])
        self.registry(IStore)
        self.assertEqual(self.registry.folders(), [self.state])
        self.assertFalse(os.path.exists(self.state))

    async def test_store(self) -> None:
        """The store lies in the state folder and is closed with the registry."""
        os.makedirs(self.state)
        store: IStore = self.registry(IStore)  # type: ignore[assignment]
        await store.set("key", b"value")
        self.assertTrue(os.path.exists(os.path.join(self.state, "store.sqlite")))
        await self.registry.close()
        with self.assertRaises(StoreError):
            await store.get("key")
        again: IStore = self.registry(IStore)  # type: ignore[assignment]
        self.assertEqual(await again.get("key"), b"value")

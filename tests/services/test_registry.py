"""One service of each sort in a process, made when it is first asked for."""

import importlib.util
import os
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from twisted.trial.unittest import TestCase
from zope.interface import Interface
from zope.interface.verify import verifyObject

from qpsmtpd.configuration.errors import ConfigurationError
from qpsmtpd.configuration.files import ControlFiles
from qpsmtpd.services.interfaces import IResolver, IStore, StoreError
from qpsmtpd.services.redis import RedisStore
from qpsmtpd.services.registry import ServiceRegistry
from tests.services.redis import PASSWORD, RedisServer


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


class StoreTests(TestCase):
    """The control file ``store``."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.registry = ServiceRegistry(reactor, str(self.folder / "state"))
        self.addCleanup(self.registry.close)

    def configure(self, text: str) -> None:
        (self.folder / "store").write_text(text)
        self.registry.configure(ControlFiles([str(self.folder)]))

    def store(self) -> IStore:
        made: IStore = self.registry(IStore)  # type: ignore[assignment]
        return made

    def test_default(self) -> None:
        """Without the file it is the one in the state folder."""
        self.configure("# nothing\n")
        self.store()
        self.assertEqual(self.registry.folders(), [str(self.folder / "state")])

    async def test_sqlite(self) -> None:
        """A file of another name may be the store; its folder is made."""
        self.configure(f"sqlite {self.folder}/my store/a.sqlite\n")
        store = self.store()
        (folder,) = self.registry.folders()
        os.mkdir(folder)
        await store.set("k", b"v")
        self.assertTrue((self.folder / "my store" / "a.sqlite").exists())

    async def test_redis(self) -> None:
        """A Redis may be the store, and needs no folder."""
        server = RedisServer(self)
        self.configure(f"unix://:{PASSWORD.replace('%', '%25')}@{server.path}?db=1\n")
        store = self.store()
        self.assertIsInstance(store, RedisStore)
        self.assertEqual(self.registry.folders(), [])
        await store.set("k", b"v")
        self.assertEqual(await store.get("k"), b"v")
        await self.registry.close()
        with self.assertRaises(StoreError):
            await store.get("k")

    def test_wrong(self) -> None:
        """What cannot be meant is told with file and line, and without the password."""
        for text in ("redis://:hidden@\n", "sqlite\n", "mysql://hidden\n"):
            error = self.assertRaises(ConfigurationError, self.configure, text)
            self.assertIn(f"{self.folder}/store:1: expected redis://", str(error))
            self.assertIn("or sqlite PATH", str(error))
            self.assertNotIn("hidden", str(error))

    def test_extra(self) -> None:
        """Where the extra is missing, the start says so by its name."""
        self.patch(importlib.util, "find_spec", lambda name: None)
        error = self.assertRaises(ConfigurationError, self.configure, "redis://:hidden@h\n")
        self.assertIn("pip install 'qpsmtpd[redis]'", str(error))
        self.assertNotIn("hidden", str(error))

    def test_another_at_reload(self) -> None:
        """A store in use stays; another one is an error, until the server starts anew."""
        self.configure("redis://one.example\n")
        self.store()
        self.configure("redis://one.example\n")
        error = self.assertRaises(ConfigurationError, self.configure, "redis://two.example\n")
        self.assertIn("restart", str(error))
        (self.folder / "store").unlink()
        files = ControlFiles([str(self.folder)])
        self.assertRaises(ConfigurationError, self.registry.configure, files)

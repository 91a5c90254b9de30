"""Tests for :mod:`qpsmtpd.services.redis`, with a real Redis."""

import signal
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from qpsmtpd.services import redis
from qpsmtpd.services.interfaces import StoreError
from qpsmtpd.services.redis import RedisAddress, RedisStore
from tests.services import contracts
from tests.services.redis import PASSWORD, SECOND, RedisClock, RedisServer


class RedisCase(TestCase):
    def setUp(self) -> None:
        self.server = RedisServer(self)
        self.store = self.open()

    def open(self, database: int = 0, password: str | None = PASSWORD, **given: Any) -> RedisStore:
        address = RedisAddress(self.server.path, 0, database, None, password)
        return self.opened(RedisStore(address, **given))

    def opened(self, store: RedisStore) -> RedisStore:
        self.addCleanup(lambda: Deferred.fromCoroutine(store.close()))
        return store


class RedisStoreContractTests(contracts.StoreContract):
    def setUp(self) -> None:
        self.patch(redis, "MILLISECONDS", SECOND)
        server = RedisServer(self)
        self.clock = RedisClock(server)
        store = RedisStore(RedisAddress(server.path, 0, 0, None, PASSWORD))
        self.addCleanup(lambda: Deferred.fromCoroutine(store.close()))
        self.store = store


class RedisStoreTests(RedisCase):
    async def test_tcp(self) -> None:
        """It is reached by TCP too, with a password and another database."""
        address = f"redis://:{PASSWORD.replace('%', '%25')}@127.0.0.1:{self.server.port}/3"
        store = self.opened(RedisStore(RedisAddress.parse(address)))
        await store.set("k", b"v")
        self.assertEqual(await store.get("k"), b"v")
        self.assertIsNone(await self.store.get("k"))
        self.assertEqual(await self.open(database=3).get("k"), b"v")

    async def test_beside_others(self) -> None:
        """What others keep in the same Redis is not seen, and not met."""
        self.server.say("SET", "k", "theirs")
        await self.store.set("k", b"ours")
        self.assertEqual(self.server.say("GET", "k"), b"theirs")
        self.assertEqual(await self.store.keys(""), ["k"])

    async def test_expiry(self) -> None:
        """Redis itself removes what has expired; so does one who sets for no time at all."""
        await self.store.set("a", b"v", 0.01)
        await self.store.increment("b", expires=0.01)
        self.assertTrue(await self.store.add("c", b"v", 0))
        while self.server.say("DBSIZE"):
            await deferLater(reactor, 0.01)
        self.assertEqual(await self.store.increment("b"), 1)

    async def test_many_keys(self) -> None:
        """All keys are found, when there are more than Redis gives at once."""
        names = [f"n:{i:04}" for i in range(3000)]
        self.server.say("MSET", *(word for name in names for word in (f"qpsmtpd:{name}", "")))
        self.assertEqual(await self.store.keys("n:"), names)

    async def test_shared_by_two(self) -> None:
        """No count is lost where two count, whether Redis can count so far or not."""
        other = self.open()
        for start in (0, 2**70):
            await self.store.set("n", b"%d" % start)
            counts = await gatherResults(
                [
                    Deferred.fromCoroutine(store.increment("n"))
                    for _ in range(20)
                    for store in (self.store, other)
                ]
            )
            self.assertEqual(sorted(counts), list(range(start + 1, start + 41)))

    async def test_large_value(self) -> None:
        """A value may be large, and of any octets."""
        value = bytes(range(256)) * 4096
        await self.store.set("k", value)
        self.assertEqual(await self.store.get("k"), value)
        self.assertTrue(await self.store.replace("k", value, b"\r\n"))
        self.assertEqual(await self.store.get("k"), b"\r\n")

    async def test_restart(self) -> None:
        """While Redis is away operations fail; when it is back they go on with what it has."""
        await self.store.set("k", b"v")
        self.assertEqual(await self.store.increment("n"), 1)
        self.server.kill()
        hurried = self.open(limit=0.2)
        for store in (hurried, hurried):
            error = await self.failed(store.get("k"))
            self.assertIn(self.server.path, error)
        self.server.start()
        self.assertEqual(await self.store.get("k"), b"v")
        self.assertEqual(await self.store.increment("n"), 2)

    async def test_lost_while_it_works(self) -> None:
        """An operation that Redis did not answer before it died fails, and the next succeeds."""
        await self.store.set("k", b"v")
        self.server.signal(signal.SIGSTOP)
        asked = Deferred.fromCoroutine(self.store.get("k"))
        await deferLater(reactor, 0.05)
        self.server.kill()
        await self.assertFailure(asked, StoreError)
        self.server.start()
        self.assertEqual(await self.store.get("k"), b"v")

    async def test_never_answers(self) -> None:
        """A Redis that hangs costs an operation its time, and no more."""
        store = self.open(limit=0.3)
        await store.set("k", b"v")
        self.server.signal(signal.SIGSTOP)
        for _ in range(8):
            self.assertIn(self.server.path, await self.failed(store.get("k")))
        self.server.signal(signal.SIGCONT)
        self.assertEqual(await self.store.get("k"), b"v")

    async def test_cancelled(self) -> None:
        """One who gives up disturbs nobody."""
        await self.store.set("k", b"v")
        given_up = Deferred.fromCoroutine(self.store.increment("n"))
        other = Deferred.fromCoroutine(self.store.get("k"))
        given_up.addErrback(lambda failure: None)
        given_up.cancel()
        self.assertEqual(await other, b"v")

    async def test_wrong_password(self) -> None:
        """A password that Redis does not take is an error, which does not tell it."""
        store = self.open(password="wrong-one", limit=0.5)
        self.assertNotIn("wrong-one", await self.failed(store.get("k")))
        self.server.say("CONFIG", "SET", "requirepass", "wrong-one")
        self.assertIsNone(await store.get("k"))

    async def test_foreign_value(self) -> None:
        """A key that another program made something else of is an error."""
        self.server.say("LPUSH", "qpsmtpd:k", "x")
        self.assertIn("WRONGTYPE", await self.failed(self.store.get("k")))
        self.assertIn("WRONGTYPE", await self.failed(self.store.increment("k")))

    async def test_closed(self) -> None:
        """A closed store says so, and one that was never used was never connected."""
        await self.store.close()
        self.assertIn("closed", await self.failed(self.store.get("k")))
        await self.store.close()

    async def failed(self, asked: Any) -> str:
        """What the error says that a question ends with."""
        try:
            await asked
        except StoreError as error:
            return str(error)
        raise AssertionError("it succeeded")


class RedisAddressTests(SynchronousTestCase):
    def test_forms(self) -> None:
        """A host or a socket, with what else there may be."""
        for text, address in (
            ("redis://cache.example", RedisAddress("cache.example", 6379)),
            ("redis://cache.example/", RedisAddress("cache.example", 6379)),
            ("redis://[2001:db8::1]:7/2", RedisAddress("2001:db8::1", 7, 2)),
            ("redis://:p%40w@h:1", RedisAddress("h", 1, 0, None, "p@w")),
            ("redis://u:p@h", RedisAddress("h", 6379, 0, "u", "p")),
            ("unix:///run/redis.sock", RedisAddress("/run/redis.sock", 0)),
            ("unix://:p@/run/redis.sock?db=4", RedisAddress("/run/redis.sock", 0, 4, None, "p")),
        ):
            self.assertEqual(RedisAddress.parse(text), address)

    def test_wrong(self) -> None:
        """Anything else is an error, which does not tell a password."""
        for text in ("", "redis", "redis://", "redis://:pw@", "redis://:pw@h/x", "redis://h:x"):
            error = self.assertRaises(ValueError, RedisAddress.parse, text)
            self.assertIn("expected redis://", str(error))
            self.assertNotIn("pw", str(error))
        for text in ("http://h", "unix://relative", "unix:///s?db=x", "redis://h:99999"):
            self.assertRaises(ValueError, RedisAddress.parse, text)

    def test_shown(self) -> None:
        """Neither its text nor its representation has the password."""
        for text in ("redis://u:pw@[::1]:7/2", "unix://:pw@/s?db=1"):
            address = RedisAddress.parse(text)
            self.assertNotIn("pw", f"{address}{address!r}")
        self.assertEqual(str(RedisAddress.parse("redis://u:pw@[::1]:7/2")), "redis://[::1]:7/2")
        self.assertEqual(str(RedisAddress.parse("unix://:pw@/s?db=1")), "unix:///s?db=1")

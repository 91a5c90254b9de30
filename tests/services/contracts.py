"""What every resolver and every store must do; the real ones and the fakes run the same tests."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final

from twisted.internet import task
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from qpsmtpd.services.interfaces import IResolver, IStore, ResolverError, StoreError

#: What a resolver under test knows, in the words of FakeResolver.
WORLD: Final[dict[str, Any]] = {
    "a": {"www.example": ["192.0.2.1", "192.0.2.2"]},
    "aaaa": {"www.example": ["2001:db8::1"]},
    "txt": {"spf.example": ["v=spf1 -all", "long " * 100]},
    "mx": {
        "example.example": [(20, "b.example"), (10, "Z.example"), (10, "a.example")],
        "null.example": [(0, ".")],
    },
    "ns": {"example.example": ["NS.example"]},
    "ptr": {"192.0.2.1": ["www.example"], "2001:db8::1": ["Six.example"]},
    "fails": {"fails.example", "192.0.2.66"},
    "silent": {"silent.example"},
}


class ResolverContract(TestCase):
    """Inherited together with a ``resolver`` that answers from :data:`WORLD`."""

    resolver: IResolver

    async def test_interface(self) -> None:
        """It provides what IResolver names."""
        verifyObject(IResolver, self.resolver)

    async def test_addresses(self) -> None:
        """The addresses of a name are text."""
        self.assertCountEqual(await self.resolver.a("www.example"), ["192.0.2.1", "192.0.2.2"])
        self.assertEqual(await self.resolver.aaaa("www.example"), ["2001:db8::1"])

    async def test_names_are_the_same_in_any_case(self) -> None:
        """Neither case nor a dot at the end makes another name of a name."""
        self.assertEqual(await self.resolver.aaaa("WWW.Example."), ["2001:db8::1"])

    async def test_absent(self) -> None:
        """A name that is not there, or has no such record, has an empty list."""
        self.assertEqual(await self.resolver.a("absent.example"), [])
        self.assertEqual(await self.resolver.mx("www.example"), [])
        self.assertEqual(await self.resolver.ptr("192.0.2.99"), [])

    async def test_impossible_names(self) -> None:
        """What DNS cannot carry does not exist."""
        for name in (
            "",
            ".",
            "a..example",
            "a" * 64 + ".example",
            "a." * 130,
            "a b",
            "\0",
            "\udcff",
        ):
            self.assertEqual(await self.resolver.a(name), [], name)
        for address in ("", "unknown", "192.0.2.256"):
            self.assertEqual(await self.resolver.ptr(address), [], address)

    async def test_text(self) -> None:
        """The strings of one TXT record are joined."""
        self.assertCountEqual(
            await self.resolver.txt("spf.example"), ["v=spf1 -all", "long " * 100]
        )

    async def test_mail_exchangers(self) -> None:
        """Mail exchangers come in the order of preference, in lower case."""
        self.assertEqual(
            await self.resolver.mx("example.example"),
            [(10, "a.example"), (10, "z.example"), (20, "b.example")],
        )

    async def test_null_mx(self) -> None:
        """A null MX is recognisable (RFC 7505, 3)."""
        self.assertEqual(await self.resolver.mx("null.example"), [(0, ".")])

    async def test_name_servers(self) -> None:
        """The servers of a zone are names."""
        self.assertEqual(await self.resolver.ns("example.example"), ["ns.example"])

    async def test_reverse(self) -> None:
        """An address has names, however it is written."""
        self.assertEqual(await self.resolver.ptr("192.0.2.1"), ["www.example"])
        self.assertEqual(await self.resolver.ptr("::ffff:192.0.2.1"), ["www.example"])
        self.assertEqual(await self.resolver.ptr("2001:DB8:0::1%lo"), ["six.example"])

    async def test_failure(self) -> None:
        """That nobody can say is an error, and not an empty answer."""
        for question in (
            self.resolver.a("fails.example"),
            self.resolver.mx("fails.example"),
            self.resolver.ptr("192.0.2.66"),
        ):
            with self.assertRaises(ResolverError):
                await question

    async def test_silence_is_cancelled(self) -> None:
        """One who waits for an answer can give up, and nothing is left behind."""
        asked = Deferred.fromCoroutine(self.resolver.a("silent.example"))
        self.assertNoResult(asked)
        asked.cancel()
        self.failureResultOf(asked, CancelledError)

    async def test_answers_are_the_callers(self) -> None:
        """What a caller does to an answer does not change the next."""
        (await self.resolver.aaaa("www.example")).clear()
        self.assertEqual(await self.resolver.aaaa("www.example"), ["2001:db8::1"])


class StoreContract(TestCase):
    """Inherited together with a ``store`` whose time is ``clock``."""

    clock: task.Clock
    store: IStore

    async def test_interface(self) -> None:
        """It provides what IStore names, and so does a part of it."""
        verifyObject(IStore, self.store)
        verifyObject(IStore, self.store.namespace("x"))

    async def test_set_and_get(self) -> None:
        """A value is read as it was written; an absent one is None."""
        self.assertIsNone(await self.store.get("k"))
        await self.store.set("k", b"\x00\xff")
        await self.store.set("k", b"second\x00")
        self.assertEqual(await self.store.get("k"), b"second\x00")
        await self.store.set("k", b"")
        self.assertEqual(await self.store.get("k"), b"")

    async def test_any_text_is_a_key(self) -> None:
        """Keys come from clients: empty, with controls, beyond ASCII, with lone surrogates."""
        keys = ["", "a\0b", "a", "\u20ac", "\U0001f4e7", "\udcff"]
        for key in keys:
            await self.store.set(key, key.encode("utf-8", "surrogatepass"))
        for key in keys:
            self.assertEqual(await self.store.get(key), key.encode("utf-8", "surrogatepass"))
        self.assertEqual(await self.store.keys(""), sorted(keys))

    async def test_expiry(self) -> None:
        """A value is there until its time is over, and absent from then on."""
        await self.store.set("k", b"v", 10)
        self.clock.advance(9.5)
        self.assertEqual(await self.store.get("k"), b"v")
        self.assertEqual(await self.store.keys(""), ["k"])
        self.clock.advance(0.5)
        self.assertIsNone(await self.store.get("k"))
        self.assertEqual(await self.store.keys(""), [])
        self.assertFalse(await self.store.delete("k"))

    async def test_set_forgets_the_lifetime(self) -> None:
        """A value set without a lifetime stays, whatever it had before."""
        await self.store.set("k", b"v", 10)
        await self.store.set("k", b"w")
        self.clock.advance(10**9)
        self.assertEqual(await self.store.get("k"), b"w")

    async def test_add(self) -> None:
        """Only what is absent is added; what has expired is absent."""
        self.assertIs(await self.store.add("k", b"1", 10), True)
        self.assertIs(await self.store.add("k", b"2", 10), False)
        self.assertEqual(await self.store.get("k"), b"1")
        self.clock.advance(10)
        self.assertIs(await self.store.add("k", b"3"), True)
        self.assertEqual(await self.store.get("k"), b"3")

    async def test_increment(self) -> None:
        """A counter begins at zero, goes both ways, and is decimal text."""
        self.assertEqual(await self.store.increment("k"), 1)
        self.assertEqual(await self.store.increment("k", 2**64), 2**64 + 1)
        self.assertEqual(await self.store.increment("k", -(2**64) - 3), -2)
        self.assertEqual(await self.store.get("k"), b"-2")
        await self.store.set("k", b"41")
        self.assertEqual(await self.store.increment("k"), 42)

    async def test_counting_does_not_prolong(self) -> None:
        """A counter's lifetime begins with its first count; then it begins anew."""
        await self.store.increment("k", expires=60)
        self.clock.advance(59)
        self.assertEqual(await self.store.increment("k", expires=60), 2)
        self.clock.advance(1)
        self.assertEqual(await self.store.increment("k", expires=60), 1)

    async def test_no_counter(self) -> None:
        """What is no number cannot be counted, and stays."""
        await self.store.set("k", b"one")
        with self.assertRaises(StoreError):
            await self.store.increment("k")
        self.assertEqual(await self.store.get("k"), b"one")

    async def test_replace(self) -> None:
        """A value is replaced by one who knows it."""
        self.assertIs(await self.store.replace("k", b"1", b"2"), False)
        self.assertIsNone(await self.store.get("k"))
        self.assertIs(await self.store.replace("k", None, b"1"), True)
        self.assertIs(await self.store.replace("k", None, b"2"), False)
        self.assertIs(await self.store.replace("k", b"1", b"2", 10), True)
        self.assertEqual(await self.store.get("k"), b"2")
        self.clock.advance(10)
        self.assertIs(await self.store.replace("k", b"2", b"3"), False)

    async def test_delete(self) -> None:
        """Deleting says whether there was something."""
        await self.store.set("k", b"v")
        self.assertIs(await self.store.delete("k"), True)
        self.assertIs(await self.store.delete("k"), False)
        self.assertIsNone(await self.store.get("k"))

    async def test_keys(self) -> None:
        """Keys are found by how they begin; nothing in a prefix is a pattern."""
        for key in ("b:2", "b:1", "b;", "B:1", "b%", "b", "\xff\xff", "\xff"):
            await self.store.set(key, b"")
        self.assertEqual(await self.store.keys("b:"), ["b:1", "b:2"])
        self.assertEqual(await self.store.keys("b%"), ["b%"])
        self.assertEqual(await self.store.keys("\xff"), ["\xff", "\xff\xff"])

    async def test_namespaces_do_not_meet(self) -> None:
        """Two namespaces have the same keys for themselves, and all operations."""
        one, two = self.store.namespace("one"), self.store.namespace("two")
        await one.set("k", b"1")
        self.assertTrue(await two.add("k", b"2"))
        self.assertEqual(await one.increment("k"), 2)
        self.assertTrue(await two.replace("k", b"2", b"3"))
        self.assertTrue(await one.namespace("in").add("k", b""))
        self.assertEqual([await one.get("k"), await two.get("k")], [b"2", b"3"])
        self.assertEqual(await one.keys(""), ["in:k", "k"])
        self.assertEqual(await self.store.keys(""), ["one:in:k", "one:k", "two:k"])
        self.assertTrue(await two.delete("k"))
        self.assertEqual(await self.store.keys("two"), [])

    async def test_many_at_once(self) -> None:
        """Of many who count, each gets a number of his own; of many who add, one succeeds."""
        counts = await _together([self.store.increment("n") for _ in range(300)])
        self.assertEqual(sorted(counts), list(range(1, 301)))
        added = await _together([self.store.add("k", b"%d" % i) for i in range(20)])
        self.assertEqual(added.count(True), 1)


async def _together(coroutines: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    return list(await gatherResults([Deferred.fromCoroutine(each) for each in coroutines]))

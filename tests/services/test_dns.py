"""Tests for :mod:`qpsmtpd.services.dns`, against servers on the loopback interface."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from tempfile import NamedTemporaryFile
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet import task
from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.names import dns
from twisted.names.authority import FileAuthority
from twisted.names.server import DNSServerFactory
from twisted.protocols.basic import Int16StringReceiver
from twisted.trial.unittest import SynchronousTestCase, TestCase

from qpsmtpd.services.dns import NEGATIVE_LIMIT, Resolver, Server, _Exchange, nameservers
from qpsmtpd.services.interfaces import ResolverError
from tests.services import contracts

reactor: Any = _reactor

#: What a scripted server says to a query over UDP or TCP; ``None`` is silence.
Script = Callable[[dns.Message], "dns.Message | bytes | None"]


class Zone(FileAuthority):
    """The world of the contract, with authority; some names are broken on purpose."""

    soa: Any
    records: Any

    def loadFile(self, filename: object) -> None:
        self.soa = (b"example", dns.Record_SOA(minimum=60, expire=60, ttl=60))
        world = contracts.WORLD
        self.records = {}
        for kind, record in (
            ("a", dns.Record_A),
            ("aaaa", dns.Record_AAAA),
            ("ns", dns.Record_NS),
        ):
            for name, values in world[kind].items():
                self.put(name, *(record(value) for value in values))
        for name, values in world["txt"].items():
            # A string of a record holds at most 255 octets.
            parts = ([v[i : i + 200].encode() for i in range(0, len(v), 200)] for v in values)
            self.put(name, *(dns.Record_TXT(*part) for part in parts))
        for name, values in world["mx"].items():
            self.put(name, *(dns.Record_MX(o, "" if h == "." else h) for o, h in values))
        self.put("1.2.0.192.in-addr.arpa", dns.Record_PTR("www.example"))
        self.put("1." + 23 * "0." + "8.b.d.0.1.0.0.2.ip6.arpa", dns.Record_PTR("Six.example"))

    def put(self, name: str, *records: Any) -> None:
        self.records.setdefault(name.encode(), []).extend(records)

    def _lookup(self, name: bytes, cls: int, type: int, timeout: object = None) -> Any:
        if name in (b"fails.example", b"66.2.0.192.in-addr.arpa"):
            raise RuntimeError("this zone is broken")
        if name == b"silent.example":
            return Deferred()
        if type == dns.NS:  # a referral to another zone is not an answer, so as if its own
            servers = [r for r in self.records.get(name, ()) if r.TYPE == dns.NS]
            return succeed(([dns.RRHeader(name, dns.NS, dns.IN, 60, r) for r in servers], [], []))
        return super()._lookup(name, cls, type, timeout)


class TruncatingFactory(DNSServerFactory):
    """Sends no more than 512 octets over UDP (RFC 1035, 4.2.1)."""

    asked_over_tcp = 0

    def gotResolverError(self, failure: Any, *args: Any) -> None:
        if failure.check(RuntimeError) is None:
            super().gotResolverError(failure, *args)
        else:  # the same answer as there, without the log
            protocol, message, address = args
            message = self._responseFromMessage(message=message, rCode=dns.ESERVER)
            self.sendReply(protocol, message, address)

    def sendReply(self, protocol: Any, message: Any, address: Any) -> None:
        if address is None:
            self.asked_over_tcp += 1
        else:
            message.maxSize = 512
        super().sendReply(protocol, message, address)


class ResolverTests(contracts.ResolverContract):
    """The contract, against a server with authoritative data."""

    def setUp(self) -> None:
        self.server = TruncatingFactory(authorities=[Zone(None)])
        datagrams = dns.DNSDatagramProtocol(self.server)
        address = listen(self, datagrams, self.server)
        self.resolver = Resolver([address])

    async def test_truncated(self) -> None:
        """An answer too long for a datagram is fetched over TCP."""
        await self.resolver.txt("spf.example")
        self.assertEqual(self.server.asked_over_tcp, 1)


def listen(case: TestCase, datagrams: DatagramProtocol, streams: Factory) -> Server:
    """Serve datagrams and streams on one port, until the test is over."""
    for _ in range(20):
        stream_port = reactor.listenTCP(0, streams, interface="127.0.0.1")
        number = stream_port.getHost().port
        try:
            datagram_port = reactor.listenUDP(number, datagrams, interface="127.0.0.1")
        except OSError:
            stream_port.stopListening()
            continue
        case.addCleanup(stream_port.stopListening)
        case.addCleanup(datagram_port.stopListening)
        return ("127.0.0.1", number)
    raise AssertionError("no port is free for both")


class ScriptedServer(DatagramProtocol):
    """Answers from functions, and remembers the questions."""

    transport: Any

    def __init__(self) -> None:
        self.udp: Script = lambda query: None
        self.tcp: Script = lambda query: None
        self.asked: list[tuple[bytes, int]] = []
        self._expected: list[tuple[int, Deferred[None]]] = []

    def datagramReceived(self, datagram: bytes, address: Any) -> None:
        said = self.answer(self.udp, datagram)
        if said is not None:
            self.transport.write(said, address)

    def answer(self, script: Script, octets: bytes) -> bytes | None:
        query = dns.Message()
        query.fromStr(octets)
        self.asked.append((query.queries[0].name.name, query.queries[0].type))
        due = [fired for count, fired in self._expected if count <= len(self.asked)]
        self._expected = [each for each in self._expected if each[1] not in due]
        for fired in due:
            fired.callback(None)
        said = script(query)
        return said.toStr() if isinstance(said, dns.Message) else said

    async def has_been_asked(self, count: int) -> None:
        if len(self.asked) < count:
            fired: Deferred[None] = Deferred()
            self._expected.append((count, fired))
            await fired


class Stream(Int16StringReceiver):
    factory: Any
    transport: Any

    def stringReceived(self, string: bytes) -> None:
        said = self.factory.scripted.answer(self.factory.scripted.tcp, string)
        if said == b"":
            self.transport.loseConnection()
        elif said is not None:
            self.sendString(said)


def record(name: str | bytes, payload: Any, ttl: int = 60) -> dns.RRHeader:
    return dns.RRHeader(name, payload.TYPE, dns.IN, ttl, payload)


def reply(
    query: dns.Message,
    *answers: dns.RRHeader,
    code: int = dns.OK,
    authority: Sequence[dns.RRHeader] = (),
    trunc: int = 0,
) -> dns.Message:
    message = dns.Message(query.id, answer=1, rCode=code, trunc=trunc, maxSize=0)
    message.queries = query.queries
    message.answers = list(answers)
    message.authority = list(authority)
    return message


def soa(ttl: int, minimum: int) -> dns.RRHeader:
    return record("example", dns.Record_SOA(minimum=minimum), ttl)


class ScriptedCase(TestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.server, self.address = self.serve()

    def serve(self) -> tuple[ScriptedServer, Server]:
        server = ScriptedServer()
        streams: Any = Factory.forProtocol(Stream)
        streams.noisy = False
        streams.scripted = server
        return server, listen(self, server, streams)

    def resolver(self, *servers: Server, **options: Any) -> Resolver:
        return Resolver(servers or [self.address], clock=self.clock, **options)

    def says(self, *answers: dns.RRHeader, **options: Any) -> None:
        self.server.udp = lambda query: reply(query, *answers, **options)

    def address_answer(self, ttl: int = 60, name: str = "a.example") -> dns.RRHeader:
        return record(name, dns.Record_A("192.0.2.1"), ttl)


class CacheTests(ScriptedCase):
    async def test_kept_for_its_time_to_live(self) -> None:
        """An answer is asked for again when its time to live is over."""
        self.says(self.address_answer(60))
        resolver = self.resolver()
        for passed, asked in ((0, 1), (59, 1), (1, 2), (59, 2)):
            self.clock.advance(passed)
            self.assertEqual(await resolver.a("a.example"), ["192.0.2.1"])
            self.assertEqual(len(self.server.asked), asked)

    async def test_shortest_time_to_live(self) -> None:
        """Of several records, aliases too, the first to expire counts."""
        self.says(
            record("a.example", dns.Record_CNAME("b.example"), 30),
            self.address_answer(60, "b.example"),
        )
        resolver = self.resolver()
        await resolver.a("a.example")
        self.clock.advance(30)
        await resolver.a("a.example")
        self.assertEqual(len(self.server.asked), 2)

    async def test_not_kept(self) -> None:
        """Without a time to live, or with one that RFC 2181, 8 calls none, nothing is kept."""
        for ttl in (0, 1 << 31):
            self.says(self.address_answer(ttl))
            resolver = self.resolver()
            self.server.asked.clear()
            await resolver.a("a.example")
            await resolver.a("a.example")
            self.assertEqual(len(self.server.asked), 2)

    async def test_types_apart(self) -> None:
        """The answer to one type says nothing about another."""
        self.says(self.address_answer())
        resolver = self.resolver()
        await resolver.a("a.example")
        self.assertEqual(await resolver.mx("a.example"), [])

    async def test_negative(self) -> None:
        """That there is no such name is kept as long as the SOA says (RFC 2308, 5)."""
        for code in (dns.ENAME, dns.OK):
            for ttl, minimum in ((20, 3600), (3600, 20)):
                self.server.asked.clear()
                self.says(code=code, authority=[soa(ttl, minimum)])
                resolver = self.resolver()
                for passed, asked in ((0, 1), (19, 1), (1, 2)):
                    self.clock.advance(passed)
                    self.assertEqual(await resolver.a("a.example"), [])
                    self.assertEqual(len(self.server.asked), asked)

    async def test_negative_is_bounded(self) -> None:
        """That there is no such name is not believed for longer than a quarter of an hour."""
        self.says(code=dns.ENAME, authority=[soa(86400, 86400)])
        resolver = self.resolver()
        await resolver.a("a.example")
        self.says(self.address_answer())
        self.clock.advance(NEGATIVE_LIMIT)
        self.assertEqual(await resolver.a("a.example"), ["192.0.2.1"])

    async def test_negative_without_soa(self) -> None:
        """That there is no such name is not kept without an SOA (RFC 2308, 5)."""
        self.says(code=dns.ENAME)
        resolver = self.resolver()
        await resolver.a("a.example")
        await resolver.a("a.example")
        self.assertEqual(len(self.server.asked), 2)

    async def test_bounded(self) -> None:
        """The oldest answer makes room for a new one."""
        self.server.udp = lambda query: reply(
            query, record(query.queries[0].name.name, dns.Record_A("192.0.2.1"))
        )
        resolver = self.resolver(kept=2)
        for name in ("a.example", "b.example", "c.example", "c.example", "b.example", "a.example"):
            await resolver.a(name)
        self.assertEqual(
            [name for name, _ in self.server.asked],
            [b"a.example", b"b.example", b"c.example", b"a.example"],
        )

    async def test_large_answers(self) -> None:
        """A huge answer is given, and not kept."""
        text = [b"x" * 255] * 40
        self.says(trunc=1)
        self.server.tcp = lambda query: reply(query, record("a.example", dns.Record_TXT(*text)))
        resolver = self.resolver()
        for _ in range(2):
            self.assertEqual(await resolver.txt("a.example"), ["x" * 255 * 40])
        self.assertEqual(len(self.server.asked), 4)

    async def test_failures(self) -> None:
        """A failure is not kept."""
        self.says(code=dns.ESERVER)
        resolver = self.resolver()
        with self.assertRaises(ResolverError):
            await resolver.a("a.example")
        self.says(self.address_answer())
        self.assertEqual(await resolver.a("a.example"), ["192.0.2.1"])


class TogetherTests(ScriptedCase):
    async def test_one_query(self) -> None:
        """The same question asked by several at once is sent once, and answered to each."""
        self.says(self.address_answer())
        resolver = self.resolver()
        answers = await gatherResults(
            [Deferred.fromCoroutine(resolver.a(name)) for name in ("a.example", "A.EXAMPLE.")]
        )
        self.assertEqual(answers, [["192.0.2.1"], ["192.0.2.1"]])
        answers[0].clear()
        self.assertEqual(answers[1], ["192.0.2.1"])
        self.assertEqual(len(self.server.asked), 1)

    async def test_one_of_two_leaves(self) -> None:
        """Who gives up does not take the answer from the other."""
        resolver = self.resolver()
        first, second = (Deferred.fromCoroutine(resolver.a("a.example")) for _ in range(2))
        await self.server.has_been_asked(1)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.says(self.address_answer())
        self.clock.advance(1)  # the next round asks again
        self.assertEqual(await second, ["192.0.2.1"])

    async def test_asked_again_after_all_left(self) -> None:
        """When all who asked have given up, the next one asks anew."""
        resolver = self.resolver()
        first = Deferred.fromCoroutine(resolver.a("a.example"))
        await self.server.has_been_asked(1)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.says(self.address_answer())
        self.assertEqual(await resolver.a("a.example"), ["192.0.2.1"])

    async def test_cancelled_over_tcp(self) -> None:
        """Who gives up while the answer comes over TCP leaves nothing behind."""
        self.says(trunc=1)
        resolver = self.resolver()
        asked = Deferred.fromCoroutine(resolver.a("a.example"))
        await self.server.has_been_asked(2)
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_at_once(self) -> None:
        """Only so many queries are under way; the next takes the turn of one that ended."""
        resolver = self.resolver(at_once=2)
        asked = [Deferred.fromCoroutine(resolver.a(f"{i}.example")) for i in range(4)]
        await self.server.has_been_asked(2)
        for cancelled in (asked[2], asked[0]):  # one that waits, one under way
            cancelled.cancel()
            self.failureResultOf(cancelled, CancelledError)
        await self.server.has_been_asked(3)
        self.assertEqual(
            [name for name, _ in self.server.asked], [b"0.example", b"1.example", b"3.example"]
        )
        for cancelled in (asked[1], asked[3]):
            cancelled.cancel()
            self.failureResultOf(cancelled, CancelledError)

    async def test_too_many_wait(self) -> None:
        """When too many wait for their turn, the next is told so at once."""
        resolver = self.resolver(at_once=1, waiting=1)
        asked = [Deferred.fromCoroutine(resolver.a(f"{i}.example")) for i in range(2)]
        with self.assertRaises(ResolverError):
            await resolver.a("2.example")
        for each in asked:
            each.cancel()
            self.failureResultOf(each, CancelledError)

    async def test_waiting_is_bounded_in_time(self) -> None:
        """Waiting for a turn counts: nobody waits for longer than the limit."""
        resolver = self.resolver(at_once=1, timeouts=[100], limit=10)
        asked = [Deferred.fromCoroutine(resolver.a(f"{i}.example")) for i in range(2)]
        self.clock.advance(9.9)
        self.assertNoResult(asked[1])
        self.clock.advance(0.2)
        for each in asked:
            self.failureResultOf(each, ResolverError)


class ServersTests(ScriptedCase):
    async def test_silence(self) -> None:
        """A server that stays silent is asked again in each round, then the question fails."""
        resolver = self.resolver(timeouts=(1, 3, 5))
        asked = Deferred.fromCoroutine(resolver.a("a.example"))
        for round_, seconds in ((1, 1), (2, 3), (3, 4.9)):
            await self.server.has_been_asked(round_)
            self.clock.advance(seconds)
        self.assertNoResult(asked)
        self.clock.advance(0.2)
        self.failureResultOf(asked, ResolverError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_next_server(self) -> None:
        """When the first server is silent the second is asked, and from then on first."""
        second, address = self.serve()
        second.udp = lambda query: reply(
            query, record(query.queries[0].name.name, dns.Record_A("192.0.2.1"))
        )
        resolver = self.resolver(self.address, address)
        asked = Deferred.fromCoroutine(resolver.a("a.example"))
        await self.server.has_been_asked(1)
        self.clock.advance(1)
        self.assertEqual(await asked, ["192.0.2.1"])
        self.assertEqual(await resolver.a("b.example"), ["192.0.2.1"])
        self.assertEqual(len(self.server.asked), 1)

    async def test_a_server_that_cannot(self) -> None:
        """A server that says it cannot answer is not believed while another can."""
        second, address = self.serve()
        second.udp = lambda query: reply(query, self.address_answer())
        for code in (dns.EFORMAT, dns.ESERVER, dns.ENOTIMP, dns.EREFUSED, 9):
            self.says(code=code)
            resolver = self.resolver(self.address, address)
            self.assertEqual(await resolver.a("a.example"), ["192.0.2.1"])

    async def test_asked_once(self) -> None:
        """A server that says it cannot answer is not asked the same question again."""
        second, address = self.serve()
        self.says(code=dns.ESERVER)
        second.udp = lambda query: reply(query, code=dns.EREFUSED)
        with self.assertRaises(ResolverError):
            await self.resolver(self.address, address).a("a.example")
        self.assertEqual((len(self.server.asked), len(second.asked)), (1, 1))

    async def test_nobody_listens(self) -> None:
        """A refused datagram does not cost the time of a silent server."""
        port = reactor.listenUDP(0, DatagramProtocol(), interface="127.0.0.1")
        number = port.getHost().port
        await port.stopListening()
        self.says(self.address_answer())
        resolver = self.resolver(("127.0.0.1", number), self.address)
        self.assertEqual(await resolver.a("a.example"), ["192.0.2.1"])
        with self.assertRaises(ResolverError):
            await self.resolver(("127.0.0.1", number)).a("a.example")

    async def test_unusable_servers(self) -> None:
        """A server that is no address, or none at all, is a failure like others."""
        for servers in ([], [("name.example", 53)], [("256.0.0.1", 53)]):
            with self.assertRaises(ResolverError):
                await Resolver(servers, clock=self.clock).a("a.example")

    async def test_over_ipv6(self) -> None:
        """A server may have an IPv6 address."""
        server = ScriptedServer()
        port = reactor.listenUDP(0, server, interface="::1")
        self.addCleanup(port.stopListening)
        server.udp = lambda query: reply(query, self.address_answer())
        resolver = self.resolver(("::1", port.getHost().port))
        self.assertEqual(await resolver.a("a.example"), ["192.0.2.1"])


class HostileTests(ScriptedCase):
    """Whatever a server says, a component sees a list or ResolverError."""

    async def test_forged(self) -> None:
        """An answer with another id or to another question is as if it never came."""
        for forge in (
            lambda m: setattr(m, "id", m.id ^ 1),
            lambda m: setattr(m, "answer", 0),
            lambda m: setattr(m, "queries", []),
            lambda m: setattr(m, "queries", [dns.Query("b.example", dns.A)]),
            lambda m: setattr(m, "queries", [dns.Query("a.example", dns.MX)]),
        ):
            forged = reply(dns.Message(), record("a.example", dns.Record_A("192.0.2.66")))

            def script(query: dns.Message, forge: Any = forge, forged: Any = forged) -> Any:
                if len(self.server.asked) > 1:
                    return reply(query, self.address_answer())
                forged.id, forged.queries = query.id, query.queries
                forge(forged)
                return forged

            self.server.asked.clear()
            self.server.udp = script
            asked = Deferred.fromCoroutine(self.resolver().a("a.example"))
            await self.server.has_been_asked(1)
            await task.deferLater(reactor, 0.01, lambda: None)
            self.assertNoResult(asked)
            self.clock.advance(1)
            self.assertEqual(await asked, ["192.0.2.1"])

    async def test_from_elsewhere(self) -> None:
        """An answer from another address or port never arrives."""
        other, _ = self.serve()
        sent_to: list[Any] = []

        def script(query: dns.Message) -> Any:
            return None

        received = self.server.datagramReceived

        def spy(datagram: bytes, address: Any) -> None:
            sent_to.append(address)
            query = dns.Message()
            query.fromStr(datagram)
            if len(sent_to) == 1:
                forged = reply(query, record("a.example", dns.Record_A("192.0.2.66")))
                other.transport.write(forged.toStr(), address)
            received(datagram, address)

        self.server.datagramReceived = spy  # type: ignore[method-assign]
        self.server.udp = script
        asked = Deferred.fromCoroutine(self.resolver().a("a.example"))
        await self.server.has_been_asked(1)
        await task.deferLater(reactor, 0.01, lambda: None)
        self.assertNoResult(asked)
        self.says(self.address_answer())
        self.clock.advance(1)
        self.assertEqual(await asked, ["192.0.2.1"])

    async def test_alias(self) -> None:
        """Aliases are followed in one message, in any order, and by asking again."""
        there = {
            b"a.example": [
                record("c.example", dns.Record_CNAME("d.example")),
                record("A.example", dns.Record_CNAME("C.example")),
            ],
            b"d.example": [self.address_answer(name="d.example")],
        }
        self.server.udp = lambda query: reply(query, *there[query.queries[0].name.name])
        self.assertEqual(await self.resolver().a("a.example"), ["192.0.2.1"])
        self.assertEqual(len(self.server.asked), 2)

    async def test_alias_of_nothing(self) -> None:
        """An alias of a name that has no such record leads to an empty list."""
        alias = record("a.example", dns.Record_CNAME("b.example"))
        for options in ({"code": dns.ENAME}, {"authority": [soa(1, 1)]}):
            self.says(alias, **options)
            self.assertEqual(await self.resolver().a("a.example"), [])

    async def test_aliases_without_end(self) -> None:
        """Aliases that go in a circle, or on for ever, are a failure."""
        self.says(
            record("a.example", dns.Record_CNAME("b.example")),
            record("b.example", dns.Record_CNAME("a.example")),
        )
        with self.assertRaises(ResolverError):
            await self.resolver().a("a.example")
        self.server.udp = lambda query: reply(
            query,
            record(
                query.queries[0].name.name.decode(),
                dns.Record_CNAME(f"x{len(self.server.asked)}.example"),
            ),
        )
        with self.assertRaises(ResolverError):
            await self.resolver().a("a.example")

    async def test_records_nobody_asked_for(self) -> None:
        """Records of other names, types and classes are not taken."""
        foreign = self.address_answer()
        foreign.cls = dns.CH
        self.says(
            record("b.example", dns.Record_A("192.0.2.66")),
            record("a.example", dns.Record_MX(1, "b.example")),
            foreign,
        )
        self.assertEqual(await self.resolver().a("a.example"), [])

    async def test_names_that_cannot_be_shown(self) -> None:
        """A name with line ends, spaces or octets beyond ASCII is left out of an answer."""
        names = [b"a\r\nb.example", b"a b", b"\xff.example", b"x" * 60 + b"." + b"y." * 120, b""]
        pointers = [dns.Record_PTR(name) for name in [*names, b"Good.example"]]
        name = "1.2.0.192.in-addr.arpa"
        self.says(*(record(name, pointer) for pointer in pointers))
        self.assertEqual(await self.resolver().ptr("192.0.2.1"), ["good.example"])
        alias = record("a.example", dns.Record_CNAME(b"a b.example"))
        self.says(alias)
        self.assertEqual(await self.resolver().a("a.example"), [])

    async def test_truncated_over_tcp(self) -> None:
        """A server that truncates over TCP too is a failure, not a loop."""
        self.says(trunc=1)
        self.server.tcp = lambda query: reply(query, trunc=1)
        with self.assertRaises(ResolverError):
            await self.resolver(timeouts=[1]).a("a.example")
        self.assertEqual(len(self.server.asked), 2)

    async def test_closed_over_tcp(self) -> None:
        """A server that closes the connection instead of answering has failed."""
        self.says(trunc=1)
        self.server.tcp = lambda query: b""
        with self.assertRaises(ResolverError):
            await self.resolver(timeouts=[1]).a("a.example")

    async def test_silent_over_tcp(self) -> None:
        """A server that truncates and then is silent over TCP costs its time and no more."""
        self.says(trunc=1)
        asked = Deferred.fromCoroutine(self.resolver(timeouts=[1]).a("a.example"))
        await self.server.has_been_asked(2)
        self.clock.advance(1)
        self.failureResultOf(asked, ResolverError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_no_tcp(self) -> None:
        """A server that truncates and does not listen on TCP has failed."""
        server = ScriptedServer()
        port = reactor.listenUDP(0, server, interface="::1")
        self.addCleanup(port.stopListening)
        server.udp = lambda query: reply(query, trunc=1)
        with self.assertRaises(ResolverError):
            await self.resolver(("::1", port.getHost().port), timeouts=[1]).a("a.example")

    async def test_octets_of_text(self) -> None:
        """Text outside ASCII is there, octet by octet."""
        self.says(record("a.example", dns.Record_TXT(b"\xc3\xa9\xff", b"", b"\r\n")))
        self.assertEqual(await self.resolver().txt("a.example"), ["\xc3\xa9\xff\r\n"])


class ExchangeTests(SynchronousTestCase):
    @given(st.binary(max_size=600), st.booleans())
    @settings(max_examples=300, deadline=None)
    def test_any_octets(self, octets: bytes, headed: bool) -> None:
        """No octets that arrive make an exchange raise."""
        exchange = _Exchange(dns.Query("a.example", dns.A))
        if headed:
            sent = exchange.octets()
            # The header of an answer to this question, then anything.
            header = sent[:2] + struct.pack("!BBHHHH", 0x81, 0x80, 1, 9, 9, 9)
            octets = header + sent[12:] + octets
        exchange.received(octets)
        exchange.failed(ConnectionError())
        exchange.answer.addBoth(lambda result: None)


class NameserversTests(SynchronousTestCase):
    def read(self, text: bytes) -> list[Server]:
        with NamedTemporaryFile() as file:
            file.write(text)
            file.flush()
            return nameservers(file.name)

    def test_named(self) -> None:
        """Servers are asked in the order in which the file names them."""
        text = b"# nameserver 192.0.2.9\nsearch example\nnameserver 192.0.2.1\n \nnameserver\n"
        self.assertEqual(
            self.read(text + b"\tnameserver\t2001:db8::1 # two\nnameservers 192.0.2.8\n\xff\n"),
            [("192.0.2.1", 53), ("2001:db8::1", 53)],
        )

    def test_none(self) -> None:
        """A file without servers, and none at all, stand for the server of this machine."""
        self.assertEqual(self.read(b"search example\n"), [("127.0.0.1", 53)])
        self.assertEqual(nameservers("/absent/resolv.conf"), [("127.0.0.1", 53)])

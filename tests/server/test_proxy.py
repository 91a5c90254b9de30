"""Connections through a load balancer, on real sockets."""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

from twisted.internet import ssl
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    clientFromString,
    connectProtocol,
    wrapClientTLS,
)
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from qpsmtpd.interfaces import IConnect, IPreConnection
from qpsmtpd.server import sockets
from qpsmtpd.server.factory import SMTPFactory
from qpsmtpd.server.proxy import HEADER_TIME, Trusted
from qpsmtpd.session import Session
from qpsmtpd.settings import Settings
from qpsmtpd.smtp.proxy import Proxied
from tests.smtp.test_proxy import CLIENT, CLIENT6, version_1, version_2

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
SETTINGS = Settings(me="mail.example")


class Client(Protocol):
    """Says octets and collects what comes."""

    def __init__(self) -> None:
        self.octets = b""
        self.closed: Deferred[None] = Deferred()
        self._waiting: tuple[bytes, Deferred[None]] | None = None

    def say(self, octets: bytes) -> None:
        assert self.transport is not None
        self.transport.write(octets)

    async def hear(self, wanted: bytes) -> bytes:
        """Wait for octets; give everything up to them and forget it."""
        if wanted not in self.octets:
            self._waiting = (wanted, Deferred())
            await self._waiting[1]
        end = self.octets.index(wanted) + len(wanted)
        heard, self.octets = self.octets[:end], self.octets[end:]
        return heard

    def dataReceived(self, data: bytes) -> None:
        self.octets += data
        if self._waiting is not None and self._waiting[0] in self.octets:
            (_, waiting), self._waiting = self._waiting, None
            waiting.callback(None)

    def connectionLost(self, reason: Failure = Failure(ConnectionError())) -> None:  # noqa: B008
        self.closed.callback(None)
        if self._waiting is not None:
            self._waiting[1].errback(AssertionError(f"closed after {self.octets!r}"))


@implementer(IConnect)
class Sessions:
    """Keeps the sessions that were greeted."""

    def __init__(self) -> None:
        self.seen: list[Session] = []

    def connect(self, session: Session) -> None:
        self.seen.append(session)

    @property
    def clients(self) -> list[Proxied]:
        return [
            Proxied(each.remote_ip, each.remote_port, each.local_ip, each.local_port)
            for each in self.seen
        ]


@implementer(IPreConnection)
class ImplicitTLS:
    """Begins with TLS, once it was decided to talk to the client."""

    def __init__(self, context: object) -> None:
        self.context = context
        self.asked: Deferred[None] = Deferred()
        self.decided: Deferred[None] = Deferred()

    async def pre_connection(self, session: Session) -> None:
        session.tls_context = self.context
        session.tls_implicit = True
        self.asked.callback(None)
        await self.decided


@implementer(IPreConnection)
class OfferTLS:
    """Offers STARTTLS."""

    def __init__(self, context: object) -> None:
        self.context = context

    def pre_connection(self, session: Session) -> None:
        session.tls_context = self.context


class TrustedTests(SynchronousTestCase):
    def test_nobody(self) -> None:
        """Without networks nobody is trusted, and nobody is looked up."""
        self.assertFalse(Trusted(()))

    def test_networks(self) -> None:
        """Addresses of the networks are trusted, and no others."""
        trusted = Trusted([ip_network("192.0.2.0/25"), ip_network("2001:db8::/64")])
        self.assertTrue(trusted)
        for ip in ("192.0.2.1", "2001:db8::1"):
            self.assertIn(ip, trusted)
        for ip in ("192.0.2.129", "2001:db8:0:1::1", "", "nonsense", "::192.0.2.1"):
            self.assertNotIn(ip, trusted)

    def test_one_socket_for_both_protocols(self) -> None:
        """An IPv4 address is trusted also as an IPv6 socket writes it."""
        trusted = Trusted([ip_network("192.0.2.0/25")])
        self.assertIn("::ffff:192.0.2.1", trusted)
        self.assertNotIn("::ffff:192.0.2.129", trusted)

    def test_unix(self) -> None:
        """Connections on UNIX sockets are trusted where that was said."""
        self.assertIn("", Trusted(["unix"]))
        self.assertNotIn("127.0.0.1", Trusted(["unix"]))


class WaitingTests(SynchronousTestCase):
    """In memory, where it is known what was not sent."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.factory = SMTPFactory([], SETTINGS, self.clock, proxy_from=LOOPBACK)

    def connect(self) -> tuple[Any, StringTransport]:
        protocol = self.factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 40000))
        transport = StringTransport()
        protocol.makeConnection(transport)
        return protocol, transport

    def test_octet_by_octet(self) -> None:
        """Nothing is sent before the header is complete, and the greeting once it is."""
        for header in (version_1(CLIENT), version_2(CLIENT)):
            protocol, transport = self.connect()
            for octet in header[:-1]:
                protocol.dataReceived(bytes((octet,)))
                self.assertEqual(transport.value(), b"")
                self.assertEqual(len(self.factory.expected), 1)
            protocol.dataReceived(header[-1:])
            self.assertTrue(transport.value().startswith(b"220 mail.example "))
            self.assertEqual(self.factory.expected, set())

    def test_too_late(self) -> None:
        """A connection without a header is closed when the time is over, and nothing is said."""
        protocol, transport = self.connect()
        protocol.dataReceived(b"PROXY TCP4 ")
        self.clock.advance(HEADER_TIME - 1)
        self.assertFalse(transport.disconnecting)
        self.clock.advance(1)
        self.assertTrue(transport.disconnected)
        protocol.dataReceived(b"192.0.2.7 192.0.2.25 1 25\r\n")
        self.assertEqual(transport.value(), b"")
        self.assertEqual(self.factory.expected, set())

    def test_in_time(self) -> None:
        """Once the header was read its time limit is gone."""
        protocol, transport = self.connect()
        protocol.dataReceived(version_1(CLIENT))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(HEADER_TIME)
        self.assertFalse(transport.disconnected)

    def test_gone(self) -> None:
        """A balancer that looks whether the port is open leaves nothing behind."""
        protocol, _ = self.connect()
        protocol.connectionLost(Failure(ConnectionError()))
        self.assertEqual(self.factory.expected, set())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_header(self) -> None:
        """A client that speaks SMTP where a header belongs is cut off, and nothing is said."""
        protocol, transport = self.connect()
        protocol.dataReceived(b"EHLO client.example\r\n")
        self.assertTrue(transport.disconnected)
        self.assertEqual(transport.value(), b"")

    def test_waiting_connections_count(self) -> None:
        """The limit on all connections counts those that wait for their header."""
        self.factory = SMTPFactory(
            [], Settings(me="mail.example", connections=2), self.clock, proxy_from=LOOPBACK
        )
        self.connect()
        protocol, _ = self.connect()
        _, third = self.connect()
        self.assertTrue(third.value().startswith(b"421 "))
        protocol.connectionLost(Failure(ConnectionError()))
        _, fourth = self.connect()
        self.assertEqual(fourth.value(), b"")


class ProxyTests(TestCase):
    """Over real sockets."""

    def setUp(self) -> None:
        self.sessions = Sessions()

    async def listen(
        self,
        *components: object,
        endpoint: str = "tcp:0:interface=127.0.0.1",
        proxy_from: Any = LOOPBACK,
        settings: Settings = SETTINGS,
        clock: Any = None,
        wrap: Callable[[Any], Any] = lambda factory: factory,
    ) -> Any:
        from twisted.internet import reactor

        self.factory = SMTPFactory(
            [*components, self.sessions], settings, clock, proxy_from=proxy_from
        )
        port: Any = sockets.listen(reactor, endpoint, wrap(self.factory))
        self.addCleanup(port.stopListening)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.factory.stop(0)))
        return port.getHost()

    async def connect(self, description: str, tls: bool = False) -> Client:
        from twisted.internet import reactor

        client = Client()
        endpoint = clientFromString(reactor, description)
        if tls:
            endpoint = wrapClientTLS(ssl.CertificateOptions(), endpoint)
        await connectProtocol(endpoint, client)

        def close() -> Deferred[None]:
            assert client.transport is not None
            client.transport.loseConnection()
            return client.closed

        self.addCleanup(close)
        return client

    def certificate(self) -> Any:
        key = ssl.KeyPair.generate(size=2048)
        return key.selfSignedCert(1, CN=b"mail.example").options()

    async def test_addresses(self) -> None:
        """The session is the client's: its address and the one it connected to."""
        here = await self.listen()
        for header in (version_1(CLIENT), version_2(CLIENT), version_1(CLIENT6)):
            client = await self.connect(f"tcp:127.0.0.1:{here.port}")
            client.say(header)
            self.assertTrue((await client.hear(b"\r\n")).startswith(b"220 mail.example "))
        self.assertEqual(self.sessions.clients, [CLIENT, CLIENT, CLIENT6])

    async def test_one_segment(self) -> None:
        """What follows the header at once is read after the greeting."""
        here = await self.listen()
        client = await self.connect(f"tcp:127.0.0.1:{here.port}")
        client.say(version_2(CLIENT) + b"HELO client.example\r\nQUIT\r\n")
        await client.closed
        replies = client.octets.splitlines()
        self.assertEqual([line[:3] for line in replies], [b"220", b"250", b"221"])
        self.assertIn(b"[192.0.2.7]", replies[1])

    async def test_from_others(self) -> None:
        """From everybody else the header is an unknown command, and changes nothing."""
        here = await self.listen(proxy_from=[ip_network("192.0.2.0/24")])
        client = await self.connect(f"tcp:127.0.0.1:{here.port}")
        client.say(version_1(CLIENT) + b"QUIT\r\n")
        await client.closed
        self.assertEqual(
            [line[:3] for line in client.octets.splitlines()], [b"220", b"500", b"221"]
        )
        self.assertEqual(self.sessions.seen[0].remote_ip, "127.0.0.1")

    async def test_binary_from_others(self) -> None:
        """From everybody else a binary header is garbage like any other."""
        here = await self.listen(proxy_from=[])
        client = await self.connect(f"tcp:127.0.0.1:{here.port}")
        client.say(version_2(CLIENT) + b"\r\nQUIT\r\n")
        await client.hear(b"\r\n221 ")
        self.assertEqual(self.sessions.seen[0].remote_ip, "127.0.0.1")

    async def test_no_header(self) -> None:
        """A client of a trusted network without a header is cut off, and nothing is said."""
        here = await self.listen()
        client = await self.connect(f"tcp:127.0.0.1:{here.port}")
        client.say(b"EHLO client.example\r\n")
        await client.closed
        self.assertEqual(client.octets, b"")

    async def test_nothing_known(self) -> None:
        """Where the balancer speaks for itself, or knows nothing, the connection's addresses
        stand."""
        here = await self.listen()
        for header in (version_2(command=0x20), b"PROXY UNKNOWN\r\n"):
            client = await self.connect(f"tcp:127.0.0.1:{here.port}")
            client.say(header)
            await client.hear(b"220 ")
        for session in self.sessions.seen:
            self.assertEqual(session.remote_ip, "127.0.0.1")
            self.assertNotEqual(session.remote_port, 0)
            self.assertEqual((session.local_ip, session.local_port), ("127.0.0.1", here.port))

    async def test_connections_per_address(self) -> None:
        """The limit for one address counts clients, not the balancer."""
        here = await self.listen(settings=Settings(me="mail.example", connections_per_address=1))
        first = await self.connect(f"tcp:127.0.0.1:{here.port}")
        first.say(version_1(CLIENT))
        await first.hear(b"220 ")
        second = await self.connect(f"tcp:127.0.0.1:{here.port}")
        second.say(version_1(CLIENT))
        await second.hear(b"421 4.7.0 Too many connections from your address")
        other = await self.connect(f"tcp:127.0.0.1:{here.port}")
        other.say(version_1(CLIENT6))
        await other.hear(b"220 ")
        first.say(b"QUIT\r\n")
        await first.closed
        again = await self.connect(f"tcp:127.0.0.1:{here.port}")
        again.say(version_1(CLIENT))
        await again.hear(b"220 ")

    async def test_ipv6_balancer(self) -> None:
        """The balancer itself may speak IPv6."""
        here = await self.listen(endpoint="tcp6:0:interface=\\:\\:1")
        client = await self.connect(f"tcp:\\:\\:1:{here.port}")
        client.say(version_1(CLIENT))
        await client.hear(b"220 ")
        self.assertEqual(self.sessions.clients, [CLIENT])

    async def test_unix_balancer(self) -> None:
        """The balancer may use a UNIX socket, where that was said."""
        path = os.path.join(self.mktemp(), "s")
        os.mkdir(os.path.dirname(path))
        path = os.path.relpath(path)
        await self.listen(endpoint=f"unix:{path}", proxy_from=["unix"])
        client = await self.connect(f"unix:{path}")
        client.say(version_1(CLIENT))
        await client.hear(b"220 ")
        self.assertEqual(self.sessions.clients, [CLIENT])

    async def test_starttls(self) -> None:
        """STARTTLS works behind the header."""
        here = await self.listen(OfferTLS(self.certificate()))
        client = await self.connect(f"tcp:127.0.0.1:{here.port}")
        client.say(version_1(CLIENT) + b"EHLO client.example\r\n")
        await client.hear(b"STARTTLS")
        client.say(b"STARTTLS\r\n")
        await client.hear(b"220 2.0.0")
        transport: Any = client.transport
        transport.startTLS(ssl.CertificateOptions())
        client.say(b"EHLO client.example\r\n")
        self.assertNotIn(b"STARTTLS", await client.hear(b"250 "))
        self.assertIsNotNone(self.sessions.seen[0].tls)
        self.assertEqual(self.sessions.clients, [CLIENT])

    async def test_tls_begins_behind_the_header(self) -> None:
        """TLS that a plugin begins before the greeting finds what came with the header."""
        implicit = ImplicitTLS(self.certificate())
        here = await self.listen(implicit)
        client = await self.connect(f"tcp:127.0.0.1:{here.port}")
        client.say(version_2(CLIENT))
        transport: Any = client.transport
        transport.startTLS(ssl.CertificateOptions())
        await implicit.asked
        self.assertEqual(client.octets, b"")
        implicit.decided.callback(None)
        await client.hear(b"220 mail.example")
        self.assertIsNotNone(self.sessions.seen[0].tls)
        self.assertEqual(self.sessions.clients, [CLIENT])

    async def test_tls_outside(self) -> None:
        """On an endpoint that speaks TLS, the header comes inside of it."""
        from twisted.protocols.tls import TLSMemoryBIOFactory

        context = self.certificate()
        here = await self.listen(wrap=lambda factory: TLSMemoryBIOFactory(context, False, factory))
        client = await self.connect(f"tcp:127.0.0.1:{here.port}", tls=True)
        client.say(version_1(CLIENT) + b"HELO client.example\r\n")
        await client.hear(b"\r\n250 mail.example Hi Unknown [192.0.2.7]")
        self.assertIsNotNone(self.sessions.seen[0].tls)
        self.assertEqual(self.sessions.clients, [CLIENT])

    async def test_read_by_one(self) -> None:
        """Behind the header only the hub reads, so a client that has said enough has to wait."""
        from twisted.internet import reactor

        here = await self.listen()
        client = await self.connect(f"tcp:127.0.0.1:{here.port}")
        client.say(version_1(CLIENT))
        await client.hear(b"220 mail.example")
        [protocol] = self.factory.protocols
        self.assertNotIn(protocol.transport, IReactorFDSet(reactor).getReaders())

    async def test_stop(self) -> None:
        """A server that stops closes connections that wait for their header."""
        here = await self.listen()
        client = await self.connect(f"tcp:127.0.0.1:{here.port}")
        proxied = await self.connect(f"tcp:127.0.0.1:{here.port}")
        proxied.say(version_1(CLIENT))
        await proxied.hear(b"220 ")  # the first was accepted before
        self.assertEqual(len(self.factory.expected), 1)
        await self.factory.stop(0)
        await client.closed
        self.assertEqual(client.octets, b"")

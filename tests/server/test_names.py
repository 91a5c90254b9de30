"""Tests of the look-up of clients' names before they are greeted."""

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from qpsmtpd.interfaces import IPostFork
from qpsmtpd.server.factory import SMTPFactory
from qpsmtpd.settings import Settings
from qpsmtpd.testing import FakeResolver


class NameTests(SynchronousTestCase):
    def connect(self, ip: str, resolver: FakeResolver, reverse_dns: bool = True) -> Any:
        """Connect a client; gives its protocol."""
        settings = Settings(me="mail.example", reverse_dns=reverse_dns)
        factory = SMTPFactory([], settings, Clock(), resolver=resolver)
        protocol = factory.buildProtocol(IPv4Address("TCP", ip, 4000))
        protocol.makeConnection(StringTransport())
        self.addCleanup(protocol.connectionLost, None)
        return protocol

    def test_name(self) -> None:
        """A client's name is known before the greeting."""
        resolver = FakeResolver(
            ptr={"192.0.2.1": ["client.example"]}, a={"client.example": ["192.0.2.1"]}
        )
        protocol = self.connect("192.0.2.1", resolver)
        self.assertEqual(protocol.session.remote_host, "client.example")
        protocol.dataReceived(b"HELO x\r\n")
        self.assertIn(b"Hi client.example [192.0.2.1]", protocol.transport.value())

    def test_ipv6(self) -> None:
        """A client with an IPv6 address has its name the same way."""
        resolver = FakeResolver(
            ptr={"2001:db8::1": ["client.example"]}, aaaa={"client.example": ["2001:db8:0::1"]}
        )
        protocol = self.connect("2001:db8::1", resolver)
        self.assertEqual(protocol.session.remote_host, "client.example")

    def test_does_not_lead_back(self) -> None:
        """A name that its owner knows nothing of is none; another that leads back is."""
        resolver = FakeResolver(
            ptr={"192.0.2.1": ["bank.example", "client.example"], "192.0.2.2": ["bank.example"]},
            a={"bank.example": ["192.0.2.99"], "client.example": ["192.0.2.9", "192.0.2.1"]},
        )
        for ip, name in (("192.0.2.1", "client.example"), ("192.0.2.2", None)):
            self.assertEqual(self.connect(ip, resolver).session.remote_host, name)

    def test_names_without_end(self) -> None:
        """A client with many names makes few questions."""
        names = [f"{number}.example" for number in range(100)]
        resolver = FakeResolver(ptr={"192.0.2.1": names})
        self.assertIsNone(self.connect("192.0.2.1", resolver).session.remote_host)
        self.assertEqual(len(resolver.questions), 4)

    def test_no_name(self) -> None:
        """A client without a name is greeted all the same."""
        protocol = self.connect("192.0.2.1", FakeResolver())
        self.assertIsNone(protocol.session.remote_host)
        self.assertTrue(protocol.transport.value().startswith(b"220 "))

    def test_failure(self) -> None:
        """DNS that fails is no reason to refuse a client."""
        protocol = self.connect("192.0.2.1", FakeResolver(fails={"192.0.2.1"}))
        self.assertIsNone(protocol.session.remote_host)
        self.assertTrue(protocol.transport.value().startswith(b"220 "))

    def test_waiting(self) -> None:
        """A client waits for the greeting as long as DNS is asked."""
        protocol = self.connect("192.0.2.1", FakeResolver(silent={"192.0.2.1"}))
        self.assertEqual(protocol.transport.value(), b"")

    def test_local(self) -> None:
        """Nobody asks for the name of a client on this machine."""
        resolver = FakeResolver()
        self.connect("127.0.0.1", resolver)
        self.assertEqual(resolver.questions, [])

    def test_off(self) -> None:
        """Without the setting nobody asks."""
        resolver = FakeResolver()
        self.connect("192.0.2.1", resolver, reverse_dns=False)
        self.assertEqual(resolver.questions, [])


@implementer(IPostFork)
class Forked:
    """Counts the processes that begin to serve."""

    def __init__(self) -> None:
        self.count = 0

    def post_fork(self) -> None:
        self.count += 1


class PostForkTests(SynchronousTestCase):
    def test_asked(self) -> None:
        """Components hear that their process begins to serve."""
        from twisted.internet.defer import Deferred

        component = Forked()
        factory = SMTPFactory([component], Settings(), Clock())
        self.successResultOf(Deferred.fromCoroutine(factory.start()))
        self.assertEqual(component.count, 1)

"""What a connection costs, and that nothing of it stays when it has ended."""

from __future__ import annotations

import gc
import os
import socket
import ssl
import tracemalloc
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTCP
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.test.proto_helpers import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from qpsmtpd.interfaces import INoop, IPreConnection, IQueue
from qpsmtpd.message import Message
from qpsmtpd.server.factory import SMTPFactory
from qpsmtpd.server.protocol import SMTPProtocol
from qpsmtpd.session import Session, Transaction
from qpsmtpd.settings import Settings
from qpsmtpd.smtp.machine import ServerMachine
from qpsmtpd.testing.cases import AcceptRecipients
from qpsmtpd.verdicts import OK, Verdict
from tests.server.certificates import write_certificate

ENVELOPE = ["EHLO client.example", "MAIL FROM:<a@client.example>", "RCPT TO:<b@mail.example>"]

MESSAGE = [*ENVELOPE, "DATA", "Subject: test\r\n\r\nwords\r\n."]

OF_A_CONNECTION = (SMTPProtocol, Session, Transaction, Message, ServerMachine)


@implementer(INoop, IPreConnection, IQueue)
class Waits:
    """Answers NOOP as its argument says, and can begin TLS."""

    def __init__(self) -> None:
        self.asked: Deferred[None] = Deferred()
        self.context: Any = None

    def pre_connection(self, session: Session) -> None:
        session.tls_context = self.context

    def queue(self, transaction: Transaction) -> Verdict:
        return OK

    async def noop(self, session: Session, argument: str) -> Verdict | None:
        if argument == "never":
            self.asked.callback(None)
            await Deferred()
        if argument == "later":
            await deferLater(reactor, 0)
            raise RuntimeError(argument)
        if argument == "now":
            raise RuntimeError(argument)
        return None


class FreedTests(TestCase):
    """Without the garbage collector: what is in no circle is freed at once.

    On real sockets, since what a transport holds counts.
    """

    timeout = 60

    def setUp(self) -> None:
        self.component = Waits()
        settings = Settings(me="mail.example")
        self.factory = SMTPFactory([self.component, AcceptRecipients()], settings)
        tcp: Any = IReactorTCP(reactor)
        self.port = tcp.listenTCP(0, self.factory, interface="127.0.0.1")
        gc.collect()
        gc.disable()
        self.before = _alive()  # of other tests
        self.addCleanup(gc.enable)
        self.addCleanup(self.port.stopListening)

    async def talk(self, *lines: str) -> list[str]:
        """Let a client say something and go; gives what is left then.

        ``TLS`` begins it. After a line that has no answer the client goes when it was heard.
        """
        client = await deferToThread(_talk, self.port.getHost().port, lines)
        if lines and lines[-1] == "NOOP never":
            await self.component.asked
        client.close()
        while self.factory.protocols:
            await deferLater(reactor, 0.01)
        await deferLater(reactor, 0)
        return [type(each).__name__ for each in _alive() if each not in self.before]

    async def test_plain(self) -> None:
        """Sessions leave nothing, wherever their clients go."""
        for lines in ([], MESSAGE[:3], MESSAGE[:4], MESSAGE, [*MESSAGE, "QUIT"]):
            self.assertEqual(await self.talk(*lines), [], lines)

    async def test_waiting(self) -> None:
        """A session that waits for a component leaves nothing when its client goes."""
        self.assertEqual(await self.talk("NOOP never"), [])

    async def test_failing(self) -> None:
        """A component's error leaves nothing, at once or after waiting."""
        for line in ("NOOP now", "NOOP later"):
            self.assertEqual(await self.talk(line, "QUIT"), [], line)
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    async def test_tls(self) -> None:
        """TLS leaves nothing, whoever ends it."""
        certificate, key = write_certificate(self.folder(), "mail.example")
        self.component.context = DefaultOpenSSLContextFactory(key, certificate)
        for lines in (["QUIT"], [], ["NOOP never"]):
            lines = ["EHLO client.example", "STARTTLS", "TLS", *lines]
            self.assertEqual(await self.talk(*lines), [], lines)

    def folder(self) -> str:
        """A new folder."""
        folder: str = os.path.abspath(self.mktemp())
        os.mkdir(folder)
        return folder


def _alive() -> list[object]:
    return [each for each in gc.get_objects() if type(each) in OF_A_CONNECTION]


def _talk(port: int, lines: tuple[str, ...]) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    client.recv(1000)
    for line in lines:
        if line == "TLS":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            client = context.wrap_socket(client)
            continue
        client.sendall(line.encode() + b"\r\n")
        if line != "NOOP never":
            client.recv(4000)
    return client


class CostTests(SynchronousTestCase):
    def cost(self, *lines: str) -> float:
        """Octets of memory for each of some connections that have said these lines."""
        settings = Settings(me="mail.example", connections=0, connections_per_address=0)
        factory = SMTPFactory([AcceptRecipients()], settings, Clock())
        transport = StringTransport()
        count = 300
        protocols = []
        for number in range(-1, count):  # the first one pays for what all share
            if not number:
                tracemalloc.start()
                self.addCleanup(tracemalloc.stop)
            address = IPv4Address("TCP", f"192.0.2.{number % 200 + 1}", 1024 + number)
            protocol = factory.buildProtocol(address)
            protocol.makeConnection(transport)
            transport.producer = None
            for line in lines:
                protocol.dataReceived(line.encode() + b"\r\n")
            transport.clear()
            protocols.append(protocol)
        used = tracemalloc.get_traced_memory()[0]
        for protocol in protocols:
            protocol.connectionLost(Failure(CONNECTION_DONE))
        return used / count

    def test_idle(self) -> None:
        """10,000 idle clients have room in 30 MiB, apart from what the transports need."""
        self.assertLess(self.cost(), 3072)

    def test_open_transaction(self) -> None:
        """So have 10,000 with an envelope each."""
        self.assertLess(self.cost(*ENVELOPE), 3072)

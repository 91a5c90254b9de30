"""One reader for many connections: alone with socket pairs, and under the reactor."""

from __future__ import annotations

import os
import select
import smtplib
import socket
import ssl
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.ssl import PrivateCertificate
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from qpsmtpd.interfaces import IConnect
from qpsmtpd.server import sockets
from qpsmtpd.server.factory import SMTPFactory
from qpsmtpd.server.hub import AT_ONCE, Hub
from qpsmtpd.server.protocol import EVENTS_PER_TURN, SMTPProtocol
from qpsmtpd.session import Session, Transaction
from qpsmtpd.settings import Settings
from qpsmtpd.smtp.address import Address
from qpsmtpd.testing.cases import AcceptRecipients, MemoryQueue
from qpsmtpd.verdicts import Kind, Verdict, accept
from tests.recorder import Later, Recorder
from tests.server.certificates import write_certificate


@implementer(IConnect)
class OfferTLS:
    """Offers STARTTLS."""

    def __init__(self, certificate: str, key: str) -> None:
        texts = [Path(path).read_text() for path in (key, certificate)]
        self.context = PrivateCertificate.loadPEM("".join(texts)).options()

    def connect(self, session: Session) -> None:
        session.tls_context = self.context


class Readers(Clock):
    """A reactor's list of what it watches, and its clock."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        assert reader.fileno() >= 0, "Twisted could not find out what to remove"
        self.readers.remove(reader)


class Connection:
    """A connection as the hub sees it, and its client.

    :ivar heard: What has happened to it.
    """

    def __init__(self, hub: Hub) -> None:
        self.socket, self.client = socket.socketpair()
        self.socket.setblocking(False)
        self.descriptor = self.socket.fileno()
        self.receive = self.socket.recv
        self.session = Session("192.0.2.1", 25)
        self.heard: list[object] = []
        self.hub = hub
        self.then: Any = lambda: None
        hub.add(self.descriptor, self)  # type: ignore[arg-type]

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(data)
        self.then()

    def send_held(self) -> None:
        self.heard.append("said")

    def leave_hub(self) -> None:
        self.heard.append("end")
        self.hub.remove(self.descriptor)

    def vanished(self) -> None:
        self.heard.append("vanished")
        self.close()

    def cut(self) -> None:
        self.heard.append("cut")
        self.close()

    def close(self) -> None:
        """End, in the order in which a transport does it."""
        self.socket.close()
        self.hub.remove(self.descriptor)


class HubTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.readers = Readers()
        self.hub = Hub(self.readers)
        self.connections: list[Connection] = []
        self.addCleanup(self.close)

    def close(self) -> None:
        for each in self.connections:
            each.close()
            each.client.close()

    def connect(self, count: int) -> list[Connection]:
        made = [Connection(self.hub) for _ in range(count)]
        self.connections += made
        return made

    def test_reads(self) -> None:
        """What a client says reaches its protocol, and no other."""
        one, other = self.connect(2)
        one.client.send(b"NOOP\r\n")
        self.hub.doRead()
        self.assertEqual((one.heard, other.heard), ([b"NOOP\r\n"], []))

    def test_nothing(self) -> None:
        """Nothing happens when nobody has said anything."""
        [one] = self.connect(1)
        self.hub.doRead()
        self.assertEqual(one.heard, [])

    def test_end(self) -> None:
        """The end of a stream, after what came before it, is left to the transport."""
        [one] = self.connect(1)
        one.client.send(b"QUIT\r\n")
        one.client.close()
        self.hub.doRead()
        self.hub.doRead()
        self.assertEqual(one.heard, [b"QUIT\r\n", "end"])

    def test_error(self) -> None:
        """So is an error."""
        [one] = self.connect(1)
        one.socket.send(b"220 unread\r\n")
        one.client.close()  # with something unread: a reset
        self.hub.doRead()
        self.assertEqual(one.heard, ["end"])

    def test_pause(self) -> None:
        """While paused nothing is read; then all is there."""
        one, other = self.connect(2)
        self.hub.pause(one.descriptor)
        one.client.send(b"NOOP\r\n")
        other.client.send(b"RSET\r\n")
        self.hub.doRead()
        self.assertEqual((one.heard, other.heard), ([], [b"RSET\r\n"]))
        self.hub.resume(one.descriptor)
        self.hub.doRead()
        self.assertEqual(one.heard, [b"NOOP\r\n"])

    def test_pause_and_vanish(self) -> None:
        """That a client has vanished is noticed while it is paused."""
        [one] = self.connect(1)
        self.hub.pause(one.descriptor)
        one.client.send(b"NOOP\r\n")
        self.hub.doRead()
        one.client.close()
        self.hub.doRead()
        self.assertEqual(one.heard, ["vanished"])
        self.assertEqual(self.readers.readers, [])

    def test_pause_after_the_end(self) -> None:
        """Who has left is neither paused nor read for again."""
        one, _ = self.connect(2)
        one.close()
        self.hub.pause(one.descriptor)
        self.hub.resume(one.descriptor)
        self.hub.remove(one.descriptor)
        self.hub.doRead()
        self.assertEqual(one.heard, [])

    def test_closed_by_another(self) -> None:
        """Of two that speak at once, one may end the other; it is not read any more."""
        one, other = self.connect(2)
        one.then, other.then = other.close, one.close
        one.client.send(b"one")
        other.client.send(b"other")
        self.hub.doRead()
        self.assertEqual(len(one.heard + other.heard), 1)

    def test_last_closed_by_another(self) -> None:
        """One may end all, itself too: the rest of what was to be read is passed over."""
        connections = self.connect(5)

        def close() -> None:
            for each in connections:
                each.close()

        for each in connections:
            each.then = close
            each.client.send(b"x")
        self.hub.doRead()
        self.assertEqual([len(each.heard) for each in connections].count(1), 1)
        self.assertEqual((self.readers.readers, self.hub.fileno()), ([], -1))

    def test_descriptor_used_again(self) -> None:
        """A new connection under the number of an old one gets only what is its own."""
        one, *_ = self.connect(3)
        one.close()
        [again] = self.connect(1)
        self.assertEqual(again.descriptor, one.descriptor)
        again.client.send(b"again")
        self.hub.doRead()
        self.assertEqual((one.heard, again.heard), ([], [b"again"]))

    def test_descriptor_used_again_at_once(self) -> None:
        """So it does when the old one was to be read in the same turn."""
        one, other = self.connect(2)
        new: list[Connection] = []

        def replace() -> None:
            gone = other if one.heard else one
            gone.close()
            new.extend(self.connect(1))
            self.assertEqual(new[0].descriptor, gone.descriptor)

        one.then = other.then = replace
        one.client.send(b"x")
        other.client.send(b"x")
        self.hub.doRead()
        self.assertEqual(len(one.heard + other.heard), 1)
        self.assertEqual(new[0].heard, [])
        new[0].client.send(b"new")
        self.hub.doRead()
        self.assertEqual(new[0].heard, [b"new"])

    def test_failure(self) -> None:
        """A failing engine costs its own connection, and no other."""
        one, other = self.connect(2)

        def fail() -> None:
            raise RuntimeError("the engine fails")

        one.then = fail
        one.client.send(b"x")
        other.client.send(b"y")
        self.hub.doRead()
        self.assertEqual((one.heard, other.heard), ([b"x", "cut"], [b"y"]))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_said_together(self) -> None:
        """Who has something to say does so when all who were readable have been served."""
        one, other = self.connect(2)
        when: list[str] = []
        for each in (one, other):
            each.then = partial(self._hold, each, when)
            each.client.send(b"x")
        self.hub.doRead()
        self.assertEqual(when, ["served", "served", "said", "said"])
        self.assertEqual((one.heard, other.heard), ([b"x"], [b"x"]))

    def _hold(self, connection: Connection, when: list[str]) -> None:
        when.append("served")
        self.patch(connection, "send_held", lambda: when.append("said"))
        self.hub.hold(connection)  # type: ignore[arg-type]

    def test_said_between_turns(self) -> None:
        """What is to be said when nobody is being served does not wait for the next who speaks."""
        one, other = self.connect(2)
        self.hub.hold(one)  # type: ignore[arg-type]
        self.hub.hold(other)  # type: ignore[arg-type]
        self.assertEqual((one.heard, other.heard), ([], []))
        self.readers.advance(0)
        self.assertEqual((one.heard, other.heard), (["said"], ["said"]))
        self.readers.advance(1)
        self.hub.doRead()
        self.assertEqual((one.heard, other.heard), (["said"], ["said"]))

    def test_cannot_be_said(self) -> None:
        """Of two who have something to say, one that fails costs the other nothing."""
        one, other = self.connect(2)

        def fail() -> None:
            raise RuntimeError("the engine fails")

        self.patch(one, "send_held", fail)
        self.hub.hold(one)  # type: ignore[arg-type]
        self.hub.hold(other)  # type: ignore[arg-type]
        self.readers.advance(0)
        self.assertEqual((one.heard, other.heard), (["cut"], ["said"]))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_said_after_a_failure(self) -> None:
        """Whatever ends a turn, what was held is said."""
        [one] = self.connect(1)
        self.hub.hold(one)  # type: ignore[arg-type]
        self.patch(self.hub, "_epoll", None)
        self.assertRaises(AttributeError, self.hub.doRead)
        self.assertEqual(one.heard, ["said"])

    def test_cannot_end(self) -> None:
        """Nor does one cost others their connection that fails at its end."""
        *failing, other = self.connect(4)

        def fail() -> None:
            raise SystemExit  # the reactor would close what raises it, and that is the hub

        for each in failing:
            self.patch(each, "leave_hub", fail)
            self.patch(each, "vanished", fail)
        ends, vanishes, stays = failing
        ends.client.close()
        self.hub.pause(vanishes.descriptor)
        vanishes.client.close()
        other.client.send(b"y")
        self.hub.doRead()
        self.assertEqual((ends.heard, vanishes.heard, stays.heard), (["cut"], ["cut"], []))
        self.hub.connectionLost(Failure(CONNECTION_LOST))
        self.assertEqual((stays.heard, other.heard), (["cut"], [b"y", "vanished"]))
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 3)

    def test_hundreds(self) -> None:
        """However many speak at once, each is read after a few turns, and none twice."""
        connections = self.connect(2 * AT_ONCE + 1)
        for each in connections:
            each.client.send(b"x")
        for _ in range(3):
            self.hub.doRead()
        self.assertEqual({len(each.heard) for each in connections}, {1})

    def test_idle(self) -> None:
        """Without connections there is no descriptor and nothing to watch; and so again."""
        before = len(os.listdir("/proc/self/fd"))
        self.assertEqual(self.hub.fileno(), -1)
        for _ in range(2):
            one, other = self.connect(2)
            self.assertEqual(self.readers.readers, [self.hub])
            one.close()
            self.assertEqual(self.readers.readers, [self.hub])
            other.close()
            self.assertEqual((self.readers.readers, self.hub.fileno()), ([], -1))
            one.client.close()
            other.client.close()
            self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_nothing_to_be_had(self) -> None:
        """When the system has no descriptor for it, whoever joins is told, and it recovers."""
        real = select.epoll
        self.patch(select, "epoll", _refuse)
        self.assertRaises(OSError, self.connect, 1)
        self.patch(select, "epoll", real)
        self.assertEqual((self.readers.readers, self.hub.fileno()), ([], -1))
        [one] = self.connect(1)
        one.client.send(b"x")
        self.hub.doRead()
        self.assertEqual(one.heard, [b"x"])

    def test_reactor_stops(self) -> None:
        """When the reactor ends what it watches, those behind the hub say their last, and end."""
        one, other = self.connect(2)
        self.hub.hold(other)  # type: ignore[arg-type]
        self.hub.connectionLost(Failure(CONNECTION_LOST))
        self.assertEqual((one.heard, other.heard), (["vanished"], ["said", "vanished"]))

    def test_suits(self) -> None:
        """A reactor that watches no descriptors, such as a clock, has none."""
        self.assertTrue(Hub.suits(reactor))
        self.assertFalse(Hub.suits(Clock()))


def _refuse() -> None:
    raise OSError(24, "Too many open files")


class ReactorTests(TestCase):
    """Servers that listen on loopback sockets; the clients run in threads."""

    timeout = 60

    def serve(self, *components: Any, clock: Any = None) -> int:
        """Start a server.

        :returns: Its port.
        """
        self.queue = MemoryQueue()
        chain = [*components, AcceptRecipients(), self.queue]
        self.factory = SMTPFactory(chain, Settings(me="mail.example"), clock)
        self.port: Any = sockets.listen(reactor, "tcp:0:interface=127.0.0.1", self.factory)
        self.addCleanup(self.stop)
        here: Any = self.port.getHost()
        return int(here.port)

    async def stop(self) -> None:
        await sockets.close(self.port)
        await self.factory.stop(0)

    async def wait(self, call: Any, *arguments: Any) -> Any:
        return await deferToThread(call, *arguments)

    async def until(self, condition: Any) -> None:
        while not condition():
            await deferLater(reactor, 0.01)

    def send(self, port: int) -> None:
        """Send a message as a client."""
        with smtplib.SMTP("127.0.0.1", port, "client.example", timeout=60) as client:
            client.sendmail("a@example.org", ["b@example.com"], "Subject: x\r\n\r\nx\r\n")

    async def test_served_by_the_hub(self) -> None:
        """The hub has a session while it lasts, and holds nothing afterwards."""
        port = self.serve()
        client = await self.wait(socket.create_connection, ("127.0.0.1", port))
        await self.until(lambda: self.factory.hub.fileno() >= 0)
        client.close()
        await self.until(lambda: not self.factory.protocols)
        self.assertEqual(self.factory.hub.fileno(), -1)

    async def test_many(self) -> None:
        """Sessions come and go side by side, and each takes its message."""
        port = self.serve()
        sent = [deferToThread(self.send, port) for _ in range(100)]
        for succeeded, result in await DeferredList(sent, consumeErrors=True):
            self.assertTrue(succeeded, result)
        self.assertEqual(len(self.queue.messages), 100)
        await self.until(lambda: not self.factory.protocols)
        self.assertEqual(self.factory.hub.fileno(), -1)

    async def test_starttls(self) -> None:
        """A session leaves the hub when TLS begins, and goes on."""
        folder = self.mktemp()
        os.mkdir(folder)
        certificate, key = write_certificate(os.path.abspath(folder), "mail.example")
        context = ssl.create_default_context(cafile=certificate)

        def talk(port: int) -> tuple[int, bytes]:
            with smtplib.SMTP("127.0.0.1", port, "client.example", timeout=60) as client:
                client.starttls(context=context)
                client.sendmail("a@example.org", ["b@example.com"], "Subject: x\r\n\r\nx\r\n")
                self.assertEqual(self.factory.hub.fileno(), -1)
                return client.noop()

        context.check_hostname = False
        port = self.serve(OfferTLS(certificate, key))
        self.assertEqual((await self.wait(talk, port))[0], 250)
        self.assertEqual(len(self.queue.messages), 1)

    async def test_vanished(self) -> None:
        """A client that vanishes while it waits, with much to be read, ends its session."""
        later = Later("mail")
        asked = Recorder("ehlo")
        port = self.serve(asked, later)
        client = await self.wait(socket.create_connection, ("127.0.0.1", port))
        client.setblocking(False)
        client.send(b"EHLO client.example\r\nMAIL FROM:<a@example.org>\r\n")
        await self.until(lambda: asked.asked)
        try:
            while True:
                client.send(b"NOOP\r\n" * 1000)
        except BlockingIOError:
            pass
        [protocol] = self.factory.protocols
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        await self.until(lambda: not self.factory.protocols)
        self.assertTrue(later.cancelled)
        self.assertTrue(protocol.session.ended)

    async def speak_at_once(self, end: Any) -> list[socket.socket]:
        """Two sessions are served in one turn; in that of the second the first is ended.

        :param end: How.
        :returns: The clients.
        """
        asked: list[Session] = []
        ended: list[SMTPProtocol] = []

        def noop(session: Session, argument: str) -> None:
            asked.append(session)
            if len(asked) == 2:
                for protocol in protocols:
                    if protocol.session is asked[0]:
                        ended.append(protocol)
                        end(protocol)

        port = self.serve(Recorder(noop=noop))
        connect = socket.create_connection
        clients = [await self.wait(connect, ("127.0.0.1", port)) for _ in range(2)]
        for client in clients:
            self.addCleanup(client.close)
        await self.until(lambda: len(self.factory.protocols) == 2)
        protocols = list(self.factory.protocols)
        for client in clients:
            client.send(b"NOOP x\r\n")  # the reactor has no turn between the two
        await self.until(lambda: ended)
        self.assertFalse(ended[0]._holding)
        return clients

    async def test_closed_while_held(self) -> None:
        """Whom another session's turn ends hears the reply that was held for it before that."""
        clients = await self.speak_at_once(lambda protocol: protocol.shut_down())
        said = sorted([await self.wait(self.hear, client) for client in clients], key=len)
        self.assertEqual([line[:3] for line in said[0].splitlines()], ["220", "250"])
        self.assertEqual([line[:3] for line in said[1].splitlines()], ["220", "250", "421"])

    async def test_closed_without_a_word_while_held(self) -> None:
        """So does whoever is told nothing about the end."""
        clients = await self.speak_at_once(lambda protocol: protocol.close())
        for client in clients:
            said = await self.wait(self.hear, client)
            self.assertEqual([line[:3] for line in said.splitlines()], ["220", "250"])
        self.assertEqual(len(self.factory.protocols), 1)

    async def test_gone_while_held(self) -> None:
        """Who vanishes in another session's turn is told nothing more; the other goes on."""
        clients = await self.speak_at_once(lambda protocol: protocol.vanished())
        said = sorted([await self.wait(self.hear, client) for client in clients], key=len)
        self.assertEqual([line[:3] for line in said[0].splitlines()], ["220"])
        self.assertEqual([line[:3] for line in said[1].splitlines()], ["220", "250"])
        self.assertEqual(len(self.factory.protocols), 1)

    async def ask_without_reading(self, rcpt: Any, recipients: int) -> socket.socket:
        """Name recipients, whom a function decides about, until the server notices.

        :returns: The client, who has read nothing.
        """
        port = self.serve(Recorder(rcpt=rcpt))
        client = socket.socket()
        self.addCleanup(client.close)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await self.wait(client.connect, ("127.0.0.1", port))
        await self.until(lambda: self.factory.protocols)
        [protocol] = self.factory.protocols
        protocol.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.send(
            b"HELO client.example\r\nMAIL FROM:<a@example.org>\r\n"
            + b"RCPT TO:<b@example.com>\r\n" * recipients
            + b"QUIT\r\n"
        )
        await self.until(lambda: protocol._clogged)
        return client

    async def test_client_that_does_not_read(self) -> None:
        """Who asks without end and reads nothing gets the answers of one turn."""
        asked: list[str] = []

        def rcpt(transaction: Transaction, recipient: Address) -> Verdict:
            asked.append(str(recipient))
            return Verdict(Kind.OK, "x" * 1000)

        await self.ask_without_reading(rcpt, 3 * EVENTS_PER_TURN)
        await deferLater(reactor, 0.1)
        self.assertEqual(len(asked), EVENTS_PER_TURN - 2)

    async def test_does_not_read_and_is_waited_for(self) -> None:
        """Nor is more asked for it while components wait. When it reads, it hears all."""
        asked: list[str] = []

        def rcpt(transaction: Transaction, recipient: Address) -> Deferred[Verdict]:
            asked.append(str(recipient))
            return deferLater(reactor, 0, accept, "x" * 400)

        client = await self.ask_without_reading(rcpt, 900)
        before = len(asked)
        await deferLater(reactor, 0.1)
        self.assertLess(before, 800)
        self.assertLessEqual(len(asked), before + 1)
        said = (await self.wait(self.hear, client)).splitlines()
        self.assertEqual([line[:3] for line in said], ["220", *["250"] * 902, "221"])

    def hear(self, client: socket.socket) -> str:
        """What the server says until it closes, or says nothing for a while."""
        client.settimeout(0.5)
        said = b""
        try:
            while octets := client.recv(4096):
                said += octets
        except (TimeoutError, ConnectionResetError):
            pass
        return said.decode()

    async def test_no_hub(self) -> None:
        """Where the reactor has no use for a hub, the transports read."""
        port = self.serve(clock=Clock())
        self.assertIsNone(self.factory.hub)
        await self.wait(self.send, port)
        self.assertEqual(len(self.queue.messages), 1)

    async def test_no_descriptor(self) -> None:
        """Where the system has none for a hub, they read as well."""
        port = self.serve()
        real = select.epoll
        self.patch(select, "epoll", _refuse)
        await self.wait(self.send, port)
        self.assertEqual(len(self.queue.messages), 1)
        self.patch(select, "epoll", real)
        await self.wait(self.send, port)
        self.assertEqual(len(self.queue.messages), 2)
        await self.until(lambda: not self.factory.protocols)
        self.assertEqual(self.factory.hub.fileno(), -1)

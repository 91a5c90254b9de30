"""Tests of virus/clamdscan: against a real clamd, and against one in memory that misbehaves."""

import struct
from typing import Any

from twisted.internet import reactor
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from qpsmtpd.interfaces import IContent, IData, IDataHeadersEnd, IDataPost
from qpsmtpd.plugins.virus.clamdscan import DEFAULT_SOCKETS, ClamdScan, maker, scanner
from qpsmtpd.testing.cases import ComponentTestCase
from qpsmtpd.testing.client import Conversation, ParsedReply
from tests.services.clamd import EICAR, SIGNATURE, Clamd, shared

CLEAN = "Subject: a test\n\nSome words.\n"
INFECTED = b"Subject: a test\n\n" + EICAR + b"\n"


class RealClamdTests(ComponentTestCase):
    """Messages and verdicts of a running clamd."""

    patience = 30.0

    def setUp(self) -> None:
        self.clamd = shared()

    def scan(self, **settings: Any) -> ClamdScan:
        settings.setdefault("clamd_socket", (scanner(self.clamd.socket_path),))
        return ClamdScan(reactor=reactor, me="mail.example", **settings)

    async def deliver(self, conversation: Conversation, content: bytes | str) -> ParsedReply:
        """Send a message and wait for the reply."""
        self.assertReply(conversation.envelope(), 250)
        self.assertReply(conversation.command("DATA"), 354)
        octets = content.encode() if isinstance(content, str) else content
        conversation.send_octets(octets.replace(b"\n", b"\r\n") + b".\r\n")
        return await self.reply(conversation)

    async def reply(self, conversation: Conversation) -> ParsedReply:
        """Wait for the reply at the end of data."""
        while not conversation.new_replies:
            self.assertFalse(conversation.closed)
            self.clock.advance(0)
            await deferLater(reactor, 0.001)
        return conversation.new_replies[0]

    async def test_clean(self) -> None:
        """A clean message is taken, and marked with clamd's version."""
        conversation = self.open(self.scan())
        self.assertReply(await self.deliver(conversation, CLEAN), 250)
        headers = self.queue.messages[0].content.split(b"\r\n")
        self.assertRegex(headers[0], rb"\AX-Virus-Checked: by ClamAV [0-9.]+\S* on mail\.example\Z")
        self.assertEqual(headers[1], b"X-Virus-Found: No")

    async def test_infected(self) -> None:
        """A message with a virus is refused with the virus's name; the next one is looked at."""
        conversation = self.open(self.scan())
        reply = await self.deliver(conversation, INFECTED)
        self.assertReply(reply, 552, "5.7.1", f"Virus found: {SIGNATURE}")
        self.assertEqual(conversation.session.note("karma"), -1)
        self.assertReply(await self.deliver(conversation, CLEAN), 250)
        self.assertEqual(len(self.queue.messages), 1)

    async def test_tcp(self) -> None:
        """A port is as good as a path."""
        port = self.clamd.tcp_port
        for settings in (
            {"clamd_socket": (), "clamd_port": port, "clamd_host": "127.0.0.1"},
            {"clamd_socket": (scanner(f"127.0.0.1:{port}"),)},
        ):
            conversation = self.open(self.scan(**settings))
            self.assertReply(await self.deliver(conversation, INFECTED), 552)

    async def test_failover(self) -> None:
        """The next socket is tried when one cannot be reached."""
        sockets = (scanner("/nonexistent/clamd.socket"), scanner(self.clamd.socket_path))
        conversation = self.open(self.scan(clamd_socket=sockets))
        self.assertReply(await self.deliver(conversation, INFECTED), 552)

    async def test_marked_only(self) -> None:
        """With ``deny_viruses no`` an infected message is taken and marked."""
        conversation = self.open(self.scan(deny_viruses=False))
        self.assertReply(await self.deliver(conversation, INFECTED), 250)
        headers = self.queue.messages[0].content.split(b"\r\n")
        self.assertEqual(
            headers[:2], [b"X-Virus-Found: Yes", f"X-Virus-Details: {SIGNATURE}".encode()]
        )
        self.assertIsNone(conversation.session.note("naughty"))

    async def test_large(self) -> None:
        """A virus at the end of a message of many chunks is found."""
        conversation = self.open(self.scan())
        filler = b"".join(b"%060d\n" % number for number in range(10_000))
        self.assertReply(
            await self.deliver(conversation, b"Subject: x\n\n" + filler + EICAR + b"\n"), 552
        )

    async def test_multipart_only(self) -> None:
        """With ``scan_all no`` a multipart message is scanned whole, and others are not."""
        conversation = self.open(self.scan(scan_all=False))
        self.assertReply(await self.deliver(conversation, INFECTED), 250)
        self.assertNotIn(b"X-Virus", self.queue.messages[0].content)
        multipart = (
            b'Content-Type: multipart/mixed;\n boundary="a"\n\n--a\n\n' + EICAR + b"\n--a--\n"
        )
        self.assertReply(await self.deliver(conversation, multipart), 552)
        hidden = b"Content-Type: multipart/mixed; boundary=a\nSubject: " + EICAR + b"\n\nwords\n"
        self.assertReply(await self.deliver(conversation, hidden), 552)

    async def test_too_long_for_clamd(self) -> None:
        """A message over clamd's own limit is not scanned, and is taken."""
        conversation = self.open(self.scan(max_size=4096))
        filler = b"".join(b"%0998d\n" % number for number in range(1100))
        reply = await self.deliver(conversation, b"Subject: x\n\n" + filler)
        self.assertReply(reply, 250)
        self.assertNotIn(b"X-Virus", self.queue.messages[0].content)

    async def test_killed(self) -> None:
        """When clamd dies over a message, the client is asked to come back."""
        clamd = Clamd()
        clamd.start()
        self.addCleanup(clamd.stop)
        conversation = self.open(self.scan(clamd_socket=(scanner(clamd.socket_path),)))
        conversation.envelope()
        self.assertReply(conversation.command("DATA"), 354)
        conversation.send_octets(b"Subject: a test\r\n\r\nSome words.\r\n")
        clamd.suspend()
        process = clamd._process
        assert process is not None
        process.kill()
        conversation.send_octets(b".\r\n")
        reply = await self.reply(conversation)
        self.assertReply(reply, 451, "4.3.0", "Unable to scan for viruses...")
        self.assertEqual(self.queue.messages, [])
        clamd.stop()
        self.assertReply(await self.deliver(conversation, CLEAN), 451)


class FakeClamd:
    """The other end of the connections that a plugin opens in memory."""

    def __init__(self, clock: Clock) -> None:
        self.reactor = MemoryReactorClock()
        self.clock = clock

    def attempts(self) -> list[str]:
        return [str(client[0]) for client in self.reactor.unixClients]

    def accept(self, number: int = -1) -> "Connection":
        """Let an attempt to connect succeed."""
        return Connection(self.reactor.unixClients[number][1])

    def refuse(self, number: int = -1) -> None:
        factory = self.reactor.unixClients[number][1]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))


class Connection:
    """One connection, seen from clamd."""

    def __init__(self, factory: Any) -> None:
        self.transport = StringTransport()
        self.transport.abortConnection = self.transport.loseConnection  # type: ignore[method-assign]
        self.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)

    @property
    def heard(self) -> bytes:
        heard: bytes = self.transport.value()
        return heard

    @property
    def producer(self) -> Any:
        return self.transport.producer

    @property
    def closed(self) -> bool:
        return self.transport.disconnecting

    def answer(self, text: bytes) -> None:
        self.protocol.dataReceived(text)

    def lose(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionLost()))


class MisbehavingTests(ComponentTestCase):
    """What happens when clamd, or the client, is not at its best."""

    def setUp(self) -> None:
        self.clamd = FakeClamd(self.clock)
        self.reactor = self.clamd.reactor

    def scan(self, **settings: Any) -> ClamdScan:
        settings.setdefault("clamd_socket", ("unix:/one", "unix:/two"))
        return ClamdScan(reactor=self.reactor, me="mail.example", **settings)

    def begin(self, **settings: Any) -> Conversation:
        """A client that has the 354."""
        conversation = self.open(self.scan(**settings))
        conversation.envelope()
        self.assertReply(conversation.command("DATA"), 354)
        return conversation

    def end(self, conversation: Conversation) -> None:
        conversation.send_octets(b"Subject: x\r\n\r\n.\r\n")

    def test_stream(self) -> None:
        """Octets go to clamd as they arrive, each chunk with its length, and an empty one last."""
        conversation = self.begin()
        clamd = self.clamd.accept()
        conversation.send_octets(b"Subject: x\r\n")
        self.assertEqual(clamd.heard, b"zINSTREAM\0" + struct.pack("!I", 10) + b"Subject: x")
        conversation.send_octets(b"\r\n..\r\n.\r\n")
        stream, frames = clamd.heard.removeprefix(b"zINSTREAM\0"), []
        while stream:
            length = struct.unpack_from("!I", stream)[0]
            frames.append(stream[4 : 4 + length])
            stream = stream[4 + length :]
        self.assertEqual(b"".join(frames), b"Subject: x\r\n\r\n.\r\n")
        self.assertEqual([frame for frame in frames if not frame], [frames[-1]])
        self.assertEqual(conversation.said, [])
        clamd.answer(b"stream: Some.Virus FOUND\0")
        self.assertReply(conversation.new_replies[0], 552, "5.7.1", "Virus found: Some.Virus")
        self.assertTrue(clamd.closed)

    def test_client_waits_for_connection(self) -> None:
        """Until clamd is reached, no more than a chunk is read from the client."""
        conversation = self.begin()
        conversation.send_octets(b"Subject: x\r\n\r\n" + b"x" * 300_000)
        self.assertTrue(conversation.waiting)
        self.assertTrue(conversation.paused)
        clamd = self.clamd.accept()
        self.assertFalse(conversation.waiting)
        self.clock.advance(0)
        self.assertFalse(conversation.paused)
        self.assertGreater(len(clamd.heard), 300_000)

    def test_client_waits_for_clamd(self) -> None:
        """A clamd that is slower than the client holds the client back."""
        conversation = self.begin()
        clamd = self.clamd.accept()
        clamd.producer.pauseProducing()
        conversation.send_octets(b"Subject: x\r\n\r\n")
        self.assertTrue(conversation.waiting)
        clamd.producer.resumeProducing()
        self.assertFalse(conversation.waiting)

    def test_clamd_takes_nothing(self) -> None:
        """A clamd that takes nothing for too long did not scan the message."""
        conversation = self.begin(timeout=60.0)
        clamd = self.clamd.accept()
        clamd.producer.pauseProducing()
        self.end(conversation)
        self.reactor.advance(59)
        self.assertEqual(conversation.said, [])
        self.reactor.advance(1)
        self.assertReply(conversation.new_replies[0], 451, "4.3.0")
        self.assertTrue(clamd.closed)

    def test_clamd_is_silent(self) -> None:
        """A clamd that does not answer did not scan the message."""
        conversation = self.begin(timeout=60.0)
        clamd = self.clamd.accept()
        self.end(conversation)
        self.reactor.advance(59)
        self.assertEqual(conversation.said, [])
        self.reactor.advance(1)
        self.assertReply(conversation.new_replies[0], 451, "4.3.0", "Unable to scan for viruses...")
        self.assertTrue(clamd.closed)

    def test_failover(self) -> None:
        """The sockets are tried in order; one that does not react is given up after a while."""
        conversation = self.begin(clamd_socket=("unix:/one", "unix:/two", "unix:/three"))
        self.assertEqual(self.clamd.attempts(), ["/one"])
        self.clamd.refuse()
        self.assertEqual(self.clamd.attempts(), ["/one", "/two"])
        self.reactor.advance(10)
        self.assertEqual(self.clamd.attempts(), ["/one", "/two", "/three"])
        clamd = self.clamd.accept()
        self.end(conversation)
        clamd.answer(b"stream: Some.Virus FOUND\0")
        self.assertReply(conversation.new_replies[0], 552)

    def test_none_reached(self) -> None:
        """When no clamd can be reached, the client is asked to come back."""
        conversation = self.begin()
        self.clamd.refuse()
        self.clamd.refuse()
        self.end(conversation)
        self.assertReply(conversation.new_replies[0], 451, "4.3.0", "Unable to scan for viruses...")

    def test_taken_unscanned(self) -> None:
        """With ``defer_on_error no`` a message that could not be scanned is taken unmarked."""
        conversation = self.begin(defer_on_error=False)
        self.clamd.refuse()
        self.clamd.refuse()
        self.end(conversation)
        self.assertReply(conversation.new_replies[0], 250)
        self.assertNotIn(b"X-Virus", self.queue.messages[0].content)

    def test_lost(self) -> None:
        """A connection that is lost, early or late, means that nothing was scanned."""
        for late in (False, True):
            conversation = self.begin()
            clamd = self.clamd.accept()
            conversation.send_octets(b"Subject: x\r\n\r\n")
            if not late:
                clamd.lose()
            conversation.send_octets(b"words\r\n.\r\n")
            if late:
                clamd.lose()
            self.assertReply(conversation.new_replies[0], 451, "4.3.0")

    def test_nonsense(self) -> None:
        """An answer that is none, one without end among them, means that nothing was scanned."""
        for nonsense in (b"\0", b"UNKNOWN COMMAND\0", b"stream: broken ERROR\0", b"x" * 5000):
            conversation = self.begin()
            clamd = self.clamd.accept()
            self.end(conversation)
            clamd.answer(nonsense)
            self.assertReply(conversation.new_replies[0], 451, "4.3.0")

    def test_answer_in_pieces(self) -> None:
        """An answer may come octet by octet."""
        conversation = self.begin()
        clamd = self.clamd.accept()
        self.end(conversation)
        for octet in b"stream: Some.Virus FOUND\0":
            self.assertEqual(conversation.said, [])
            clamd.answer(bytes([octet]))
        self.assertReply(conversation.new_replies[0], 552)

    def test_hostile_name(self) -> None:
        """A virus's name cannot break out of the reply or the field."""
        conversation = self.begin(deny_viruses=False)
        clamd = self.clamd.accept()
        self.end(conversation)
        clamd.answer(b"stream: A\r\nB FOUND\0")
        self.assertReply(conversation.new_replies[0], 250)
        self.assertIn(b"X-Virus-Details: A??B\r\n", self.queue.messages[0].content)

    def test_early_limit(self) -> None:
        """What clamd finds too long, while it is being sent, is taken without a mark."""
        conversation = self.begin()
        clamd = self.clamd.accept()
        conversation.send_octets(b"Subject: x\r\n\r\n")
        clamd.answer(b"INSTREAM size limit exceeded. ERROR\0")
        clamd.lose()
        conversation.send_octets(b"words\r\n.\r\n")
        self.assertReply(conversation.new_replies[0], 250)
        self.assertNotIn(b"X-Virus", self.queue.messages[0].content)

    def test_early_virus(self) -> None:
        """A verdict that came before the end of the message counts."""
        conversation = self.begin()
        clamd = self.clamd.accept()
        conversation.send_octets(b"Subject: x\r\n\r\n")
        clamd.answer(b"stream: Some.Virus FOUND\0")
        conversation.send_octets(b"words\r\n.\r\n")
        self.assertReply(conversation.new_replies[0], 552)

    def test_client_goes(self) -> None:
        """When the client goes, the connection to clamd is closed."""
        conversation = self.begin()
        clamd = self.clamd.accept()
        conversation.send_octets(b"Subject: x\r\n")
        self.assertFalse(clamd.closed)
        conversation.lose()
        self.assertTrue(clamd.closed)

    def test_client_goes_early(self) -> None:
        """When the client goes before clamd is reached, no other clamd is tried."""
        conversation = self.begin()
        conversation.lose()
        self.assertEqual(self.clamd.attempts(), ["/one"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_too_big(self) -> None:
        """A message is scanned up to ``max_size``; beyond, clamd is left alone."""
        for size, scanned in ((1024, True), (1025, False)):
            conversation = self.begin(max_size=1)
            clamd = self.clamd.accept()
            content = b"Subject: x\r\n\r\n"
            conversation.send_octets(content + b"x" * (size - len(content) - 2) + b"\r\n.\r\n")
            self.assertEqual(clamd.closed, not scanned)
            if scanned:
                clamd.answer(b"stream: Some.Virus FOUND\0")
            self.assertEqual(conversation.new_replies[0].code, 552 if scanned else 250)

    def test_declared_too_big(self) -> None:
        """A message that says it is too big costs no connection."""
        conversation = self.open(self.scan(max_size=1))
        conversation.greet()
        conversation.send("MAIL FROM:<a@b.example> SIZE=1025", "RCPT TO:<c@mail.example>", "DATA")
        self.end(conversation)
        self.assertReply(conversation.new_replies[0], 250)
        self.assertEqual(self.clamd.attempts(), [])

    def test_naughty(self) -> None:
        """A session that is to be rejected anyway costs no connection."""
        conversation = self.open(self.scan())
        conversation.session.notes["naughty"] = "(test) go away"
        conversation.envelope()
        conversation.command("DATA")
        self.end(conversation)
        self.assertEqual(self.clamd.attempts(), [])

    def test_version(self) -> None:
        """clamd's version is asked once, and again after an error."""
        conversation = self.begin()

        def finish(version: bytes | None) -> str:
            clamd = self.clamd.accept()
            self.end(conversation)
            clamd.answer(b"stream: OK\0")
            if version is not None:
                asked = self.clamd.accept()
                self.assertEqual(asked.heard, b"zVERSION\0")
                asked.answer(version)
                self.assertTrue(asked.closed)
            self.assertReply(conversation.new_replies[0], 250)
            return self.queue.messages[-1].content.partition(b"\r\n")[0].decode()

        def again() -> None:
            conversation.envelope()
            conversation.command("DATA")

        line = "X-Virus-Checked: by {} on mail.example"
        self.assertEqual(finish(b"COMMAND UNAVAILABLE\0ClamAV"), line.format("ClamAV"))
        again()
        self.assertEqual(finish(b"ClamAV 1.4.1/27000/Mon Jan  5\0"), line.format("ClamAV 1.4.1"))
        again()
        self.assertEqual(finish(None), line.format("ClamAV 1.4.1"))
        again()
        self.clamd.accept().lose()
        self.end(conversation)
        again()
        self.assertEqual(finish(b"ClamAV 1.5.0/27001/Tue\0"), line.format("ClamAV 1.5.0"))


class ConfigurationTests(ComponentTestCase):
    def test_interfaces(self) -> None:
        """The header section is waited for only where it decides what is scanned."""
        plugin = ClamdScan(reactor=MemoryReactorClock())
        for interface in (IData, IContent, IDataPost):
            verifyObject(interface, plugin)
        self.assertFalse(IDataHeadersEnd.providedBy(plugin))
        verifyObject(IDataHeadersEnd, ClamdScan(reactor=MemoryReactorClock(), scan_all=False))

    def test_scanner(self) -> None:
        """A socket is a path, a host and a port, or an endpoint."""
        for given, taken in (
            ("/run/clamd-1.socket", "unix:/run/clamd-1.socket"),
            ("/odd:path", "unix:/odd\\:path"),
            ("scan.example:3310", "tcp:scan.example:3310"),
            ("[2001:db8::1]:3310", "tcp:2001\\:db8\\:\\:1:3310"),
            ("unix:/run/clamd:timeout=3", "unix:/run/clamd:timeout=3"),
        ):
            self.assertEqual(scanner(given), taken)
            ClamdScan(reactor=MemoryReactorClock(), clamd_socket=(taken,))
        for wrong in ("clamd", "scan.example:", ":3310", "scan.example:port"):
            with self.assertRaises(ValueError):
                scanner(wrong)

    def test_wrong_endpoint(self) -> None:
        """An endpoint that Twisted cannot read is an error at start."""
        with self.assertRaises(ValueError):
            ClamdScan(reactor=MemoryReactorClock(), clamd_socket=("tcp:scan.example:port",))

    def test_default(self) -> None:
        """Without a socket, the places where clamd usually is are tried."""
        clamd = FakeClamd(self.clock)
        conversation = self.open(ClamdScan(reactor=clamd.reactor))
        conversation.envelope()
        conversation.command("DATA")
        self.assertEqual(clamd.attempts(), [DEFAULT_SOCKETS[0].removeprefix("unix:")])
        clamd.refuse()
        host, port, factory, *_ = clamd.reactor.tcpClients[0]
        self.assertEqual((host, port), ("127.0.0.1", 3310))
        factory.clientConnectionFailed(None, Failure(ConnectionDone()))  # type: ignore[arg-type]

    def test_arguments(self) -> None:
        """The arguments have upstream's names and defaults."""
        found = {each.name: each.default for each in maker.arguments()}
        self.assertEqual(found["max_size"], 1024)
        self.assertIs(found["deny_viruses"], True)
        self.assertIs(found["scan_all"], True)
        for name in ("clamd_socket", "clamd_port", "clamd_host", "defer_on_error", "clamd_user"):
            self.assertIn(name, found)

# -*- test-case-name: tests.testing.test_client -*-
"""The client's side of a conversation, in memory and over a socket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from qpsmtpd.server.factory import SMTPFactory
from qpsmtpd.session import Session, Transaction

__all__ = ["Conversation", "ParsedReply", "SocketClient", "parse_replies"]

#: Octets that arrive at once at most, as with the transports of Twisted.
CHUNK: Final = 65536


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """A reply as a client reads it (RFC 5321, 4.2).

    :ivar code: The three digits.
    :ivar status: The enhanced status code (RFC 2034) or ``None``.
    :ivar lines: The text, line by line, without code and status.
    """

    code: int
    status: str | None
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The text; its lines are joined with newlines."""
        return "\n".join(self.lines)

    @property
    def positive(self) -> bool:
        """Whether the command was done: 2yz."""
        return 200 <= self.code < 300

    @property
    def said(self) -> list[str]:
        """The lines as they came."""
        status = f"{self.status} " if self.status else ""
        last = len(self.lines) - 1
        return [
            f"{self.code}{'-' if number < last else ' '}{status}{line}"
            for number, line in enumerate(self.lines)
        ]

    def __str__(self) -> str:
        return "\n".join(self.said)


def parse_replies(lines: Sequence[str]) -> list[ParsedReply]:
    """Read replies from lines.

    :raises ValueError: These are not whole replies.
    """
    replies = []
    texts: list[str] = []
    status: str | None = None
    for line in lines:
        code, mark, text = line[:3], line[3:4], line[4:]
        if not code.isdigit() or mark not in ("", " ", "-"):
            raise ValueError(f"not a reply: {line!r}")
        word, _, rest = text.partition(" ")
        if word.count(".") == 2 and word.replace(".", "").isdigit() and word[0] == code[0]:
            status, text = word, rest
        texts.append(text)
        if mark != "-":
            replies.append(ParsedReply(int(code), status, tuple(texts)))
            texts, status = [], None
    if texts:
        raise ValueError(f"a reply without an end: {lines[-1]!r}")
    return replies


class _Client:
    """Reads replies, whatever brings them.

    :ivar lines: All lines that the server has said.
    :ivar closed: Whether the connection has ended.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.closed = False
        self._heard = b""
        self._looked = 0
        self._waiting: list[tuple[int, Deferred[None]]] = []

    @property
    def said(self) -> list[str]:
        """The lines that the server has said since the client last sent something."""
        return self.lines[self._looked :]

    @property
    def replies(self) -> list[ParsedReply]:
        """All replies of the session, the greeting first."""
        return parse_replies(self._whole(self.lines))

    @property
    def new_replies(self) -> list[ParsedReply]:
        """The replies since the client last sent something."""
        return parse_replies(self._whole(self.said))

    def look(self) -> None:
        """Begin :attr:`said` anew."""
        self._looked = len(self.lines)

    def until(self, count: int) -> Deferred[None]:
        """Wait for a number of new replies, or for the end of the connection."""
        waiting: Deferred[None] = Deferred(
            lambda gone: self._waiting.remove((count, gone))  # nobody waits any more
        )
        self._waiting.append((count, waiting))
        self._tell()
        return waiting

    @staticmethod
    def _whole(lines: list[str]) -> list[str]:
        end = len(lines)
        while end and lines[end - 1][3:4] == "-":
            end -= 1
        return lines[:end]

    def _hear(self, octets: bytes) -> None:
        *lines, self._heard = (self._heard + octets).split(b"\r\n")
        self.lines += [line.decode("utf-8", "backslashreplace") for line in lines]
        if lines:
            self._tell()

    def _ended(self) -> None:
        self.closed = True
        self._tell()

    def _tell(self) -> None:
        if not self._waiting:
            return
        count = sum(line[3:4] != "-" for line in self.said)
        for entry in list(self._waiting):
            if entry[0] <= count or self.closed:
                self._waiting.remove(entry)
                entry[1].callback(None)


@implementer(ITransport)
class _Wire:
    """A transport whose other end is a :class:`Conversation`."""

    def __init__(self, conversation: Conversation, peer: Any, host: Any) -> None:
        self.conversation = conversation
        self.peer = peer
        self.host = host
        self.paused = False
        self.disconnecting = False
        self.lost = False
        self.producer: Any = None
        self.kept = b""

    def write(self, data: bytes) -> None:
        if self.lost or not data:
            return
        if self.conversation.reading:
            self.conversation._hear(data)
            return
        if not self.kept and self.producer is not None:
            self.kept = data
            self.producer.pauseProducing()
        else:
            self.kept += data

    def writeSequence(self, data: Any) -> None:  # noqa: N802
        self.write(b"".join(data))

    def flush(self) -> None:
        kept, self.kept = self.kept, b""
        self.conversation._hear(kept)
        if self.disconnecting:
            self.lose(ConnectionDone())
        elif kept and self.producer is not None:
            self.producer.resumeProducing()

    def loseConnection(self) -> None:  # noqa: N802
        self.disconnecting = True
        if not self.kept:
            self.lose(ConnectionDone())

    def abortConnection(self) -> None:  # noqa: N802
        self.disconnecting = True
        self.lose(ConnectionAborted())

    def lose(self, reason: Exception) -> None:
        if not self.lost:
            self.lost = True
            self.conversation.protocol.connectionLost(Failure(reason))
            self.conversation._ended()

    def getPeer(self) -> Any:  # noqa: N802
        return self.peer

    def getHost(self) -> Any:  # noqa: N802
        return self.host

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802
        if self.producer is not None:
            raise RuntimeError("a transport has one producer")
        self.producer = producer

    def unregisterProducer(self) -> None:  # noqa: N802
        self.producer = None

    def pauseProducing(self) -> None:  # noqa: N802
        self.paused = True

    def resumeProducing(self) -> None:  # noqa: N802
        self.paused = False
        # As a reactor does: not now, but in its next turn.
        self.conversation.clock.callLater(0, self.conversation._pump)

    def stopProducing(self) -> None:  # noqa: N802
        self.loseConnection()

    # TLS is a promise here: nothing is encrypted.

    def startTLS(self, context: object) -> None:  # noqa: N802
        self.conversation.tls_context = context
        self.conversation.clock.callLater(0, self.handshake)

    def handshake(self) -> None:
        if not self.lost:
            self.conversation.protocol.handshakeCompleted()

    def getHandle(self) -> Any:  # noqa: N802
        return self

    def get_protocol_version_name(self) -> str:
        return "TLSv1.3"

    def get_cipher_name(self) -> str:
        return "TLS_AES_256_GCM_SHA384"


class Conversation(_Client):
    """A client that speaks to a chain in memory.

    ::

        conversation = self.open(NullMX(resolver=resolver))
        conversation.greet()
        conversation.send("MAIL FROM:<a@silent.example>")
        self.assertEqual(conversation.said, ["550 5.7.27 silent.example accepts no mail"])

    It is a real protocol on a transport without a socket: what components see and what the
    client hears is what a socket would bring. STARTTLS works, without encryption.

    :ivar session: The session, as components see it.
    :ivar factory: The server.
    :ivar reading: Whether the client reads what the server says.
    :ivar tls_context: What STARTTLS was answered with.
    """

    def __init__(self, factory: SMTPFactory, clock: Clock, session: dict[str, Any]) -> None:
        """Prepare a client; :meth:`connect` lets it connect.

        :param session: What is known of the session before the client connects, such as
            ``remote_ip`` or ``relay_client``.
        """
        super().__init__()
        self.factory = factory
        self.clock = clock
        self.reading = True
        self.tls_context: object | None = None
        self.protocol: Any = None
        self._facts = session
        self._sent = b""
        self._pumping = False

    def connect(self) -> None:
        """Connect, and hear the greeting."""
        facts = self._facts
        host = address(facts.get("local_ip", "192.0.2.25"), facts.get("local_port", 25))
        peer = client_address(facts)
        self._wire = _Wire(self, peer, host)
        self.protocol = self.factory.buildProtocol(peer)
        tell(self.protocol, facts)
        self.protocol.makeConnection(self._wire)
        self._go_on()

    @property
    def session(self) -> Session:
        """The session, as components see it."""
        session: Session = self.protocol.session
        return session

    @property
    def transaction(self) -> Transaction | None:
        """The open mail transaction, if there is one."""
        return self.session.transaction

    @property
    def waiting(self) -> bool:
        """Whether the server waits for a component."""
        return getattr(self.protocol, "_waiting", None) is not None

    @property
    def paused(self) -> bool:
        """Whether the server has ceased to read what the client sends."""
        return self._wire.paused

    # What a client does.

    def send(self, *lines: str) -> None:
        """Send lines at once; each gets its CR LF."""
        self.send_octets(b"".join(line.encode() + b"\r\n" for line in lines))

    def send_octets(self, octets: bytes, at_once: int = CHUNK) -> None:
        """Send octets as they are.

        :param at_once: How many of them arrive at a time.
        """
        self._go_on()
        self.look()
        for start in range(0, len(octets), at_once):
            self._sent += octets[start : start + at_once]
            self._pump()
        self._go_on()

    def command(self, line: str) -> ParsedReply:
        """Send a line and give the reply.

        :raises AssertionError: There is not exactly one reply.
        """
        self.send(line)
        replies = self.new_replies
        if len(replies) != 1:
            raise AssertionError(f"{line!r} has {len(replies)} replies: {self.said}")
        return replies[0]

    def greet(self, host: str = "client.example") -> ParsedReply:
        """Say EHLO."""
        return self.command(f"EHLO {host}")

    def envelope(
        self,
        reverse_path: str = "sender@client.example",
        *recipients: str,
    ) -> ParsedReply:
        """Say MAIL and RCPT, and EHLO before, if it was not said yet.

        :param recipients: Without any, ``recipient@mail.example``.

        :returns: The first negative reply, or else the last one.
        """
        if not self.session.hello:
            self.greet()
        reply = self.command(f"MAIL FROM:<{reverse_path}>")
        for recipient in recipients or ("recipient@mail.example",):
            if reply.positive:
                reply = self.command(f"RCPT TO:<{recipient}>")
        return reply

    def message(
        self,
        content: bytes | str = "Subject: a test\n\nSome words.\n",
        reverse_path: str = "sender@client.example",
        *recipients: str,
    ) -> ParsedReply:
        """Send a whole message, with what comes before it.

        :param content: Newlines become CR LF; dots are stuffed (RFC 5321, 4.5.2).
        :param recipients: Without any, ``recipient@mail.example``.

        :returns: The reply at the end of data, or a negative one that came before.
        """
        reply = self.envelope(reverse_path, *recipients)
        if reply.positive:
            reply = self.command("DATA")
        if reply.code != 354:
            return reply
        octets = content.encode() if isinstance(content, str) else content
        lines = octets.replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n")
        stuffed = (b"." + line if line.startswith(b".") else line for line in lines)
        self.send_octets(b"".join(line + b"\r\n" for line in (*stuffed, b".")))
        replies = self.new_replies
        if len(replies) != 1:
            raise AssertionError(f"the message has {len(replies)} replies: {self.said}")
        return replies[0]

    def stop_reading(self) -> None:
        """Leave unread what the server says from now on."""
        self.reading = False

    def read_again(self) -> None:
        """Read what was left unread."""
        self.reading = True
        self._wire.flush()
        self._go_on()

    def lose(self) -> None:
        """Go, without a word."""
        if self.protocol is not None:
            self._wire.lose(ConnectionDone())

    # In between.

    def _pump(self) -> None:
        """Let the server read, unless it does not want to."""
        if self._pumping:
            return
        self._pumping = True
        wire = self._wire
        try:
            while self._sent and not (wire.paused or wire.disconnecting or wire.lost):
                octets, self._sent = self._sent[:CHUNK], self._sent[CHUNK:]
                self.protocol.dataReceived(octets)
        finally:
            self._pumping = False

    def _go_on(self) -> None:
        """Let happen what is due at once."""
        self.clock.advance(0)


def address(ip: str, port: int) -> IPv4Address | IPv6Address:
    """An address as Twisted has it."""
    return IPv6Address("TCP", ip, port) if ":" in ip else IPv4Address("TCP", ip, port)


def client_address(facts: dict[str, Any]) -> IPv4Address | IPv6Address:
    """Where a client comes from."""
    return address(facts.get("remote_ip", "192.0.2.1"), facts.get("remote_port", 49152))


def tell(protocol: Any, facts: dict[str, Any]) -> None:
    """Tell a new session what is known of it; one that was turned away has none."""
    session = getattr(protocol, "session", None)
    if session is not None:
        for name, value in facts.items():
            setattr(session, name, value)


class SocketClient(_Client, Protocol):
    """A client that speaks over a socket."""

    def send_octets(self, octets: bytes) -> None:
        """Send octets as they are."""
        assert self.transport is not None
        self.look()
        self.transport.write(octets)

    def start_tls(self) -> None:
        """Begin TLS, whoever the server is."""
        self.transport.startTLS(CertificateOptions())  # type: ignore[union-attr]

    def lose(self) -> None:
        """Go, without a word."""
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self._hear(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self._ended()

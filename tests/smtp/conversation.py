"""A client and a driver for the protocol machine: octets in, replies and events out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.smtp.commands import (
    Auth,
    Data,
    Quit,
    Starttls,
    Unparsed,
    Unrecognized,
    parse_argument,
)
from qpsmtpd.smtp.extensions import Extensions
from qpsmtpd.smtp.limits import Limits
from qpsmtpd.smtp.machine import HEADERS_END, AuthLine, ContentEnd, Event, Need, ServerMachine
from qpsmtpd.smtp.reply import Reply

HELLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<a@client.example>\r\n"
RCPT = b"RCPT TO:<b@mail.example>\r\n"
DATA = b"DATA\r\n"
#: All that stands before the content of a message.
ENVELOPE = HELLO + MAIL + RCPT + DATA
#: What :data:`ENVELOPE` is answered with.
ENVELOPE_CODES = [250, 250, 250, 354]

_OK = Reply(250, "OK")
_USUAL: dict[type, Reply] = {
    Need: Reply(220, "mail.example ESMTP"),
    Data: Reply(354, "Go ahead"),
    Quit: Reply(221, "Bye"),
    Starttls: Reply(220, "Go ahead"),
    Auth: Reply(334, ""),
    AuthLine: Reply(235, "Welcome"),
    Unrecognized: Reply(500, "What?"),
}

Answer = Callable[[Event], Reply | None]


def usual(event: Event) -> Reply:
    """What a server says that refuses nothing."""
    if isinstance(event, ContentEnd) and event.refusal is not None:
        return event.refusal
    return _USUAL.get(type(event), _OK)


def codes(octets: bytes) -> list[int]:
    """The codes of replies, each of which may have several lines."""
    lines = octets.split(b"\r\n")
    assert lines.pop() == b"", octets
    return [int(line[:3]) for line in lines if line[3:4] == b" "]


class Conversation:
    """A session with a machine whose every event is answered at once.

    :ivar said: All octets for the client but the first reply, which greets.
    :ivar events: What the machine gave, in order, with content joined and without needs.
    :ivar answer: Replies to an event; where it has ``None``, :func:`usual` does.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        extensions: Extensions | None = None,
        answer: Answer | None = None,
    ) -> None:
        self.machine = ServerMachine(limits or Limits(), extensions or Extensions())
        self.machine.announce_headers = True
        self.machine.reply(usual(Need.REPLY))
        self.machine.outgoing()
        self.answer: Answer = answer or (lambda event: None)
        self.said = b""
        self.events: list[Event] = []

    def send(self, *segments: bytes) -> list[int]:
        """Give the machine octets, and everything it asks for; the codes of its replies."""
        before = len(self.said)
        for segment in segments:
            self.machine.receive(segment)
            self._drain()
        return codes(self.said[before:])

    def _drain(self) -> None:
        machine = self.machine
        while (event := machine.next_event()) is not Need.DATA and event is not Need.CLOSE:
            self._note(event)
            if type(event) is bytes or event is HEADERS_END:
                continue
            if type(event) is Unparsed:
                self._read(event)
                continue
            machine.reply(self.answer(event) or usual(event))
        self.said += machine.outgoing()

    def _read(self, event: Unparsed) -> None:
        machine = self.machine
        command = parse_argument(event.verb, event.argument, machine.extensions, machine.utf8)
        if isinstance(command, Reply):
            machine.reply(command)
        else:
            machine.reply(machine.parsed(command) or self.answer(command) or usual(command))

    def _note(self, event: Event) -> None:
        if type(event) is bytes and self.events and type(self.events[-1]) is bytes:
            self.events[-1] += event
        else:
            self.events.append(event)

    @property
    def closed(self) -> bool:
        """Whether the machine has ended the session."""
        return self.machine.next_event() is Need.CLOSE

    @property
    def content(self) -> bytes:
        """All content that came."""
        return b"".join(event for event in self.events if type(event) is bytes)

    def count(self, kind: object) -> int:
        """How many events are ``kind``, or of that type."""
        return sum(event is kind or type(event) is kind for event in self.events)


def cut(octets: bytes, size: int) -> Iterable[bytes]:
    """Cut octets into segments."""
    return (octets[at : at + size] for at in range(0, len(octets), size))


class ConversationCase(SynchronousTestCase):
    def play(
        self,
        octets: bytes,
        limits: Limits | None = None,
        extensions: Extensions | None = None,
        answer: Answer | None = None,
        unparsed: Iterable[bytes] = (),
    ) -> Conversation:
        """Send octets whole, in small segments and one by one; it must make no difference."""
        played = []
        for size in (max(len(octets), 1), 7, 1):
            conversation = Conversation(limits, extensions, answer)
            conversation.machine.unparsed = frozenset(unparsed)
            conversation.send(*cut(octets, size))
            played.append(conversation)
        whole = played[0]
        for other in played[1:]:
            self.assertEqual(other.said, whole.said)
            self.assertEqual(other.events, whole.events)
        return whole

    def codes(self, octets: bytes, **how: object) -> list[int]:
        """The codes of the replies to octets, however they are cut."""
        return codes(self.play(octets, **how).said)  # type: ignore[arg-type]

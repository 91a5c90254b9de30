"""The client's side of a conversation."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from qpsmtpd.interfaces import INoop
from qpsmtpd.session import Session
from qpsmtpd.testing import ComponentTestCase, ParsedReply
from qpsmtpd.testing.client import CHUNK, parse_replies


@implementer(INoop)
class Waits:
    """Answers NOOP when the test says so."""

    def __init__(self) -> None:
        self.answer: Deferred[Any] = Deferred()

    def noop(self, session: Session, argument: str) -> Deferred[Any]:
        self.answer = Deferred()
        return self.answer


class ParseRepliesTests(SynchronousTestCase):
    def test_one_line(self) -> None:
        """A reply has a code, an enhanced status code and a text."""
        self.assertEqual(
            parse_replies(["550 5.1.1 no such user"]),
            [ParsedReply(550, "5.1.1", ("no such user",))],
        )

    def test_several_lines(self) -> None:
        """The lines of a reply carry the same code, all but the last with a dash."""
        lines = ["250-mail.example", "250 HELP", "354 go ahead"]
        replies = parse_replies(lines)
        self.assertEqual(
            replies,
            [
                ParsedReply(250, None, ("mail.example", "HELP")),
                ParsedReply(354, None, ("go ahead",)),
            ],
        )
        self.assertEqual([line for reply in replies for line in reply.said], lines)

    def test_no_status(self) -> None:
        """A version number is no enhanced status code, nor is one of another class."""
        for text in ("9.18.24 named", "4.1.1 contradicts"):
            [reply] = parse_replies([f"250 {text}"])
            self.assertEqual((reply.status, reply.text), (None, text))

    def test_no_reply(self) -> None:
        """Lines that are no reply, or only its beginning, are an error."""
        for lines in (["hello"], ["250-more"]):
            self.assertRaises(ValueError, parse_replies, lines)


class ConversationTests(ComponentTestCase):
    def test_said(self) -> None:
        """What was said begins anew when the client sends something."""
        conversation = self.open(greeting="hello")
        self.assertEqual(conversation.said, ["220 hello ESMTP"])
        conversation.send("NOOP")
        self.assertEqual(conversation.said, ["250 2.0.0 OK"])
        self.assertEqual([reply.code for reply in conversation.replies], [220, 250])

    def test_command(self) -> None:
        """A command gives its reply."""
        self.assertReply(self.open().command("RSET"), 250, "2.0.0", "OK")

    def test_command_without_reply(self) -> None:
        """A command without a reply of its own fails."""
        conversation = self.open(Waits())
        error = self.assertRaises(AssertionError, conversation.command, "NOOP")
        self.assertIn("'NOOP' has 0 replies", str(error))

    def test_message(self) -> None:
        """A whole message is one call; its dots and newlines are as SMTP wants them."""
        conversation = self.open()
        reply = conversation.message(
            "Subject: dots\n\n.one\n..two", "", "a@mail.example", "b@mail.example"
        )
        self.assertReply(reply, 250)
        [message] = self.queue.messages
        self.assertEqual(message.content, b"Subject: dots\r\n\r\n.one\r\n..two\r\n")
        self.assertEqual(
            [str(each) for each in message.recipients], ["<a@mail.example>", "<b@mail.example>"]
        )
        self.assertTrue(message.reverse_path.is_null)

    def test_refused_message(self) -> None:
        """A message ends with the first refusal."""
        self.assertReply(self.open(alone=True).message(), 450, "4.7.1")

    def test_envelope(self) -> None:
        """After an envelope the transaction can be looked at."""
        conversation = self.open()
        conversation.envelope("a@client.example", "b@mail.example")
        assert conversation.transaction is not None
        self.assertEqual(str(conversation.transaction.reverse_path), "<a@client.example>")
        self.assertIs(conversation.transaction.session, conversation.session)

    def test_quit(self) -> None:
        """A closed connection is seen, and what is sent after it goes nowhere."""
        conversation = self.open()
        conversation.command("QUIT")
        self.assertTrue(conversation.closed)
        conversation.send("NOOP")
        self.assertEqual(conversation.said, [])

    def test_lose(self) -> None:
        """A client may go without a word."""
        conversation = self.open()
        conversation.lose()
        self.assertTrue(conversation.session.ended)

    def test_waiting(self) -> None:
        """A test sees that the server waits, and can wait with it."""
        waits = Waits()
        conversation = self.open(waits)
        conversation.send("NOOP")
        self.assertTrue(conversation.waiting)
        replied = conversation.until(1)
        self.assertNoResult(replied)
        waits.answer.callback(None)
        self.successResultOf(replied)
        self.assertFalse(conversation.waiting)

    def test_starttls(self) -> None:
        """STARTTLS works, and says what a real one would."""
        context = object()
        conversation = self.open(tls_context=context)
        self.assertIn("STARTTLS", conversation.greet().lines)
        self.assertReply(conversation.command("STARTTLS"), 220)
        assert conversation.session.tls is not None
        self.assertEqual(conversation.session.tls.version, "TLSv1.3")
        self.assertIs(conversation.tls_context, context)
        self.assertNotIn("STARTTLS", conversation.greet().lines)

    def test_stop_reading(self) -> None:
        """A client that does not read its replies is not read from, until it does."""
        conversation = self.open()
        conversation.stop_reading()
        conversation.send("NOOP", "NOOP")
        self.assertTrue(conversation.paused)
        conversation.send("NOOP")
        self.assertEqual(conversation.said, [])
        conversation.read_again()
        self.assertFalse(conversation.paused)
        self.assertEqual([reply.code for reply in conversation.replies], [220, 250, 250, 250])

    def test_server_does_not_read(self) -> None:
        """What the server does not read yet is kept back."""
        waits = Waits()
        conversation = self.open(waits, idle_commands=0)
        conversation.send("NOOP")
        lines = CHUNK // 6 * 3
        conversation.send_octets(b"RSET\r\n" * lines)
        self.assertTrue(conversation.paused)
        waits.answer.callback(None)
        for _ in range(lines):
            if not conversation.waiting:
                break
            self.clock.advance(0)
        self.assertEqual(len(conversation.replies), 2 + lines)
        self.assertFalse(conversation.paused)

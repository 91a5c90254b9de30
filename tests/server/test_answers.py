"""Replies that a component gives itself, and what a session becomes by them."""

from __future__ import annotations

from typing import Any

from qpsmtpd.smtp.reply import Reply
from qpsmtpd.testing import ComponentTestCase
from qpsmtpd.verdicts import OK, answer, defer, deny
from tests.recorder import Recorder

FINE = answer(Reply(250, "As you wish", "2.0.0"))


class OwnReplyTests(ComponentTestCase):
    """``answer(Reply(...))``: the client hears just this, and goes on by it."""

    def test_mail(self) -> None:
        """A sender that was answered with 250 has a transaction."""
        conversation = self.open(Recorder(mail=FINE))
        self.assertEqual(conversation.message().code, 250)
        self.assertEqual(len(self.queue.messages), 1)

    def test_mail_refused(self) -> None:
        """One that was answered with 5yz has none."""
        conversation = self.open(Recorder(mail=answer(Reply(550, "Not you", "5.7.1"))))
        self.assertReply(conversation.envelope(), 550)
        self.assertIsNone(conversation.transaction)

    def test_rcpt(self) -> None:
        """A recipient that was answered with 250 is none of the message's."""
        conversation = self.open(Recorder(rcpt=_first(FINE)))
        self.assertEqual(
            conversation.message(
                "Subject: a", "a@client.example", "b@x.example", "c@x.example"
            ).code,
            250,
        )
        [message] = self.queue.messages
        self.assertEqual([str(each) for each in message.recipients], ["<c@x.example>"])

    def test_no_recipients(self) -> None:
        """A message that is for nobody is refused before it is sent."""
        for command in ("DATA", "BDAT 2 LAST\r\n"):
            conversation = self.open(Recorder(rcpt=FINE, queue=OK))
            self.assertEqual(conversation.envelope().code, 250)
            self.assertReply(conversation.command(command), 554, "5.5.1", "No valid recipients")
            self.assertReply(conversation.command("DATA"), 503)
            self.assertEqual(self.queue.messages, [])

    def test_data(self) -> None:
        """A 354 is as good as the server's, for BDAT too, whose replies come later."""
        conversation = self.open(Recorder(data=answer(Reply(354, "Well?"))))
        self.assertEqual(conversation.message().code, 250)
        conversation.envelope()
        self.assertReply(conversation.command("BDAT 2 LAST\r\n"), 250, "2.0.0", "Queued")
        self.assertEqual(len(self.queue.messages), 2)

    def test_data_answered_for_good(self) -> None:
        """A 250 to DATA ends the transaction: no message follows."""
        conversation = self.open(Recorder(data=FINE))
        conversation.envelope()
        self.assertReply(conversation.command("DATA"), 250)
        self.assertIsNone(conversation.transaction)
        self.assertReply(conversation.command("NOOP"), 250)

    def test_ehlo(self) -> None:
        """A client whose EHLO was answered with 250 has greeted."""
        conversation = self.open(Recorder(ehlo=FINE, auth=OK))
        conversation.command("EHLO client.example")
        self.assertEqual(conversation.session.hello, "ehlo")
        self.assertReply(conversation.command("AUTH PLAIN AGEAYg=="), 235)

    def test_421(self) -> None:
        """After a 421 the connection closes, whoever gave it (RFC 5321, 3.8)."""
        for verdict in (answer(Reply(421, "Later", "4.7.0")), defer("Later", code=421)):
            conversation = self.open(Recorder(noop=verdict))
            self.assertReply(conversation.command("NOOP"), 421)
            self.assertTrue(conversation.closed)


def _first(verdict: Any) -> Any:
    """Give a verdict once, then ``OK``."""
    verdicts = iter([verdict])
    return lambda *_: next(verdicts, OK)


class ChunkTests(ComponentTestCase):
    def test_denied_with_disconnect(self) -> None:
        """A first BDAT that is refused for good gets its reply before the connection closes."""
        conversation = self.open(Recorder(data=deny("Not this", disconnect=True)))
        conversation.envelope()
        conversation.send("BDAT 1000 LAST", "Subject: a")
        self.assertEqual(conversation.said, ["554 5.7.1 Not this"])
        self.assertTrue(conversation.closed)

    def test_long_refused_chunk(self) -> None:
        """The time limit of messages does not count for a chunk that nobody wants."""
        self.clock.advance(10_000)
        conversation = self.open(Recorder(data=deny("Not this")), message_time=600)
        for _ in range(2):
            conversation.envelope()
            conversation.send("BDAT 4", "ab", "BDAT 1000", "Subject: a")
            self.assertEqual(conversation.said, ["554 5.7.1 Not this"])
            self.clock.advance(100)
            self.assertFalse(conversation.closed)
            conversation.send_octets(b"x" * 988)
            self.assertEqual([reply.code for reply in conversation.new_replies], [503])

"""The test case for components."""

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from zope.interface import implementer

from qpsmtpd.chain import Link
from qpsmtpd.component import component
from qpsmtpd.interfaces import IMail, IRcpt
from qpsmtpd.session import Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.testing import ComponentTestCase, MemoryQueue
from qpsmtpd.verdicts import OK, Verdict, accept, defer, deny

MESSAGE = """
C: EHLO client.example
S: 250 mail.example Hi Unknown [192.0.2.1]
C: MAIL FROM:<a@client.example>
C: RCPT TO:<b@mail.example>
C: DATA
S: 250 2.1.0 <a@client.example>, sender OK...
S: 250 2.1.5 <b@mail.example>, recipient ok
S: 354 go ahead
C: Subject: dots
C:
C: ..hidden
C: .
S: 250 2.0.0 Queued
C: QUIT
S: 221 ...
S: [closes]
"""


@implementer(IMail)
@component
class Says:
    """Answers with what it was given."""

    verdict: Verdict | None = None

    def mail(self, transaction: Transaction, reverse_path: Address) -> Verdict | None:
        return self.verdict


@implementer(IMail)
@component
class FromThread:
    """Answers after a thread has done something."""

    async def mail(self, transaction: Transaction, reverse_path: Address) -> Verdict | None:
        return await deferToThread(lambda: deny("a thread said no"))


class ConverseTests(ComponentTestCase):
    def test_message(self) -> None:
        """A transcript takes a message to the queue."""
        self.converse([], MESSAGE)
        [message] = self.queue.messages
        self.assertEqual(message.content, b"Subject: dots\r\n\r\n.hidden\r\n")
        self.assertIn(b"Received: from Unknown (HELO client.example) (192.0.2.1)", message.octets)

    def test_wrong_reply(self) -> None:
        """Another reply than the transcript's fails the test, and shows where."""
        transcript = MESSAGE.replace("recipient ok", "no such user")
        error = self.assertRaises(self.failureException, self.converse, [], transcript)
        self.assertIn("- S: 250 2.1.5 <b@mail.example>, no such user", str(error))
        self.assertIn("+ S: 250 2.1.5 <b@mail.example>, recipient ok", str(error))

    def test_thread(self):
        self.converse(
            [FromThread()],
            """
            C: EHLO x
            S: 250
            C: MAIL FROM:<>
            S: 550 5.7.1 a thread said no
        """,
        )

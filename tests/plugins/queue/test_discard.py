"""Tests of queue/discard."""

from qpsmtpd.plugins.queue.discard import Discard
from qpsmtpd.testing import ComponentTestCase


class DiscardTests(ComponentTestCase):
    def test_forgets(self) -> None:
        """Every message is accepted, and nobody else is asked to store it."""
        self.converse(
            [Discard()],
            """
            C: EHLO client.example
            S: 250 mail.example ...
            C: MAIL FROM:<a@client.example>
            S: 250 ...
            C: RCPT TO:<b@mail.example>
            S: 250 ...
            C: DATA
            S: 354 ...
            C: Subject: gone
            C:
            C: .
            S: 250 2.0.0 Queued
            """,
        )
        self.assertEqual(self.queue.messages, [])

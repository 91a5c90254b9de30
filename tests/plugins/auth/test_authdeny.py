"""The plugin that lets nobody authenticate."""

from base64 import b64encode

from twisted.logger import capturedLogs, formatEvent

from qpsmtpd.plugins.auth.authdeny import AuthDeny
from qpsmtpd.smtp.sasl import Credentials
from qpsmtpd.testing import ComponentTestCase
from qpsmtpd.verdicts import OK
from tests.recorder import Recorder

RIGHT = "AUTH PLAIN " + b64encode(b"\0bogus_user\0secret").decode()


class AuthDenyTests(ComponentTestCase):
    def test_declines(self) -> None:
        """It has no opinion about anybody, and the log is told."""
        with capturedLogs() as events:
            answer = self.ask(AuthDeny(), "auth", self.session(), Credentials("LOGIN", "u", b"p"))
        self.assertIsNone(answer)
        self.assertEqual([formatEvent(event) for event in events], ["fail, cannot authenticate"])

    def test_alone(self) -> None:
        """On its own it makes the server offer every mechanism, and nobody gets in."""
        conversation = self.open(AuthDeny())
        self.assertIn("AUTH PLAIN LOGIN CRAM-MD5", conversation.greet().lines)
        self.assertReply(conversation.command(RIGHT), 535, "5.7.8")
        self.assertFalse(conversation.session.relay_client)

    def test_another_behind(self) -> None:
        """A plugin behind it may know the user all the same."""
        conversation = self.open(AuthDeny(), Recorder(auth=OK))
        conversation.greet()
        self.assertReply(conversation.command(RIGHT), 235)

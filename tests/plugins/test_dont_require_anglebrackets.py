"""The plugin dont_require_anglebrackets."""

from qpsmtpd.plugins.dont_require_anglebrackets import DontRequireAngleBrackets
from qpsmtpd.plugins.rcpt_ok import RcptOk
from qpsmtpd.session import Session
from qpsmtpd.testing import ComponentTestCase

ACCEPTS = RcptOk(me="mail.example", rcpthosts=("mail.example",))


class DontRequireAngleBracketsTests(ComponentTestCase):
    def codes(self, *commands: str, plugin: bool = True) -> list[int]:
        chain = [DontRequireAngleBrackets(), ACCEPTS] if plugin else [ACCEPTS]
        conversation = self.open(*chain)
        conversation.greet()
        codes = [conversation.command(each).code for each in commands]
        self.karma = conversation.session.note("karma")
        return codes

    def test_added(self) -> None:
        """An address without brackets is taken, with its parameters, and costs karma."""
        commands = ("MAIL FROM: a@client.example SIZE=10", "RCPT TO: postmaster@mail.example")
        self.assertEqual(self.codes(*commands), [250, 250])
        self.assertEqual(self.karma, -4)
        self.assertEqual(self.codes(*commands, plugin=False)[0], 501)

    def test_unchanged(self) -> None:
        """What has brackets stays as it is and costs nothing, bounces too."""
        for path in ("<a@client.example>", "<>", " <a@client.example> SIZE=10"):
            self.assertEqual(self.codes(f"MAIL FROM:{path}", "RCPT TO:<b@mail.example>"), [250] * 2)
            self.assertIsNone(self.karma)

    def test_still_wrong(self) -> None:
        """No address, half a pair of brackets and what is no address are errors."""
        for path in ("", " ", " SIZE=10", "<a@client.example", "a@client.example>", "a b", "a@@b"):
            self.assertIn(self.codes(f"MAIL FROM:{path}")[0], (501, 555), path)

    def test_immune(self) -> None:
        """A client that may relay loses no karma."""
        session = Session()
        session.relay_client = True
        path = DontRequireAngleBrackets().mail_pre(session, "a@client.example", {})
        self.assertEqual(path, "<a@client.example>")
        self.assertIsNone(session.note("karma"))

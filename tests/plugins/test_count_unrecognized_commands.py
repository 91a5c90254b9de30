"""The plugin count_unrecognized_commands."""

from qpsmtpd.plugins.count_unrecognized_commands import CountUnrecognizedCommands
from qpsmtpd.testing import ComponentTestCase


class CountUnrecognizedCommandsTests(ComponentTestCase):
    def test_conversation(self) -> None:
        """As many commands as the argument says end the session; others in between do not help."""
        self.converse(
            [CountUnrecognizedCommands(limit=2)],
            """
            C: GET / HTTP/1.1
            S: 500 5.5.1 ...
            C: NOOP
            S: 250 ...
            C: Host: mail.example
            S: 521 5.5.1 Closing connection, 2 unrecognized commands. ...
            S: [closes]
            """,
        )

    def test_default(self) -> None:
        """Without an argument, and with 0, it is the fourth."""
        for plugin in (CountUnrecognizedCommands(), CountUnrecognizedCommands(limit=0)):
            session = self.session()
            for _ in range(3):
                self.assertDeclined(self.ask(plugin, "unrecognized_command", session, "get", ""))
            verdict = self.ask(plugin, "unrecognized_command", session, "get", "")
            self.assertDenied(verdict, disconnect=True)

    def test_goes_on_counting(self) -> None:
        """One more after the last is refused as well, and counted in the session's note."""
        plugin = CountUnrecognizedCommands(limit=2)
        session = self.session()
        verdicts = [
            self.ask(plugin, "unrecognized_command", session, verb, "")
            for verb in ("hiya", "snookums", "wtf")
        ]
        self.assertDeclined(verdicts[0])
        self.assertDenied(verdicts[1], "... 2 ...")
        self.assertDenied(verdicts[2], "... 3 ...")
        self.assertEqual(session.note("unrec_cmd_count"), 3)

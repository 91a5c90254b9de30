"""The plugin noop_counter."""

from qpsmtpd.plugins.noop_counter import NoopCounter
from qpsmtpd.testing import ComponentTestCase


class NoopCounterTests(ComponentTestCase):
    def test_conversation(self) -> None:
        """As many NOOPs in a row as the argument says end the session."""
        self.converse(
            [NoopCounter(limit=2)],
            """
            C: NOOP
            S: 250 ...
            C: NOOP
            S: 500 5.5.1 Stop wasting my time, too many consecutive NOOPs
            S: [closes]
            """,
        )

    def test_default(self) -> None:
        """Without an argument, and with 0, it is the third."""
        for plugin in (NoopCounter(), NoopCounter(limit=0)):
            session = self.session()
            for _ in range(2):
                self.assertDeclined(self.ask(plugin, "noop", session, ""))
            self.assertDenied(self.ask(plugin, "noop", session, ""), disconnect=True)

    def test_new_count(self) -> None:
        """Commands in between begin a new count."""
        conversation = self.open(NoopCounter(limit=2))
        for command, code in (
            ("HELO client.example", 250),
            ("EHLO client.example", 250),
            ("VRFY a", 252),
            ("HELP", 214),
            ("MAIL FROM:<a@client.example>", 250),
            ("RCPT TO:<b@mail.example>", 250),
            ("RSET", 250),
            ("MAIL FROM:<a@client.example>", 250),
            ("RCPT TO:<b@mail.example>", 250),
            ("DATA", 354),
            (".", 250),
        ):
            if command != ".":
                self.assertReply(conversation.command("NOOP"), 250)
            self.assertReply(conversation.command(command), code)
        self.assertReply(conversation.command("NOOP"), 250)
        self.assertFalse(conversation.closed)

    def test_same_count(self) -> None:
        """RSET without a transaction and unknown commands do not."""
        for command in ("RSET", "NOSUCH"):
            conversation = self.open(NoopCounter(limit=2))
            conversation.send("NOOP")
            conversation.send(command)
            self.assertReply(conversation.command("NOOP"), 500)
            self.assertTrue(conversation.closed)

    def test_sessions(self) -> None:
        """The NOOPs of one client are not counted for another."""
        plugin = NoopCounter(limit=2)
        first, second = self.session(), self.session()
        self.assertDeclined(self.ask(plugin, "noop", first, ""))
        self.assertDeclined(self.ask(plugin, "noop", second, ""))
        self.assertDenied(self.ask(plugin, "noop", first, ""))

    def test_relay_clients(self) -> None:
        """Clients that may relay are counted unless the argument says otherwise."""
        for counted in (True, False):
            plugin = NoopCounter(limit=1, relay_clients=counted)
            session = self.session(relay_client=True)
            verdict = self.ask(plugin, "noop", session, "")
            self.assertDenied(verdict) if counted else self.assertDeclined(verdict)
        self.assertDenied(self.ask(plugin, "noop", self.session(), ""))

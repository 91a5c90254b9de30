"""The dialogue of a session in the log."""

from __future__ import annotations

import io
from base64 import b64encode
from typing import Any

from qpsmtpd import logs, policy
from qpsmtpd.chain import Chain, Link
from qpsmtpd.policy import NAUGHTY
from qpsmtpd.server.dialogue import LoggedMachine
from qpsmtpd.services.logs import LogService
from qpsmtpd.session import Session
from qpsmtpd.smtp.machine import ServerMachine
from qpsmtpd.testing import ComponentTestCase
from qpsmtpd.verdicts import OK, deny
from tests.recorder import Recorder

SECRET = b64encode(b"\0user\0secret").decode()


class DialogueTests(ComponentTestCase):
    def listen(self, level: int = 6) -> None:
        """Listen to the log."""
        self.patch(logs.threshold, "level", 4)
        self.stream = io.StringIO()
        self.service = LogService(None, level, self.stream)
        self.addCleanup(self.service.stop)
        self.service.start()

    def logged(self) -> list[str]:
        """What one session has logged, without its number."""
        self.service.stop()
        lines = self.stream.getvalue().splitlines()
        numbers = {line.partition(" ")[0] for line in lines}
        self.assertEqual(len(numbers), 1, lines)
        texts = [line.partition(" ")[2] for line in lines]
        return [text for text in texts if " trace: " not in text]

    def test_session(self) -> None:
        """Each command and each line of a reply is there, in order, with what log tools know."""
        self.listen()
        conversation = self.open(Recorder("connect", rcpt=OK, queue=OK))
        conversation.send("HELO client.example", "MAIL FROM:<a@client.example>")
        conversation.send("RCPT TO:<b@mail.example>", "DATA")
        conversation.send("Subject: x", "", "NOOP is a word", ".")
        conversation.send("quit")
        lines = self.logged()
        self.assertRegex(lines[0], r"^Accepted connection 1/1000 from [0-9.]+ / \S+$")
        self.assertRegex(lines[1], r"^Connection from \S+ \[[0-9.]+\]$")
        said = [line for line in lines[2:] if not line.startswith("dispatching")]
        self.assertEqual([int(line[:3]) for line in said[:-1]], [220, 250, 250, 250, 354, 250, 221])
        self.assertEqual(
            [line for line in lines if line.startswith("dispatching")],
            [
                "dispatching HELO client.example",
                "dispatching MAIL FROM:<a@client.example>",
                "dispatching RCPT TO:<b@mail.example>",
                "dispatching DATA",
                "dispatching quit",
            ],
        )
        # A command stands before its reply also where several came at once.
        self.assertEqual(lines[3:6:2], ["dispatching HELO client.example", lines[5]])
        self.assertEqual(lines[-1], "click, disconnecting")

    def test_same_replies(self) -> None:
        """A session that is logged hears the same as one that is not."""
        heard = []
        for level in (4, 7):
            self.listen(level)
            conversation = self.open(Recorder(rcpt=OK, queue=OK))
            conversation.send("EHLO client.example", "MAIL FROM:<a@b> X=1", "RCPT TO:<b@c>")
            conversation.send("MAIL FROM:<a@client.example>", "XYZZY", "DATA", "RCPT TO:<c@d>")
            conversation.send("DATA")
            conversation.send("x", ".", "NOOP", "QUIT")
            heard.append(conversation.lines)
            self.service.stop()
        self.assertEqual(heard[0], heard[1])

    def test_credentials(self) -> None:
        """Credentials are hidden, however AUTH is written, and when they come as a command."""
        self.listen(7)
        for line in (
            f"AUTH PLAIN {SECRET}",
            f"auth plain {SECRET}",
            f"Auth  LOGIN   {SECRET}",
            f"AUTH X-OTHER {SECRET}",
            f"AUTH {SECRET}",
            f"AUTH\tPLAIN\t{SECRET}",
            f"AUTH=PLAIN {SECRET}",
            f"AUTHPLAIN {SECRET}",
            f"AUTH: {SECRET}",
        ):
            conversation = self.open(Recorder(auth=deny("no")))
            conversation.send("EHLO client.example")
            conversation.send(line)
        for line in (SECRET, f"{SECRET} {SECRET}"):  # the last AUTH has failed
            conversation.send(line)
        self.service.stop()
        text = self.stream.getvalue()
        self.assertNotIn(SECRET[:8], text)
        self.assertNotIn(SECRET[:8].lower(), text.lower())
        self.assertIn("dispatching AUTH PLAIN <hidden credentials>", text)
        self.assertIn("dispatching AUTH LOGIN <hidden credentials>", text)
        self.assertIn("dispatching <hidden credentials>", text)

    def test_unknown_command(self) -> None:
        """What is no command is logged as it came, if no AUTH went before."""
        self.listen()
        self.open().send("\x1bXYZZY plugh\u00e9")
        self.assertIn("dispatching \\x1bXYZZY plugh\u00e9", self.logged())

    def test_sender_refused(self) -> None:
        """A refused sender has a line of its own."""
        self.listen()
        conversation = self.open(Recorder(mail=deny("go away")))
        conversation.send("HELO x", "MAIL FROM:<a@b.example>")
        self.assertIn("deny mail from <a@b.example> (go away)", self.logged())

    def test_naughty_cleared(self) -> None:
        """Authentication that clears a deferred rejection says so."""
        self.listen()
        conversation = self.open(Recorder(auth=OK))
        conversation.session.notes[NAUGHTY] = "bad"
        conversation.send("EHLO client.example", f"AUTH PLAIN {SECRET}")
        self.assertIn("auth success cleared naughty", self.logged())

    def test_too_slow(self) -> None:
        """A client that takes too long."""
        self.listen()
        self.open()
        self.clock.advance(3600)
        lines = self.logged()
        self.assertIn("Connection Timed Out", lines)
        self.assertEqual(lines[-1], "click, disconnecting")

    def test_refused_first(self) -> None:
        """Who is refused before anything was looked up is known all the same."""
        self.listen()
        self.open(Recorder(pre_connection=deny("no")))
        first, *rest = self.logged()
        self.assertRegex(first, r"^Accepted connection 1/1000 from 192\.0\.2\.1 / Unknown$")
        self.assertEqual(rest, ["554 5.7.1 no", "click, disconnecting"])

    def test_large_message(self) -> None:
        """A message that was too large for memory."""
        for size, there in ((100, False), (300_000, True)):
            self.listen()
            conversation = self.open(Recorder(rcpt=OK, queue=OK))
            conversation.envelope()
            conversation.send("DATA")
            conversation.send("Subject: x", "", *["y" * 98] * (size // 100), ".")
            self.assertEqual("spooling message to disk" in self.logged(), there)

    def test_client_goes(self) -> None:
        """A client that goes without a word."""
        self.listen()
        self.open().lose()
        lines = self.logged()
        self.assertTrue(lines[-2].startswith("Lost connection: "), lines)
        self.assertEqual(lines[-1], "click, disconnecting")

    def test_connect_only(self) -> None:
        """At level 5, the clients that come, and no dialogue."""
        self.listen(5)
        self.open().send("NOOP")
        [line] = self.logged()
        self.assertTrue(line.startswith("Connection from "), line)

    def test_costs_nothing(self) -> None:
        """Where nobody wants the dialogue, the machine is the plain one."""
        for level, kind in ((5, ServerMachine), (6, LoggedMachine)):
            self.patch(logs.threshold, "level", level)
            factory: Any = self.open().protocol.factory
            self.assertIs(type(factory.generation.machine(Session())), kind)

    def test_hook_and_level(self) -> None:
        """What a plugin says has the hook that it was asked at, and the level of its line."""

        class Tester(Recorder):
            def rcpt(self, transaction: Any, recipient: Any) -> None:
                self.found(transaction)

            def found(self, transaction: Any) -> None:
                policy.report(transaction, "badrcptto", "pass")
                policy.report(transaction, "other", "pass", 7)

        self.patch(logs.threshold, "level", 4)
        self.stream = io.StringIO()
        link = Link(Tester(rcpt=None), "badrcptto:2", log_shift=logs.Shift.parse("-2"))
        chain = Chain([link])
        self.service = LogService.of(chain, 4, self.stream)
        self.addCleanup(self.service.stop)
        self.service.start()
        self.open(chain).envelope()
        self.assertEqual(self.logged(), ["(rcpt) badrcptto: pass"])
        self.assertEqual(logs.shifts, {})

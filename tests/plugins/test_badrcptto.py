"""Tests of badrcptto."""

from typing import Any

from twisted.logger import capturedLogs

from qpsmtpd import logs
from qpsmtpd.plugins.badrcptto import BadRcptTo, entry
from qpsmtpd.policy import Reject, RejectType
from qpsmtpd.testing import ComponentTestCase
from qpsmtpd.verdicts import Verdict, defer, deny


def plugin(*lines: str, **settings: Any) -> BadRcptTo:
    return BadRcptTo(entries=tuple(map(entry, lines)), **settings)


class BadRcptToTests(ComponentTestCase):
    def ask_for(self, component: BadRcptTo, recipient: str) -> Verdict | None:
        transaction = self.transaction("a@client.example", recipient)
        verdict = self.ask(component, "rcpt", transaction, transaction.recipients[0])
        assert verdict is None or isinstance(verdict, Verdict)
        return verdict

    def test_transcript(self) -> None:
        """A listed recipient is refused with its reason; the entry itself is not shown."""
        self.converse(
            [plugin("bad@example.com", "@bad.example  Domain is closed", "^no.*@")],
            """
            C: EHLO client.example
            S: 250 mail.example ...
            C: MAIL FROM:<a@client.example>
            S: 250 ...
            C: RCPT TO:<user@example.com>
            S: 250 ...
            C: RCPT TO:<bad@example.com>
            S: 550 5.1.1 mail to bad@example.com not accepted here
            C: RCPT TO:<any@bad.example>
            S: 550 5.1.1 Domain is closed
            C: RCPT TO:<Nobody@example.com>
            S: 550 5.1.1 mail to Nobody@example.com not accepted here
            """,
        )

    def test_matching(self) -> None:
        """Addresses and domains are equal in any case; patterns are searched as they stand."""
        for line, recipient, matches in (
            ("matt@example.com", "mAtt@exAmple.com", True),
            ("matt@exAmple.com", "matt@example.com", True),
            ("matt@example.com", "matt@exmple.com", False),
            ("@example.com", "matt@Example.com", True),
            ("@example.com", "matt@a.example.com", False),
            ("@example.not", "matt@example.com", False),
            ("example.com$", "matt@example.com", True),
            ("example.not$", "matt@example.com", False),
            ("^MATT@", "matt@example.com", True),
            (r"^\S+@x\.example$", "someone@x.example", True),
            (r"^\D@x\.example$", "7@x.example", False),
            ("%", "a%b.example@example.com", True),
            ("!", "b.example!a@example.com", True),
            ("user+tag@example.com", "User+tag@example.com", True),
            ("@.*@", '"a@b.example"@example.com', True),
            ("^@", "a@example.com", False),
        ):
            verdict = self.ask_for(plugin(line), recipient)
            self.assertEqual(verdict is not None, matches, f"{line} {recipient}")

    def test_exempt(self) -> None:
        """Relay clients, whitelisted hosts and senders are not tested."""
        component = plugin("b@example.com")
        for scope, name in (("session", "whitelisthost"), ("transaction", "whitelistsender")):
            transaction = self.transaction("a@client.example", "b@example.com")
            owner = transaction.session if scope == "session" else transaction
            owner.notes[name] = True
            self.assertIsNone(self.ask(component, "rcpt", transaction, transaction.recipients[0]))
        transaction = self.transaction("a@client.example", "b@example.com")
        transaction.session.relay_client = True
        self.assertIsNone(self.ask(component, "rcpt", transaction, transaction.recipients[0]))

    def test_postmaster(self) -> None:
        """Postmaster without a domain is never refused (RFC 5321, 4.5.1)."""
        self.assertIsNone(self.ask_for(plugin("^postmaster"), "postmaster"))
        self.assertIsNotNone(self.ask_for(plugin("^postmaster"), "postmaster@example.com"))

    def test_reject(self) -> None:
        """The arguments reject and reject_type are honoured."""
        tolerant = plugin("b@example.com", reject=Reject.NO)
        self.assertIsNone(self.ask_for(tolerant, "b@example.com"))
        soft = plugin("b@example.com why", reject_type=RejectType.TEMP)
        self.assertEqual(self.ask_for(soft, "b@example.com"), defer("why", "4.1.1"))
        closing = plugin("b@example.com why", reject_type=RejectType.DISCONNECT)
        self.assertEqual(
            self.ask_for(closing, "b@example.com"), deny("why", "5.1.1", disconnect=True)
        )

    def test_karma(self) -> None:
        """A match costs two points of karma, and the log says what matched."""
        self.patch(logs.threshold, "level", 6)
        transaction = self.transaction("a@client.example", "b@example.com")
        with capturedLogs() as events:
            self.ask(plugin("@example.com"), "rcpt", transaction, transaction.recipients[0])
            self.ask_for(plugin("@example.net"), "b@example.com")
        self.assertEqual(transaction.session.notes["karma"], -2)
        self.assertEqual(
            [event["text"] for event in events], ["karma -2 (-2)", "fail, host match", "pass"]
        )

    def test_lines(self) -> None:
        """A line that can match nothing is an error at the start, and says why."""
        with self.assertRaisesRegex(ValueError, "there is no @ in example.com"):
            entry("example.com")
        with self.assertRaisesRegex(ValueError, "is no regular expression"):
            entry("^(user")

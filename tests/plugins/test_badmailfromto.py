"""The plugin badmailfromto."""

from qpsmtpd.plugins.badmailfromto import BadMailFromTo, entry
from qpsmtpd.smtp.address import Address
from qpsmtpd.testing import ComponentTestCase


class BadMailFromToTests(ComponentTestCase):
    def verdict(self, sender: str, recipient: str, *lines: str) -> object:
        plugin = BadMailFromTo(entries=tuple(map(entry, lines)))
        path = Address.parse(f"<{recipient}>")
        return self.ask(plugin, "rcpt", self.transaction(sender), path)

    def test_conversation(self) -> None:
        """One recipient is refused for one sender, and others are not."""
        self.converse(
            [BadMailFromTo(entries=(entry("@stalker.example alice@example.org"),))],
            """
            C: EHLO client.example
            S: 250 mail.example ...
            C: MAIL FROM:<joe@stalker.example>
            S: 250 2.1.0 ...
            C: RCPT TO:<Alice@example.org>
            S: 550 5.1.1 mail to <Alice@example.org> not accepted here
            C: RCPT TO:<bob@example.org>
            S: 250 2.1.5 ...
            C: RSET
            S: 250 ...
            C: MAIL FROM:<joe@friend.example>
            S: 250 2.1.0 ...
            C: RCPT TO:<alice@example.org>
            S: 250 2.1.5 ...
            """,
        )

    def test_matches(self) -> None:
        """A line lists an address or a domain, in any case of letters."""
        for line in (
            "a@x.example b@y.example",
            "A@X.example B@Y.example",
            "@x.example\tb@y.example",
            "@X.Example b@y.example and a remark",
            '"a"@x.example "b"@y.example',
        ):
            self.assertDenied(self.verdict("a@x.example", "b@y.example", line), status="5.1.1")
            self.assertDenied(self.verdict("A@X.EXAMPLE", "B@Y.EXAMPLE", line), status="5.1.1")

    def test_does_not_match(self) -> None:
        """A line lists nothing else: no subdomain, no bounce, no recipient without a domain."""
        lines = ("a@x.example b@y.example", "@z.example b@y.example", "@y.example a@x.example")
        for sender, recipient in (
            ("aa@x.example", "b@y.example"),
            ("a@sub.z.example", "b@y.example"),
            ("a@x.example", "c@y.example"),
            ("a@x.example", "a@x.example"),
            ("", "b@y.example"),
            ("a@x.example", "postmaster"),
        ):
            self.assertDeclined(self.verdict(sender, recipient, *lines))

    def test_all_lines(self) -> None:
        """Every line about a sender counts, not the last one only."""
        lines = ("@x.example b@y.example", "a@x.example c@y.example", "a@x.example b@z.example")
        for recipient in ("b@y.example", "c@y.example", "b@z.example"):
            self.assertDenied(self.verdict("a@x.example", recipient, *lines))

    def test_no_such_user(self) -> None:
        """On request the reply does not tell that the recipient exists."""
        plugin = BadMailFromTo(no_such_user=True, entries=(entry("@x.example b@y.example"),))
        transaction = self.transaction("a@x.example")
        verdict = self.ask(plugin, "rcpt", transaction, Address.parse("<b@y.example>"))
        self.assertDenied(verdict, "No such user", status="5.1.1")

    def test_bad_entries(self) -> None:
        """A line that can list nothing is an error when the server starts."""
        self.assertRaisesRegex(ValueError, "there is no recipient", entry, "a@x.example")
        self.assertRaisesRegex(ValueError, "no @ in postmaster", entry, "@x.example postmaster")
        for line in ("x.example b@y.example", "@ b@y.example", "a@x.example @y.example", "<> b@y"):
            self.assertRaisesRegex(ValueError, "expected an address or @domain", entry, line)

"""The plugin badmailfrom."""

from itertools import permutations

from qpsmtpd.plugins.badmailfrom import BadMailFrom, entry
from qpsmtpd.policy import Reject, RejectType
from qpsmtpd.testing import ComponentTestCase

DEFAULT = "Your envelope sender is in my badmailfrom list"


class BadMailFromTests(ComponentTestCase):
    def verdict(self, sender: str, *lines: str, **settings: object) -> object:
        plugin = BadMailFrom(entries=tuple(map(entry, lines)), **settings)  # type: ignore[arg-type]
        self.last = self.transaction(sender)
        return self.ask(plugin, "mail", self.last, self.last.reverse_path)

    def test_conversation(self) -> None:
        """A listed reverse-path is refused with its reason, and others are accepted."""
        lines = ("bad@test.example  Go away", "@bulk.example")
        self.converse(
            [BadMailFrom(entries=tuple(map(entry, lines)))],
            f"""
            C: EHLO client.example
            S: 250 mail.example ...
            C: MAIL FROM:<bad@test.example>
            S: 550 5.1.8 Go away
            C: MAIL FROM:<any@bulk.example>
            S: 550 5.1.8 {DEFAULT}
            C: MAIL FROM:<good@test.example>
            S: 250 2.1.0 ...
            """,
        )

    def test_matches(self) -> None:
        """An entry lists an address, a domain without those below, or what a pattern finds."""
        for line, sender in (
            ("matt@test.example", "matt@test.example"),
            ("Matt@test.example", "mATT@TEST.example"),
            ("@test.example", "matt@test.example"),
            ("@Test.example", "matt@tesT.example"),
            ("test.example$", "matt@test.example"),
            ("^Promo-.*@", "promo-7@test.example"),
            ("a+tag@test.example", "a+tag@test.example"),
            ("?@test.example", "?@test.example"),
        ):
            self.assertDenied(self.verdict(sender, line), DEFAULT)

    def test_does_not_match(self) -> None:
        """An entry lists nothing else."""
        for line, sender in (
            ("matt@test.example", "matt@other.example"),
            ("matt@test.example", "mmatt@test.example"),
            ("@test.example", "matt@sub.test.example"),
            ("@test.example", "matt@test.example.example"),
            ("other.example$", "matt@test.example"),
        ):
            self.assertDeclined(self.verdict(sender, line))

    def test_null_path(self) -> None:
        """Bounces are never refused, whatever the list says."""
        self.assertDeclined(self.verdict("", ".*"))

    def test_first_entry(self) -> None:
        """The first entry that matches gives the reason."""
        said = self.verdict("a@b.example", "@c.example x", "@b.example one", "a@b.example two")
        self.assertDenied(said, "one")
        lines = (
            "a@b.example an address",
            "@b.example a domain",
            "^a@ a pattern",
            "b\\.e a pattern, too",
        )
        for order in permutations(lines):
            reason = order[0].split(None, 1)[1]
            self.assertDenied(self.verdict("a@b.example", "x@c.example no", *order), reason)

    def test_immunity(self) -> None:
        """A relay client may send from a listed address."""
        plugin = BadMailFrom(entries=(entry("@bad.example"),))
        transaction = self.transaction("a@bad.example", session=self.session(relay_client=True))
        self.assertDeclined(self.ask(plugin, "mail", transaction, transaction.reverse_path))

    def test_reject(self) -> None:
        """The arguments reject and reject_type say how to refuse; karma is lost in any case."""
        lines = ("a@bad.example",)
        self.assertDeclined(self.verdict("a@bad.example", *lines, reject=Reject.NO))
        self.assertIsNone(self.last.note("naughty"))
        self.assertEqual(self.last.session.note("karma"), -1)
        self.assertDeclined(self.verdict("a@bad.example", *lines, reject=Reject.NAUGHTY))
        self.assertEqual(self.last.note("naughty"), f"(badmailfrom) {DEFAULT}")
        kind = RejectType.TEMP_DISCONNECT
        verdict = self.verdict("a@bad.example", *lines, reject_type=kind)
        self.assertDeferred(verdict, status="4.1.8", disconnect=True)

    def test_bad_entries(self) -> None:
        """An entry that can list nothing is an error when the server starts."""
        self.assertRaisesRegex(ValueError, "there is no @", entry, ".bad.example")
        self.assertRaisesRegex(ValueError, "expected an address", entry, "*@bad.example")

"""Tests for :mod:`qpsmtpd.smtp.extensions`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.smtp.commands import parse_mail, parse_rcpt
from qpsmtpd.smtp.extensions import Extensions
from qpsmtpd.smtp.reply import Reply

ALL = Extensions(
    size=1000, recipients=50, auth=("PLAIN", "LOGIN"), starttls=True, dsn=True, other=("XTRA 1",)
)
NONE = Extensions(
    pipelining=False, eightbitmime=False, smtputf8=False, chunking=False, binarymime=False
)


class KeywordTests(SynchronousTestCase):
    def test_all(self) -> None:
        """The reply to EHLO lists what is offered, in a fixed order."""
        self.assertEqual(
            ALL.keywords(),
            [
                "PIPELINING",
                "8BITMIME",
                "SIZE 1000",
                "ENHANCEDSTATUSCODES",
                "SMTPUTF8",
                "CHUNKING",
                "BINARYMIME",
                "DSN",
                "LIMITS RCPTMAX=50",
                "STARTTLS",
                "XTRA 1",
                "AUTH PLAIN LOGIN",
            ],
        )

    def test_none(self) -> None:
        """What is switched off is not told; SIZE without a number has no limit (RFC 1870, 4)."""
        self.assertEqual(NONE.keywords(), ["SIZE", "ENHANCEDSTATUSCODES"])

    def test_binarymime_needs_chunking(self) -> None:
        """BINARYMIME is not told without CHUNKING, which carries it (RFC 3030, 3)."""
        self.assertNotIn("BINARYMIME", Extensions(chunking=False).keywords())
        self.assertIn("CHUNKING", Extensions(binarymime=False).keywords())
        self.assertNotIn("BINARYMIME", Extensions(binarymime=False).keywords())


class OfferedTests(SynchronousTestCase):
    def mail_code(self, parameter: bytes, extensions: Extensions) -> int | None:
        found = parse_mail(b"FROM:<a@b.example> " + parameter, extensions)
        return found.code if isinstance(found, Reply) else None

    def test_mail_parameters(self) -> None:
        """A parameter of MAIL is taken where its extension is offered, and else is unknown."""
        for parameter in (
            b"BODY=8BITMIME",
            b"BODY=BINARYMIME",
            b"SMTPUTF8",
            b"AUTH=<>",
            b"RET=FULL",
            b"ENVID=QQ314159",
        ):
            self.assertIsNone(self.mail_code(parameter, ALL), parameter)
            self.assertEqual(self.mail_code(parameter, NONE), 555, parameter)

    def test_size_is_always_there(self) -> None:
        """SIZE may be given whatever is offered, since it is always told."""
        self.assertIsNone(self.mail_code(b"SIZE=1", NONE))

    def test_rcpt_parameters(self) -> None:
        """The parameters of RCPT are those of DSN (RFC 3461, 4.1 and 4.2)."""
        for parameter in (b"NOTIFY=NEVER", b"ORCPT=rfc822;a@b.example"):
            argument = b"TO:<a@b.example> " + parameter
            self.assertNotIsInstance(parse_rcpt(argument, ALL), Reply)
            refused = parse_rcpt(argument, Extensions())
            assert isinstance(refused, Reply)
            self.assertEqual(refused.code, 555)

    def test_binary_body_without_chunking(self) -> None:
        """BODY=BINARYMIME is refused where either of its two extensions is off."""
        for extensions in (Extensions(chunking=False), Extensions(binarymime=False)):
            self.assertEqual(self.mail_code(b"BODY=BINARYMIME", extensions), 555)
            self.assertIsNone(self.mail_code(b"BODY=8BITMIME", extensions))

"""The plugin headers."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.plugins.headers import Headers, _seconds, field_name
from qpsmtpd.plugins.naughty import Naughty
from qpsmtpd.policy import Reject, RejectType
from qpsmtpd.testing import ComponentTestCase

REQUIRED = ("From", "Date")


def dated(days: float) -> str:
    """A message that was sent some days from now."""
    date = datetime.now(UTC) + timedelta(days=days)
    return f"From: <a@client.example>\nDate: {format_datetime(date)}\n\nHello\n"


class HeadersTests(ComponentTestCase):
    def verdict(self, message: str | bytes, **settings: object) -> object:
        self.last = self.transaction("a@client.example", message=message)
        plugin = Headers(**{"require": REQUIRED, **settings})  # type: ignore[arg-type]
        return self.ask(plugin, "data_post", self.last)

    def test_fine(self) -> None:
        """A message with the required fields is taken; without an argument that is From."""
        self.assertDeclined(self.verdict(dated(0)))
        self.assertDeclined(self.verdict("from: a@b.example\n\n", require=("From",)))
        transaction = self.transaction(message="From: a@b.example\n\n")
        self.assertDeclined(self.ask(Headers(), "data_post", transaction))

    def test_missing(self) -> None:
        """A message without a required field is refused, or with an empty one."""
        for message in ("From: <a@b.example>\n\n", "Date: \nFrom: <a@b.example>\n\n"):
            self.assertDenied(self.verdict(message), "We require a valid Date header")
        self.assertEqual(self.last.session.note("karma"), -1)

    def test_all_that_is_wrong(self) -> None:
        """The client is told everything that is wrong, each on a line."""
        conversation = self.open(Headers(require=REQUIRED))
        reply = conversation.message("Subject: 1\nSubject: 2\n\nHello\n")
        self.assertReply(
            reply,
            552,
            "5.6.0",
            "We require a valid From header\n"
            "We require a valid Date header\n"
            "Only one Subject header allowed. See RFC 5322, Section 3.6",
        )

    def test_repeated(self) -> None:
        """A field that may stand once is refused twice, also where the first one is empty."""
        for second in ("From: <a@b.example>\n", "FROM:\n", "Date: x\nDate: y\nFrom : z\n"):
            message = f"From:\nFrom: <a@b.example>\n{second}\nHello\n"
            self.assertDenied(self.verdict(message, require=()), "Only one ...")
        self.assertDeclined(self.verdict("Received: a\nReceived: b\nX: c\nX: d\n\n", require=()))

    def test_dates(self) -> None:
        """A date may be so many days old and so many ahead, if the arguments say how many."""
        for days in (-6, -3, 3, 6):
            self.assertDenied(self.verdict(dated(days), past=2, future=2), "The Date header ...")
            self.assertDeclined(self.verdict(dated(days)))
        for days in (-1, 0, 1):
            self.assertDeclined(self.verdict(dated(days), past=2, future=2))
        self.assertDenied(self.verdict(dated(3), future=2), "... in the future")
        self.assertDenied(self.verdict(dated(-3), past=2), "... in the past")

    def test_date_formats(self) -> None:
        """Dates are read as RFC 5322 writes them, as asctime() does and as ISO 8601."""
        wanted = 1795446000.0 - 3600
        self.assertEqual(_seconds("Mon, 23 Nov 2026 15:00:00 +0100 (a comment)"), wanted)
        self.assertEqual(_seconds("23 Nov 2026 14:00 GMT"), wanted)
        self.assertEqual(_seconds("2026-11-23T14:00:00Z"), wanted)
        local = datetime(2026, 11, 23, 14, 0).timestamp()
        self.assertEqual(_seconds("Mon Nov 23 14:00:00 2026"), local)

    def test_unreadable_date(self) -> None:
        """A date that cannot be read is as good as none to past and future."""
        for date in ("yesterday", "9" * 5000, "1 Jan 99999999999999999999 1:1:1 +0", "(" * 500):
            message = f"From: <a@b.example>\nDate: {date}\n\n"
            self.assertDeclined(self.verdict(message, past=1, future=1))

    @given(st.text(max_size=220))
    def test_any_date(self, text: str) -> None:
        """Whatever a client writes as its date, reading it raises nothing."""
        self.assertIsInstance(_seconds(text), (int, float, type(None)))

    def test_nothing_sent(self) -> None:
        """A message without content or without a header section is refused to everybody."""
        for message, text in (
            (b"", "You must send some data first"),
            (b"just words\n", "Headers are missing"),
        ):
            transaction = self.transaction(message=message)
            transaction.session.relay_client = True
            self.assertDenied(self.ask(Headers(), "data_post", transaction), text)

    def test_immunity(self) -> None:
        """A relay client may send what it likes."""
        transaction = self.transaction(message="Subject: x\n\n")
        transaction.session.relay_client = True
        self.assertDeclined(self.ask(Headers(), "data_post", transaction))

    def test_reject(self) -> None:
        """The arguments reject and reject_type say how to refuse; 0 leaves no mark."""
        self.assertDeferred(
            self.verdict("\n\n", reject_type=RejectType.TEMP), status="4.6.0", disconnect=False
        )
        self.assertDeclined(self.verdict("X: y\n\n", reject=Reject.NO))
        self.assertIsNone(self.last.note("naughty"))
        self.assertIsNone(self.last.session.note("naughty"))

    def test_naughty(self) -> None:
        """With naughty the message at fault is refused, and the client's next one is not."""
        naughty = Naughty(reject_type=RejectType.PERM)
        conversation = self.open(Headers(reject=Reject.NAUGHTY), naughty)
        self.assertReply(conversation.message("X: y\n\n"), 552, "5.7.1", "(headers) We require ...")
        self.assertReply(conversation.message("From: <a@b.example>\n\n"), 250)

    def test_hostile(self) -> None:
        """Of very many fields of one name only the first ten are searched for a value."""
        subjects = b"Subject:\r\n" * 20_000
        wanted = "We require a valid Subject header\nOnly one Subject ..."
        for message in (subjects, subjects + b"Subject: at last\r\n"):
            self.assertDenied(self.verdict(message + b"\r\n", require=("Subject",)), wanted)

    def test_field_names(self) -> None:
        """The argument require takes names of fields only."""
        self.assertEqual(field_name("X-Spam"), "X-Spam")
        for text in ("", "a b", "a:", "ä"):
            self.assertRaises(ValueError, field_name, text)

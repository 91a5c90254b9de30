"""All that was said for a message or a connection."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.logtools import show as module
from qpsmtpd.logtools.show import show
from tests.logtools.logs import PERL, REFUSED, TAKEN


def rest(text: str) -> list[str]:
    """Lines without their number."""
    return [line.partition(" ")[2] for line in text.splitlines()]


class ShowTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def show(self, wanted: str, text: str, *, every: bool = False) -> list[str]:
        self.path.write_text(text)
        return list(show(wanted, [self.path], every=every))

    def test_number(self) -> None:
        """By its number: all lines of a session, also among those of others."""
        one, two = TAKEN.splitlines(), REFUSED.splitlines()
        mixed = [line for pair in zip(one, two, strict=False) for line in pair] + one[len(two) :]
        self.assertEqual(self.show("2412000031", "\n".join(mixed) + "\n"), rest(TAKEN))

    def test_session(self) -> None:
        """By its id: whether the lines have that, or their number says the same."""
        self.assertEqual(self.show("65610d1a-96c-1f", REFUSED + TAKEN), rest(TAKEN))
        with_id = TAKEN.replace("2412000031 ", "2412000031 [65610d1a-96c-1f] ")
        self.assertEqual(self.show("65610d1a-96c-1f", REFUSED + with_id), rest(TAKEN))
        self.assertEqual(self.show("65610d1b-96c-1f", REFUSED + with_id), [])
        json = '{"pid": 2412, "session": "65610d1a-96c-1f", "text": "hello"}\n'
        for wanted in ("65610d1a-96c-1f", "2412000031", "2412"):
            self.assertEqual(self.show(wanted, json), ["hello"])
        odd = json.replace("65610d1a-96c-1f", "odd")
        self.assertEqual(self.show("2412000031", odd), [])

    def test_transaction(self) -> None:
        """By a transaction's id: what was said from its MAIL to its end."""
        taken = TAKEN.splitlines()
        [mail] = [number for number, line in enumerate(taken) if " MAIL " in line]
        [trace] = [number for number, line in enumerate(taken) if " trace: " in line]
        second = [line.replace("1f.1 ", "1f.2 ") for line in taken[mail : trace + 1]]
        second = [line.replace("a@", "second@") for line in second]
        text = "\n".join([*taken[: trace + 1], *second, *taken[trace + 1 :]])
        self.assertEqual(self.show("65610d1a-96c-1f.2", text), rest("\n".join(second)))
        self.assertEqual(
            self.show("65610d1a-96c-1f.1", text), rest("\n".join(taken[mail : trace + 1]))
        )

    def test_process(self) -> None:
        """By the id of a process: all that it said, each session's part apart."""
        self.assertEqual(
            self.show("2412", "2412 Listening on x\n" + TAKEN + REFUSED),
            ["Listening on x", "", *rest(TAKEN), "", *rest(REFUSED)],
        )
        shown = self.show("4021", PERL)
        self.assertEqual(len([line for line in shown if line.startswith("Accepted")]), 2)
        self.assertIn("(queue) queue::qmail_2dqueue: Queuing to /var/qmail/bin/qmail-queue", shown)
        self.assertIn("cleaning up after 4021", shown)

    def test_address(self) -> None:
        """By a client's address: its last connection, and how many there were."""
        twice = TAKEN + TAKEN.replace("2412000031", "2412000044").replace("a@", "last@")
        shown = self.show("192.0.2.7", twice + REFUSED)
        self.assertEqual(
            shown[:2],
            ["192.0.2.7 had 2 connections; this is the last one, --all shows each.", ""],
        )
        self.assertEqual(shown[2:], [line.replace("a@", "last@") for line in rest(TAKEN)])
        both = self.show("192.0.2.7", twice + REFUSED, every=True)
        self.assertEqual(both[0], "192.0.2.7 had 2 connections.")
        self.assertEqual(len(both), 2 + 2 * len(rest(TAKEN)) + 1)
        self.assertEqual(
            self.show("2001:DB8:0:0::7", twice + REFUSED),
            ["2001:DB8:0:0::7 had 1 connection.", "", *rest(REFUSED)],
        )
        self.assertEqual(self.show("192.0.2.9", PERL)[-1], "cleaning up after 4021")
        self.assertEqual(self.show("192.0.2.77", twice), [])

    def test_text(self) -> None:
        """By a mail address or a Message-ID that stands in a line, as a whole."""
        for wanted in ("c@example.com", "C@EXAMPLE.COM", "<m1@example.org>", "m1@example.org"):
            self.assertEqual(self.show(wanted, TAKEN + REFUSED)[2:], rest(TAKEN), wanted)
        for wanted in ("c@example.co", "xc@example.com", "1@example.org"):
            self.assertEqual(self.show(wanted, TAKEN + REFUSED), [], wanted)

    def test_files(self) -> None:
        """A session may be in several files."""
        lines = TAKEN.splitlines(keepends=True)
        old = Path(self.mktemp())
        old.write_text("".join(lines[:7]))
        self.path.write_text("".join(lines[7:]))
        self.assertEqual(list(show("2412000031", [old, self.path])), rest(TAKEN))
        self.assertEqual(list(show("m1@example.org", [old, self.path]))[2:], rest(TAKEN))

    def test_stamps(self) -> None:
        """Time stamps are not shown."""
        stamped = "".join(f"@4000000065610d1a00000000 {line}\n" for line in TAKEN.splitlines())
        self.assertEqual(self.show("2412000031", stamped), rest(TAKEN))

    def test_hostile(self) -> None:
        """What a client said is shown escaped."""
        shown = self.show("2412000031", TAKEN.replace("EHLO mail.example.org", "EHLO \x1b[2J"))
        self.assertIn(r"dispatching EHLO \x1b[2J", shown)

    def test_too_many(self) -> None:
        """Of very many, the last ones are shown."""
        self.patch(module, "SHOWN_LIMIT", 2)
        text = "".join(
            f"2412{number:06} Connection from n{number} [192.0.2.1]\n" for number in range(9)
        )
        self.assertEqual(
            self.show("192.0.2.1", text, every=True),
            [
                *("192.0.2.1 had 9 connections.", ""),
                *("Connection from n7 [192.0.2.1]", "", "Connection from n8 [192.0.2.1]"),
            ],
        )

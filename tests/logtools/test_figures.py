"""Figures of many sessions."""

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.logtools import figures
from qpsmtpd.logtools.figures import Figures
from tests.logtools.logs import PERL, REFUSED, TAKEN, sessions_of


class FiguresTests(SynchronousTestCase):
    def lines(self, text: str) -> list[str]:
        counted = Figures()
        for session in sessions_of(text):
            counted.add(session)
        return list(counted.lines())

    def test_tables(self) -> None:
        """How sessions ended, what each plugin found, and why mail was refused."""
        again = REFUSED.replace("2412000032", "2412000033").replace("x@example", "y@example")
        self.assertEqual(
            "\n".join(self.lines(TAKEN + REFUSED + again + PERL)),
            """\
connections             number
----------------------  ------
all                          5
mail was queued              2
refused                      2
timed out                    1
no mail and no refusal       0
messages queued              2

plugin                pass  fail  tolerated  skip  positive  other
--------------------  ----  ----  ---------  ----  --------  -----
ident::geoip             0     0          0     0         0      1
ident::p0f               0     0          0     0         0      1
karma                    0     0          0     0         1      0
dnsbl                    1     0          0     0         0      0
earlytalker              0     1          0     0         0      0
helo                     0     0          2     0         0      0
badmailfrom              2     0          0     2         0      0
rcpt_ok                  2     2          0     0         0      0
queue::qmail_2dqueue     0     0          0     0         0      1
queue::maildir           0     0          0     0         0      1
connection_time          0     0          0     0         0      1

times  refused because
-----  -------------------------------------------------------------
    2  550 5.7.1 ... relaying denied
    1  450 Connecting host started transmitting before SMTP greeting""",
        )

    def test_nothing(self) -> None:
        """Without sessions there are no tables of plugins and reasons."""
        self.assertEqual(len(self.lines("")), 8)

    def test_reasons_without_replies(self) -> None:
        """Where no reply is logged, what plugins said is why."""
        lines = self.lines(REFUSED.replace("2412000032 550 5.7.1 <x@example.net>", "2412000032 -"))
        self.assertIn("    1  rcpt_ok: fail: example.net is not here", lines)

    def test_said_twice(self) -> None:
        """A refused sender is counted once, by the reply."""
        text = "2412000001 Connection from Unknown [192.0.2.1]\n"
        deny = "2412000001 deny mail from <a@example.org> (no)\n"
        self.assertIn("    1  deny mail from ... (no)", self.lines(text + deny))
        self.assertEqual(
            self.lines(text + deny + "2412000001 550 5.7.1 no\n")[-1], "    1  550 5.7.1 no"
        )

    def test_too_many(self) -> None:
        """Reasons that clients make up are counted so far."""
        self.patch(figures, "REASONS_LIMIT", 3)
        text = "2412000001 Connection from Unknown [192.0.2.1]\n"
        text += "".join(f"2412000001 550 {word}\n" for word in ("a", "b", "c", "d", "a"))
        reasons = self.lines(text)[-3:]
        self.assertEqual(reasons, ["    2  550 a", "    1  550 b", "    1  550 c"])

"""The table of sessions."""

import re

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.logtools import summary
from qpsmtpd.logtools.summary import Summary, draw, fit
from tests.logtools.logs import PERL, REFUSED, TAKEN, one_session, sessions_of


class SummaryTests(SynchronousTestCase):
    def rows(self, text: str, *, long: bool = False, colour: bool = False) -> list[str]:
        table = Summary(long=long, colour=colour)
        return [line for session in sessions_of(text) for line in table.lines(session)]

    def test_table(self) -> None:
        """One row for each connection; a new column brings the header again."""
        self.assertEqual(
            "\n".join(self.rows(TAKEN + REFUSED)),
            """\
ip              dbl HELO     MAIL FRO bmf RCPT TO  rok qdr tim  result
192.0.2.7        o  mple.org mple.org  o  b@exampl  o  <m1 1.25 queued
ip              dbl HELO     hlo MAIL FRO bmf RCPT TO  rok qdr tim  result
2001:db8::7         friend    x  <>        -  x@exampl  X           refused""",
        )

    def test_long(self) -> None:
        """Long columns have more of the texts, and longer names."""
        header, row = self.rows(TAKEN, long=True)
        self.assertEqual(
            header.split(),
            "ip hostname dnsbl HELO MAIL FROM badmf RCPT TO rcpok qudir time result".split(),  # noqa: SIM905 - as it reads
        )
        self.assertIn(" a@example.org  ", row)
        self.assertIn(" b@example.com +1 ", row)

    def test_perl(self) -> None:
        """Logs of the Perl qpsmtpd have the same columns, and distances."""
        header, row, again, last = self.rows(PERL)
        self.assertRegex(header, r"^ip +dist +geo +p0f +krm HELO +MAIL FRO bmf .* qqm result$")
        self.assertRegex(row, r"^192\.0\.2\.8 +1200  NA, US Linux 3\.x   o  mple\.org .* queued$")
        self.assertIn(" ear ", again)
        self.assertRegex(last, r"^192\.0\.2\.9 +X +timeout$")

    def test_errors(self) -> None:
        """A plugin that could not test has an exclamation mark; unknown plugins have a column."""
        text = (
            "2412000001 Connection from Unknown [192.0.2.1]\n"
            "2412000001 (connect) fcrdns: error, no answer\n"
            "2412000001 (connect) house_rules: hello world, this is long\n"
        )
        self.assertEqual(
            self.rows(text),
            [
                "ip              dns house_rule result",
                "192.0.2.1        !  hello worl",
            ],
        )

    def test_header_again(self) -> None:
        """The header comes again after every 20 rows."""
        rows = self.rows(
            "".join(
                f"2412{number:06} Connection from Unknown [192.0.2.1]\n" for number in range(41)
            )
        )
        heads = [number for number, row in enumerate(rows) if row.startswith("ip ")]
        self.assertEqual(heads, [0, 21, 42])

    def test_colour(self) -> None:
        """Colours change nothing else."""
        plain = self.rows(TAKEN + REFUSED + PERL)
        coloured = self.rows(TAKEN + REFUSED + PERL, colour=True)
        self.assertIn("\x1b[31mX\x1b[0m", "\n".join(coloured))
        self.assertIn("\x1b[33mx\x1b[0m", "\n".join(coloured))
        self.assertEqual([re.sub(r"\x1b\[\d+m", "", row) for row in coloured], plain)

    def test_hostile(self) -> None:
        """What a client says does not reach a terminal, and makes no column wider."""
        text = TAKEN.replace("EHLO mail.example.org", "EHLO \x1b[2J\u4f60\u597d" + "w" * 3)
        header, row = self.rows(text)
        # Two characters are two wide. The last column begins below its title.
        self.assertEqual(row.index("queued"), header.index("result") - 2)
        self.assertIn("J你好www ", row)
        _, row = self.rows(TAKEN.replace("EHLO mail.example.org", "EHLO \x1b[2J"))
        self.assertIn(r" \x1b[2J  ", row)

    def test_many_columns(self) -> None:
        """There are only so many columns."""
        self.patch(summary, "COLUMNS_LIMIT", 5)
        text = "2412000001 Connection from Unknown [192.0.2.1]\n" + "".join(
            f"2412000001 (connect) plugin{number}: pass\n" for number in range(10)
        )
        self.assertEqual(self.rows(text)[0].count("plugin"), 3)


class FitTests(SynchronousTestCase):
    def test_width(self) -> None:
        """A text gets the width of its column, from its beginning or its end."""
        self.assertEqual(fit("abc", 5), "abc  ")
        self.assertEqual(fit("abcdefg", 5), "abcde")
        self.assertEqual(fit("abcdefg", 5, from_end=True), "cdefg")
        self.assertEqual(fit("你好", 3), "你 ")
        self.assertEqual(fit("e\u0301x", 2), "e\u0301x")


class DrawTests(SynchronousTestCase):
    def test_table(self) -> None:
        """Texts stand to the left, numbers to the right."""
        self.assertEqual(
            list(draw(["name", "n"], [["你", 5], ["longer", 123]])),
            ["name      n", "------  ---", "你        5", "longer  123"],
        )

    def test_session_without_mail(self) -> None:
        """A cell that has nothing is empty."""
        session = one_session("2412000001 Connection from Unknown [192.0.2.1]\n")
        self.assertEqual(list(Summary().lines(session)), ["ip              result", "192.0.2.1"])

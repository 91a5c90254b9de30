"""What ``python -m qpsmtpd check --from`` says, as text and as JSON."""

import json

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.configuration.report import Kind, Report


class ReportTests(SynchronousTestCase):
    def test_status(self) -> None:
        """Something missing, bad or dangerous is a 1; what works, changes or is unused is a 0."""
        for kind in Kind:
            report = Report("/etc/qpsmtpd")
            report.add(Kind.WORKS, "me", "is read")
            report.add(kind, "x", "is so")
            bad = kind in (Kind.MISSING, Kind.BAD, Kind.DANGER)
            self.assertEqual(report.status, int(bad), kind)

    def test_text(self) -> None:
        """Each thing is a line with its kind in front; the last line counts them."""
        report = Report("/etc/qpsmtpd")
        report.add(Kind.WORKS, "config/me", "is read")
        report.add(Kind.CHANGES, "config/IP", "is not read", "say it with --listen")
        self.assertEqual(
            list(report.lines()),
            [
                "works    config/me: is read",
                "changes  config/IP: is not read. To do: say it with --listen",
                "1 works, 1 changes.",
            ],
        )
        self.assertEqual(list(Report("/").lines()), ["nothing was found."])

    def test_hostile_names(self) -> None:
        """A file's name moves no cursor, whatever it is made of."""
        report = Report("/")
        report.add(Kind.UNUSED, "\x1b[2J\nworks\udcff", "is unknown")
        self.assertEqual(next(report.lines()), "unused   \\x1b[2J\\nworks\\udcff: is unknown")
        self.assertEqual(json.loads(report.json())["items"][0]["subject"], "\x1b[2J\nworks\udcff")

    def test_json(self) -> None:
        """The same for other programs."""
        report = Report("/etc/qpsmtpd")
        report.add(Kind.BAD, "config/me", "is wrong", "mend it")
        item = {"kind": "bad", "subject": "config/me", "said": "is wrong", "do": "mend it"}
        self.assertEqual(
            json.loads(report.json()), {"folder": "/etc/qpsmtpd", "status": 1, "items": [item]}
        )

"""Run scripts, envdirs and tcprules of an existing installation."""

import os

from qpsmtpd.configuration.report import Kind, Report
from qpsmtpd.configuration.starting import examine_environment, examine_scripts, read_some
from tests.configuration.folders import FolderTestCase

QMAIL_RUN = """\
    #!/bin/sh
    # exec qpsmtpd-forkserver -p 99 would be a comment
    MAXSMTPD=`cat /var/qmail/control/concurrencyincoming`
    exec softlimit -m 2000000 \\
        tcpserver -v -R -x /etc/tcp.smtp.cdb -c "$MAXSMTPD" \\
        -u 64011 -g 64010 0 smtp rblsmtpd -r zen.example /var/qmail/bin/qmail-smtpd 2>&1
"""

FORKSERVER_RUN = """\
    #!/bin/sh
    LANG=C
    exec 2>&1 softlimit -m 300000000 \\
        /usr/bin/perl -T ./PROGRAM \\
            --listen-address 0.0.0.0 --listen-address [2001:db8::1]:465 --port 25 --port 587 \\
            --limit-connections 15 --max-from-ip=5 --user smtpd --pid-file /var/run/q.pid
"""


class ScriptTests(FolderTestCase):
    def found(self) -> list[tuple[str, str]]:
        report = Report(self.top)
        examine_scripts(self.top, report)
        self.items = report.items
        return [(item.kind.value, item.subject) for item in report.items]

    def test_tcpserver(self) -> None:
        """Under tcpserver another program takes the place of qmail-smtpd, nothing else changes."""
        self.write("supervise/qmail-smtpd/run", QMAIL_RUN)
        self.assertEqual(self.found(), [("changes", "supervise/qmail-smtpd/run")] * 2)
        self.assertEqual(self.items[0].said, "starts qmail-smtpd under tcpserver")
        self.assertIn("python -m qpsmtpd stdio", self.items[0].do)
        self.assertIn("rblsmtpd goes on to work", self.items[1].said)

    def test_forkserver(self) -> None:
        """A daemon is replaced by the command of its name, with its options."""
        for name in ("qpsmtpd-forkserver", "qpsmtpd-prefork"):
            self.write("run", FORKSERVER_RUN.replace("PROGRAM", name))
            self.assertEqual(self.found(), [("changes", "run")])
            self.assertIn(f"call this installation's {name} in its place", self.items[0].do)

    def test_inetd(self) -> None:
        """The program for one session is replaced by ours."""
        self.write("run", "QPSMTPD_CONFIG=/etc/qpsmtpd exec /usr/share/qpsmtpd/qpsmtpd\n")
        self.found()
        self.assertEqual(self.items[0].do, "in place of qpsmtpd: python -m qpsmtpd stdio")

    def test_odd_scripts(self) -> None:
        """An unclosed quote, a binary, a FIFO and a folder in the place of a script do no harm."""
        self.write("run", "exec ./qpsmtpd-forkserver -u 'smtpd\n")
        with open(self.at("rc"), "wb") as file:
            file.write(bytes(range(256)) * 10)
        os.mkfifo(self.at("run.tcpserver"))
        os.mkdir(self.at("run.forkserver"))
        self.assertEqual(self.found(), [("changes", "run")])

    def test_envdir(self) -> None:
        """A variable in an envdir counts as one of the environment; an empty file takes it away."""
        self.write("env/DATABYTES", "5000\n")
        self.write("env/RELAYCLIENT", "")
        self.assertEqual(self.found(), [("changes", "env: DATABYTES")])
        self.write("env/RELAYCLIENT", "\n")
        self.assertEqual(self.found()[0], ("danger", "env: RELAYCLIENT"))

    def test_rules(self) -> None:
        """Rules for single clients go on to work; one that lets all relay is a danger."""
        self.write("tcp.smtp", '127.:allow,RELAYCLIENT=""\n:allow\n')
        self.assertEqual(self.found(), [("works", "tcp.smtp")])
        self.write("tcp.smtp", '10.:allow,RELAYCLIENT="@gate.example"\n:allow,RELAYCLIENT=""\n')
        self.assertEqual([kind for kind, _ in self.found()], ["works", "changes", "danger"])

    def test_exported(self) -> None:
        """A script that exports RELAYCLIENT opens the relay."""
        self.write("run", 'export RELAYCLIENT=""\nexec ./qpsmtpd-forkserver\n')
        self.assertEqual(self.found(), [("danger", "run: RELAYCLIENT"), ("changes", "run")])


class EnvironmentTests(FolderTestCase):
    def found(self, **environ: str) -> list[tuple[Kind, str]]:
        report = Report("/")
        examine_environment(environ, "environment", report)
        return [(item.kind, item.subject) for item in report.items]

    def test_variables(self) -> None:
        """What the environment says is named, where it matters."""
        self.assertEqual(self.found(HOME="/", PATH="/bin", DATABYTES=""), [])
        self.assertEqual(
            self.found(RELAYCLIENT="@x", DATABYTES="9", QMAILQUEUE="/bin/q"),
            [
                (Kind.CHANGES, "environment: RELAYCLIENT"),
                (Kind.CHANGES, "environment: RELAYCLIENT"),
                (Kind.CHANGES, "environment: DATABYTES"),
                (Kind.CHANGES, "environment: QMAILQUEUE"),
            ],
        )

    def test_read_some(self) -> None:
        """Of a huge file only the beginning is read."""
        path = self.write("huge", "abc")
        os.truncate(path, 1 << 40)
        self.assertEqual(read_some(path, 5), "abc\0\0")
        self.assertIsNone(read_some(self.at("nowhere")))
        self.assertIsNone(read_some(self.top))

"""``python -m qpsmtpd log``: its tools on logs of real servers, written by real programs."""

import os
import pty
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.logtools.logs import PERL, REFUSED, TAKEN
from tests.server.processes import LIMIT, PYTHON, TWISTD, Server, connect, run, until
from tests.services.binaries import find

LOG = [*PYTHON, "-m", "qpsmtpd", "log"]


class CommandTestCase(SynchronousTestCase):
    """Runs tools beside a folder ``log/main``."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.main = self.folder / "log" / "main"
        self.main.mkdir(parents=True)
        self.current = self.main / "current"

    def log(self, *words: str, status: int = 0) -> str:
        return run([*LOG, *words], self.folder, status=status)

    def follow(self, *words: str) -> Server:
        """Start a tool that goes on until it is stopped."""
        return Server(self, [*LOG, *words], self.folder, {"PYTHONUNBUFFERED": ""})

    def interrupt(self, tool: Server) -> None:
        tool.signal(signal.SIGINT)
        self.assertEqual(tool.wait(), 0, tool.said)
        self.assertNotIn("Traceback", tool.said)

    def write(self, command: list[str], text: str) -> None:
        """Have a program that writes logs write one."""
        done = subprocess.run(
            command, input=text, cwd=self.folder, text=True, timeout=LIMIT, capture_output=True
        )
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)


class WatchTests(CommandTestCase):
    def test_watch(self) -> None:
        """The last lines without their stamps, then new ones, also after a rotation."""
        lines = [f"@4000000065610d1a00000000 2412 line {number}\n" for number in range(1000)]
        self.current.write_text("".join(lines))
        tool = self.follow("watch")
        tool.wait_for("2412 line 999\n")
        self.assertEqual(len(tool.said.splitlines()), 300)
        with self.current.open("a") as file:
            file.write("@4000000065610d1b00000000 2412 dispatching EHLO \x1b[2J\n")
        tool.wait_for(r"\n2412 dispatching EHLO \\x1b\[2J\n")
        self.current.rename(self.main / "@4000000065610d1b00000000.s")
        self.current.write_text("@4000000065610d1c00000000 2412 a new file\n")
        tool.wait_for("\n2412 a new file\n")
        self.interrupt(tool)

    def test_lines(self) -> None:
        """The number of lines to begin with can be said, and the file."""
        (self.folder / "mx.log").write_text("2412 a\n2412 b\n")
        tool = self.follow("watch", "--lines", "1", "mx.log")
        tool.wait_for("2412 b\n")
        self.assertEqual(tool.said, "2412 b\n")
        self.interrupt(tool)
        self.assertIn("'-1': expected a number of lines", self.log("watch", "-n=-1", status=2))

    def test_multilog(self) -> None:
        """It follows through the rotations of a real multilog, and no line is missing."""
        self.current.write_text("2412 begin\n")
        tool = self.follow("watch")
        tool.wait_for("2412 begin\n")
        lines = [f"2412 line {number} {'x' * 50}\n" for number in range(2000)]
        self.write(["multilog", "t", "s4096", "n1000", str(self.main)], "".join(lines))
        self.assertGreater(len(list(self.main.glob("@*.s"))), 20)
        tool.wait_for("2412 line 1999 ")
        self.assertEqual(tool.said, "2412 begin\n" + "".join(lines))
        self.interrupt(tool)


class SummarizeTests(CommandTestCase):
    def test_follows(self) -> None:
        """A row is there when its connection is over; Ctrl-C ends it."""
        self.current.write_text(TAKEN)
        tool = self.follow("summarize")
        tool.wait_for(r"192\.0\.2\.7 .* queued\n")
        with self.current.open("a") as file:
            file.write(REFUSED)
        tool.wait_for(r"2001:db8::7 .* refused\n")
        self.interrupt(tool)

    def test_once(self) -> None:
        """All at once ends with figures; into a pipe there are no colours."""
        self.current.write_text(TAKEN + REFUSED)
        said = self.log("summarize", "--once")
        self.assertRegex(said, r"(?m)^messages queued +1$")
        self.assertRegex(said, r"(?m)^ +1  550 5\.7\.1 \.\.\. relaying denied$")
        self.assertNotIn("\x1b", said)

    def test_colour(self) -> None:
        """On a terminal there are colours, unless NO_COLOR is set; of a client come none."""
        self.current.write_text(TAKEN + REFUSED.replace("friend", "\x1b[35mfriend"))
        self.assertIn("\x1b[31mX\x1b[0m", self.on_terminal({}))
        self.assertNotIn("\x1b[35m", self.on_terminal({}))
        self.assertNotIn("\x1b", self.on_terminal({"NO_COLOR": "1"}))

    def on_terminal(self, environ: dict[str, str]) -> str:
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        done = subprocess.Popen(
            [*LOG, "summarize", "--once", "-l"],
            cwd=self.folder,
            env={**os.environ, **environ},
            stdout=theirs,
        )
        os.close(theirs)
        said = b""
        try:
            while data := os.read(ours, 65536):
                said += data
        except OSError:  # the end, on Linux
            pass
        self.assertEqual(done.wait(LIMIT), 0)
        return said.decode()

    def test_narrow_encoding(self) -> None:
        """An output that is not UTF-8 costs no row."""
        self.current.write_text(TAKEN.replace("<a@", "<é@"))
        said = run([*LOG, "summarize", "--once", "-l"], self.folder, {"PYTHONIOENCODING": "ascii"})
        self.assertIn(r"\xe9@example.org", said)


class ShowTests(CommandTestCase):
    def test_show(self) -> None:
        """All lines of one, also from older files; none is an error."""
        lines = TAKEN.splitlines(keepends=True)
        (self.main / "@4000000065610d1a00000000.s").write_text("".join(lines[:5]))
        os.utime(self.main / "@4000000065610d1a00000000.s", (1, 1))
        self.current.write_text("".join(lines[5:]) + REFUSED)
        said = self.log("show", "192.0.2.7").splitlines()
        self.assertEqual(said[:2], ["192.0.2.7 had 1 connection.", ""])
        self.assertEqual(said[2:], [line.partition(" ")[2].rstrip("\n") for line in lines])
        self.assertEqual(
            self.log("show", "192.0.2.1", status=1), "192.0.2.1: nothing in the log is about it\n"
        )


class SqlTests(CommandTestCase):
    def test_programs(self) -> None:
        """Logs that multilog and svlogd wrote, with every kind of stamp, and without."""
        writers = {
            "multilog": ["multilog", "t", "./multilog"],
            "svlogd": ["svlogd", "-t", "svlogd"],
            "human": ["svlogd", "-tt", "human"],
            "iso": ["svlogd", "-ttt", "iso"],
            "plain": ["svlogd", "plain"],
        }
        for number, (name, command) in enumerate(writers.items()):
            (self.folder / name).mkdir()
            self.write(command, (TAKEN + REFUSED).replace(" 2412", f" {number}412"))
        self.write(["multilog", "t", "./perl"], PERL)
        files = [f"{name}/current" for name in (*writers, "perl")]
        said = self.log("sql", *files, "--database", "log.sqlite")
        self.assertEqual(len(re.findall(": 31 new lines, 2 new connections", said)), 5, said)
        self.assertIn("perl/current: 21 new lines, 2 new connections\n", said)
        again = self.log("log2sql", *files, "-d", "log.sqlite")
        self.assertEqual(len(re.findall(": 0 new lines, 0 new connections", again)), 6, again)
        with closing(sqlite3.connect(self.folder / "log.sqlite")) as connection:
            found = connection.execute(
                "SELECT count(*), sum(queued), count(DISTINCT connect_start IS NULL),"
                " sum(connect_start > unixepoch() - 3600), sum(connect_start IS NULL)"
                " FROM message"
            ).fetchone()
        self.assertEqual(found, (12, 6, 2, 10, 2))

    def test_default(self) -> None:
        """Without files, the current one and those that it was before."""
        for text in (TAKEN + REFUSED, TAKEN.replace("31 ", "41 ") + REFUSED.replace("32 ", "42 ")):
            self.write(["multilog", "t", "s4096", str(self.main)], text)
        self.assertTrue(list(self.main.glob("@*.s")))
        said = self.log("sql", "-d", "log.sqlite")
        for what, sum_ in {"lines": 62, "connections": 4}.items():
            self.assertEqual(sum(map(int, re.findall(rf"(\d+) new {what}", said))), sum_, said)
        again = self.log("sql", "-d", "log.sqlite")
        self.assertEqual(set(re.findall(r": (.*)", again)), {"0 new lines, 0 new connections"})

    def test_wrong(self) -> None:
        """What cannot be is said."""
        self.current.write_text(TAKEN)
        (self.folder / "text").write_text("no database\n" * 100)
        self.assertEqual(self.log("sql", "-d", "text", status=1), "text: file is not a database\n")
        self.assertIn("required: -d/--database", self.log("sql", status=2))


class ServerTests(CommandTestCase):
    """Logs of a real server with real clients."""

    def serve(self, logging: str) -> None:
        """Have a server log a session that is taken and one that is refused, at one time."""
        config = self.folder / "config"
        config.mkdir()
        (config / "me").write_text("mail.example\n")
        (config / "rcpthosts").write_text("example.com\n")
        (config / "badmailfrom").write_text("bad@example.org\n")
        (config / "plugins").write_text(f"{logging}\nbadmailfrom\nrcpt_ok\nqueue/maildir Maildir\n")
        twistd = " ".join(map(shlex.quote, TWISTD))
        server = Server(
            self,
            [
                *("sh", "-c"),
                f"{twistd} -n --pidfile= qpsmtpd -c config -l tcp:0:interface=127.0.0.1"
                " 2>&1 >server.out | multilog t ./log/main",
            ],
            self.folder,
        )
        listening = self.wait_for(r"Listening on .*?port=(\d+)", server)
        port = int(listening[1])
        with connect(port) as taken, connect(port) as refused:
            refused.ehlo("\x1b[2J")
            refused.ehlo("evil.example")
            refused.mail("bad@example.org")
            refused.rcpt("b@example.com")
            taken.sendmail("a@example.org", ["b@example.com", "c@example.com"], "Subject: x\n\ny\n")
        self.wait_for("(?s)click, disconnecting.*click, disconnecting", server)

    def wait_for(self, pattern: str, server: Server) -> re.Match[str]:
        def text() -> str:
            return self.current.read_text() if self.current.exists() else server.said

        until(lambda: re.search(pattern, text()), text)
        found = re.search(pattern, text())
        assert found is not None
        return found

    def check(self) -> None:
        said = self.log("summarize", "--once", "--long")
        self.assertRegex(said, r"(?m)^127\.0\.0\.1 .* client\.example +a@example\.org .* queued$")
        self.assertRegex(said, r"(?m)^127\.0\.0\.1 .* bad@example\.org +X .* refused$")
        self.assertRegex(said, r"(?m)^ +1  55\d ")
        self.assertIn("b@example.com +1", said)
        self.assertRegex(said, r"(?m)^all +2\n.*queued +1\nrefused +1\n")
        self.assertNotIn("\x1b", said)
        shown = self.log("show", "127.0.0.1", "--all")
        self.assertTrue(shown.startswith("127.0.0.1 had 2 connections.\n\n"), shown)
        for line in (self.log("show", "c@example.com"), self.log("show", "a@example.org")):
            self.assertIn("dispatching rcpt TO:<c@example.com>", line)
            self.assertNotIn("bad@example.org", line)
        self.log("sql", "-d", "log.sqlite")
        with closing(sqlite3.connect(self.folder / "log.sqlite")) as connection:
            self.assertEqual(
                connection.execute(
                    "SELECT ip, helo, result, recipient.mail_from, recipient.rcpt_to"
                    " FROM message JOIN recipient ON message.id = msg_id"
                    " WHERE result = 3 ORDER BY recipient.rcpt_to"
                ).fetchall(),
                [
                    ("127.0.0.1", "client.example", 3, "a@example.org", f"{name}@example.com")
                    for name in "bc"
                ],
            )

    def test_warn(self) -> None:
        """The lines of logging/warn."""
        self.serve("logging/warn LOGINFO")
        self.check()

    def test_session(self) -> None:
        """With the ids of sessions; a transaction can be shown alone."""
        self.serve("logging/warn LOGINFO session")
        self.check()
        found = self.wait_for(r"transaction (\S+) trace: ", self.follow("watch"))
        shown = self.log("show", found[1])
        self.assertTrue(shown.startswith("dispatching mail FROM:<"), shown)
        self.assertNotIn("Connection from", shown)

    def test_file(self) -> None:
        """The lines of logging/file."""
        self.serve("logging/warn LOGINFO\nlogging/file loglevel LOGINFO log/file.log")
        until(
            lambda: (self.folder / "log" / "file.log").read_text().count("click, disc") == 2,
            lambda: "no lines",
        )
        self.current.unlink()
        (self.folder / "log" / "file.log").rename(self.current)
        self.check()


class PerlTests(CommandTestCase):
    def test_perl(self) -> None:
        """The log of a real Perl qpsmtpd, with the stamps of a real multilog."""
        folder = Path(tempfile.mkdtemp(prefix="qpsmtpd-test-"))
        self.addCleanup(shutil.rmtree, folder)
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        script = (
            '"$1" link set lo up; "$2" --bind resolv.conf /etc/resolv.conf;'
            ' exec "$3" -m tests.logtools.perl .'
        )
        command = [find("unshare"), "--net", "--mount"]
        if os.geteuid() != 0:
            command.append("--map-root-user")
        command += [find("sh"), "-ec", script, "sh", find("ip"), find("mount"), *PYTHON]
        checkout = str(Path(__file__).parents[2])
        path = os.pathsep.join([checkout, *filter(None, sys.path)])
        run(command, folder, {"PYTHONPATH": path})
        self.write([find("multilog"), "t", "./log/main"], (folder / "perl.log").read_text())
        said = self.log("summarize", "--once", "--long")
        self.assertRegex(said, r"(?m)^127\.0\.0\.1 .* client\.example +a@example\.org .* queued$")
        self.assertRegex(said, r"(?m)^127\.0\.0\.1 .* spammer@bad\.example +X .* refused$")
        self.assertIn(
            "dispatching mail FROM:<a@example.org>", self.log("show", "anna@example.com", "-a")
        )
        self.log("log2sql", "-d", "log.sqlite")
        with closing(sqlite3.connect(self.folder / "log.sqlite")) as connection:
            found = connection.execute(
                "SELECT result, helo, rcpt_to FROM message WHERE mail_from = 'a@example.org'"
            ).fetchall()
        self.assertEqual(found, [(3, "client.example", "anna@example.com")])


class ErrorTests(CommandTestCase):
    def test_no_log(self) -> None:
        """Where there is no log, that is said, and what to do."""
        for words in (["watch"], ["summarize", "--once"], ["show", "1"], ["sql", "-d", "x"]):
            self.assertEqual(
                self.log(*words, status=1),
                "log/main/current: No such file or directory\n"
                "Name the files of the log, or run it beside log/main.\n",
            )
        self.assertEqual(
            self.log("watch", "nowhere", status=1), "nowhere: No such file or directory\n"
        )

    def test_help(self) -> None:
        """Each tool has its help."""
        self.assertIn("log/main/current below the current folder", self.log("--help"))
        for tool in ("watch", "summarize", "show", "sql", "log2sql"):
            self.assertIn("usage: python -m qpsmtpd log ", self.log(tool, "--help"))

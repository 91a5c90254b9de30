"""The ways to run a server, each run for real: twistd's command, a tac file, a tap file."""

import os
import signal
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.server.processes import PYTHON, TWISTD, Server, connect, run, until

CHECKOUT = Path(__file__).resolve().parent.parent

LISTEN = ["--listen", "tcp:0:interface=127.0.0.1"]


class UsageTestCase(SynchronousTestCase):
    """Runs servers in a folder of its own, and sends them mail."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        (self.folder / "config").mkdir(parents=True)
        (self.folder / "config" / "me").write_text("mail.example\n")
        (self.folder / "config" / "rcpthosts").write_text("example.com\n")
        (self.folder / "config" / "plugins").write_text("rcpt_ok\nqueue/maildir Maildir\n")

    def send(self, port: int, text: str = "hello") -> None:
        """Send a message, and see that it is in the Maildir."""
        with connect(port) as client:
            client.sendmail("a@example.org", ["b@example.com"], f"Subject: x\r\n\r\n{text}\r\n")
        messages = [path.read_text() for path in (self.folder / "Maildir" / "new").iterdir()]
        [message] = [each for each in messages if each.endswith(f"\n\n{text}\n")]
        self.assertIn("Return-Path: <a@example.org>\nDelivered-To: b@example.com\n", message)
        self.assertIn(" by mail.example (qpsmtpd/", message)

    def serve(self, command: list[str]) -> None:
        """Run a server that takes a message, and stops when it is asked to."""
        server = Server(self, command, self.folder)
        self.send(server.port())
        self.assertEqual(server.stop(), -signal.SIGTERM)
        self.assertIn("Server Shut Down.", server.said)
        self.assertNotIn("Traceback", server.said)


class TwistdTests(UsageTestCase):
    def test_listed(self) -> None:
        """``twistd --help`` lists the server, and the server has a help of its own."""
        self.assertRegex(run([*TWISTD, "--help"], self.folder), r"\n +qpsmtpd +An SMTP server ")
        said = run([*TWISTD, "qpsmtpd", "--help"], self.folder)
        for option in ("config", "listen", "workers", "user", "grace", "state", "proxy-from"):
            self.assertIn(f"--{option}", said)

    def test_foreground(self) -> None:
        """``twistd -n qpsmtpd`` takes mail, and stops when it is asked to."""
        self.serve([*TWISTD, "-n", "qpsmtpd", "--config", "config", *LISTEN])

    def test_reload(self) -> None:
        """SIGHUP reads the configuration again: for the next session, not for this one."""
        server = Server(
            self, [*TWISTD, "-n", "qpsmtpd", "--config", "config", *LISTEN], self.folder
        )
        port = server.port()
        with connect(port) as old:
            (self.folder / "config" / "me").write_text("new.example\n")
            server.signal(signal.SIGHUP)
            server.wait_for("The configuration was read again")
            (self.folder / "config" / "plugins").write_text("rcpt_ok\n\nnowhere\n")
            server.signal(signal.SIGHUP)
            server.wait_for(r'stays as it was: \S+/config/plugins:3: "nowhere": expected a plugin')
            with connect(port) as new:
                self.assertTrue(new.ehlo()[1].startswith(b"new.example "))
            self.assertTrue(old.ehlo()[1].startswith(b"mail.example "))

    def test_daemon(self) -> None:
        """As a daemon it works on alone, with the id of its process in a file."""
        pid_file = self.folder / "twistd.pid"
        self.addCleanup(self.kill, pid_file)
        said = run(
            [
                *TWISTD,
                "--pidfile",
                "twistd.pid",
                "--logfile",
                "server.log",
                "qpsmtpd",
                "--config",
                "config",
                *LISTEN,
            ],
            self.folder,
        )
        self.assertEqual(said, "")
        log = self.folder / "server.log"
        until(lambda: "Listening on" in log.read_text(), log.read_text)
        port = int(log.read_text().partition("port=")[2].partition(")")[0])
        self.send(port)
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
        until(lambda: not pid_file.exists(), log.read_text)
        self.assertRaises(ConnectionRefusedError, connect, port)
        self.assertNotIn("Traceback", log.read_text())

    def test_cannot_start(self) -> None:
        """What is wrong with the configuration is said in lines, before anything is opened."""
        (self.folder / "config" / "plugins").write_text("rcpt_ok\nnowhere\nqueue/maildir\n")
        command = [*TWISTD, "-n", "qpsmtpd", "--config", "config", *LISTEN]
        said = run(command, self.folder, status=1).splitlines()
        path = self.folder / "config" / "plugins"
        self.assertEqual(said[0], "qpsmtpd cannot start:")
        self.assertTrue(said[1].startswith(f'{path}:2: "nowhere": expected a plugin that can'))
        self.assertEqual(
            said[2:],
            [f'{path}:3: "queue/maildir": expected the argument maildir of queue/maildir'],
        )
        self.assertFalse((self.folder / "twistd.pid").exists())

    def test_component_fails(self) -> None:
        """A component that does not start ends twistd with an error."""
        (self.folder / "more").mkdir()
        (self.folder / "more" / "fails.py").write_text(
            "from zope.interface import implementer\n"
            "from qpsmtpd.component import PluginMaker, component\n"
            "from qpsmtpd.interfaces import ILifecycle\n"
            "@implementer(ILifecycle)\n@component\nclass Fails:\n"
            "    def start(self):\n        raise RuntimeError('it does not start')\n"
            "    def stop(self):\n        pass\n"
            "maker = PluginMaker('fails', Fails)\n"
        )
        (self.folder / "config" / "plugin_dirs").write_text(str(self.folder / "more") + "\n")
        (self.folder / "config" / "plugins").write_text("fails\n")
        command = [*TWISTD, "-n", "qpsmtpd", "--config", "config", *LISTEN]
        self.assertIn("RuntimeError: it does not start", run(command, self.folder, status=1))

    def kill(self, pid_file: Path) -> None:
        if pid_file.exists():
            os.kill(int(pid_file.read_text()), signal.SIGKILL)


class FileTests(UsageTestCase):
    def test_tac(self) -> None:
        """``twistd -ny`` runs the example of a tac file."""
        example = (CHECKOUT / "docs" / "examples" / "server.tac").read_text()
        self.assertIn("tcp:2525:", example)
        (self.folder / "server.tac").write_text(example.replace("tcp:2525:", "tcp:0:"))
        self.serve([*TWISTD, "-ny", "server.tac"])

    def test_tap(self) -> None:
        """``twistd -nf`` runs the tap file that ``python -m qpsmtpd tap`` writes."""
        tap = [*PYTHON, "-m", "qpsmtpd", "tap", "--output", "mail.tap"]
        said = run([*tap, "--", "--config", "config", *LISTEN], self.folder)
        self.assertEqual(said, "Run it with: twistd -f mail.tap\n")
        self.serve([*TWISTD, "-nf", "mail.tap"])

    def test_tap_with_workers(self) -> None:
        """A tap file may hold a server of several processes."""
        tap = [*PYTHON, "-m", "qpsmtpd", "tap"]
        run([*tap, "--", "--config", "config", *LISTEN, "--workers", "2"], self.folder)
        self.serve([*TWISTD, "-nf", "qpsmtpd.tap"])

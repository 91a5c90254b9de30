"""The commands with the options of the Perl programs."""

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd import forkserver
from qpsmtpd.forkserver import forkserver_words, prefork_words
from qpsmtpd.server.options import ServerOptions
from qpsmtpd.tap import Options
from tests.server.processes import PYTHON, Server, connect, until


class OptionsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(os, "geteuid", lambda: 1000)
        self.patch(forkserver, "_everywhere", lambda: "0.0.0.0")
        self.said = ""

    def server(self, words: list[str]) -> ServerOptions:
        """What the server is told by words for twistd."""
        self.assertEqual(words[0], "--pidfile=")
        options = Options()
        options.parseOptions(words[words.index("qpsmtpd") + 1 :])
        return options.server()

    def forked(self, *arguments: str) -> ServerOptions:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            words = forkserver_words(arguments)
        self.said = said.getvalue()
        return self.server(words)

    def preforked(self, *arguments: str) -> ServerOptions:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            words = prefork_words(arguments)
        self.said = said.getvalue()
        return self.server(words)

    def refused(self, *arguments: str) -> str:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            stopped = self.assertRaises(SystemExit, forkserver_words, arguments)
        self.assertEqual(stopped.code, 2)
        return said.getvalue()


class ForkserverTests(OptionsTestCase):
    def test_defaults(self) -> None:
        """Port 2525 of all addresses, 15 clients, 5 from one address, as it was."""
        self.assertEqual(
            self.forked(),
            ServerOptions(
                endpoints=("tcp:2525:interface=0.0.0.0",),
                connections=15,
                connections_per_address=5,
                reverse_dns=True,
            ),
        )

    def test_all(self) -> None:
        """Every option has its effect."""
        short = ["-l", "192.0.2.1", "-p", "25", "-p", "587", "-c", "30", "-m", "0", "-u", "mail"]
        long = {
            "-l": "--listen-address",
            "-p": "--port",
            "-c": "--limit-connections",
            "-m": "--max-from-ip",
            "-u": "--user",
        }
        wanted = ServerOptions(
            endpoints=("tcp:25:interface=192.0.2.1", "tcp:587:interface=192.0.2.1"),
            connections=30,
            connections_per_address=0,
            user="mail",
            pid_file="/run/q.pid",
            reverse_dns=True,
        )
        pid = ["--pid-file", "/run/q.pid"]
        self.assertEqual(self.forked(*short, *pid), wanted)
        self.assertEqual(self.forked(*(long.get(word, word) for word in short), *pid), wanted)
        self.assertEqual(self.said, "")

    def test_ours(self) -> None:
        """What the Perl program had no options for can be said, too."""
        options = self.forked("--config", "/a", "--config", "/b", "--state", "/s", "--workers", "2")
        self.assertEqual((options.directories, options.state), (("/a", "/b"), "/s"))
        self.assertEqual(options.workers, 2)

    def test_addresses(self) -> None:
        """Addresses with a port keep it; the others have every port; IPv6 in brackets."""
        options = self.forked(
            *("-l", "mail.example:26", "-l", "[2001:db8::1]", "-l", "[::1]:27", "-l", "::"),
            *("-p", "25", "-p", "587"),
        )
        self.assertEqual(
            options.endpoints,
            (
                "tcp:26:interface=mail.example",
                "tcp6:25:interface=2001\\:db8\\:\\:1",
                "tcp6:587:interface=2001\\:db8\\:\\:1",
                "tcp6:27:interface=\\:\\:1",
                "tcp6:25:interface=\\:\\:",
                "tcp6:587:interface=\\:\\:",
            ),
        )

    def test_detach(self) -> None:
        """It stays in the foreground unless it is told to detach."""
        self.assertIn("--nodaemon", forkserver_words([]))
        self.assertNotIn("--nodaemon", forkserver_words(["-d"]))
        self.assertNotIn("--nodaemon", forkserver_words(["--detach"]))

    def test_root(self) -> None:
        """Root becomes the user smtpd unless it is told otherwise."""
        self.patch(os, "geteuid", lambda: 0)
        self.assertEqual(self.forked().user, "smtpd")
        self.assertEqual(self.forked("-u", "mail").user, "mail")

    def test_no_rdns(self) -> None:
        """Clients' names are looked up, as they were, unless it is told not to."""
        self.assertTrue(self.forked().reverse_dns)
        self.assertFalse(self.forked("-H").reverse_dns)
        self.assertFalse(self.forked("--no-rdns").reverse_dns)
        self.assertEqual(self.said, "")

    def test_bad(self) -> None:
        """A value that makes no sense is refused, with what was expected."""
        self.assertIn("expected a number up to 65535: 70000", self.refused("-p", "70000"))
        self.assertIn("expected a number of 0 or more: many", self.refused("-c", "many"))
        self.assertIn("expected ADDRESS", self.refused("-l", "a;b"))
        self.assertIn("expected an absolute path: q.pid", self.refused("--pid-file", "q.pid"))
        self.assertIn("--nothing", self.refused("--nothing"))


class PreforkTests(OptionsTestCase):
    def test_defaults(self) -> None:
        """Port 25, 15 clients, 10 from one address; a process for each processor."""
        options = self.preforked()
        self.assertEqual(options.endpoints, ("tcp:25:interface=0.0.0.0",))
        self.assertEqual((options.connections, options.connections_per_address), (15, 10))
        self.assertEqual(options.workers, len(os.sched_getaffinity(0)))

    def test_all(self) -> None:
        """Options have their effect, also abbreviated, or say that they have none."""
        options = self.preforked(
            *("--interface", "192.0.2.1", "--listen-address", "192.0.2.2:26", "--port", "587"),
            *("--max-from-ip", "3", "--child", "40", "--user", "mail", "--pid-file", "/p"),
        )
        self.assertEqual(
            options.endpoints, ("tcp:587:interface=192.0.2.1", "tcp:26:interface=192.0.2.2")
        )
        self.assertEqual((options.connections, options.connections_per_address), (40, 3))
        self.assertEqual((options.user, options.pid_file), ("mail", "/p"))
        self.assertEqual(self.said, "")
        none = ["--idle-children=5", "--pretty-child", "--renice-parent", "5", "--quiet", "--debug"]
        self.assertEqual(self.preforked(*none), self.preforked())
        self.preforked(*none)
        self.assertEqual(self.said.count("has no effect"), 5)
        self.assertIn("--nodaemon", prefork_words([]))
        self.assertNotIn("--nodaemon", prefork_words(["--detach"]))


class PageTests(SynchronousTestCase):
    def test_documented(self) -> None:
        """The reference has every option of both, and no other."""
        page = Path(__file__).resolve().parent.parent / "docs" / "reference" / "command-line.md"
        part = page.read_text().partition("## `qpsmtpd-forkserver`")[2].partition("\n## ")[0]
        documented = set(re.findall(r"`(--[a-z-]+)", part))
        said = io.StringIO()
        for words in (forkserver_words, prefork_words):
            with contextlib.redirect_stdout(said):
                self.assertRaises(SystemExit, words, ["--help"])
        options = set(re.findall(r"(?<![\w`])--[a-z-]+", said.getvalue()))
        self.assertEqual(documented, options - {"--help", "--version"})


class RunTests(SynchronousTestCase):
    """The commands, run for real."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="qpsmtpd-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "config").mkdir()
        (self.folder / "config" / "loglevel").write_text("6\n")
        (self.folder / "config" / "plugins").write_text("queue/discard\n")

    def start(self, name: str, *options: str) -> Server:
        environ = {"QMAIL": "/nowhere", "QPSMTPD_CONFIG": ""}
        command = [*PYTHON, "-m", "qpsmtpd", name, *options, "--user", "root"]
        return Server(self, command if os.getuid() == 0 else command[:-2], self.folder, environ)

    def test_serve(self) -> None:
        """Both serve, log plainly to standard error, and end at SIGTERM."""
        for name in ("forkserver", "prefork"):
            (self.folder / "server.log").unlink(missing_ok=True)
            address = ["--listen-address", "127.0.0.1", "--port", "0", "--max-from-ip", "1"]
            server = self.start(name, *address, "--workers", "1")
            port = server.port()
            with connect(port) as client:
                self.assertEqual(client.noop()[0], 250)
                with self.assertRaises(OSError):  # the limit of one connection
                    connect(port)
            server.stop()
            lines = [line for line in server.said.splitlines() if "Listening on" in line]
            self.assertEqual(len(lines), 1, server.said)
            self.assertRegex(lines[0], r"^\d+ Listening on ")

    def test_detached(self) -> None:
        """Detached, it writes its id where it is told to, and ends at SIGTERM."""
        file = self.folder / "q.pid"
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        options = ["-d", "-l", f"127.0.0.1:{port}", "--pid-file", str(file)]
        self.assertEqual(self.start("forkserver", *options).wait(), 0)
        until(lambda: file.exists() and file.read_text(), lambda: "no process id")
        pid = int(file.read_text())
        try:
            with connect(port) as client:  # it listens before it writes its id
                self.assertEqual(client.noop()[0], 250)
        finally:
            os.kill(pid, signal.SIGTERM)
        until(lambda: not file.exists(), lambda: "it does not end")

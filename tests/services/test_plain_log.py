"""The log on standard error as it is: what ``multilog`` gets from real servers."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.server.processes import TWISTD, Server, connect

PLAIN = ["-n", "--pidfile=", "--logger", "qpsmtpd.services.logs.plain_log", "qpsmtpd"]
PORT = r"Listening on IPv4Address\(.*port=(\d+)\)"


class PlainLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.config = self.folder / "config"
        self.config.mkdir(parents=True)
        self.write("me", "mx.example")
        self.write("plugins", "rcpt_ok\nqueue/discard")
        self.write("rcpthosts", "mail.example")
        self.write("loglevel", "6")

    def write(self, name: str, text: str) -> None:
        (self.config / name).write_text(text + "\n", encoding="utf-8")

    def serve(self, *options: str) -> tuple[Server, int]:
        command = [*TWISTD, *PLAIN, "--config", str(self.config), "--listen"]
        command += ["tcp:0:interface=127.0.0.1", *options]
        server = Server(self, command, self.folder)
        port = server.wait_for(PORT)[0]
        return server, int(port)

    def converse(self, port: int) -> None:
        with connect(port) as client:
            client.ehlo("client.example")
            client.mail("a@client.example")
            client.rcpt("b@mail.example")

    def assert_plain(self, server: Server) -> list[str]:
        """Each line has a number in front and is there once."""
        lines = server.said.splitlines()
        for line in lines:
            self.assertRegex(line, r"^\d+ \S")
        sessions = [line for line in lines if re.match(r"\d{7,} ", line)]
        for text in ("Connection from", "dispatching ehlo", "(rcpt) rcpt_ok: pass", "221 "):
            self.assertEqual(sum(text in line for line in sessions), 1, server.said)
        self.assertEqual(len({line.partition(" ")[0] for line in sessions}), 1, server.said)
        return lines

    def test_server(self) -> None:
        """Lines come to standard error once, without time stamps, and with the session's number."""
        server, port = self.serve()
        self.converse(port)
        server.wait_for("click, disconnecting")
        lines = self.assert_plain(server)
        self.assertIn(f"{server.pid} Loaded rcpt_ok", lines)

    def test_plugin(self) -> None:
        """With a logging plugin it is the same."""
        self.write("logging", "logging/warn 6")
        server, port = self.serve()
        self.converse(port)
        server.wait_for("click, disconnecting")
        self.assert_plain(server)

    def test_workers(self) -> None:
        """Workers write their lines themselves, with their own process ids."""
        server, port = self.serve("--workers", "2")
        server.wait_for("Loaded rcpt_ok", 2)
        server.wait_for(PORT, 3)
        self.converse(port)
        server.wait_for("click, disconnecting")
        lines = self.assert_plain(server)
        processes = {line.partition(" ")[0] for line in lines if "Loaded rcpt_ok" in line}
        self.assertEqual(len(processes), 2)
        self.assertNotIn(str(server.pid), processes)

    def test_reload_reopens(self) -> None:
        """After SIGHUP, a log file that was moved away is made anew."""
        log = self.folder / "mx.log"
        self.write("logging", f"logging/file loglevel 6 {log}\nlogging/warn 6")
        server, port = self.serve()
        self.converse(port)
        server.wait_for("click, disconnecting")
        old = self.folder / "old.log"
        log.rename(old)
        server.signal(signal.SIGHUP)
        server.wait_for("The configuration was read again")
        self.converse(port)
        server.wait_for("click, disconnecting", 2)
        server.stop()
        for path in (old, log):
            self.assertEqual(path.read_text().count("dispatching ehlo"), 1, path)

    def test_bad_start(self) -> None:
        """What keeps a server from starting is there before any configuration is."""
        self.write("loglevel", "loud")
        command = [*TWISTD, *PLAIN, "--config", str(self.config)]
        server = Server(self, command, self.folder)
        server.wait_for('loglevel:1: "loud": expected a log level')

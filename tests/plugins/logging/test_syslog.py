"""Tests of logging/syslog, with sockets as syslog has them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from typing import Any

from twisted.logger import Logger

from qpsmtpd import policy
from qpsmtpd.plugins.logging import syslog
from qpsmtpd.plugins.logging.syslog import Syslog
from qpsmtpd.services.logs import number_of
from tests.plugins.logging.listening import ListeningTestCase

log = Logger()


class SyslogTests(ListeningTestCase):
    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.mkdtemp()  # the path of a socket must be short
        self.addCleanup(shutil.rmtree, folder)
        self.path = os.path.join(folder, "log")

    def serve(self, kind: int = socket.SOCK_DGRAM) -> socket.socket:
        server = socket.socket(socket.AF_UNIX, kind)
        self.addCleanup(server.close)
        server.bind(self.path)
        server.settimeout(30)
        return server

    def plugin(self, **settings: Any) -> Syslog:
        return Syslog(socket=self.path, **settings)

    def test_lines(self) -> None:
        """A line has priority, time, name and the number of its session, and then what was said."""
        server = self.serve()
        session = self.session()
        with self.listening(lambda: self.plugin(loglevel=6)):
            policy.report(session, "queue/maildir", "pass\nor not")
            log.error("alas")
            log.debug("never")
        first, second = server.recv(9999).decode(), server.recv(9999).decode()
        stamp = r"[A-Z][a-z]{2} [ 123]\d \d\d:\d\d:\d\d"
        number = number_of({"session": session.id})
        self.assertRegex(
            first, rf"^<22>{stamp} qpsmtpd\[{number}\]: queue::maildir: pass\\nor not$"
        )
        self.assertRegex(second, rf"^<19>{stamp} qpsmtpd\[{os.getpid()}\]: alas$")
        server.setblocking(False)
        self.assertRaises(BlockingIOError, server.recv, 1)

    def test_levels(self) -> None:
        """Each level has syslog's priority of the same number, unless all have one."""
        server = self.serve()
        for settings, wanted in (
            ({}, [160, 161, 162, 163, 164, 165, 166, 167]),
            ({"priority": syslog.priority("LOG_NOTICE")}, [165] * 8),
        ):
            found = []
            facility = syslog.facility("LOG_LOCAL4")
            make = self.plugin(loglevel=7, facility=facility, ident="mx-1", **settings)
            with self.listening(lambda make=make: make):  # type: ignore[misc]
                for level in range(8):
                    policy.report(self.session(), "relay", "x", level)
            for _ in range(8):
                line = server.recv(9999).decode()
                self.assertIn(" mx-1[", line)
                found.append(int(re.findall(r"^<(\d+)>", line)[0]))
            self.assertEqual(found, wanted)

    def test_stream(self) -> None:
        """The first way that can be had is taken."""
        server = self.serve(socket.SOCK_STREAM)
        server.listen()
        with self.listening(lambda: self.plugin(logsock=("unix", "stream"))):
            log.warn("one")
            log.warn("two")
        connection, _ = server.accept()
        self.addCleanup(connection.close)
        said = b""
        while octets := connection.recv(9999):
            said += octets
        self.assertEqual(
            [line.rpartition(b"]: ")[2] for line in said.split(b"\0")], [b"one", b"two", b""]
        )

    def test_udp(self) -> None:
        """A line over the network has the host."""
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(server.close)
        server.bind(("127.0.0.1", 0))
        server.settimeout(30)
        self.patch(syslog, "PORT", server.getsockname()[1])
        with self.listening(lambda: self.plugin(logsock=("unix", "udp"))):
            log.warn("far")
        host = re.escape(socket.gethostname())
        self.assertRegex(server.recv(9999).decode(), rf"^<20>.{{15}} {host} qpsmtpd\[\d+\]: far$")

    def test_syslog_restarts(self) -> None:
        """A syslog that is started anew gets the next line."""
        first = self.serve()
        way = syslog.Way(["unix"], self.path, "x", 2)
        self.addCleanup(way.close)
        way.write([syslog.Line(4, 0.0, "1", "one")])
        self.assertTrue(first.recv(9999).endswith(b"]: one"))
        first.close()
        os.unlink(self.path)
        second = self.serve()
        way.write([syslog.Line(4, 0.0, "1", "two")])
        self.assertTrue(second.recv(9999).endswith(b"]: two"))

    def test_no_syslog(self) -> None:
        """Where there is none, standard error says so once."""
        with self.listening(lambda: self.plugin(logsock=("unix", "stream"))):
            log.warn("one")
        [told] = self.stream.getvalue().splitlines()
        self.assertIn("syslog cannot be reached: unix: No such file or directory; stream:", told)

    def test_long_line(self) -> None:
        """A line is cut where syslogs cut it."""
        server = self.serve()
        with self.listening(self.plugin):
            log.warn("{text}", text="x" * 20_000)
        self.assertEqual(len(server.recv(200_000)), syslog.LINE_LIMIT)

    def test_arguments(self) -> None:
        """Facilities and priorities have syslog's names."""
        for name, number in (("LOG_MAIL", 2), ("daemon", 3), ("LOG_LOCAL7", 23), ("AUTHPRIV", 10)):
            self.assertEqual(syslog.facility(name), number)
        for name, number in (("3", 3), ("LOG_ERR", 3), ("warning", 4), ("LOGINFO", 6)):
            self.assertEqual(syslog.priority(name), number)
        self.assertRaises(ValueError, syslog.facility, "LOG_POST")
        self.assertRaises(ValueError, syslog.priority, "8")
        self.assertRaises(ValueError, syslog.ident, "a b")
        self.assertRaises(ValueError, Syslog, logsock=())

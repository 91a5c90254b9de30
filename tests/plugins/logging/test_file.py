"""Tests of logging/file."""

import io
import os
import re
import socket
import sys
import time
from shlex import quote
from typing import Any

from twisted.internet import reactor
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.task import Clock

from qpsmtpd.plugins.logging.file import File, Line, LogFile
from qpsmtpd.testing import ComponentTestCase

HOST = socket.gethostname()
TAIL = f"{HOST}[{os.getpid()}]: "
NOON = time.mktime((2026, 11, 23, 12, 0, 0, 0, 0, -1))
DAY = 86400


def read(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()


class FileTests(ComponentTestCase):
    def setUp(self) -> None:
        self.folder = os.path.abspath(self.mktemp())
        os.mkdir(self.folder)
        self.path = os.path.join(self.folder, "mx.log")

    def plugin(self, *target: str, **settings: Any) -> File:
        settings.setdefault("clock", self.clock)
        return File(target=target or (self.path,), reactor=IReactorThreads(reactor), **settings)

    def say(self, component: File, text: str, level: int = 4, **fields: Any) -> None:
        event = {"log_format": "{text}", "text": text, "log_time": NOON, **fields}
        component.logging(level, event)

    async def test_line(self) -> None:
        """A line has time, host, process, hook and plugin, and the text with its blanks."""
        component = self.plugin()
        self.say(component, "fail, no such user", plugin="queue/maildir", hook="queue")
        self.say(component, "the core")
        await component.stop()
        self.assertEqual(
            read(self.path),
            [
                f"Mon Nov 23 12:00:00 2026 {TAIL}(queue) queue::maildir: fail, no such user",
                f"Mon Nov 23 12:00:00 2026 {TAIL}the core",
            ],
        )

    async def test_arguments(self) -> None:
        """The level, the time stamp and the session's id can be chosen."""
        component = self.plugin(loglevel=6, tsformat="%FT%T", session=True)
        self.say(component, "one", 6, session="6561-1-1")
        self.say(component, "two", 7)
        await component.stop()
        self.assertEqual(read(self.path), [f"2026-11-23T12:00:00 {HOST}[1000001]: [6561-1-1] one"])

    async def test_appends(self) -> None:
        """What is in the file stays, as after a reload."""
        for text in ("one", "two"):
            component = self.plugin(tsformat="x")
            self.say(component, text)
            await component.stop()
        self.assertEqual(read(self.path), [f"x {TAIL}one", f"x {TAIL}two"])

    async def test_no_line(self) -> None:
        """Without a line, no file is made."""
        component = self.plugin()
        component.start()
        await component.stop()
        self.assertEqual(os.listdir(self.folder), [])

    async def test_blank_in_target(self) -> None:
        """The words of the target belong together."""
        component = self.plugin(os.path.join(self.folder, "mail"), "traffic")
        self.say(component, "one")
        await component.stop()
        self.assertEqual(os.listdir(self.folder), ["mail traffic"])

    def test_no_target(self) -> None:
        """A line without a target is an error at the start."""
        for target in ((" ",), ("|",), ("|", " ")):
            with self.assertRaisesRegex(ValueError, "expected the path of a log file"):
                self.plugin(*target)

    async def test_pipe(self) -> None:
        """A command gets the lines, and its end is waited for."""
        component = self.plugin(f"|sed s/one/two/ >>{quote(self.path)}", tsformat="x")
        self.say(component, "one")
        await component.stop()
        self.assertEqual(read(self.path), [f"x {TAIL}two"])

    def test_command_that_hangs(self) -> None:
        """The server's end does not wait for ever for a command that does not read."""
        clock = Clock()
        gate = os.path.join(self.folder, "gate")
        os.mkfifo(gate)
        component = self.plugin(f"|read go <{quote(gate)}; cat >{quote(self.path)}", clock=clock)
        text = "x" * 1_000_000  # more than a pipe holds
        self.say(component, text)
        stopped = component.stop()
        clock.advance(4.9)
        self.assertNoResult(stopped)
        clock.advance(0.2)
        self.successResultOf(stopped)
        with open(gate, "w") as opened:
            opened.write("go\n")
        thread = component._writer._thread
        assert thread is not None
        thread.join(10)
        self.assertFalse(thread.is_alive())
        self.assertTrue(read(self.path)[0].endswith(text))


class LogFileTests(ComponentTestCase):
    def setUp(self) -> None:
        self.folder = os.path.abspath(self.mktemp())
        os.mkdir(self.folder)

    def log_file(self, name: str, **settings: Any) -> LogFile:
        made = LogFile(os.path.join(self.folder, name), "x", **settings)
        self.addCleanup(made.close)
        return made

    def texts(self, name: str) -> list[str]:
        lines = read(os.path.join(self.folder, name))
        return [re.sub(rf"^x {re.escape(HOST)}\[\d+\]: ", "", line) for line in lines]

    def test_pattern(self) -> None:
        """The name of the file follows the time of the line."""
        log_file = self.log_file("%Y-%m-%d.log")
        log_file.write([Line(NOON, None, "one"), Line(NOON + DAY, None, "two")])
        log_file.write([Line(NOON + DAY, None, "three")])
        self.assertEqual(self.texts("2026-11-23.log"), ["one"])
        self.assertEqual(self.texts("2026-11-24.log"), ["two", "three"])

    def test_session_id(self) -> None:
        """%i is the session's id; what belongs to none is in parent."""
        log_file = self.log_file("%i%%.log")
        log_file.write([Line(NOON, "6561-1-1", "one"), Line(NOON, None, "two")])
        log_file.write([Line(NOON, "6561-1-1", "three")])
        self.assertEqual(self.texts("6561-1-1%.log"), ["one", "three"])
        self.assertEqual(self.texts("parent%.log"), ["two"])

    def test_nosplit(self) -> None:
        """A session's lines stay where its first went, after midnight too."""
        log_file = self.log_file("%d.log", nosplit=True)
        log_file.write([Line(NOON, "a", "one"), Line(NOON + DAY, "b", "two")])
        log_file.write([Line(NOON + DAY, "a", "three"), Line(NOON + DAY, None, "four")])
        self.assertEqual(self.texts("23.log"), ["one", "three"])
        self.assertEqual(self.texts("24.log"), ["two", "four"])

    def test_many_sessions(self) -> None:
        """Only the sessions that logged last are remembered."""
        self.patch(sys.modules[LogFile.__module__], "SESSIONS_LIMIT", 2)
        log_file = self.log_file("x.log", nosplit=True)
        for session in ("a", "b", "a", "c"):
            log_file.write([Line(NOON, session, "x")])
        self.assertEqual(list(log_file._sessions), ["a", "c"])

    def test_moved(self) -> None:
        """With reopen, a file that was moved away is made anew at the next session."""
        for reopen, expected in ((True, ["three"]), (False, None)):
            log_file = self.log_file("x.log", reopen=reopen)
            log_file.write([Line(NOON, "a", "one")])
            os.rename(os.path.join(self.folder, "x.log"), os.path.join(self.folder, "old"))
            log_file.write([Line(NOON, "a", "two"), Line(NOON, "b", "three")])
            log_file.close()
            if expected is None:
                self.assertEqual(self.texts("old"), ["one", "two", "three"])
            else:
                self.assertEqual(self.texts("old"), ["one", "two"])
                self.assertEqual(self.texts("x.log"), expected)
                os.unlink(os.path.join(self.folder, "x.log"))

    def test_cannot_open(self) -> None:
        """Standard error hears once why there is no log; later lines are written again."""
        stderr = io.StringIO()
        self.patch(sys, "stderr", stderr)
        log_file = self.log_file("missing/x.log")
        for _ in range(2):
            with self.assertRaises(FileNotFoundError):
                log_file.write([Line(NOON, None, "one")])
        path = os.path.join(self.folder, "missing/x.log")
        self.assertEqual(
            stderr.getvalue(),
            f"Error opening log output {path}: No such file or directory\n",
        )
        os.mkdir(os.path.join(self.folder, "missing"))
        log_file.write([Line(NOON, None, "two")])
        self.assertEqual(self.texts("missing/x.log"), ["two"])

    def test_command_that_ends(self) -> None:
        """A command that has ended is started again."""
        path = os.path.join(self.folder, "out")
        log_file = LogFile(f"|head -n 1 >>{path}", "x")
        log_file.write([Line(NOON, None, "one")])
        assert log_file._process is not None
        log_file._process.wait(10)
        log_file.write([Line(NOON, None, "two")])
        log_file.close()
        self.assertEqual(self.texts("out"), ["one", "two"])

"""Tests of the log service."""

import io
import os
import sys
import threading
from typing import Any

from twisted.logger import Logger, LoggingFile, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from qpsmtpd import logs, policy
from qpsmtpd.chain import Chain
from qpsmtpd.component import component, state
from qpsmtpd.interfaces import ILogging
from qpsmtpd.services.logs import (
    LineWriter,
    LogService,
    StreamWriter,
    levels_of,
    lines_of,
    number_of,
    plugin_of,
    redacted,
    standard_error,
    text_of,
)
from qpsmtpd.session import Session

log = Logger()
PID = os.getpid()


@implementer(ILogging)
@component
class Recorder:
    """Keeps what it is handed."""

    loglevel: int | None = 6
    events: list[tuple[int, dict[str, Any]]] = state(list)

    def logging(self, level: int, event: dict[str, Any]) -> None:
        self.events.append((level, event))

    @property
    def texts(self) -> list[str]:
        return [text_of(event) for _, event in self.events]


class LogServiceTests(SynchronousTestCase):
    def service(self, *components: object, **settings: Any) -> LogService:
        self.patch(logs.threshold, "level", 4)
        made = LogService.of(Chain(components), **{"loglevel": 4, **settings})
        self.addCleanup(made.stop)
        made.start()
        return made

    def written(self, loglevel: int = 4) -> tuple[LogService, io.StringIO]:
        stream = io.StringIO()
        return self.service(loglevel=loglevel, stream=stream), stream

    def test_to_standard_error(self) -> None:
        """Without a logging component, lines go to the stream in the form of Perl's."""
        service, stream = self.written(loglevel=6)
        session = Session("192.0.2.1")
        policy.report(session, "queue/maildir", "pass")
        log.warn("{reason} again", reason="slow")
        log.info("x", plugin="ident/p0f:3", hook="connect")
        log.info("x", hook="connect")
        service.stop()
        self.assertEqual(
            stream.getvalue().splitlines(),
            [
                f"{number_of({'session': session.id})} queue::maildir: pass",
                f"{PID} slow again",
                f"{PID} (connect) ident::p0f_3a3: x",
                f"{PID} (connect) running plugin: x",
            ],
        )

    def test_loglevel(self) -> None:
        """What is less severe than the level is neither written nor made."""
        service, stream = self.written(loglevel=4)
        self.assertEqual((logs.wanted(4), logs.wanted(5)), (True, False))
        log.info("too much")
        log.emit(LogLevel.info, "notice", severity=5)
        log.emit(LogLevel.info, "grave", severity=2)
        service.stop()
        self.assertEqual(stream.getvalue(), f"{PID} grave\n")

    def test_to_components(self) -> None:
        """With logging components, each gets the events, and nothing is written besides."""
        stream = io.StringIO()
        first, second = Recorder(), Recorder()
        service = self.service(first, second, stream=stream)
        log.info("hello {name}", name="you")
        service.stop()
        log.info("too late")
        self.assertEqual(first.texts, ["hello you"])
        self.assertEqual([level for level, _ in second.events], [6])
        self.assertEqual(stream.getvalue(), "")

    def test_levels_in_use(self) -> None:
        """The most talkative component decides what events are made, also in nested chains."""
        talkative, quiet, greedy = Recorder(), Recorder(), Recorder()
        talkative.loglevel, quiet.loglevel, greedy.loglevel = 5, 2, None
        self.assertEqual(levels_of(Chain([quiet, Chain([talkative]), object()])), [2, 5])
        self.assertEqual(levels_of(Chain([greedy])), [7])
        service = self.service(quiet, Chain([talkative]), loglevel=7)
        self.assertEqual(logs.threshold.level, 5)
        log.info("too much")
        service.stop()
        self.assertEqual(logs.threshold.level, 4)
        self.assertEqual(talkative.events, [])

    def test_levels_unknown(self) -> None:
        """Where nobody said what the components listen to, they get everything."""
        recorder = Recorder()
        self.patch(logs.threshold, "level", 4)
        service = LogService(Chain([recorder]).logging, 3)
        service.start()
        self.assertEqual(logs.threshold.level, 7)
        log.debug("little")
        service.stop()
        self.assertEqual(recorder.texts, ["little"])

    def test_start_and_stop_twice(self) -> None:
        """To start or stop twice changes nothing."""
        recorder = Recorder()
        service = self.service(recorder)
        service.start()
        log.warn("once")
        service.stop()
        service.stop()
        self.assertEqual(recorder.texts, ["once"])

    def test_component_that_logs(self) -> None:
        """What a component logs while it has an event goes nowhere."""

        @implementer(ILogging)
        class Chatty:
            asked = 0

            def logging(self, level: int, event: dict[str, Any]) -> None:
                self.asked += 1
                log.critical("I have {event}", event=event)

        chatty, recorder = Chatty(), Recorder()
        self.service(chatty, recorder)
        log.warn("once")
        self.assertEqual(chatty.asked, 1)
        self.assertEqual(recorder.texts, ["once"])

    def test_component_that_fails(self) -> None:
        """An error in a component harms neither who logs nor later events."""

        def broken(level: int, event: dict[str, Any]) -> None:
            seen.append(event["log_format"])
            raise RuntimeError("broken")

        seen: list[str] = []
        service = LogService(broken, 4)
        service.start()
        self.addCleanup(service.stop)
        log.warn("one")
        log.warn("two")
        self.assertEqual(seen, ["one", "two"])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_threads(self) -> None:
        """Events of several threads are handed over one at a time."""
        inside = threading.Lock()
        overlaps: list[bool] = []

        @implementer(ILogging)
        class Careful:
            def logging(self, level: int, event: dict[str, Any]) -> None:
                overlaps.append(not inside.acquire(blocking=False))
                if not overlaps[-1]:
                    os.sched_yield()
                    inside.release()

        def say_fifty_times() -> None:
            for _ in range(50):
                log.warn("x")

        self.service(Careful())
        threads = [threading.Thread(target=say_fifty_times) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((len(overlaps), any(overlaps)), (200, False))

    def test_secrets(self) -> None:
        """Components get events without secrets; who else listens is not disturbed."""
        recorder = Recorder()
        self.service(recorder)
        original = {"password": "hunter2", "line": "AUTH PLAIN AGEAaHVudGVyMg=="}
        log.warn("{line} {password}", **original)
        self.assertEqual(recorder.texts, ["AUTH PLAIN [removed] [removed]"])

    def test_under_twistd(self) -> None:
        """Where Twisted's log has taken the place of standard error, nothing is written twice."""
        caught: list[str] = []

        class Log(LoggingFile):
            def write(self, text: Any) -> None:
                caught.append(text)

        real = io.StringIO()
        self.patch(sys, "stderr", Log(Logger()))
        self.patch(sys, "__stderr__", real)
        service = self.service()
        log.error("an error")
        service.stop()
        self.assertEqual((caught, real.getvalue()), ([], ""))
        self.assertIs(standard_error(), real)

    def test_real_standard_error(self) -> None:
        """The process's standard error is the default."""
        real = io.StringIO()
        self.patch(sys, "stderr", real)
        service = self.service()
        log.error("an error")
        service.stop()
        self.assertEqual(real.getvalue(), f"{PID} an error\n")


class RedactedTests(SynchronousTestCase):
    def assert_redacted(self, value: Any, expected: Any, name: str = "line") -> None:
        event = {name: value, "other": 1}
        clean = redacted(event)
        self.assertEqual(clean, {name: expected, "other": 1})
        self.assertEqual(event[name], value)

    def test_auth(self) -> None:
        """What follows the mechanism of AUTH is removed, in any case and as text or octets."""
        for line, clean in (
            ("AUTH PLAIN AGEAYg==", "AUTH PLAIN [removed]"),
            ("auth  login  dXNlcg==", "auth  login  [removed]"),
            ("dispatching AUTH PLAIN not base64!", "dispatching AUTH PLAIN [removed]"),
            ("AUTH X-NEW c2VjcmV0", "AUTH X-NEW [removed]"),
            ("got 'AUTH PLAIN AGEAYg==' too early", "got 'AUTH PLAIN [removed]' too early"),
            (b"AUTH PLAIN AGEA\xff", b"AUTH PLAIN [removed]"),
        ):
            self.assert_redacted(line, clean)

    def test_no_secret(self) -> None:
        """Texts about authentication stay, and so does the event itself."""
        for text in (
            "auth success cleared naughty",
            "AUTH PLAIN",
            "250 AUTH PLAIN LOGIN",
            "fail: cannot authenticate",
            b"MAIL FROM:<author@example.org>",
            17,
            None,
        ):
            event = {"text": text}
            self.assertIs(redacted(event), event, text)
        event = {"log_format": "AUTH {mechanism} failed for {user}"}
        self.assertIs(redacted(event), event)

    def test_names(self) -> None:
        """Fields named as secrets are removed, whatever they hold."""
        for name in ("password", "client_secret", "passwd", "Credentials", "private_key"):
            for value in ("x", b"x", ["x"]):
                clean = redacted({name: value})
                self.assertNotIn("x", str(clean[name]))
        event = {"password": None, "password_given": True}
        self.assertIs(redacted(event), event)


class LineTests(SynchronousTestCase):
    def test_number(self) -> None:
        """A session's number is its process and six digits; other lines have the process."""
        self.assertEqual(number_of({"session": "65610d1a-96c-1f"}), "2412000031")
        self.assertEqual(number_of({"session": "65610d1a-96c-f4241"}), "2412000001")
        self.assertEqual(number_of({"session": "mine"}), str(PID))
        self.assertEqual(number_of({}), str(PID))
        session = Session("192.0.2.1")
        self.assertRegex(number_of({"session": session.id}), rf"^{PID}\d{{6}}$")

    def test_plugin(self) -> None:
        """A plugin is known by the field, or else by where its logger is."""
        namespace = "qpsmtpd.plugins.queue.maildir"
        self.assertEqual(plugin_of({"plugin": "queue/qmail-queue"}), "queue::qmail_2dqueue")
        self.assertEqual(plugin_of({"log_namespace": namespace}), "queue::maildir")
        self.assertEqual(plugin_of({"plugin": "relay:0", "log_namespace": namespace}), "relay_3a0")
        self.assertIsNone(plugin_of({"log_namespace": "qpsmtpd.server.factory"}))
        self.assertIsNone(plugin_of({}))

    def test_one_line(self) -> None:
        """A client cannot begin a line of the log, nor move the cursor of who reads it."""
        event = {"log_format": "{helo}", "helo": "a\r\n1 250 Queued!\x1b[2J\u2028\x85é"}
        self.assertEqual(list(lines_of(event)), [rf"{PID} a\r\n1 250 Queued!\x1b[2J\u2028\x85é"])
        braces = {"log_format": "{text}", "text": "{not} a {format}"}
        self.assertEqual(list(lines_of(braces, pid=False)), ["{not} a {format}"])

    def test_session(self) -> None:
        """The session's id stands behind the process's if asked for."""
        event = {"log_format": "x", "session": "6561-1-1", "plugin": "relay"}
        self.assertEqual(list(lines_of(event, session=True)), ["1000001 [6561-1-1] relay: x"])
        self.assertEqual(list(lines_of({"log_format": "x"}, pid=False, session=True)), ["x"])

    def test_traceback(self) -> None:
        """A failure is followed by its traceback, each line with the same beginning."""
        try:
            raise ValueError("no\rAUTH PLAIN AGEAYg==")
        except ValueError:
            failure = Failure()
        event = {"log_format": "failed", "log_failure": failure, "plugin": "relay"}
        lines = list(lines_of(event))
        self.assertEqual(lines[0], f"{PID} relay: failed")
        self.assertTrue(all(line.startswith(f"{PID} relay:   ") for line in lines[1:]), lines)
        self.assertTrue(any(r"ValueError: no\rAUTH PLAIN [removed]" in line for line in lines))

    def test_unformattable(self) -> None:
        """An event that cannot be formatted still gives a line."""
        [line] = lines_of({"log_format": "{missing}"})
        self.assertIn("missing", line)


class LineWriterTests(SynchronousTestCase):
    def test_order(self) -> None:
        """Lines are written in their order, and all of them before the end."""
        written: list[int] = []
        ended: list[bool] = []
        writer: LineWriter[int] = LineWriter(
            written.extend, lambda count: -count, lambda: ended.append(True)
        )
        for number in range(1000):
            writer.put(number)
        writer.close(10)
        self.assertEqual((written, ended), (list(range(1000)), [True]))

    def test_full(self) -> None:
        """Nobody waits for a writer that hangs; what is lost is counted and told."""
        begun, go_on = threading.Event(), threading.Event()
        written: list[int] = []

        def write(lines: Any) -> None:
            begun.set()
            go_on.wait(10)
            written.extend(lines)

        writer: LineWriter[int] = LineWriter(write, lambda count: -count, limit=3)
        writer.put(0)
        begun.wait(10)
        for number in range(1, 8):
            writer.put(number)
        self.assertEqual(writer.lost, 4)
        go_on.set()
        writer.close(10)
        self.assertEqual(written, [0, 1, 2, 3, -4])

    def test_error(self) -> None:
        """Lines that could not be written count as lost, and the next attempt tells of them."""
        attempts = threading.Semaphore(0)
        written: list[int] = []

        def write(lines: Any) -> None:
            attempts.release()
            if 3 not in lines:
                raise OSError("no space")
            written.extend(lines)

        writer: LineWriter[int] = LineWriter(write, lambda count: -count)
        for number in (1, 2):
            writer.put(number)
            attempts.acquire(timeout=10)
        writer.put(3)
        writer.close(10)
        self.assertEqual(writer.lost, 2)
        self.assertEqual(written, [3, -2])

    def test_closed(self) -> None:
        """After the end nothing is written; an end without a line is one, too."""
        ended: list[bool] = []
        written: list[int] = []
        writer: LineWriter[int] = LineWriter(
            written.extend, lambda count: count, lambda: ended.append(True)
        )
        writer.close()
        writer.close()
        writer.put(1)
        self.assertEqual((written, ended, writer.lost), ([], [True], 1))

    def test_encoding(self) -> None:
        """A stream that cannot take a character gets its number."""
        octets = io.BytesIO()
        writer = StreamWriter(io.TextIOWrapper(octets, encoding="ascii"))
        writer.put("jörg")
        writer.close(10)
        self.assertEqual(octets.getvalue(), b"j\\xf6rg\n")

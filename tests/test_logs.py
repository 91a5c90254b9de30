"""Levels, and what the argument ``loglevel`` makes of them."""

from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from qpsmtpd import logs
from qpsmtpd.session import Session


class LevelTests(SynchronousTestCase):
    def test_level_of(self) -> None:
        """A severity counts before Twisted's level."""
        self.assertEqual(logs.level_of({"log_level": LogLevel.warn}), 4)
        self.assertEqual(logs.level_of({"log_level": LogLevel.info, "severity": 5}), 5)
        self.assertEqual(logs.level_of({}), 6)

    def test_tell(self) -> None:
        """What the engine tells of a session has its id, its text as it is, and a level."""
        events: list[LogEvent] = []

        @implementer(ILogObserver)
        def observer(event: LogEvent) -> None:
            events.append(event)

        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        session = Session("192.0.2.1")
        logs.tell(session, "Connection from {x}", 5)
        [event] = events
        self.assertEqual(event["text"], "Connection from {x}")
        self.assertEqual((event["severity"], event["session"]), (5, session.id))

    def test_shift(self) -> None:
        """A digit replaces, a sign shifts within 0 and 7, and 0 changes nothing."""
        self.patch(logs, "shifts", {})
        for name, text in (("a", "3"), ("b", "+2"), ("c", "-4")):
            shift = logs.Shift.parse(text)
            assert shift is not None
            logs.shifts[name] = shift
        shifted = [[logs.shifted(name, level) for level in (2, 6, 7)] for name in "abcd"]
        self.assertEqual(shifted, [[3, 3, 3], [4, 7, 7], [0, 2, 3], [2, 6, 7]])
        for text in ("0", "+0", "-0"):
            self.assertIsNone(logs.Shift.parse(text))
        for text in ("", "8", "-9", "x", "12", "+", "LOGINFO"):
            self.assertRaises(ValueError, logs.Shift.parse, text)

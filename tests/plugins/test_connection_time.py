"""Tests of connection_time."""

from twisted.logger import capturedLogs

from qpsmtpd import logs
from qpsmtpd.plugins.connection_time import ConnectionTime
from qpsmtpd.testing import ComponentTestCase


class ConnectionTimeTests(ComponentTestCase):
    def lines(self, threshold: int, level: int, seconds: float) -> list[str]:
        self.patch(logs.threshold, "level", threshold)
        conversation = self.open(ConnectionTime(clock=self.clock, level=level))
        other = self.join(conversation)
        self.clock.advance(seconds)
        with capturedLogs() as events:
            conversation.command("QUIT")
        other.lose()
        return [
            f"{event['severity']} {event['text']}"
            for event in events
            if event.get("plugin") == "connection_time"
        ]

    def test_duration(self) -> None:
        """At the end of a connection its seconds are logged, with three decimals."""
        self.assertEqual(self.lines(6, 6, 0.118), ["6 0.118 s."])

    def test_level(self) -> None:
        """The line is logged at the level given, and only if somebody wants that."""
        self.assertEqual(self.lines(4, 4, 2), ["4 2.000 s."])
        self.assertEqual(self.lines(4, 5, 2), [])

    def test_sessions_apart(self) -> None:
        """Each session has its own time."""
        self.patch(logs.threshold, "level", 6)
        first = self.open(ConnectionTime(clock=self.clock))
        self.clock.advance(3)
        second = self.join(first)
        self.clock.advance(1)
        with capturedLogs() as events:
            second.command("QUIT")
            first.command("QUIT")
        texts = [event["text"] for event in events if event.get("plugin") == "connection_time"]
        self.assertEqual(texts, ["1.000 s.", "4.000 s."])

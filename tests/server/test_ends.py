"""Ends of sessions, when several things happen at once."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from zope.interface import implementer

from qpsmtpd.chain import ComponentTimeoutError
from qpsmtpd.interfaces import IRcpt
from qpsmtpd.server.protocol import CLOSE_TIME, EVENTS_PER_TURN
from qpsmtpd.session import Session, Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.testing import ComponentTestCase, client
from qpsmtpd.verdicts import OK, Verdict
from tests.recorder import Later, Recorder


@implementer(IRcpt)
class WaitsForOne:
    """Waits at one recipient, and takes all others."""

    def __init__(self) -> None:
        self.cancelled = False

    def rcpt(self, transaction: Transaction, recipient: Address) -> Verdict | Deferred[Any]:
        return Deferred(self._cancel) if recipient.local_part == "slow" else OK

    def _cancel(self, _: Deferred[Any]) -> None:
        self.cancelled = True


class EndsTests(ComponentTestCase):
    def test_talks_on(self) -> None:
        """A client that talks on after the end does not put it off."""
        conversation = self.open()
        conversation.stop_reading()
        conversation.send("QUIT")
        for _ in range(int(CLOSE_TIME) + 1):
            self.assertFalse(conversation.closed)
            conversation.protocol.dataReceived(b"NOOP\r\n")
            self.clock.advance(1)
        self.assertTrue(conversation.closed)

    def test_pipelines_and_does_not_read(self) -> None:
        """Few replies are kept for a client that sends and does not read; then it gets them all."""
        conversation = self.open()
        conversation.greet()
        conversation.stop_reading()
        conversation.send(*["MAIL FROM:<>"] * 5 * EVENTS_PER_TURN)
        for _ in range(10):
            self.clock.advance(0)
        self.assertEqual(conversation._wire.kept.count(b"\r\n"), EVENTS_PER_TURN)
        conversation.read_again()
        for _ in range(10):
            self.clock.advance(0)
        self.assertEqual(len(conversation.said), 5 * EVENTS_PER_TURN)

    def test_does_not_read_at_shutdown(self) -> None:
        """At shutdown, a client that does not read its 421 is cut off before the grace ends."""
        conversation = self.open()
        busy = self.join(conversation)
        busy.envelope()
        busy.send("DATA")
        conversation.stop_reading()
        stopped = Deferred.fromCoroutine(conversation.factory.stop(10 * CLOSE_TIME))
        for _ in range(int(CLOSE_TIME) + 2):
            self.clock.advance(1)
        self.assertTrue(conversation.closed)
        busy.lose()
        self.successResultOf(stopped)

    def test_gone_at_end_of_turn(self) -> None:
        """What waits is cancelled with its client, also where it was the last of a turn."""
        component = WaitsForOne()
        conversation = self.open(component)
        conversation.greet()
        fast = [f"RCPT TO:<{number}@mail.example>" for number in range(EVENTS_PER_TURN - 2)]
        conversation.send("MAIL FROM:<>", *fast, "RCPT TO:<slow@mail.example>")
        self.assertEqual(len(conversation.said), EVENTS_PER_TURN - 1)
        conversation.lose()
        self.assertTrue(component.cancelled)

    def test_shutdown_at_end_of_turn(self) -> None:
        """Nor does a shutdown take such a session for an idle one."""
        component = WaitsForOne()
        conversation = self.open(component)
        conversation.greet()
        fast = [f"RCPT TO:<{number}@mail.example>" for number in range(EVENTS_PER_TURN - 2)]
        conversation.send("MAIL FROM:<>", *fast, "RCPT TO:<slow@mail.example>")
        self.assertTrue(conversation.protocol.shut_down())
        self.assertFalse(conversation.closed)
        conversation.lose()

    def test_gone_before_the_queue(self) -> None:
        """A message whose client went while it was judged is not queued: it comes again."""
        for hook in ("data_post_headers", "received_line", "data_post", "queue_pre"):
            later = Later(hook)
            conversation = self.open(later)
            conversation.envelope()
            conversation.send("DATA")
            conversation.send("Subject: a", "", ".")
            self.assertTrue(conversation.waiting, hook)
            conversation.lose()
            self.assertTrue(later.cancelled, hook)
            self.assertEqual(self.queue.messages, [], hook)

    def test_gone_though_nobody_minds(self) -> None:
        """Nor is it where a component goes on as if nothing had happened."""

        async def stubborn(*_: object) -> None:
            try:
                await Deferred()
            except CancelledError:
                pass

        for hook in ("data_post_headers", "received_line", "data_post", "queue_pre"):
            conversation = self.open(Recorder(**{hook: stubborn}))
            conversation.envelope()
            conversation.send("DATA")
            conversation.send("Subject: a", "", ".")
            conversation.lose()
            self.assertEqual(self.queue.messages, [], hook)

    def test_tls_cannot_begin(self) -> None:
        """Where TLS cannot begin the connection closes, when it was asked for and before."""

        def implicit(session: Session) -> None:
            session.tls_context, session.tls_implicit = object(), True

        self.patch(client._Wire, "startTLS", lambda *_: 1 / 0)
        at_once = self.open(Recorder(pre_connection=implicit))
        asked = self.open(tls_context=object())
        asked.greet()
        asked.send("STARTTLS")
        for conversation in (at_once, asked):
            self.assertTrue(conversation.closed)
            self.assertEqual(conversation.factory.protocols, set())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_cannot_be_cancelled(self) -> None:
        """A component whose waiting cannot be cancelled does not keep the session from its end."""

        def fail(_: Deferred[Any]) -> None:
            raise ZeroDivisionError

        for limit in (0, 60):
            recorder = Recorder("disconnect", noop=lambda *_: Deferred(fail))
            conversation = self.open(recorder, component_time=limit)
            conversation.send("NOOP")
            conversation.lose()
            self.assertEqual(recorder.asked, ["noop", "disconnect"])
            self.assertEqual(conversation.factory.protocols, set())
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
            self.clock.advance(limit)
            self.flushLoggedErrors(ZeroDivisionError)

    def test_too_late_and_cannot_be_cancelled(self) -> None:
        """Nor does it keep the client waiting."""

        def fail(_: Deferred[Any]) -> None:
            raise ZeroDivisionError

        conversation = self.open(Recorder(noop=lambda *_: Deferred(fail)), component_time=60)
        conversation.send("NOOP")
        self.clock.advance(60)
        self.assertEqual(conversation.said, ["451 4.3.0 Internal error, try again later"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(self.flushLoggedErrors(ComponentTimeoutError)), 1)

    def test_waits_when_cut(self) -> None:
        """When the grace is over, sessions that wait are told and cut."""
        later = Later("noop")
        conversation = self.open(later, Recorder("disconnect"))
        conversation.send("NOOP")
        stopped = Deferred.fromCoroutine(conversation.factory.stop(5))
        self.clock.advance(5)
        self.successResultOf(stopped)
        self.assertEqual(conversation.said, ["421 4.3.2 Service shutting down, try again later"])
        self.assertTrue(later.cancelled)

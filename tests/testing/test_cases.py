"""The test case for components."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread
from twisted.trial.reporter import TestResult
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from qpsmtpd.component import component, service, state
from qpsmtpd.interfaces import IConnect, IDisconnect, ILifecycle, IMail
from qpsmtpd.session import Session, Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.smtp.reply import Reply
from qpsmtpd.testing import AcceptRecipients, ComponentTestCase
from qpsmtpd.verdicts import OK, Verdict, accept, defer, deny

MESSAGE = """
    C: EHLO client.example
    S: 250 mail.example Hi Unknown [192.0.2.1]
    C: MAIL FROM:<a@client.example>
    C: RCPT TO:<b@mail.example>
    C: DATA
    S: 250 2.1.0 <a@client.example>, sender OK...
    S: 250 2.1.5 <b@mail.example>, recipient ok
    S: 354 go ahead
    C: Subject: dots
    C:
    C: ..hidden
    C: .
    S: 250 2.0.0 Queued
    C: QUIT
    S: 221
    S: [closes]
    """

MAIL = """
    C: EHLO client.example
    S: 250
    C: MAIL FROM:<>
    S: {}
    """


@implementer(IMail)
class Does:
    """Does as a test says when it is asked about a reverse-path."""

    def __init__(self, does: Callable[[Transaction], Any]) -> None:
        self.does = does

    def mail(self, transaction: Transaction, reverse_path: Address) -> Any:
        return self.does(transaction)


@implementer(ILifecycle, IMail)
@component
class Counts:
    """Counts what happens to it."""

    log: list[str] = state(list)

    def start(self) -> None:
        self.log.append("start")

    def stop(self) -> None:
        self.log.append("stop")

    def mail(self, transaction: Transaction, reverse_path: Address) -> Verdict:
        self.log.append("mail")
        return deny(f"number {self.log.count('mail')}")


@implementer(IConnect)
@component
class Refuses:
    """Greets nobody."""

    def connect(self, session: Session) -> Verdict:
        return deny("not you")


@implementer(IDisconnect)
@component
class NeverDone:
    """Takes the end of a session hard."""

    async def disconnect(self, session: Session) -> None:
        await Deferred()


@implementer(IMail)
@component
class LeavesTimer:
    """Does something later, whoever is still there."""

    clock: IReactorTime = service(IReactorTime)

    def mail(self, transaction: Transaction, reverse_path: Address) -> None:
        self.clock.callLater(60, print, "still here")


async def deaf() -> None:
    """Goes on when it was told to end."""
    while True:
        try:
            await Deferred()
        except CancelledError:
            pass


def outcome(test: Callable[[ComponentTestCase], Any], **attributes: Any) -> list[str]:
    """The errors and failures of a test that is run by itself."""

    class Sample(ComponentTestCase):
        patience = 0.0
        over_socket = False

        def test(self) -> Any:
            return test(self)

    for name, value in attributes.items():
        setattr(Sample, name, value)
    result = TestResult()
    Sample("test").run(result)
    failures = [failure for _, failure in result.errors + result.failures]
    return [each if isinstance(each, str) else each.getErrorMessage() for each in failures]


class ConverseTests(ComponentTestCase):
    def test_message(self) -> None:
        """A transcript takes a message to the queue, once."""
        self.over_socket = False  # type: ignore[misc]
        self.converse([], MESSAGE)
        [message] = self.queue.messages
        self.assertEqual(message.content, b"Subject: dots\r\n\r\n.hidden\r\n")
        self.assertIn(b"Received: from Unknown (HELO client.example) (192.0.2.1)", message.octets)

    def test_played_twice(self) -> None:
        """A transcript is played whole and octet by octet, each with a start and a stop."""
        counts = Counts()
        error = self.assertRaises(
            self.failureException,
            self.converse,
            [counts],
            MAIL.format("550 5.7.1 number 1"),
        )
        self.assertIn("octet by octet", str(error))
        self.assertIn("+ S: 550 5.7.1 number 2", str(error))
        self.assertEqual(counts.log, ["start", "mail", "stop"] * 2)

    def test_made_anew(self) -> None:
        """Components that remember something may be made anew each time."""
        self.converse(lambda: [Counts()], MAIL.format("550 5.7.1 number 1"))

    def test_wrong_reply(self) -> None:
        """Another reply than the transcript's fails the test, and shows where."""
        transcript = MESSAGE.replace("recipient ok", "no such user")
        error = self.assertRaises(self.failureException, self.converse, [], transcript)
        self.assertIn("- S: 250 2.1.5 <b@mail.example>, no such user", str(error))
        self.assertIn("+ S: 250 2.1.5 <b@mail.example>, recipient ok", str(error))

    def test_reply_missing(self) -> None:
        """A reply that does not come fails the test."""
        transcript = MAIL.format("250 ...\n    S: 250 twice")
        error = self.assertRaises(self.failureException, self.converse, [], transcript)
        self.assertIn("- S: 250 twice", str(error))

    def test_closed_connection_missing(self) -> None:
        """A connection that stays open where it should close fails the test."""
        transcript = MAIL.format("250 ...\n    S: [closes]")
        self.assertRaises(self.failureException, self.converse, [], transcript)

    def test_no_greeting(self) -> None:
        """A client that is turned away does not begin to speak."""
        transcript = """
            C: EHLO client.example
            S: 554
            """
        refuses = Refuses()
        error = self.assertRaises(self.failureException, self.converse, [refuses], transcript)
        self.assertIn("+ S: 554 5.7.1 not you", str(error))

    def test_client_goes(self) -> None:
        """A transcript may end without a word."""
        self.converse([], MAIL.format("250") + "C: [goes]\n")

    def test_no_transcript(self) -> None:
        """A line of nobody is an error of the test."""
        self.assertRaises(ValueError, self.converse, [], "X: what")

    def test_alone(self) -> None:
        """Without an end of the chain nobody takes recipients."""
        self.converse(
            [],
            """
            C: EHLO client.example
            S: 250
            C: MAIL FROM:<>
            S: 250
            C: RCPT TO:<b@mail.example>
            S: 450 4.7.1 No plugin decided if relaying is allowed
            """,
            alone=True,
        )

    def test_settings(self) -> None:
        """Settings, limits and what is known of the session are given by name."""
        self.converse(
            [],
            """
            S: 220 ready ESMTP
            C: EHLO client.example
            S: 250 other.example Hi client.example [192.0.2.7]...SIZE 77...
            """,
            me="other.example",
            greeting="ready",
            message_size=77,
            remote_ip="192.0.2.7",
            remote_host="client.example",
        )

    def test_unknown_setting(self) -> None:
        """A name that means nothing is an error of the test."""
        self.assertRaises(TypeError, self.open, colour="blue")

    async def test_thread(self) -> None:
        """A component that needs a thread is waited for."""
        threaded = Does(lambda transaction: deferToThread(deny, "a thread said no"))
        await self.converse([threaded], MAIL.format("550 5.7.1 a thread said no"))


class OverSocketTests(ComponentTestCase):
    over_socket = True

    async def test_message(self) -> None:
        """A transcript is played over a real socket, too."""
        await self.converse([], MESSAGE)
        [message] = self.queue.messages
        self.assertEqual(message.content, b"Subject: dots\r\n\r\n.hidden\r\n")

    async def test_once(self) -> None:
        """A transcript that is to be played once is played over the socket."""
        counts = Counts()
        await self.converse([counts], MAIL.format("550 5.7.1 number 1"), octets=False)
        self.assertEqual(counts.log, ["start", "mail", "stop"])
        self.assertEqual(self.conversations, [])

    async def test_difference(self) -> None:
        """What only goes wrong over a socket fails the test."""
        counts = iter([OK, OK, deny("over a socket")])
        converse = self.converse([Does(lambda _: next(counts))], MAIL.format("250"))
        error = await self.assertFailure(converse, self.failureException)
        self.assertIn("over a socket:", str(error))
        self.assertIn("+ S: 550 5.7.1 over a socket", str(error))


class LeftBehindTests(SynchronousTestCase):
    def test_nothing(self) -> None:
        """A test that leaves nothing behind passes."""

        def test(case: ComponentTestCase) -> None:
            case.open().greet()

        self.assertEqual(outcome(test), [])

    def test_timer(self) -> None:
        """A timer that outlives the test fails it, and is named by where it was set."""

        def test(case: ComponentTestCase) -> None:
            case.open(LeavesTimer(clock=case.clock)).envelope()

        [message] = outcome(test)
        self.assertIn("a timer set by LeavesTimer.mail in", message)

    def test_work(self) -> None:
        """Work that does not end with its session fails the test, by name."""

        def starts(transaction: Transaction) -> None:
            transaction.start(deaf())

        def test(case: ComponentTestCase) -> None:
            case.open(Does(starts)).envelope()

        [message] = outcome(test)
        self.assertIn("work that goes on: deaf", message)

    def test_hook(self) -> None:
        """A hook that does not hear that its client has gone fails the test."""

        def test(case: ComponentTestCase) -> None:
            conversation = case.open(Does(lambda _: deaf()))
            conversation.greet()
            conversation.send("MAIL FROM:<>")

        [message] = outcome(test)
        self.assertIn("Does, which goes on at mail though its client went", message)

    def test_notice(self) -> None:
        """A notice that nobody finishes fails the test."""

        def test(case: ComponentTestCase) -> None:
            case.open(NeverDone())

        [message] = outcome(test)
        self.assertIn("a notice or a stop() that does not end in <Chain NeverDone", message)

    def test_logged_error(self) -> None:
        """A component that raises fails the test, unless the test expects it."""

        def test(case: ComponentTestCase) -> None:
            case.open(Does(lambda _: 1 // 0)).envelope()

        [message] = outcome(test)
        self.assertIn("division", message)


class WaitingTests(SynchronousTestCase):
    def test_waits_for_ever(self) -> None:
        """A component that does not answer fails the test."""
        [message] = outcome(
            lambda case: case.converse([Does(lambda _: Deferred())], MAIL.format("250"))
        )
        self.assertIn("(says nothing)", message)

    def test_not_awaited(self) -> None:
        """A conversation that nobody awaits fails its test all the same."""

        def test(case: ComponentTestCase) -> None:
            case.converse([Does(lambda _: deferToThread(lambda: OK))], MAIL.format("550"))

        [message] = outcome(test, patience=5.0)
        self.assertIn("- S: 550", message)


class AskTests(ComponentTestCase):
    def test_answer(self) -> None:
        """A component can be asked without a session on a wire."""
        denied = self.ask(Does(lambda _: deny("no", "5.1.1")), "mail", self.transaction(""), None)
        self.assertDenied(denied, "no", status="5.1.1", disconnect=False)

    def test_waits(self) -> None:
        """Asking a component that waits fails, and says how to wait."""
        waits = Does(lambda _: Deferred())
        error = self.assertRaises(
            self.failureException, self.ask, waits, "mail", self.transaction(), None
        )
        self.assertIn("Does waits at mail", str(error))

    def test_waited_for(self) -> None:
        """A component that waits can be asked and answer later."""
        later: Deferred[Verdict] = Deferred()
        answer = self.asking(Does(lambda _: later), "mail", self.transaction(), None)
        self.assertNoResult(answer)
        later.callback(OK)
        self.assertAccepted(self.successResultOf(answer))

    def test_other_hook(self) -> None:
        """Asking at a hook that the component does not have fails."""
        self.assertRaises(self.failureException, self.ask, Does(id), "rcpt", None, None)
        self.assertRaises(self.failureException, self.ask, Does(id), "no_hook")

    def test_transaction(self) -> None:
        """A transaction can have recipients, parameters and a message."""
        transaction = self.transaction(
            "a@client.example", "b@mail.example", message="Subject: x\n\ny\n", SIZE="10"
        )
        assert transaction.message is not None
        self.assertEqual(transaction.message.as_bytes(), b"Subject: x\r\n\r\ny\r\n")
        self.assertEqual(transaction.recipients, [Address("b", "mail.example")])
        self.assertEqual(transaction.parameters, {"SIZE": "10"})
        self.assertIs(transaction.session.transaction, transaction)


class AssertionTests(ComponentTestCase):
    def test_verdicts(self) -> None:
        """Each assertion on a verdict passes for its own kind, and fails for the others."""
        assertions: list[tuple[Callable[[object], None], object]] = [
            (self.assertAccepted, accept("fine")),
            (self.assertDenied, deny("no")),
            (self.assertDeferred, defer("later")),
            (self.assertDeclined, None),
        ]
        for check, right in assertions:
            for _, verdict in assertions:
                if verdict is right:
                    check(verdict)
                else:
                    self.assertRaises(self.failureException, check, verdict)

    def test_text(self) -> None:
        """A verdict's text is compared, with dots for anything."""
        self.assertDenied(deny("no mail for b"), "no mail for ...")
        self.assertRaises(self.failureException, self.assertDenied, deny("no mail"), "no")

    def test_facts(self) -> None:
        """What else a verdict says is compared by name."""
        gone = deny("no", "5.1.1", disconnect=True)
        self.assertDenied(gone, status="5.1.1", disconnect=True)
        self.assertRaises(self.failureException, self.assertDenied, gone, status="5.1.2")

    def test_reply(self) -> None:
        """A reply is compared by code, status and text."""
        reply = Reply(550, "no such user", "5.1.1")
        self.assertReply(reply, 550, "5.1.1", "no ... user")
        for wrong in [(551,), (550, "5.1.2"), (550, "5.1.1", "no")]:
            self.assertRaises(self.failureException, self.assertReply, reply, *wrong)


class OpenTests(ComponentTestCase):
    def test_clock(self) -> None:
        """Time passes when the test says so."""
        conversation = self.open(Does(lambda _: Deferred()), component_time=30)
        conversation.greet()
        conversation.send("MAIL FROM:<>")
        self.clock.advance(29)
        self.assertEqual(conversation.said, [])
        self.clock.advance(1)
        self.assertEqual(conversation.said, ["451 4.3.0 Internal error, try again later"])
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_another_client(self) -> None:
        """A second client may join."""
        one = self.open(connections_per_address=1)
        other = self.join(one)
        self.assertEqual(other.said, ["421 4.7.0 Too many connections from your address"])
        self.assertTrue(other.closed)
        self.assertFalse(self.join(one, remote_ip="2001:db8::1").closed)

    async def test_start_waits(self) -> None:
        """A chain that takes its time to start is waited for."""

        @implementer(ILifecycle)
        class Slow:
            def start(self) -> Deferred[None]:
                return deferToThread(lambda: None)

            def stop(self) -> None:
                pass

        conversation = self.open(Slow())
        self.assertEqual(conversation.said, [])
        await conversation.until(1)
        self.assertEqual(conversation.replies[0].code, 220)

    def test_chain_without_end(self) -> None:
        """A test may bring the whole chain."""
        conversation = self.open(AcceptRecipients(), alone=True)
        self.assertReply(conversation.message(), 451, "4.3.0", "Queuing declined...")

"""Transport, machine and chain, joined: what a client sees of a chain."""

from __future__ import annotations

import re
from base64 import b64encode
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent

from qpsmtpd.chain import ComponentTimeoutError, Link, NoVerdictError
from qpsmtpd.interfaces import HOOKS
from qpsmtpd.server.protocol import CLOSE_TIME, EVENTS_PER_TURN, READ_AHEAD
from qpsmtpd.session import Session, Transaction
from qpsmtpd.smtp.commands import Ehlo
from qpsmtpd.smtp.reply import Reply
from qpsmtpd.smtp.sasl import Credentials
from qpsmtpd.testing import ComponentTestCase, Conversation
from qpsmtpd.verdicts import DONE, OK, Verdict, accept, answer, defer, deny
from tests.recorder import Later, Recorder

#: The hooks of a session that decide something.
DECISIONS = [
    "pre_connection",
    "connect",
    "ehlo",
    "helo",
    "auth_plain",
    "auth",
    "mail",
    "rcpt",
    "data",
    "content",
    "data_headers_end",
    "data_post",
    "queue_pre",
    "queue",
    "vrfy",
    "noop",
    "help",
    "unrecognized_command",
    "quit",
]

PLAIN = "AUTH PLAIN " + b64encode(b"\0user\0secret").decode()

MESSAGE = ["Subject: test", "", "words", "."]


def reach(conversation: Conversation, hook: str) -> None:
    """Speak until a hook is asked."""
    if hook in ("pre_connection", "connect"):
        return
    before: list[list[str]] = {
        "ehlo": [["EHLO client.example"]],
        "helo": [["HELO client.example"]],
        "auth_plain": [["EHLO client.example"], [PLAIN]],
        "auth": [["EHLO client.example"], [PLAIN]],
        "vrfy": [["VRFY someone"]],
        "noop": [["NOOP"]],
        "help": [["HELP"]],
        "unrecognized_command": [["XYZZY plugh"]],
        "quit": [["QUIT"]],
    }.get(hook) or [
        ["EHLO client.example"],
        ["MAIL FROM:<a@client.example>"],
        ["RCPT TO:<b@mail.example>"],
        ["DATA"],
        MESSAGE,
    ]
    if hook == "mail":
        del before[2:]
    elif hook == "rcpt":
        del before[3:]
    elif hook == "data":
        del before[4:]
    for lines in before:
        conversation.send(*lines)


class OrderTests(ComponentTestCase):
    """The order of hooks in a session, which plugins rely on."""

    everything = [name for name in HOOKS if name not in ("post_fork", "logging", "deny", "ok")]

    def test_whole_session(self) -> None:
        """One message with everything a client can do."""
        recorder = Recorder(*self.everything, auth=OK, rcpt=OK, queue=OK)
        conversation = self.open(recorder)
        conversation.greet()
        conversation.command(PLAIN)
        conversation.message()
        for line in ("VRFY a", "NOOP", "HELP", "HELO client.example", "XYZZY", "QUIT"):
            conversation.send(line)
        self.assertEqual(
            recorder.asked,
            [
                *("pre_connection", "connect", "ehlo_parse", "ehlo"),
                *("auth_parse", "auth_plain", "auth"),
                *("mail_parse", "mail_pre", "mail", "rcpt_parse", "rcpt_pre", "rcpt", "data"),
                *("content", "data_headers_end", "content"),
                *("data_post_headers", "received_line", "data_post", "queue_pre", "queue"),
                *("queue_post", "reset_transaction"),
                *("vrfy", "noop", "help", "helo_parse", "helo", "unrecognized_command"),
                *("quit", "disconnect", "post_connection"),
            ],
        )

    def test_client_goes(self) -> None:
        """A client that hangs up ends its transaction, then its session."""
        recorder = Recorder("reset_transaction", "disconnect", "post_connection", "quit")
        conversation = self.open(recorder)
        conversation.envelope()
        conversation.lose()
        self.assertEqual(recorder.asked, ["reset_transaction", "disconnect", "post_connection"])

    def test_client_goes_in_message(self) -> None:
        """A message without an end is not judged."""
        recorder = Recorder("data_post", "queue", "reset_transaction", "disconnect")
        conversation = self.open(recorder)
        conversation.envelope()
        conversation.send("DATA")
        conversation.send("Subject: half")
        conversation.lose()
        self.assertEqual(recorder.asked, ["reset_transaction", "disconnect"])

    def test_disconnecting_verdict(self) -> None:
        """A refusal that closes ends the session, and the transaction is still there for it."""
        recorder = Recorder(
            "reset_transaction", "disconnect", "post_connection", rcpt=deny(disconnect=True)
        )
        self.open(recorder).envelope()
        self.assertEqual(
            recorder.asked, ["rcpt", "disconnect", "reset_transaction", "post_connection"]
        )

    def test_ends_of_transactions(self) -> None:
        """RSET, EHLO, another MAIL and a refused MAIL each end a transaction, once."""
        for line in ("RSET", "EHLO client.example", "MAIL FROM:<>"):
            recorder = Recorder("reset_transaction")
            conversation = self.open(recorder)
            conversation.envelope()
            first = conversation.transaction
            conversation.command(line)
            self.assertEqual(recorder.calls["reset_transaction"], [(first,)])
            assert first is not None
            self.assertTrue(first.ended)
        recorder = Recorder("reset_transaction", mail=deny())
        self.open(recorder).envelope()
        self.assertEqual(recorder.asked, ["mail", "reset_transaction"])

    def test_no_transaction(self) -> None:
        """RSET without a transaction tells nobody."""
        recorder = Recorder("reset_transaction")
        self.open(recorder).command("RSET")
        self.assertEqual(recorder.asked, [])

    def test_second_message(self) -> None:
        """Each message of a session has a transaction of its own."""
        recorder = Recorder("queue_pre")
        conversation = self.open(recorder)
        conversation.message()
        conversation.message()
        one, other = (transaction for (transaction,) in recorder.calls["queue_pre"])
        self.assertIsNot(one, other)
        self.assertNotEqual(one.id, other.id)
        self.assertEqual(len(self.queue.messages), 2)


#: Hook by hook: the replies to no answer, OK, deny, defer, and both with disconnect.
GOOD_GREETING = "220 mail.example ESMTP ..."
HELLO = "250 mail.example Hi Unknown [192.0.2.1]..."
SENDER_OK = "250 2.1.0 <a@client.example>, sender OK - how exciting to get mail from you!"
QUEUED = "250 2.0.0 Queued"
REPLIES: dict[str, tuple[str, str, str, str, str, str]] = {
    "pre_connection": (
        GOOD_GREETING,
        GOOD_GREETING,
        "554 5.7.1 Sorry, service not available for you",
        "421 4.7.0 Sorry, try again later",
        "554 5.7.1 Sorry, service not available for you",
        "421 4.7.0 Sorry, try again later",
    ),
    "connect": (
        GOOD_GREETING,
        GOOD_GREETING,
        "554 5.7.1 Connection from you denied, bye bye.",
        "421 4.7.0 Connection from you temporarily denied, bye bye.",
        "554 5.7.1 Connection from you denied, bye bye.",
        "421 4.7.0 Connection from you temporarily denied, bye bye.",
    ),
    "ehlo": (
        HELLO,
        HELLO,
        "550 5.7.1 client.example, not welcome here",
        "450 4.7.1 client.example, try again later",
        "550 5.7.1 client.example, not welcome here",
        "421 4.7.1 client.example, try again later",
    ),
    "helo": (
        HELLO,
        HELLO,
        "550 5.7.1 client.example, not welcome here",
        "450 4.7.1 client.example, try again later",
        "550 5.7.1 client.example, not welcome here",
        "421 4.7.1 client.example, try again later",
    ),
    "auth_plain": (
        "535 5.7.8 PLAIN authentication failed for user from 192.0.2.1",
        "235 2.7.0 PLAIN authentication successful for user",
        "535 5.7.8 PLAIN authentication failed for user from 192.0.2.1",
        "454 4.7.0 Authentication is not possible now",
        "535 5.7.8 PLAIN authentication failed for user from 192.0.2.1",
        "421 4.7.0 Authentication is not possible now",
    ),
    "auth": (
        "535 5.7.8 PLAIN authentication failed for user from 192.0.2.1",
        "235 2.7.0 PLAIN authentication successful for user",
        "535 5.7.8 PLAIN authentication failed for user from 192.0.2.1",
        "454 4.7.0 Authentication is not possible now",
        "535 5.7.8 PLAIN authentication failed for user from 192.0.2.1",
        "421 4.7.0 Authentication is not possible now",
    ),
    "mail": (
        SENDER_OK,
        SENDER_OK,
        "550 5.7.1 <a@client.example>, denied",
        "450 4.7.1 <a@client.example>, temporarily denied",
        "550 5.7.1 <a@client.example>, denied",
        "421 4.7.1 <a@client.example>, temporarily denied",
    ),
    "rcpt": (
        "450 4.7.1 No plugin decided if relaying is allowed",
        "250 2.1.5 <b@mail.example>, recipient ok",
        "550 5.7.1 relaying denied",
        "450 4.7.1 relaying denied",
        "550 5.7.1 delivery denied",
        "421 4.7.1 relaying denied",
    ),
    "data": (
        "354 go ahead",
        "354 go ahead",
        "554 5.7.1 Message denied",
        "451 4.7.1 Message denied temporarily",
        "554 5.7.1 Message denied",
        "421 4.7.1 Message denied temporarily",
    ),
    "content": (
        QUEUED,
        QUEUED,
        "554 5.7.1 Message denied",
        "451 4.7.1 Message denied temporarily",
        "554 5.7.1 Message denied",
        "421 4.7.1 Message denied temporarily",
    ),
    "data_headers_end": (
        QUEUED,
        QUEUED,
        "554 5.7.1 Message denied",
        "451 4.7.1 Message denied temporarily",
        "554 5.7.1 Message denied",
        "421 4.7.1 Message denied temporarily",
    ),
    "data_post": (
        QUEUED,
        QUEUED,
        "552 5.7.1 Message denied",
        "452 4.7.1 Message denied temporarily",
        "552 5.7.1 Message denied",
        "421 4.7.1 Message denied temporarily",
    ),
    "queue_pre": (
        QUEUED,
        QUEUED,
        "552 5.7.1 Message denied",
        "452 4.7.1 Message denied temporarily",
        "552 5.7.1 Message denied",
        "421 4.7.1 Message denied temporarily",
    ),
    "queue": (
        "451 4.3.0 Queuing declined or disabled; try again later",
        QUEUED,
        "552 5.7.1 Message denied",
        "452 4.7.1 Message denied temporarily",
        "552 5.7.1 Message denied",
        "421 4.7.1 Message denied temporarily",
    ),
    "vrfy": (
        "252 2.0.0 Just try sending a mail and we'll see how it turns out ...",
        "250 2.0.0 User OK",
        "554 5.7.1 Access Denied",
        "450 4.3.0 Try again later",
        "554 5.7.1 Access Denied",
        "421 4.3.0 Try again later",
    ),
    "noop": (
        "250 2.0.0 OK",
        "250 2.0.0 OK",
        "500 5.5.1 Stop wasting my time.",
        "450 4.3.0 Try again later",
        "500 5.5.1 Stop wasting my time.",
        "421 4.3.0 Try again later",
    ),
    "help": (
        "214 2.0.0 This is qpsmtpd ...",
        "214 2.0.0 This is qpsmtpd ...",
        "500 5.5.1 Syntax error, command not recognized",
        "450 4.3.0 Try again later",
        "500 5.5.1 Syntax error, command not recognized",
        "421 4.3.0 Try again later",
    ),
    "unrecognized_command": (
        "500 5.5.1 Unrecognized command",
        "500 5.5.1 Unrecognized command",
        "500 5.5.1 Unrecognized command",
        "450 4.3.0 Try again later",
        "521 5.5.1 Unrecognized command",
        "421 4.3.0 Try again later",
    ),
    "quit": ("221 2.0.0 mail.example closing connection. Have a wonderful day.",) * 6,
}

VERDICTS = (None, OK, deny(), defer(), deny(disconnect=True), defer(disconnect=True))


class VerdictTests(ComponentTestCase):
    """What a client hears of each verdict at each hook, and whether the connection stays open."""

    def outcome(self, hook: str, verdict: object) -> Conversation:
        """What has become of a session whose chain gives a verdict at a hook."""
        first = () if hook == "rcpt" else (Recorder(rcpt=OK),)
        last = () if hook == "queue" else (Recorder(queue=OK),)
        component = Recorder(**{hook: verdict})
        conversation = self.open(*first, component, *last, alone=True)
        reach(conversation, hook)
        self.assertIn(hook, component.asked)
        return conversation

    def test_replies(self) -> None:
        """Each verdict at each hook has the reply that the reference documents."""
        self.assertEqual(sorted(REPLIES), sorted(DECISIONS))
        for hook, replies in REPLIES.items():
            for verdict, expected in zip(VERDICTS, replies, strict=True):
                reply = self.outcome(hook, verdict).replies[-1]
                code, _, text = expected.partition(" ")
                status = None
                if reply.status is not None:
                    status, _, text = text.partition(" ")
                self.assertReply(reply, int(code), status, text)

    def test_connection_closes(self) -> None:
        """A connection closes for a verdict that says so, a refused greeting, and QUIT."""
        for hook in DECISIONS:
            for verdict in VERDICTS:
                closes = (
                    isinstance(verdict, Verdict)
                    and verdict.refuses
                    and (verdict.disconnect or hook in ("pre_connection", "connect"))
                )
                conversation = self.outcome(hook, verdict)
                self.assertEqual(
                    conversation.closed, closes or hook == "quit", f"{hook}: {verdict}"
                )

    def test_own_text(self) -> None:
        """A refusal's text, code and status are said in place of the defaults."""
        for hook in DECISIONS:
            if hook != "quit":
                reply = self.outcome(hook, deny("because", "5.1.2", code=553)).replies[-1]
                self.assertReply(reply, 553, "5.1.2", "because")

    def test_own_text_of_acceptance(self) -> None:
        """An acceptance may have a text of its own where the reply is not fixed."""
        for hook, code in [
            ("mail", 250),
            ("rcpt", 250),
            ("queue", 250),
            ("vrfy", 250),
            ("noop", 250),
            ("help", 214),
            ("quit", 221),
        ]:
            self.assertReply(
                self.outcome(hook, accept("done so")).replies[-1], code, None, "done so"
            )

    def test_answer(self) -> None:
        """A component may answer with exactly the reply it wants."""
        for hook in ("ehlo", "mail", "rcpt", "queue", "vrfy", "unrecognized_command", "quit"):
            reply = self.outcome(hook, answer(Reply(555, "exactly so"))).replies[-1]
            self.assertReply(reply, 555, None, "exactly so")

    def test_done(self) -> None:
        """A component that has answered through the session is not answered for."""

        def says(session: Session, *_: object) -> Verdict:
            session.reply(Reply(299, "my own"))
            return DONE

        self.assertReply(
            self.outcome("unrecognized_command", says).replies[-1], 299, None, "my own"
        )

    def test_done_without_reply(self) -> None:
        """DONE without a reply is a fault, and the client gets an answer all the same."""
        self.assertReply(self.outcome("noop", DONE).replies[-1], 451, "4.3.0")

    def test_refused_transaction(self) -> None:
        """After a refused sender or message there is no transaction; after a recipient there is."""
        for hook in ("mail", "data", "data_post", "queue"):
            self.assertIsNone(self.outcome(hook, deny()).transaction, hook)
        self.assertIsNotNone(self.outcome("rcpt", deny()).transaction)


class FaultTests(ComponentTestCase):
    """A component that does not keep its contract: the client gets a 451, the log its name."""

    def fault(self, hook: str, component: object, **link: Any) -> Conversation:
        first = () if hook == "rcpt" else (Recorder(rcpt=OK),)
        chain = (*first, Link(component, "culprit", **link))
        conversation = self.open(*chain, component_time=30)
        reach(conversation, hook)
        return conversation

    def assert_fault(self, hook: str, conversation: Conversation, error: type) -> None:
        reply = conversation.replies[-1]
        if hook == "quit":
            self.assertEqual(reply.code, 221)
        else:
            code = 421 if hook in ("pre_connection", "connect") else 451
            self.assertReply(reply, code, "4.3.0", "Internal error, try again later")
        self.assertEqual(conversation.closed, hook in ("pre_connection", "connect", "quit"), hook)
        self.assertEqual(len(self.flushLoggedErrors(error)), 1, hook)

    def test_raises(self) -> None:
        """A component that raises stands for a temporary failure."""
        for hook in DECISIONS:
            conversation = self.fault(hook, Recorder(**{hook: ZeroDivisionError()}))
            self.assert_fault(hook, conversation, ZeroDivisionError)

    def test_nonsense(self) -> None:
        """So does one that answers with what is no verdict."""
        for hook in DECISIONS:
            conversation = self.fault(hook, Recorder(**{hook: "yes"}))
            self.assert_fault(hook, conversation, NoVerdictError)

    def test_too_late(self) -> None:
        """So does one that does not answer in time; it is told to give up."""
        for hook in DECISIONS:
            component = Later(hook)
            conversation = self.fault(hook, component)
            self.clock.advance(29)
            self.assertTrue(conversation.waiting, hook)
            self.assertFalse(component.cancelled)
            self.clock.advance(1)
            self.assertTrue(component.cancelled)
            self.assert_fault(hook, conversation, ComponentTimeoutError)

    def test_fails_later(self) -> None:
        """So does one that fails after waiting."""
        for hook in DECISIONS:
            component = Later(hook)
            conversation = self.fault(hook, component)
            component.answer.errback(ZeroDivisionError())
            self.assert_fault(hook, conversation, ZeroDivisionError)

    def test_skip(self) -> None:
        """Where the configuration says so, a fault counts as no opinion."""
        for hook in DECISIONS:
            conversation = self.fault(
                hook, Recorder(**{hook: ZeroDivisionError()}), skip_faults=True
            )
            accepted = {"auth_plain": 535, "auth": 535, "data": 354, "quit": 221, "vrfy": 252}
            accepted |= {"help": 214, "unrecognized_command": 500}
            accepted |= {"pre_connection": 220, "connect": 220}
            self.assertEqual(conversation.replies[-1].code, accepted.get(hook, 250), hook)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_notices(self) -> None:
        """A notice that fails is logged, and changes nothing."""
        hooks = ["data_post_headers", "queue_post", "reset_transaction", "disconnect"]
        hooks.append("post_connection")
        for hook in hooks:
            conversation = self.open(Recorder(**{hook: ZeroDivisionError()}))
            self.assertReply(conversation.message(), 250)
            conversation.send("QUIT")
            self.assertTrue(conversation.closed)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1, hook)

    def test_session_goes_on(self) -> None:
        """After a fault the next component's verdict counts again."""
        answers = iter([ZeroDivisionError(), None])

        def mail(*_: object) -> None:
            if (error := next(answers)) is not None:
                raise error

        conversation = self.open(Recorder(mail=mail))
        self.assertReply(conversation.envelope(), 451)
        self.assertReply(conversation.message(), 250)
        self.flushLoggedErrors(ZeroDivisionError)


class ClientGoesTests(ComponentTestCase):
    """A client that goes while a component waits on its behalf."""

    def test_every_hook(self) -> None:
        """What a component waits for is cancelled, nobody else is asked, and it is no fault."""
        for hook in DECISIONS:
            component = Later(hook)
            after = Recorder(*DECISIONS, "disconnect", "post_connection", rcpt=OK)
            chain = (component, after) if hook == "rcpt" else (Recorder(rcpt=OK), component, after)
            conversation = self.open(*chain)
            reach(conversation, hook)
            self.assertTrue(conversation.waiting, hook)
            asked = len(after.asked)
            conversation.lose()
            self.assertTrue(component.cancelled, hook)
            self.assertEqual(after.asked[asked:], ["disconnect", "post_connection"], hook)
            self.assertNotIn(hook, after.asked)
            self.assertEqual(conversation.factory.protocols, set())
            self.assertEqual(self.flushLoggedErrors(), [])

    def test_late_answer(self) -> None:
        """An answer that comes although nobody waits any more changes nothing."""
        stubborn: Deferred[Verdict] = Deferred(lambda _: stubborn.callback(OK))
        conversation = self.open(Recorder(mail=stubborn))
        conversation.greet()
        conversation.send("MAIL FROM:<>")
        conversation.lose()
        self.assertEqual(conversation.said, [])
        self.assertIsNone(conversation.transaction)

    def test_background_work(self) -> None:
        """Work that belongs to the session or the transaction ends with it."""
        works: list[Any] = []

        def start(scope: Session | Transaction, *_: object) -> None:
            works.append(scope.start(Deferred()))

        conversation = self.open(Recorder(connect=start, mail=start))
        conversation.envelope()
        session_work, transaction_work = works
        conversation.command("RSET")
        self.assertTrue(transaction_work.done)
        self.assertFalse(session_work.done)
        conversation.lose()
        self.assertTrue(session_work.done)

    def test_server_closes_while_waiting(self) -> None:
        """A session that is too old ends although a component still waits."""
        component = Later("mail")
        conversation = self.open(component, session_time=3600, component_time=0)
        conversation.greet()
        conversation.send("MAIL FROM:<>")
        conversation.session.started -= 3601
        self.clock.advance(1)
        self.assertEqual(conversation.said, ["421 4.4.2 Connection timed out"])
        self.assertTrue(component.cancelled)
        self.assertTrue(conversation.closed)


class PipeliningTests(ComponentTestCase):
    def test_order(self) -> None:
        """While a component waits later commands wait, and each has its reply in its turn."""
        component = Later("mail")
        recorder = Recorder("rcpt", "noop")
        conversation = self.open(component, recorder)
        conversation.greet()
        conversation.send("MAIL FROM:<>", "RCPT TO:<b@mail.example>", "NOOP")
        self.assertEqual(conversation.said, [])
        self.assertEqual(recorder.asked, [])
        component.answer.callback(None)
        self.assertEqual([reply.code for reply in conversation.new_replies], [250, 250, 250])
        self.assertEqual(recorder.asked, ["rcpt", "noop"])

    def test_more_while_waiting(self) -> None:
        """So do commands that come while it waits."""
        component = Later("mail")
        conversation = self.open(component)
        conversation.greet()
        conversation.send("MAIL FROM:<>")
        conversation.send("XYZZY")
        conversation.send("NOOP")
        self.assertEqual(conversation.said, [])
        component.answer.callback(deny())
        self.assertEqual([reply.code for reply in conversation.new_replies], [550, 500, 250])

    def test_read_ahead(self) -> None:
        """Of a client that sends on and on while a component waits not everything is read."""
        component = Later("mail")
        conversation = self.open(component)
        conversation.greet()
        conversation.send("MAIL FROM:<>")
        conversation.send_octets(b"x" * READ_AHEAD)
        self.assertFalse(conversation.paused)
        conversation.send_octets(b"x")
        self.assertTrue(conversation.paused)
        component.answer.callback(None)
        self.assertFalse(conversation.paused)

    def test_fairness(self) -> None:
        """A client that sends many commands at once lets the others have their turn."""
        conversation = self.open(idle_commands=0)
        conversation._sent += b"NOOP\r\n" * (EVENTS_PER_TURN + 5)
        conversation._pump()
        conversation.look()
        self.assertTrue(conversation.waiting)
        self.clock.advance(0)
        self.assertEqual(len(conversation.said), 5)

    def test_client_does_not_read(self) -> None:
        """A client that does not read its replies is not read from, and not for ever kept."""
        conversation = self.open(idle_commands=0)
        conversation.stop_reading()
        conversation.send(*["NOOP"] * 1000)
        self.assertTrue(conversation.paused)
        self.clock.pump([1] * 301)
        self.assertFalse(conversation.closed)
        self.clock.pump([1] * int(CLOSE_TIME + 1))
        self.assertTrue(conversation.closed)

    def test_message_behind_waiting_data(self) -> None:
        """A message that comes before the 354 is taken as one."""
        component = Later("data")
        conversation = self.open(component)
        conversation.envelope()
        conversation.send("DATA", *MESSAGE)
        self.assertEqual(conversation.said, [])
        component.answer.callback(None)
        self.assertEqual([reply.code for reply in conversation.new_replies], [354, 250])


class TimeTests(ComponentTestCase):
    def assert_times_out(self, conversation: Conversation, seconds: int) -> None:
        self.clock.pump([1] * seconds)
        self.assertFalse(conversation.closed)
        conversation.look()
        self.clock.pump([1])
        self.assertEqual(conversation.said, ["421 4.4.2 Connection timed out"])
        self.assertTrue(conversation.closed)

    def test_command(self) -> None:
        """A client that says nothing is told so, and its connection closes."""
        self.assert_times_out(self.open(command_time=300), 300)

    def test_command_renews(self) -> None:
        """Each sign of life renews the time."""
        conversation = self.open(command_time=300)
        self.clock.pump([1] * 299)
        conversation.command("NOOP")
        self.assert_times_out(conversation, 300)

    def test_slow_command(self) -> None:
        """A command that comes octet by octet has no more time than any other."""
        conversation = self.open(command_time=300)
        for _ in range(300):
            conversation.send_octets(b"N")
            self.clock.advance(1)
        self.assertFalse(conversation.closed)
        conversation.look()
        self.clock.advance(1)
        self.assertEqual(conversation.said, ["421 4.4.2 Connection timed out"])

    def test_content(self) -> None:
        """So is one that stops in the middle of a message, by a limit of its own."""
        conversation = self.open(command_time=300, content_time=180)
        conversation.envelope()
        conversation.send("DATA")
        conversation.send("Subject: slow")
        self.assert_times_out(conversation, 180)

    def test_message(self) -> None:
        """So is one that sends a message too slowly, however regularly."""
        conversation = self.open(content_time=180, message_time=100)
        conversation.envelope()
        conversation.send("DATA")
        for _ in range(10):
            self.clock.pump([1] * 10)
            self.assertFalse(conversation.closed)
            conversation.send("another line")
        self.clock.pump([1])
        self.assertTrue(conversation.closed)

    def test_waiting_is_not_the_clients_fault(self) -> None:
        """While a component waits the client's time does not run."""
        component = Later("mail")
        conversation = self.open(component, command_time=300, component_time=0)
        conversation.greet()
        conversation.send("MAIL FROM:<>")
        self.clock.pump([1] * 400)
        self.assertFalse(conversation.closed)
        component.answer.callback(None)
        self.assertFalse(conversation.closed)
        self.assertEqual([reply.code for reply in conversation.new_replies], [250])
        self.clock.pump([1])
        self.assertFalse(conversation.closed)

    def test_no_limit(self) -> None:
        """0 is no limit."""
        conversation = self.open(command_time=0, session_time=0)
        self.clock.pump([100] * 1000)
        self.assertFalse(conversation.closed)


class MessageTests(ComponentTestCase):
    def test_content_hook(self) -> None:
        """A component reads the message as it comes, with dot-stuffing undone."""
        recorder = Recorder("content")
        self.open(recorder).message("Subject: dots\n\n.one\n")
        chunks = [chunk for _, chunk in recorder.calls["content"]]
        self.assertEqual(b"".join(chunks), b"Subject: dots\r\n\r\n.one\r\n")

    def test_content_waits(self) -> None:
        """A component that is busy with a part of the message holds back the next."""
        component = Later("content")
        conversation = self.open(component)
        conversation.envelope()
        conversation.send("DATA")
        conversation.send(*MESSAGE)
        self.assertEqual(conversation.said, [])
        component.answer.callback(None)
        self.assertReply(conversation.replies[-1], 250)

    def test_refused_content(self) -> None:
        """A message that was refused half-way is refused at its end, and no more is stored."""
        recorder = Recorder("data_post", content=deny("no more"))
        conversation = self.open(recorder)
        conversation.envelope()
        conversation.send("DATA")
        conversation.send("one")
        assert conversation.transaction is not None
        assert conversation.transaction.message is not None
        size = conversation.transaction.message.size
        conversation.send("two")
        self.assertEqual(conversation.transaction.message.size, size)
        self.assertEqual(conversation.said, [])
        conversation.send(".")
        self.assertReply(conversation.replies[-1], 554, "5.7.1", "no more")
        self.assertEqual(recorder.asked, ["content"])

    def test_headers_end(self) -> None:
        """The header section can be judged before the body has come."""

        def judge(transaction: Transaction) -> Verdict | None:
            assert transaction.message is not None
            subject = transaction.message.headers.get("Subject")
            return deny(f"not about {subject}", disconnect=True)

        conversation = self.open(Recorder(data_headers_end=judge))
        conversation.envelope()
        conversation.send("DATA")
        conversation.send("Subject: money", "", "Give me")
        self.assertEqual(conversation.said, ["554 5.7.1 not about money"])
        self.assertTrue(conversation.closed)

    def test_received_line(self) -> None:
        """A component may write the Received field."""
        recorder = Recorder(received_line="from somewhere\n  by me")
        self.open(recorder).message("Subject: x\n\ny\n")
        self.assertEqual(
            self.queue.messages[0].octets,
            b"Received: from somewhere\r\n by me\r\nSubject: x\r\n\r\ny\r\n",
        )
        [(_, protocol, auth, tls)] = recorder.calls["received_line"]
        self.assertEqual((protocol, auth, tls), ("ESMTP", "", ""))

    def test_queue_post_waits(self) -> None:
        """The client does not wait for what follows its message, which stays readable for it."""
        component = Later("queue_post")
        recorder = Recorder("reset_transaction", "queue_post")
        conversation = self.open(recorder, component)
        self.assertReply(conversation.message(), 250)
        self.assertEqual(recorder.asked, ["queue_post"])
        [(transaction,)] = recorder.calls["queue_post"]
        self.assertFalse(transaction.ended)
        conversation.envelope()
        component.answer.callback(None)
        self.assertEqual(recorder.asked, ["queue_post", "reset_transaction"])
        self.assertTrue(transaction.ended)
        self.assertIsNotNone(conversation.transaction)

    def test_disk_full(self) -> None:
        """A message that cannot be stored is refused for now, at its end."""
        conversation = self.open()
        conversation.envelope()
        conversation.command("DATA")
        assert conversation.transaction is not None
        message = conversation.transaction.message
        assert message is not None
        spool = message.spool

        def full(chunk: bytes) -> None:
            raise OSError(28, "No space left on device")

        class Full:
            write = staticmethod(full)
            close = staticmethod(spool.close)

        message.spool = Full()  # type: ignore[assignment]
        conversation.send(*MESSAGE)
        self.assertEqual(conversation.said, ["452 4.3.1 Insufficient system storage"])
        self.assertEqual(self.queue.messages, [])

    def test_too_large(self) -> None:
        """A message over the limit is refused at its end, and nobody is asked about it."""
        recorder = Recorder("data_post", "queue", "reset_transaction")
        conversation = self.open(recorder, message_size=10)
        self.assertReply(conversation.message("x" * 11), 552, "5.3.4")
        self.assertEqual(recorder.asked, ["reset_transaction"])

    def test_bdat(self) -> None:
        """BDAT takes a message in chunks (RFC 3030); DATA's hook is asked once."""
        recorder = Recorder("data")
        conversation = self.open(recorder)
        conversation.envelope()
        conversation.send_octets(b"BDAT 14\r\nSubject: x\r\n\r\nBDAT 3 LAST\r\ny\r\n")
        self.assertEqual([reply.code for reply in conversation.new_replies], [250, 250])
        self.assertEqual(self.queue.messages[0].content, b"Subject: x\r\n\r\ny\r\n")
        self.assertEqual(recorder.asked, ["data"])

    def test_recipient_parameters(self) -> None:
        """Parameters of accepted recipients are kept, those of others are not."""

        def rcpt(transaction: Transaction, recipient: Any) -> Verdict:
            return OK if recipient.local_part == "b" else deny()

        conversation = self.open(Recorder(rcpt=rcpt))
        conversation.envelope("", "b@mail.example")
        transaction = conversation.transaction
        assert transaction is not None
        self.assertIsNone(transaction.recipient_parameters)


class ParsingHookTests(ComponentTestCase):
    def test_parse(self) -> None:
        """A component may read the argument of a command itself."""
        recorder = Recorder("ehlo", ehlo_parse=lambda session, argument: Ehlo(argument.upper()))
        self.open(recorder).command("EHLO client.example")
        self.assertEqual(recorder.calls["ehlo"][0][1], "CLIENT.EXAMPLE")

    def test_refused(self) -> None:
        """It may refuse the argument with a reply."""
        for verb in ("mail", "rcpt", "ehlo", "helo"):
            reply = Reply(501, "not like this", "5.5.4")
            conversation = self.open(Recorder(**{f"{verb}_parse": reply}))
            reach(conversation, verb)
            self.assertReply(conversation.replies[-1], 501, "5.5.4", "not like this")

    def test_pre(self) -> None:
        """It may rewrite a path before it is read; the parameters stay."""
        recorder = Recorder("mail", mail_pre="<fixed@client.example>", rcpt_pre="<b@mail.example>")
        conversation = self.open(recorder)
        conversation.greet()
        self.assertReply(conversation.command("MAIL FROM:<broken@@> BODY=8BITMIME"), 250)
        self.assertReply(conversation.command("RCPT TO:<@@>"), 250)
        transaction = conversation.transaction
        assert transaction is not None
        self.assertEqual(str(transaction.reverse_path), "<fixed@client.example>")
        self.assertEqual(transaction.parameters, {"BODY": "8BITMIME"})
        self.assertEqual([str(each) for each in transaction.recipients], ["<b@mail.example>"])
        [(_, path, parameters)] = recorder.calls["mail_pre"]
        self.assertEqual((path, parameters), ("<broken@@>", {"BODY": "8BITMIME"}))

    def test_wait(self) -> None:
        """It may take its time, and later commands wait."""
        component = Later("mail_pre")
        conversation = self.open(component)
        conversation.greet()
        conversation.send("MAIL FROM:<a@client.example>", "RCPT TO:<b@mail.example>")
        self.assertEqual(conversation.said, [])
        component.answer.callback("<other@client.example>")
        self.assertEqual([reply.code for reply in conversation.new_replies], [250, 250])

    def test_fault(self) -> None:
        """One that fails leaves the argument to the built-in parser."""
        conversation = self.open(Recorder(mail_parse=ZeroDivisionError()))
        self.assertReply(conversation.envelope(), 250)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_out_of_sequence(self) -> None:
        """It is not asked about a command that is out of sequence."""
        recorder = Recorder("mail_parse", "rcpt_parse")
        conversation = self.open(recorder)
        self.assertReply(conversation.command("MAIL FROM:<>"), 503)
        self.assertReply(conversation.command("RCPT TO:<b@mail.example>"), 503)
        self.assertEqual(recorder.asked, [])


class AuthTests(ComponentTestCase):
    def chain(self) -> Recorder:
        """Knows one user."""

        def auth(session: Session, credentials: Credentials) -> Verdict:
            return OK if credentials.matches(b"secret") else deny("wrong")

        return Recorder(auth=auth)

    def assert_conversation(self, transcript: str, **facts: Any) -> None:
        self.converse([self.chain()], transcript, **facts)

    def test_plain(self) -> None:
        """PLAIN with an initial response; the user may relay afterwards."""
        conversation = self.open(self.chain())
        self.assertIn("AUTH PLAIN LOGIN CRAM-MD5", conversation.greet().lines)
        self.assertReply(
            conversation.command(PLAIN), 235, "2.7.0", "PLAIN authentication successful for user"
        )
        session = conversation.session
        self.assertEqual((session.auth_user, session.auth_mechanism), ("user", "PLAIN"))
        self.assertTrue(session.relay_client)

    def test_plain_without_initial_response(self) -> None:
        """PLAIN in two steps."""
        self.assert_conversation(
            f"""
            C: EHLO client.example
            S: 250
            C: AUTH PLAIN
            S: 334
            C: {b64encode(bytes([0]) + b"user" + bytes([0]) + b"secret").decode()}
            S: 235
            """
        )

    def test_login(self) -> None:
        """LOGIN asks for a name and a password."""
        self.assert_conversation(
            f"""
            C: EHLO client.example
            S: 250
            C: AUTH LOGIN
            S: 334 VXNlcm5hbWU6
            C: {b64encode(b"user").decode()}
            S: 334 UGFzc3dvcmQ6
            C: {b64encode(b"secret").decode()}
            S: 235 2.7.0 LOGIN authentication successful for user
            """
        )

    def test_wrong_password(self) -> None:
        """Wrong credentials are refused, and the client may not relay."""
        conversation = self.open(self.chain())
        conversation.greet()
        wrong = "AUTH PLAIN " + b64encode(b"\0user\0guess").decode()
        said = "PLAIN authentication failed for user from 192.0.2.1"
        self.assertReply(conversation.command(wrong), 535, "5.7.8", said)
        session = conversation.session
        self.assertIsNone(session.auth_user)
        self.assertFalse(session.relay_client)
        self.assertEqual((session.auth_failed, session.auth_failures), (("PLAIN", "user"), 1))

    def test_same_words(self) -> None:
        """A client does not learn why its credentials are wrong; the log does."""
        for verdict in (None, deny("no such user"), deny("wrong password")):
            conversation = self.open(Recorder(auth=verdict))
            conversation.greet()
            with capturedLogs() as events:
                reply = conversation.command(PLAIN)
            self.assertReply(
                reply, 535, "5.7.8", "PLAIN authentication failed for user from 192.0.2.1"
            )
            [line] = [formatEvent(event) for event in events]
            why = f" - {verdict.text}" if verdict else ""
            self.assertEqual(line, f"PLAIN authentication failed for user from 192.0.2.1{why}")

    def test_status_of_its_own(self) -> None:
        """A component that has found another status has it said, with its text."""
        conversation = self.open(Recorder(auth=deny("use a better one", "5.7.9", code=534)))
        conversation.greet()
        self.assertReply(conversation.command(PLAIN), 534, "5.7.9", "use a better one")

    def test_log_watchers(self) -> None:
        """The pattern that the manual has for fail2ban finds the client, whatever it is called."""
        page = Path(__file__).parents[2] / "docs" / "how-to" / "configure-tls-and-auth.md"
        [pattern] = re.findall(r"^    (authentication failed .*)$", page.read_text(), re.MULTILINE)
        watch = re.compile(pattern.replace("<HOST>", r"([0-9a-f.:]+)"))
        forged = "x from 198.51.100.9 - authentication failed for y from 198.51.100.9"
        for user in ("user", forged, "", "é"):
            refused = deny(f"wrong password for {user}")
            conversation = self.open(Recorder(auth=refused))
            conversation.greet()
            with capturedLogs() as events:
                conversation.command("AUTH LOGIN")
                conversation.command(b64encode(user.encode()).decode())
                reply = conversation.command(b64encode(b"guess").decode())
            [line] = [str(formatEvent(event)) for event in events]
            for text in (line, *reply.lines) if user else (line,):
                found = watch.search(text)
                self.assertEqual(found and found[1], "192.0.2.1", text)

    def test_long_user(self) -> None:
        """A name without end is not repeated whole, neither to the client nor in the log."""
        conversation = self.open(Recorder(auth=deny()))
        conversation.greet()
        conversation.command("AUTH PLAIN")
        with capturedLogs() as events:
            reply = conversation.command(b64encode(b"\0" + b"u" * 5000 + b"\0x").decode())
        self.assertReply(reply, 535)
        self.assertTrue(all(len(line) < 200 for line in reply.lines))
        self.assertTrue(all(len(str(formatEvent(event))) < 200 for event in events))

    def test_impossible(self) -> None:
        """Credentials that cannot be right are a failure, and no component is asked."""
        for field in (b"\0\0secret", b"\0user\0", b"other\0user\0secret"):
            recorder = Recorder(auth=OK)
            conversation = self.open(recorder)
            conversation.greet()
            reply = conversation.command("AUTH PLAIN " + b64encode(field).decode())
            self.assertReply(reply, 535, "5.7.8", "Authentication invalid")
            self.assertEqual(conversation.session.auth_failures, 1)
            self.assertEqual(recorder.asked, [])

    def test_later_each_time(self) -> None:
        """Each failure is answered later than the one before, and holds up nobody else."""
        conversation = self.open(Recorder(auth=deny()), auth_delay=2)
        other = self.join(conversation)
        conversation.greet()
        self.assertReply(conversation.command(PLAIN), 535)
        for delay in (2, 4):
            conversation.send(PLAIN, "NOOP")
            self.assertReply(other.command("NOOP"), 250)
            self.clock.advance(delay - 1)
            self.assertEqual(conversation.said, [])
            self.clock.advance(1)
            self.assertEqual([reply.code for reply in conversation.new_replies], [535, 250])
        conversation.send(PLAIN)
        conversation.lose()
        self.assertEqual(self.clock.getDelayedCalls()[1:], [])

    def test_limited(self) -> None:
        """Who fails too often in one session is told to go."""
        conversation = self.open(Recorder(auth=deny()), auth_delay=0, auth_failures=3)
        conversation.greet()
        replies = [conversation.command(PLAIN).code for _ in range(3)]
        self.assertEqual(replies, [535, 535, 421])
        self.assertTrue(conversation.closed)

    def test_undecided(self) -> None:
        """A component that cannot tell does not make it a failure."""
        conversation = self.open(Recorder(auth=defer()))
        conversation.greet()
        for _ in range(10):
            self.assertReply(conversation.command(PLAIN), 454, "4.7.0")
        self.assertEqual(conversation.session.auth_failures, 0)

    def test_order_of_hooks(self) -> None:
        """The mechanism's hook is asked first, and `auth` unless that has decided."""
        for first, asked in (
            (None, ["auth_plain", "auth"]),
            (OK, ["auth_plain"]),
            (deny(), ["auth_plain"]),
        ):
            recorder = Recorder("auth", "auth_login", auth_plain=first)
            conversation = self.open(recorder)
            conversation.greet()
            conversation.command(PLAIN)
            self.assertEqual(recorder.asked, asked)

    def test_success_is_seen(self) -> None:
        """Others learn of a success at `ok`, and from the session at any hook that follows."""
        recorder = Recorder("ok", "mail", auth_plain=OK)
        conversation = self.open(recorder)
        conversation.greet()
        conversation.command(PLAIN)
        self.assertEqual(recorder.calls["ok"][-1][2:], ("auth_plain", OK))
        conversation.command("MAIL FROM:<a@client.example>")
        [(transaction, _)] = recorder.calls["mail"]
        self.assertEqual(transaction.session.auth_user, "user")

    def test_parse_hook_is_no_mechanism(self) -> None:
        """A component that reads the argument of AUTH makes the server offer nothing."""
        conversation = self.open(Recorder("auth_parse"))
        self.assertFalse([line for line in conversation.greet().lines if "AUTH" in line])

    def test_cancelled(self) -> None:
        """The client may give up (RFC 4954, 4), and try again."""
        self.assert_conversation(
            f"""
            C: EHLO client.example
            S: 250
            C: AUTH LOGIN
            S: 334
            C: *
            S: 501 ...
            C: {PLAIN}
            S: 235
            """
        )

    def test_malformed(self) -> None:
        """What is not base64 ends the exchange."""
        self.assert_conversation(
            """
            C: EHLO client.example
            S: 250
            C: AUTH LOGIN
            S: 334
            C: !!!
            S: 501 5.5.2 ...
            C: AUTH PLAIN !!!
            S: 501 5.5.4 ...
            C: NOOP
            S: 250
            """
        )

    def test_not_now(self) -> None:
        """AUTH is refused before EHLO, twice, and with an unknown mechanism (RFC 4954, 4)."""
        self.assert_conversation(
            f"""
            C: {PLAIN}
            S: 503
            C: HELO client.example
            S: 250
            C: {PLAIN}
            S: 503
            C: EHLO client.example
            S: 250
            C: AUTH GSSAPI
            S: 504 5.5.4 ...
            C: {PLAIN}
            S: 235
            C: {PLAIN}
            S: 503
            """
        )

    def test_not_offered(self) -> None:
        """Without a component that can decide AUTH is not offered."""
        conversation = self.open()
        self.assertFalse(any(line.startswith("AUTH") for line in conversation.greet().lines))
        self.assertIn(conversation.command(PLAIN).code, (502, 504))

    def test_one_mechanism(self) -> None:
        """A component for one mechanism makes the server offer that one."""
        conversation = self.open(Recorder(auth_cram_md5=OK))
        self.assertIn("AUTH CRAM-MD5", conversation.greet().lines)
        self.assertReply(conversation.command(PLAIN), 504)

    def test_tls_first(self) -> None:
        """AUTH can be kept for sessions under TLS."""
        conversation = self.open(self.chain(), tls_before_auth=True, tls_context=object())
        self.assertNotIn("AUTH PLAIN LOGIN CRAM-MD5", conversation.greet().lines)
        refused = conversation.command(PLAIN)
        self.assertTrue(refused.code >= 500)
        conversation.command("STARTTLS")
        self.assertIn("AUTH PLAIN LOGIN CRAM-MD5", conversation.greet().lines)
        self.assertReply(conversation.command(PLAIN), 235)

    def test_naughty_is_forgiven(self) -> None:
        """Who authenticates is forgiven what its address did."""
        conversation = self.open(self.chain())
        conversation.session.notes["naughty"] = "bad address"
        conversation.session.notes["naughty_reject_type"] = "temp"
        conversation.greet()
        conversation.command(PLAIN)
        self.assertEqual(conversation.session.notes, {})


class TLSTests(ComponentTestCase):
    def test_forgets_relay(self) -> None:
        """Nor may the client relay any more, though a component let it when it authenticated."""

        def allow(session: Session, credentials: Credentials) -> Verdict:
            session.relay_client = True
            return OK

        conversation = self.open(Recorder(auth=allow), tls_context=object())
        conversation.greet()
        conversation.command(PLAIN)
        conversation.command("STARTTLS")
        self.assertIsNone(conversation.session.auth_user)
        self.assertFalse(conversation.session.relay_client)

    def test_forgets(self) -> None:
        """What was said before TLS is forgotten (RFC 3207, 4.2)."""
        conversation = self.open(Recorder(auth=OK), tls_context=object())
        conversation.greet()
        conversation.command(PLAIN)
        self.assertReply(conversation.command("STARTTLS"), 220, "2.0.0")
        session = conversation.session
        self.assertEqual((session.hello, session.hello_host, session.auth_user), ("", "", None))
        self.assertReply(conversation.command("MAIL FROM:<>"), 503)

    def test_injected_commands(self) -> None:
        """Commands that came in clear behind STARTTLS are not obeyed."""
        recorder = Recorder("noop")
        conversation = self.open(recorder, tls_context=object())
        conversation.greet()
        conversation.send("STARTTLS", "NOOP injected")
        self.assertEqual([reply.code for reply in conversation.new_replies], [220])
        conversation.command("NOOP")
        self.assertEqual([argument for _, argument in recorder.calls["noop"]], [""])

    def test_not_offered(self) -> None:
        """STARTTLS is not offered without a certificate, nor under TLS."""
        conversation = self.open()
        self.assertNotIn("STARTTLS", conversation.greet().lines)
        self.assertReply(conversation.command("STARTTLS"), 502)


class HelloTests(ComponentTestCase):
    def test_capabilities(self) -> None:
        """A component adds keywords to the reply to EHLO; the next EHLO begins anew."""

        def ehlo(session: Session, host: str) -> None:
            session.capabilities += (f"X-{host.upper()}",)

        conversation = self.open(Recorder(ehlo=ehlo))
        self.assertIn("X-ONE", conversation.greet("one").lines)
        lines = conversation.greet("two").lines
        self.assertIn("X-TWO", lines)
        self.assertNotIn("X-ONE", lines)

    def test_session_knows(self) -> None:
        """The session knows how the client greeted, unless it was refused."""

        def judge(session: Session, host: str) -> Verdict | None:
            return deny() if host == "bad.example" else None

        conversation = self.open(Recorder(ehlo=judge, helo=judge))
        self.assertReply(conversation.command("EHLO bad.example"), 550)
        self.assertEqual(conversation.session.hello, "")
        self.assertReply(conversation.command("HELO good.example"), 250)
        session = conversation.session
        self.assertEqual((session.hello, session.hello_host), ("helo", "good.example"))

    def test_addresses(self) -> None:
        """The session knows both ends of the connection."""
        session = self.open(remote_ip="2001:db8::1", remote_port=4711).session
        self.assertEqual((session.remote_ip, session.remote_port), ("2001:db8::1", 4711))
        self.assertEqual((session.local_ip, session.local_port), ("192.0.2.25", 25))

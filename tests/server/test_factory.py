"""The ESMTP factory: limits over all connections, the end of the server, reloads."""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorSSL
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from qpsmtpd.chain import Chain
from qpsmtpd.interfaces import ILifecycle, INoop
from qpsmtpd.server.factory import SMTPFactory
from qpsmtpd.server.protocol import SMTPProtocol
from qpsmtpd.session import Session
from qpsmtpd.settings import Settings
from qpsmtpd.smtp.limits import Limits
from qpsmtpd.testing import ComponentTestCase, Conversation, client
from qpsmtpd.verdicts import Verdict, accept, deny
from tests.recorder import Later, Recorder
from tests.server.certificates import write_certificate


@implementer(ILifecycle, INoop)
class Marked:
    """Answers NOOP with a mark, and notes its start and stop."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.log: list[str] = []

    def start(self) -> None:
        self.log.append("start")

    def stop(self) -> None:
        self.log.append("stop")

    def noop(self, session: Session, argument: str) -> Verdict:
        return accept(self.mark)


class ConnectionLimitTests(ComponentTestCase):
    def test_all(self) -> None:
        """Over the limit of connections clients are turned away with 421, until one goes."""
        one = self.open(connections=2)
        self.join(one, remote_ip="192.0.2.2")
        third = self.join(one, remote_ip="192.0.2.3")
        self.assertEqual(third.said, ["421 4.7.0 Too many connections, try again later"])
        self.assertTrue(third.closed)
        one.command("QUIT")
        self.assertFalse(self.join(one, remote_ip="192.0.2.3").closed)

    def test_one_address(self) -> None:
        """So are those over the limit of one address, and nobody else is."""
        one = self.open(connections_per_address=2)
        two = self.join(one)
        self.assertEqual(two.session.connections, 2)
        third = self.join(one)
        self.assertEqual(third.said, ["421 4.7.0 Too many connections from your address"])
        self.assertTrue(third.closed)
        self.assertFalse(self.join(one, remote_ip="2001:db8::1").closed)
        two.lose()
        self.assertFalse(self.join(one).closed)

    def test_mapped_address(self) -> None:
        """A client of IPv4 on a socket for both protocols is known by its own address."""
        one = self.open(connections_per_address=1)
        self.assertEqual(one.session.remote_ip, "192.0.2.1")
        other = Conversation(one.factory, self.clock, {"local_ip": "::ffff:192.0.2.25"})
        self.patch(client, "client_address", lambda _: client.address("::ffff:192.0.2.2", 1))
        self.conversations.append(other)
        other.connect()
        self.assertEqual(other.session.remote_ip, "192.0.2.2")
        self.assertTrue(self.join(one).closed)

    def test_another_address(self) -> None:
        """What a component says of a client's address does not change the counts."""
        one = self.open(connections_per_address=1)
        one.session.remote_ip = "192.0.2.99"
        self.assertTrue(self.join(one).closed)
        one.lose()
        self.assertEqual(one.factory.protocols, set())
        self.assertFalse(self.join(one).closed)

    def test_no_limit(self) -> None:
        """0 is no limit."""
        one = self.open(connections=0, connections_per_address=0)
        self.assertFalse(any(self.join(one).closed for _ in range(150)))


class TurnedAwayTests(TestCase):
    """On real sockets."""

    async def test_tls(self) -> None:
        """Who is turned away where TLS comes first cannot stay by never beginning it."""
        folder = os.path.abspath(self.mktemp())
        os.mkdir(folder)
        certificate, key = write_certificate(folder, "mail.example")
        factory = SMTPFactory([], Settings(me="mail.example"))
        factory.stopping = True
        ssl: Any = IReactorSSL(reactor)
        context = DefaultOpenSSLContextFactory(key, certificate)
        port = ssl.listenSSL(0, factory, context, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.assertEqual(await deferToThread(_silent, port.getHost().port), b"")


def _silent(port: int) -> bytes:
    """What a client hears that says nothing."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            return client.recv(1000)
    except ConnectionResetError:
        return b""


class TimeTests(ComponentTestCase):
    def test_one_fails(self) -> None:
        """An error in one session costs that one, and the others' time is looked at."""
        one = self.open(command_time=60)
        other = self.join(one)

        def fail(now: float) -> None:
            raise ZeroDivisionError

        self.patch(SMTPProtocol, "check_time", _for(one.protocol, fail, SMTPProtocol.check_time))
        self.clock.advance(1)
        self.assertTrue(one.closed)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.clock.advance(60)
        self.assertTrue(other.closed)


def _for(one: SMTPProtocol, its: Any, others: Any) -> Any:
    """A method that is another one for one object."""
    return lambda self, now: its(now) if self is one else others(self, now)


class StopTests(ComponentTestCase):
    def stop(self, conversation: Conversation, grace: float = 30) -> Deferred[None]:
        return Deferred.fromCoroutine(conversation.factory.stop(grace))

    def test_idle(self) -> None:
        """A session without a message is told at once."""
        marked = Marked("one")
        conversation = self.open(marked)
        conversation.envelope()
        conversation.look()
        self.successResultOf(self.stop(conversation))
        self.assertEqual(conversation.said, ["421 4.3.2 Service shutting down"])
        self.assertTrue(conversation.closed)
        self.assertEqual(marked.log, ["start", "stop"])

    def test_message_on_its_way(self) -> None:
        """A message on its way is taken, and then the session ends."""
        marked = Marked("one")
        conversation = self.open(marked)
        conversation.envelope()
        conversation.send("DATA")
        stopped = self.stop(conversation)
        self.assertFalse(conversation.closed)
        conversation.send("Subject: last", "", ".")
        self.assertEqual(conversation.said, ["250 2.0.0 Queued"])
        self.assertNoResult(stopped)
        self.clock.advance(0.25)
        self.assertEqual(conversation.said[1:], ["421 4.3.2 Service shutting down"])
        self.successResultOf(stopped)
        self.assertEqual(len(self.queue.messages), 1)
        self.assertEqual(marked.log, ["start", "stop"])

    def test_waiting_component(self) -> None:
        """A component that waits may finish; then the client may not begin another message."""
        later = Later("queue")
        conversation = self.open(later)
        conversation.envelope()
        conversation.send("DATA")
        conversation.send("Subject: last", "", ".")
        stopped = self.stop(conversation)
        self.assertNoResult(stopped)
        later.answer.callback(accept("kept"))
        self.assertEqual(conversation.said, ["250 2.0.0 kept", "421 4.3.2 Service shutting down"])
        self.successResultOf(stopped)

    def test_grace(self) -> None:
        """What is not done in time is cut off."""
        conversation = self.open()
        conversation.envelope()
        conversation.send("DATA")
        stopped = self.stop(conversation, grace=30)
        self.clock.pump([1] * 29)
        self.assertNoResult(stopped)
        self.clock.advance(1)
        self.successResultOf(stopped)
        self.assertTrue(conversation.closed)
        self.assertEqual(self.queue.messages, [])

    def test_new_connections(self) -> None:
        """Who comes while the server stops is turned away."""
        conversation = self.open()
        conversation.envelope()
        conversation.send("DATA")
        stopped = self.stop(conversation, grace=1)
        other = self.join(conversation)
        self.assertEqual(other.said, ["421 4.3.2 Service shutting down, try again later"])
        self.assertTrue(other.closed)
        self.clock.advance(1)
        self.successResultOf(stopped)

    def test_late_notices(self) -> None:
        """The chain stops when everybody was told that the last session has ended."""
        later = Later("disconnect")
        marked = Marked("one")
        conversation = self.open(marked, later)
        stopped = self.stop(conversation)
        self.assertTrue(conversation.closed)
        self.assertEqual(marked.log, ["start"])
        later.answer.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(marked.log, ["start", "stop"])


class ReplaceTests(ComponentTestCase):
    def replace(self, conversation: Conversation, *components: object, **settings: Any) -> None:
        replaced = conversation.factory.replace(
            Chain(components, clock=self.clock), Settings(me="new.example", **settings)
        )
        self.successResultOf(Deferred.fromCoroutine(replaced))

    def test_running_sessions(self) -> None:
        """A session stays on its chain; new ones run on the new chain."""
        old, new = Marked("old"), Marked("new")
        one = self.open(old)
        self.replace(one, new)
        other = self.join(one)
        self.assertReply(one.command("NOOP"), 250, None, "old")
        self.assertReply(other.command("NOOP"), 250, None, "new")
        self.assertTrue(other.replies[0].text.startswith("new.example ESMTP"))
        self.assertEqual((old.log, new.log), (["start"], ["start"]))

    def test_last_session(self) -> None:
        """The old chain stops when its last session has ended, and not before."""
        old, new = Marked("old"), Marked("new")
        one = self.open(old)
        two = self.join(one)
        self.replace(one, new)
        one.lose()
        self.assertEqual(old.log, ["start"])
        two.lose()
        self.assertEqual(old.log, ["start", "stop"])
        self.assertEqual(new.log, ["start"])

    def test_late_notices(self) -> None:
        """It stops when its components are done with what they were told."""
        old, later = Marked("old"), Later("disconnect")
        one = self.open(old, later)
        self.replace(one, Marked("new"))
        one.lose()
        self.assertEqual(old.log, ["start"])
        later.answer.callback(None)
        self.assertEqual(old.log, ["start", "stop"])

    def test_no_session(self) -> None:
        """Without sessions the old chain stops at once."""
        old = Marked("old")
        one = self.open(old)
        one.lose()
        self.replace(one, Marked("new"))
        self.assertEqual(old.log, ["start", "stop"])

    def test_failing_start(self) -> None:
        """A chain that does not start changes nothing."""

        class Broken(Marked):
            def start(self) -> None:
                raise ZeroDivisionError

        old, first = Marked("old"), Marked("first")
        one = self.open(old)
        chain = Chain([first, Broken("broken")], clock=self.clock)
        replaced = Deferred.fromCoroutine(one.factory.replace(chain, Settings(me="new.example")))
        self.failureResultOf(replaced, ZeroDivisionError)
        self.assertReply(self.join(one).command("NOOP"), 250, None, "old")
        self.assertEqual(old.log, ["start"])
        self.assertEqual(first.log, ["start", "stop"])

    def test_limits(self) -> None:
        """New limits hold for new sessions."""
        one = self.open(Marked("old"))
        self.replace(one, Marked("new"), limits=Limits(message_size=5))
        self.assertNotIn("SIZE 5", one.greet().lines)
        self.assertIn("SIZE 5", self.join(one).greet().lines)

    def test_hooks_of_the_new_chain(self) -> None:
        """What the new chain can do is offered to new sessions, and only to them."""
        one = self.open()
        self.replace(one, Recorder(auth=deny()))
        self.assertNotIn("AUTH PLAIN LOGIN CRAM-MD5", one.greet().lines)
        self.assertIn("AUTH PLAIN LOGIN CRAM-MD5", self.join(one).greet().lines)


class TickTests(ComponentTestCase):
    def test_nobody_listens(self) -> None:
        """Without ports and sessions the factory has nothing to do with the clock."""
        factory = SMTPFactory([], Settings(), self.clock)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        factory.doStart()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        factory.doStop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_last_session_after_last_port(self) -> None:
        """Sessions that outlive their port still have their time limits."""
        one = self.open(command_time=300)
        one.factory.doStop()
        self.clock.pump([1] * 302)
        self.assertTrue(one.closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        one.factory.doStart()


class GreetingTests(ComponentTestCase):
    def test_default(self) -> None:
        """The banner names the server and says ESMTP (RFC 5321, 4.2)."""
        self.assertTrue(self.open().replies[0].text.startswith("mail.example ESMTP qpsmtpd "))

    def test_own(self) -> None:
        """A banner of one's own gets ESMTP, unless it has it, and hides the version in HELP."""
        self.assertEqual(self.open(greeting="hello").said, ["220 hello ESMTP"])
        self.assertEqual(self.open(greeting="a ESMTP b").said, ["220 a ESMTP b"])
        help_lines = self.open(greeting="hello").command("HELP").lines
        self.assertEqual(help_lines[0], "This is qpsmtpd")

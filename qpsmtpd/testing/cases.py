# -*- test-case-name: tests.testing.test_cases -*-
"""Test cases for components: what a client sees, in memory or over a socket.

::

    class NullMXTests(ComponentTestCase):
        def test_refused(self) -> None:
            self.converse(
                [NullMX(resolver=FakeResolver(mx={"silent.example": [(0, ".")]}))],
                '''
                C: EHLO client.example
                S: 250 mail.example ...
                C: MAIL FROM:<a@silent.example>
                S: 550 5.7.27 silent.example accepts no mail
                ''',
            )

With ``QPSMTPD_TEST_SOCKET=1`` in the environment the same transcripts are played over a
loopback socket too.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from textwrap import dedent
from typing import Any, ClassVar, Final, TypeAlias, TypeVar
from unittest import TestResult

from twisted.internet.defer import CancelledError, Deferred, DeferredLock, TimeoutError, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from qpsmtpd.chain import Chain, Link
from qpsmtpd.component import component, state
from qpsmtpd.deadlines import Deadlines
from qpsmtpd.interfaces import HOOKS, IQueue, IRcpt
from qpsmtpd.message import Message
from qpsmtpd.scope import Scope, Work
from qpsmtpd.server.factory import SMTPFactory
from qpsmtpd.session import Session, Transaction
from qpsmtpd.settings import Settings
from qpsmtpd.smtp.address import NULL_PATH, Address
from qpsmtpd.smtp.limits import Limits
from qpsmtpd.smtp.reply import Reply
from qpsmtpd.spool import Spool
from qpsmtpd.testing.client import (
    CHUNK,
    Conversation,
    ParsedReply,
    SocketClient,
    client_address,
    parse_replies,
    tell,
)
from qpsmtpd.verdicts import OK, Kind, Verdict

__all__ = ["AcceptRecipients", "ComponentTestCase", "MemoryQueue", "QueuedMessage"]

T = TypeVar("T")

#: Components, or what makes them anew for each time a transcript is played.
Components: TypeAlias = Sequence[object] | Callable[[], Sequence[object]]


@implementer(IRcpt)
@component
class AcceptRecipients:
    """Takes mail for everybody. It stands at the end of the chains of tests."""

    def rcpt(self, transaction: Transaction, recipient: Address) -> Verdict:
        return OK


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A message that was queued.

    :ivar reverse_path: Where bounces go.
    :ivar recipients: Whom it is for.
    :ivar octets: The whole message, with what the server added.
    """

    reverse_path: Address
    recipients: tuple[Address, ...]
    octets: bytes

    @property
    def content(self) -> bytes:
        """The message without the Received field of this server, which is the first field."""
        lines = self.octets.split(b"\r\n")
        if not lines[0].startswith(b"Received:"):
            return self.octets
        own = 1
        while lines[own : own + 1] and lines[own][:1] in (b" ", b"\t"):
            own += 1
        return b"\r\n".join(lines[own:])


@implementer(IQueue)
@component
class MemoryQueue:
    """Queues messages in memory, for tests to look at."""

    messages: list[QueuedMessage] = state(list)

    def queue(self, transaction: Transaction) -> Verdict:
        assert transaction.message is not None
        self.messages.append(
            QueuedMessage(
                transaction.reverse_path,
                tuple(transaction.recipients),
                transaction.message.as_bytes(),
            )
        )
        return OK


#: What may be said of a session before its client has connected.
_FACTS: Final = frozenset(
    {
        "auth_mechanism",
        "auth_user",
        "environment",
        "local_ip",
        "local_port",
        "relay_client",
        "remote_host",
        "remote_info",
        "remote_ip",
        "remote_port",
        "tls",
        "tls_context",
        "tls_implicit",
    }
)
#: More replies than there are: only the end of the connection comes before.
_NEVER: Final = 1 << 30

_SETTINGS: Final = frozenset(field.name for field in fields(Settings))
_LIMITS: Final = frozenset(field.name for field in fields(Limits))


class ComponentTestCase(TestCase):
    """A test of components.

    After each test the clients go, the chains stop, and then nothing may be left: a timer on
    :attr:`clock`, work that goes on, a hook that waits. What is, fails the test by name.

    A test without sockets and threads is over when its method returns. What has to wait gives
    a Deferred; a test may await it, and unless it does, it is waited for when the test is over.

    :cvar settings: The engine's settings.
    :cvar completed: Whether chains get an end that takes all recipients and all messages.
    :cvar over_socket: Whether transcripts are played over a socket, too.
    :cvar patience: Seconds of real time that something may take that does not happen at once.
    :ivar clock: The time; ``self.clock.advance(seconds)`` lets it pass.
    :ivar queue: The queue at the end of the chains.
    :ivar conversations: The conversations of this test.
    """

    settings: ClassVar[Settings] = Settings(me="mail.example")
    completed: ClassVar[bool] = True
    over_socket: ClassVar[bool] = os.environ.get("QPSMTPD_TEST_SOCKET", "") not in ("", "0")
    patience: ClassVar[float] = 5.0

    clock: _Clock
    queue: MemoryQueue
    conversations: list[Conversation]

    def run(self, result: TestResult | None = None) -> TestResult | None:
        """Run the test, with a clock of its own."""
        self.clock = _Clock()
        self.queue = MemoryQueue()
        self.conversations = []
        self._left: list[str] = []
        self._closed: set[SMTPFactory] = set()
        self._asked: list[Deferred[Any]] = []
        self._works: list[tuple[str, Work[Any]]] = []
        self._scopes: list[Scope] = []
        self._turn = DeferredLock()
        self._watch_work()
        self.addCleanup(self._tidy)
        ran: TestResult | None = super().run(result)
        return ran

    # Speaking to a chain.

    def open(self, *components: object, alone: bool = False, **facts: Any) -> Conversation:
        """Let a client connect to a chain in memory.

        :param components: The chain; a Chain counts as a component.
        :param alone: Whether nothing stands behind them, not even what takes recipients and
            messages.
        :param facts: By name: attributes of the session that are known beforehand
            (``remote_ip``, ``relay_client``, ...), :class:`Settings` and :class:`Limits`.
        """
        factory, session = self._server(components, alone, facts, self.clock, self.queue)
        factory.doStart()
        conversation = Conversation(factory, self.clock, session)
        self.conversations.append(conversation)
        starting = Deferred.fromCoroutine(factory.start())
        starting.addCallback(lambda _: conversation.connect())
        if starting.called:
            _raise(starting)
        else:
            self.addCleanup(lambda: starting)
        return conversation

    def join(self, conversation: Conversation, **facts: Any) -> Conversation:
        """Let another client connect to the server of a conversation.

        :param facts: Attributes of its session that are known beforehand.
        """
        other = Conversation(conversation.factory, self.clock, facts)
        self.conversations.append(other)
        other.connect()
        return other

    def converse(
        self,
        components: Components,
        transcript: str,
        *,
        alone: bool = False,
        octets: bool = True,
        **facts: Any,
    ) -> Deferred[Any]:
        """Hold a conversation, and compare what the server says.

        The transcript is in the notation of RFC 5321, appendix D. It is played whole, with
        one write for each group of the client's lines, and again octet by octet.

        ============================ ==================================================
        ``C: MAIL FROM:<>``          the client sends a line
        ``S: 250-mail.example ...``  the server says a line; ``...`` stands for any text
        ``S: [closes]``              the server closes the connection
        ``C: [goes]``                the client goes, without a word
        ============================ ==================================================

        A ``...`` at the end stands for more lines too, a code alone for any reply with it, and a
        reply to EHLO may be given by its first line. A transcript that begins with the
        client passes over the greeting.

        :param components: The chain, or what makes it anew for each time it is played, for
            components that remember something.
        :param octets: Whether to play it octet by octet, too. Without, it is played just once:
            in memory, or over a socket where :attr:`over_socket` says so.
        """
        steps = list(_groups(transcript))
        make = components if callable(components) else lambda: components
        return self._whenever(self._converse(make, steps, alone, octets, facts))

    async def _converse(
        self,
        make: Callable[[], Sequence[object]],
        steps: list[_Group],
        alone: bool,
        octets: bool,
        facts: dict[str, Any],
    ) -> None:
        if self.over_socket and not octets:
            stage = _OverSocket(self, make(), alone, facts, self.queue)
            await self._play(stage, steps, ", over a socket")
            return
        await self._play(_InMemory(self, make(), alone, facts, self.queue, CHUNK), steps, "")
        queued = self.queue.messages
        if octets:
            again = MemoryQueue()
            await self._play(
                _InMemory(self, make(), alone, facts, again, 1), steps, ", octet by octet"
            )
            self._assert_same(queued[-len(again.messages) :], again.messages)
        if self.over_socket:
            again = MemoryQueue()
            await self._play(
                _OverSocket(self, make(), alone, facts, again), steps, ", over a socket"
            )
            self._assert_same(queued[-len(again.messages) :], again.messages)

    def _assert_same(self, one: list[QueuedMessage], other: list[QueuedMessage]) -> None:
        if other:
            self.assertEqual(
                [(m.reverse_path, m.recipients, m.content) for m in one],
                [(m.reverse_path, m.recipients, m.content) for m in other],
            )

    async def _play(self, stage: _Stage, steps: list[_Group], how: str) -> None:
        """Play a transcript once."""
        script: list[str] = []
        wrong = False
        try:
            client = await stage.enter()
            for group in steps:
                script += [f"  C: {line}" for line in group.client]
                if group.client:
                    stage.say(group.client)
                if group.goes:
                    client.lose()
                    script.append("  C: [goes]")
                    continue
                await stage.hear(group.expected)
                if group.closes and not client.closed:
                    await stage.hear(_NEVER)
                found = client.new_replies
                wrong = not group.matches(found, client.closed)
                if wrong:
                    script += [f"- S: {line}" for line in group.server]
                    script += [f"+ S: {line}" for line in client.said]
                    script += ["+ S: [closes]"] if client.closed else []
                    script += [] if client.said or client.closed else ["+ (says nothing)"]
                    break
                script += [f"  S: {line}" for line in group.server]
                stage.heard(group.client, found)
        finally:
            await stage.leave()
        if wrong:
            raise self.failureException(
                f"The conversation went otherwise{how}:\n" + "\n".join(script)
            )

    # Asking a component.

    def ask(self, component: object, hook: str, *arguments: Any) -> Any:
        """Ask one component at one hook, as a chain does.

        :returns: Its answer. One that fails was logged, and answers with a 451.
        :raises AssertionError: It is not asked at this hook, or it waits for something.
        """
        answer = self.asking(component, hook, *arguments)
        if not answer.called:
            raise self.failureException(
                f"{Link(component).name} waits at {hook}; use asking() and let it happen"
            )
        return self.successResultOf(answer)

    def asking(self, component: object, hook: str, *arguments: Any) -> Deferred[Any]:
        """Ask one component at one hook and wait for its answer; see :meth:`ask`."""
        if hook not in HOOKS:
            raise self.failureException(f"there is no hook {hook}")
        limit = self.settings.limits.component_time
        asked = getattr(Chain([component], clock=self.clock, time_limit=limit), hook)
        if asked is None:
            raise self.failureException(f"{Link(component).name} is not asked at {hook}")
        answer = asked(*arguments)
        if not isinstance(answer, Deferred):
            return succeed(answer)
        self._scopes += [scope for scope in arguments if isinstance(scope, Scope)]
        self._asked.append(answer)
        return answer

    def session(self, **facts: Any) -> Session:
        """A session without a connection, for :meth:`ask`. It ends with the test.

        :param facts: Its attributes.
        """
        session = Session("192.0.2.1", 49152, "192.0.2.25", 25)
        for name, value in facts.items():
            setattr(session, name, value)
        self._scopes.append(session)
        return session

    def transaction(
        self,
        reverse_path: str = "sender@client.example",
        *recipients: str,
        message: bytes | str | None = None,
        session: Session | None = None,
        **parameters: str | None,
    ) -> Transaction:
        """A transaction without a connection, for :meth:`ask`. It ends with the test.

        :param reverse_path: ``""`` is the null path.
        :param message: Newlines become CR LF.
        :param parameters: The parameters of MAIL.
        """
        if session is None:
            session = self.session(hello="ehlo", hello_host="client.example")
        path = Address.parse(f"<{reverse_path}>") if reverse_path else NULL_PATH
        transaction = session.transaction = Transaction(session, path, parameters)
        transaction.recipients = [Address.parse(f"<{text}>") for text in recipients]
        if message is not None:
            octets = message.encode() if isinstance(message, str) else message
            transaction.message = Message(Spool(self.settings.size_threshold, None))
            transaction.message.spool.write(octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
        self._scopes.append(transaction)
        return transaction

    # Assertions.

    def assertReply(  # noqa: N802
        self,
        reply: ParsedReply | Reply,
        code: int,
        status: str | None = None,
        text: str | None = None,
    ) -> None:
        """Fail unless a reply is as expected.

        :param status: Its enhanced status code; ``None`` does not look.
        :param text: Its text, with ``...`` for anything; ``None`` does not look.
        """
        lines = "\n".join(reply.lines)
        if (
            reply.code != code
            or (status is not None and reply.status != status)
            or (text is not None and not _pattern(text).fullmatch(lines))
        ):
            wanted = " ".join(str(part) for part in (code, status, text) if part is not None)
            raise self.failureException(
                f"the reply is {reply.code} {reply.status} {lines!r}, not {wanted}"
            )

    def assertDenied(self, verdict: object, text: str | None = None, **facts: Any) -> None:  # noqa: N802
        """Fail unless an answer is a ``deny``.

        :param text: Its text, with ``...`` for anything; ``None`` does not look.
        :param facts: What else it shall be: ``status``, ``code``, ``disconnect``.
        """
        self._assert_verdict(verdict, Kind.DENY, text, facts)

    def assertDeferred(self, verdict: object, text: str | None = None, **facts: Any) -> None:  # noqa: N802
        """Fail unless an answer is a ``defer``; see :meth:`assertDenied`."""
        self._assert_verdict(verdict, Kind.DEFER, text, facts)

    def assertAccepted(self, verdict: object, text: str | None = None, **facts: Any) -> None:  # noqa: N802
        """Fail unless an answer is ``OK`` or an ``accept``; see :meth:`assertDenied`."""
        self._assert_verdict(verdict, Kind.OK, text, facts)

    def assertDeclined(self, verdict: object) -> None:  # noqa: N802
        """Fail unless a component had no opinion."""
        if verdict is not None:
            raise self.failureException(f"answered with {verdict!r}, and did not decline")

    def _assert_verdict(
        self, verdict: object, kind: Kind, text: str | None, facts: dict[str, Any]
    ) -> None:
        if not isinstance(verdict, Verdict) or verdict.kind is not kind:
            raise self.failureException(f"answered with {verdict!r}, not with {kind.value}")
        if text is not None and not _pattern(text).fullmatch(verdict.text):
            raise self.failureException(f"{verdict!r} does not say {text!r}")
        for name, value in facts.items():
            if getattr(verdict, name) != value:
                raise self.failureException(f"{verdict!r} has not {name}={value!r}")

    # Making servers.

    def _server(
        self,
        components: Sequence[object],
        alone: bool,
        facts: dict[str, Any],
        clock: IReactorTime,
        queue: MemoryQueue,
    ) -> tuple[SMTPFactory, dict[str, Any]]:
        """A server, and what is known of the session beforehand."""
        session: dict[str, Any] = {}
        settings: dict[str, Any] = {}
        limits: dict[str, Any] = {}
        for name, value in facts.items():
            if name in _FACTS:
                session[name] = value
            elif name in _SETTINGS:
                settings[name] = value
            elif name in _LIMITS:
                limits[name] = value
            else:
                raise TypeError(f"{name} is no setting, no limit and nothing of a session")
        if limits:
            settings["limits"] = replace(settings.get("limits", self.settings.limits), **limits)
        end = () if alone or not self.completed else (AcceptRecipients(), queue)
        factory = SMTPFactory([*components, *end], replace(self.settings, **settings), clock)
        return factory, session

    def _whenever(self, coroutine: Any) -> Deferred[None]:
        """Run a coroutine; what is over at once fails at once."""
        running: Deferred[None] = self._turn.run(lambda: Deferred.fromCoroutine(coroutine))
        if running.called and not running.paused:
            _raise(running)
            return succeed(None)
        self.addCleanup(lambda: running)
        return running

    # What may not be left.

    def _watch_work(self) -> None:
        works = self._works
        start = Scope.start

        def watched(scope: Scope, work: Awaitable[T]) -> Work[T]:
            started = start(scope, work)
            works.append((_name(work), started))
            return started

        self.patch(Scope, "start", watched)

    async def _close(self, conversation: Conversation) -> None:
        """Let a client go and its server stop, and see what does not end."""
        factory = conversation.factory
        for other in self.conversations:
            if other.factory is factory:
                other.lose()
        if factory in self._closed:
            return
        self._closed.add(factory)
        if not factory.stopping:
            stopped = Deferred.fromCoroutine(factory.stop())
            self.clock.advance(0)
            if not stopped.called:
                stopped.addTimeout(self.patience, _reactor())
            try:
                await stopped
            except TimeoutError:
                chain = factory.generation.chain
                self._left.append(f"a notice or a stop() that does not end in {chain}")
        factory.doStop()

    async def _tidy(self) -> None:
        """Let everybody go home, and look what is left."""
        for conversation in self.conversations:
            await self._close(conversation)
        for scope in self._scopes:
            scope.end()
        for asked in self._asked:
            asked.addErrback(lambda failure: failure.trap(CancelledError) and None)
            asked.cancel()
        left = self._left
        for call in self.clock.getDelayedCalls():
            left.append(f"a timer {self.clock.origin(call)}")
            call.cancel()
        left += [f"work that goes on: {name}" for name, work in self._works if not work.done]
        if left:
            raise self.failureException("The test leaves behind " + "; ".join(left))


class _Clock(Clock):
    """A clock that remembers who set each timer."""

    def __init__(self) -> None:
        super().__init__()
        self._origins: dict[IDelayedCall, str] = {}

    def callLater(  # noqa: N802
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> IDelayedCall:
        call = super().callLater(delay, callable, *args, **kw)
        frame = sys._getframe(1)
        while frame.f_back is not None and "/twisted/" in frame.f_code.co_filename:
            frame = frame.f_back
        code = frame.f_code
        origin = f"set by {code.co_qualname} in {code.co_filename}:{frame.f_lineno}"
        self._origins[call] = origin
        return call

    def origin(self, call: IDelayedCall) -> str:
        """Where a timer was set."""
        deadlines = getattr(call.func, "__self__", None)  # type: ignore[attr-defined]
        if isinstance(deadlines, Deadlines):
            # The time limits of components that did not end when they were cancelled.
            return ", ".join(
                f"for {place.link.name}, which goes on at {place.hook.name} though its client went"
                for place in (wait.place for wait in deadlines)
            )
        return self._origins[call]


# The two ways to hold a conversation.


class _Stage:
    """Where a transcript is played."""

    case: ComponentTestCase
    client: Any

    async def enter(self) -> Any:
        """Connect, and give the client."""
        raise NotImplementedError

    def say(self, lines: list[str]) -> None:
        """Send a group of lines."""
        raise NotImplementedError

    async def hear(self, count: int) -> None:
        """Wait for replies, or for the end of the connection; but not for ever."""
        arrived = self.client.until(count)
        if not arrived.called and not self.quiet:
            arrived.addTimeout(self.case.patience, _reactor())
            try:
                await arrived
            except TimeoutError:
                pass

    @property
    def quiet(self) -> bool:
        """Whether nothing can come any more."""
        return False

    def heard(self, lines: list[str], replies: list[ParsedReply]) -> None:
        """The group has its replies."""

    async def leave(self) -> None:
        """Disconnect."""
        raise NotImplementedError


class _InMemory(_Stage):
    def __init__(
        self,
        case: ComponentTestCase,
        components: Sequence[object],
        alone: bool,
        facts: dict[str, Any],
        queue: MemoryQueue,
        at_once: int,
    ) -> None:
        self.case = case
        self.factory, session = case._server(components, alone, facts, case.clock, queue)
        self.client: Conversation = Conversation(self.factory, case.clock, session)
        self.at_once = at_once

    async def enter(self) -> Conversation:
        self.case.conversations.append(self.client)
        self.factory.doStart()
        await self.factory.start()
        self.client.connect()
        return self.client

    def say(self, lines: list[str]) -> None:
        self.client.send_octets(_octets(lines), self.at_once)

    @property
    def quiet(self) -> bool:
        return not self.client.waiting and not self.client.paused

    async def leave(self) -> None:
        await self.case._close(self.client)


class _OverSocket(_Stage):
    def __init__(
        self,
        case: ComponentTestCase,
        components: Sequence[object],
        alone: bool,
        facts: dict[str, Any],
        queue: MemoryQueue,
    ) -> None:
        self.case = case
        self.factory, self.facts = case._server(components, alone, facts, _reactor(), queue)
        self.port: Any = None
        self.client: SocketClient = SocketClient()

    async def enter(self) -> SocketClient:
        await self.factory.start()
        build = self.factory.buildProtocol

        def known(addr: Any) -> Any:
            protocol = build(client_address(self.facts))
            tell(protocol, self.facts)
            return protocol

        self.factory.buildProtocol = known  # type: ignore[method-assign]
        reactor = _reactor()
        self.port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(self.factory)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)
        await connectProtocol(endpoint, self.client)
        return self.client

    def say(self, lines: list[str]) -> None:
        self.client.send_octets(_octets(lines))

    def heard(self, lines: list[str], replies: list[ParsedReply]) -> None:
        if lines and lines[-1].upper() == "STARTTLS" and replies[-1].code == 220:
            self.client.start_tls()

    async def leave(self) -> None:
        if self.port is not None:
            gone = self.client.until(_NEVER)
            self.client.lose()
            await gone
            await self.port.stopListening()
        await self.factory.stop()


def _octets(lines: list[str]) -> bytes:
    return b"".join(line.encode() + b"\r\n" for line in lines)


# Transcripts.


@dataclass
class _Group:
    """Lines that the client sends at once, and what the server says to them."""

    client: list[str]
    server: list[str]
    goes: bool = False

    @property
    def closes(self) -> bool:
        return self.server[-1:] == ["[closes]"]

    @property
    def greeting(self) -> bool:
        """Whether it is the greeting, passed over."""
        return not (self.client or self.server or self.goes)

    @property
    def replies(self) -> list[ParsedReply]:
        lines = [line for line in self.server if line != "[closes]"]
        return parse_replies(lines)

    @property
    def expected(self) -> int:
        """How many replies there should be."""
        return 1 if self.greeting else len(self.replies)

    def matches(self, found: list[ParsedReply], closed: bool) -> bool:
        if self.closes and not closed:
            return False
        if self.greeting:
            return [reply.code for reply in found] == [220]
        wanted = self.replies
        if len(wanted) != len(found):
            return False
        hello = bool(self.client) and self.client[-1].upper().startswith("EHLO ")
        return all(_like(one, other) for one, other in zip(wanted, found, strict=True)) or (
            hello
            and all(map(_like, wanted[:-1], found[:-1]))
            and _like(wanted[-1], replace(found[-1], lines=found[-1].lines[:1]))
        )


def _like(wanted: ParsedReply, found: ParsedReply) -> bool:
    if wanted.lines == ("",) and wanted.status is None:
        return wanted.code == found.code
    return _pattern(_flat(wanted)).fullmatch(_flat(found)) is not None


def _flat(reply: ParsedReply) -> str:
    status = f"{reply.status} " if reply.status else ""
    return f"{reply.code} {status}{reply.text}"


def _groups(transcript: str) -> Iterator[_Group]:
    """A transcript, group by group.

    :raises ValueError: It is no transcript.
    """
    group = _Group([], [])
    for number, line in enumerate(dedent(transcript).strip().splitlines(), 1):
        who, text = line[:2], line[2:].removeprefix(" ")
        if who == "S:":
            group.server.append(text)
        elif who == "C:":
            if group.server or not group.client:
                yield group
                group = _Group([], [])
            if text == "[goes]":
                group.goes = True
            else:
                group.client.append(text)
        elif line.strip():
            raise ValueError(f"line {number} of the transcript is neither C: nor S:: {line!r}")
    yield group


def _pattern(text: str) -> re.Pattern[str]:
    """A text, with ``...`` for anything."""
    return re.compile(".*".join(re.escape(part) for part in text.split("...")), re.DOTALL)


# Small things.


def _reactor() -> Any:
    from twisted.internet import reactor

    return reactor


def _name(work: Any) -> str:
    """What a piece of work is called, for whoever has to find it."""
    work = getattr(work, "func", work)
    name = getattr(work, "__qualname__", None) or getattr(work, "__name__", None)
    return str(name or repr(work))


def _raise(fired: Deferred[Any]) -> None:
    failures: list[Failure] = []
    fired.addErrback(failures.append)
    for failure in failures:
        failure.raiseException()

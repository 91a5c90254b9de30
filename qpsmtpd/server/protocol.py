# -*- test-case-name: tests.server.test_protocol -*-
"""A transport, the protocol machine and a chain, joined. What is decided is decided elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IHandshakeListener,
    IProtocol,
    IPushProducer,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from qpsmtpd import logs
from qpsmtpd.chain import Ask, Chain
from qpsmtpd.interfaces import ResolverError
from qpsmtpd.message import Message
from qpsmtpd.networks import unmapped
from qpsmtpd.policy import NAUGHTY, NAUGHTY_TYPE, report
from qpsmtpd.server import auth_results
from qpsmtpd.server.received import auth_comment, protocol_name, received, tls_comment
from qpsmtpd.server.replies import AUTH_FAILED, INTERNAL_ERROR, refusal
from qpsmtpd.server.sockets import Accepted
from qpsmtpd.session import Session, TLSState, Transaction
from qpsmtpd.settings import Settings
from qpsmtpd.smtp.address import Address
from qpsmtpd.smtp.commands import (
    AUTH_CANCELLED,
    NO_PARAMETERS,
    Auth,
    Bdat,
    Command,
    Data,
    Ehlo,
    Helo,
    Help,
    Mail,
    Noop,
    Parameters,
    Quit,
    Rcpt,
    Rset,
    Starttls,
    Unparsed,
    Unrecognized,
    Vrfy,
    parse_argument,
    split_path,
)
from qpsmtpd.smtp.machine import HEADERS_END, AuthLine, ContentEnd, Need
from qpsmtpd.smtp.reply import Reply
from qpsmtpd.smtp.sasl import (
    MECHANISMS,
    Credentials,
    CredentialsError,
    SASLError,
    challenge_text,
    decode,
)
from qpsmtpd.spool import DISK_FULL, Spool
from qpsmtpd.trace import describe
from qpsmtpd.verdicts import OK, Kind, Verdict
from qpsmtpd.waiting import WAITING, Wait, settle

if TYPE_CHECKING:
    from qpsmtpd.server.factory import Generation, SMTPFactory

__all__ = ["SMTPProtocol", "judged"]

log: Final = Logger()

_CLOSED: Final = Failure(CONNECTION_DONE)
_VANISHED: Final = Failure(CONNECTION_LOST)

#: Events that one client gets before the others have their turn.
EVENTS_PER_TURN: Final = 200

#: Octets that may wait unread behind a command that is being decided.
READ_AHEAD: Final = 65536

#: Seconds until a connection that was closed politely and did not end is cut.
CLOSE_TIME: Final = 30.0

#: Seconds that the answer to a failed authentication waits at most.
AUTH_DELAY_LIMIT: Final = 30.0

#: Characters of a user's name that are repeated to the client and in the log.
_USER_SHOWN: Final = 100

#: Names of a client of which it is asked whether they lead back to its address.
_NAMES_TRIED: Final = 3

#: An enumeration's member costs as much to look up as a method call.
_ACCEPT: Final = Kind.OK
_NEED_CLOSE: Final = Need.CLOSE

_NO_RECIPIENTS: Final = Reply(554, "No valid recipients", "5.5.1")
_GO_AHEAD: Final = Reply(354, "go ahead")
_OK: Final = Reply(250, "OK", "2.0.0")
_VRFY: Final = Reply(252, "Just try sending a mail and we'll see how it turns out ...", "2.0.0")
_UNRECOGNIZED: Final = Reply(500, "Unrecognized command", "5.5.1")
_UNDECIDED: Final = Reply(450, "No plugin decided if relaying is allowed", "4.7.1")
_NOT_QUEUED: Final = Reply(451, "Queuing declined or disabled; try again later", "4.3.0")
_QUEUED: Final = Reply(250, "Queued", "2.0.0")
_STORAGE: Final = Reply(452, "Insufficient system storage", "4.3.1")
_NOT_STORED: Final = Reply(451, "The message could not be stored, try again later", "4.3.0")
_TLS_READY: Final = Reply(220, "Go ahead with TLS", "2.0.0")
_TIMEOUT: Final = Reply(421, "Connection timed out", "4.4.2")
_SHUTDOWN: Final = Reply(421, "Service shutting down", "4.3.2")
_AUTH_TWICE: Final = Reply(503, "You are already authenticated", "5.5.1")
_AUTH_NEEDS_EHLO: Final = Reply(503, "AUTH needs EHLO", "5.5.1")
_AUTH_NEEDS_TLS: Final = Reply(538, "TLS is required for authentication", "5.7.11")
_AUTH_UNKNOWN: Final = Reply(504, "Authentication mechanism not offered", "5.5.4")
_AUTH_BAD: Final = Reply(501, "Authentication exchange not understood", "5.5.2")
_AUTH_INVALID: Final = Reply(535, "Authentication invalid", "5.7.8")
_AUTH_TOO_OFTEN: Final = Reply(421, "Too many failed authentications, closing", "4.7.0")
_AUTH_LINE_TOO_LONG: Final = Reply(500, "Authentication exchange line too long", "5.5.6")

_Handler: TypeAlias = "Callable[[SMTPProtocol, Any], None]"


@implementer(IProtocol, IHandshakeListener, IPushProducer)
class SMTPProtocol:
    """One client's connection.

    :ivar session: What components see of it.
    :ivar generation: The configuration it runs on.
    :ivar address: Which address the connection counts for.
    :ivar active: When the client last gave a command or content, by the factory's coarse clock.
    :ivar early: What the client said before the session began, behind a PROXY header.
    :ivar receive: Reads from the client, for the hub.
    """

    #: For the transport: we say who reads, see :class:`qpsmtpd.server.sockets.Accepted`.
    starts_reading: Final = True

    __slots__ = (
        "_clogged",
        "_content_began",
        "_descriptor",
        "_ended",
        "_exchange",
        "_holding",
        "_machine",
        "_paused",
        "_refused",
        "_relayed",
        "_running",
        "_secured",
        "_send",
        "_waiting",
        "active",
        "address",
        "chain",
        "early",
        "factory",
        "generation",
        "receive",
        "session",
        "transport",
    )

    def __init__(self, factory: SMTPFactory, generation: Generation, session: Session) -> None:
        self.factory = factory
        self.session = session
        self.chain: Chain = generation.chain
        self.active = factory.now
        self.address = session.remote_ip
        self.early = b""
        self.transport: Any = None
        self.generation = generation
        self._machine = generation.machine(session)
        #: Sends at once; ``None`` where the transport has to be asked.
        self._send: Callable[[bytes], int] | None = None
        #: What the hub knows the connection by; -1 where the transport itself reads.
        self._descriptor = -1
        #: Whether the hub has us say in a moment what the machine has said.
        self._holding = False
        self._waiting: Deferred[Any] | None = None
        self._exchange: Any = None
        self._refused: Reply | None = None
        self._content_began = 0.0
        #: Whether the client might relay before it authenticated.
        self._relayed = False
        #: What follows the TLS handshake under way; ``None`` while there is none.
        self._secured: Callable[[SMTPProtocol], None] | None = None
        #: Whether the client does not read its replies.
        self._clogged = False
        #: Whether what the client sends is left unread.
        self._paused = False
        self._running = False
        self._ended = False

    # What the transport calls.

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        session = self.session
        accepted = transport.__class__ is Accepted  # which is what most are
        if not session.local_port:
            if accepted:
                session.local_ip, session.local_port = transport.local
            else:
                here = transport.getHost()
                session.local_ip = unmapped(getattr(here, "host", ""))
                session.local_port = getattr(here, "port", 0)
        if not accepted and ISSLTransport.providedBy(transport):
            self._secured = SMTPProtocol.connectionMade  # the handshake comes first
            return
        if accepted or ITCPTransport.providedBy(transport):
            # Replies go out at once on the socket; only what does not fit waits for the
            # reactor. That halves the CPU time of a message, see docs/explanation/speed.md.
            connection = transport.getHandle()
            self._send = connection.send
            hub = self.factory.hub
            if hub is not None:
                self._join_hub(hub, connection)
        self.connectionMade()

    def connectionMade(self) -> None:
        """Greet the client, or do not."""
        if self._send is None:
            self.transport.registerProducer(self, True)
        if logs.wanted(6):
            count, limit = len(self.factory.protocols), self.generation.settings.connections
            ip, host = self.session.remote_ip, self.session.remote_host or "Unknown"
            text = f"Accepted connection {count}/{limit} from {ip} / {host}"
            logs.tell(self.session, text)
        ask = self.chain.pre_connection
        answer = ask(self.session) if ask is not None else None
        try:
            if answer is not None and answer.__class__ in WAITING:
                # What comes next may be a TLS handshake, which is not for the machine.
                self._stop_reading()
            self._then(answer, _pre_connected)
        except Exception:
            self._failed()
            return
        if self._machine.said:
            self._write(self._machine.outgoing())  # to hold it would cost the reactor a turn
        self._advance()

    def handshakeCompleted(self) -> None:
        secured, self._secured = self._secured, None
        self.session.tls = TLSState.of(self.transport.getHandle())
        if logs.wanted(6):
            report(self.session, "tls", "TLS setup returning")  # the log tools' word for it
        if secured is not None and not self._ended:
            try:
                secured(self)
            except Exception:
                self._failed()

    def dataReceived(self, data: bytes) -> None:
        if self._ended:
            return  # under TLS a client can talk on until it agrees to the end
        machine = self._machine
        machine.receive(data)
        if self._waiting is None and not self._running:
            self._advance()
        elif machine.pending > READ_AHEAD:
            self._stop_reading()

    def connectionLost(self, reason: Failure) -> None:
        self._forget_hub()
        if self._secured is not None:
            log.info(
                "TLS handshake with {ip} failed in session {session}: {reason}",
                ip=self.session.remote_ip,
                session=self.session.id,
                reason=reason.getErrorMessage(),
            )
        try:
            if not self._ended:
                if logs.wanted(6):
                    logs.tell(self.session, f"Lost connection: {reason.getErrorMessage()}")
                self._end(True)
        finally:
            self.factory.forget(self)
            self.transport = None  # under TLS it would hold us, and we it

    # What the transport calls when the client does not read its replies.

    def pauseProducing(self) -> None:
        self._clogged = True
        self._stop_reading()

    def resumeProducing(self) -> None:
        self._clogged = False
        self._resume()
        if self._waiting is None and not self._running and not self._ended:
            self._advance()

    def stopProducing(self) -> None:
        # connectionLost follows; TLS, which the transport keeps, would keep us.
        self.transport.unregisterProducer()

    # What the hub calls.

    def vanished(self) -> None:
        """The client is gone, though what it has said was not all read."""
        self.transport.connectionLost(_VANISHED)

    def send_held(self) -> None:
        """Say what is held, unless it was said or the client has gone."""
        self._holding = False
        if not self._ended:
            octets = self._machine.outgoing()
            if octets:
                self._write(octets)

    def leave_hub(self) -> None:
        """Let the transport read again: it knows what to do about the end of a stream."""
        self._forget_hub()
        self.transport.startReading()

    # What the factory calls.

    def check_time(self, now: float) -> None:
        """Close the connection of a client that took too long."""
        if self._ended:
            if now - self.active > CLOSE_TIME:
                self.cut()
            return
        limits = self._machine.limits
        receiving = self._machine.receiving
        limit = limits.content_time if receiving else limits.command_time
        transaction = self.session.transaction
        # A chunk of BDAT that nobody wants is received without a message.
        message = receiving and transaction is not None and transaction.message is not None
        late = (
            (0 < limit < now - self.active and self._waiting is None)
            or (message and 0 < limits.message_time < now - self._content_began)
            or 0 < limits.session_time < time.time() - self.session.started
        )
        if late:
            if logs.wanted(6):
                logs.tell(self.session, "Connection Timed Out")
            self.close(_TIMEOUT)

    def close(self, reply: Reply | None = None) -> None:
        """End the session, now.

        :param reply: What the client is told.
        """
        self._cancel()
        self._machine.close(reply)
        self._finish()

    def cut(self) -> None:
        """Cut the connection, if it is still there."""
        if self.transport is not None:
            self.transport.abortConnection()

    @property
    def waits(self) -> bool:
        """Whether somebody is asked and has not answered yet."""
        return self._waiting is not None

    def shut_down(self) -> bool:
        """Let the session come to its end; whether a message is on its way in it."""
        if self._machine.receiving or self._waiting is not None:
            return True
        self.close(_SHUTDOWN)
        return False

    # The loop.

    def _advance(self) -> None:
        """Take events while there are some, and send the replies to all of them at once."""
        machine = self._machine
        next_event = machine.next_event
        handler_of = _HANDLERS.get
        more = False
        self._running = True
        try:
            for _ in range(EVENTS_PER_TURN):
                event = next_event()
                handler = handler_of(event.__class__)
                if handler is None:
                    break
                handler(self, event)
            else:
                more = self._waiting is None
        except Exception:
            self._running = False
            self._failed()
            return
        self._running = False
        if event is _NEED_CLOSE:
            self._finish()
            return
        if machine.said:
            if more or self._descriptor < 0:
                self._write(machine.outgoing())  # it may show that the client does not read
            elif not self._holding:
                self._holding = True
                self.factory.hub.hold(self)  # it goes out together with what others are told
            self.active = self.factory.now
        elif machine.receiving:  # a part of a command does not count
            self.active = self.factory.now
        if more:
            # Others first. A client that pipelines without end gets its share, no more, and
            # the next one when it reads.
            if not self._clogged:
                self._then_later()
        elif self._paused and self._waiting is None:
            self._resume()

    def _then_later(self) -> None:
        turn: Deferred[None] = Deferred()
        self._waiting = turn
        turn.addBoth(self._arrived, None, ())
        self.factory.clock.callLater(0, _fire, turn)

    def _write(self, octets: bytes) -> None:
        """Say something now; it is all that the machine has said."""
        send = self._send
        if send is not None:
            try:
                sent = send(octets)
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # the reactor is about to say that the connection was lost
            if sent == len(octets):
                return
            # This client is slower than its commands. From now on the reactor sends.
            octets = octets[sent:]
            self._send = None
            self.transport.registerProducer(self, True)
        self.transport.write(octets)

    def _stop_reading(self) -> None:
        if self._paused or self._ended:
            return
        self._paused = True
        if self._descriptor >= 0:
            self.factory.hub.pause(self._descriptor)
        else:
            self.transport.pauseProducing()

    def _resume(self) -> None:
        if self._paused and not self._clogged and not self._ended:
            self._paused = False
            if self._descriptor >= 0:
                self.factory.hub.resume(self._descriptor)
            else:
                self.transport.resumeProducing()

    def _join_hub(self, hub: Any, connection: Any) -> None:
        self.receive = connection.recv
        descriptor = connection.fileno()
        try:
            hub.add(descriptor, self)
        except OSError as error:  # the system has no more to give; the transport reads, then
            log.warn("A connection is read by itself: {error}", error=error)
            self.transport.startReading()
        else:
            self._descriptor = descriptor
            transport = self.transport
            # An accepted one does not read, unless it has: a PROXY header.
            if transport.__class__ is not Accepted or transport.reading:
                transport.stopReading()

    def _forget_hub(self) -> None:
        if self._descriptor >= 0:
            self.factory.hub.remove(self._descriptor)
            self._descriptor = -1

    def _finish(self) -> None:
        """Send what is left to say, and close."""
        if self._ended:
            return
        octets = self._machine.outgoing()
        if octets:
            self._write(octets)
        if self._send is None:
            self.transport.unregisterProducer()
        hub = self._descriptor >= 0
        self._forget_hub()
        self._end(False)
        self.active = self.factory.now
        if hub and self._send is not None:
            # All was sent, and nobody but us reads: what the reactor would do with its next
            # turn can be done now, which saves it two changes of what it watches.
            self.transport.connectionLost(_CLOSED)
        else:
            self.transport.loseConnection()

    def _end(self, gone: bool) -> None:
        """The session is over.

        :param gone: Whether the client has gone. The transaction then ends before the session,
            and after it where the server closes, as in the Perl qpsmtpd.
        """
        self._ended = True
        self._cancel()
        session = self.session
        chain = self.chain
        if gone:
            self._reset()
        if chain.disconnect is not None:
            self._tell(chain.disconnect, session)
        self._reset()
        if chain.post_connection is not None:
            self._tell(chain.post_connection, session)
        if logs.wanted(6):
            if session.trace:
                log.info(
                    "session {session} trace: {trace}",
                    session=session.id,
                    trace=describe(session.trace),
                )
            logs.tell(session, "click, disconnecting")
        session.end()

    # Waiting.

    def _then(self, answer: Any, finish: Callable[..., object], *context: Any) -> None:
        """Go on with an answer: now, or when it has arrived."""
        if answer is None or answer.__class__ not in WAITING:
            finish(self, answer, *context)
            return
        self._waiting = answer
        if answer.__class__ is Wait:
            answer.listen(self._arrived, finish, context)
        else:
            answer.addBoth(self._arrived, finish, context)

    def _arrived(
        self, answer: Any, finish: Callable[..., object] | None, context: tuple[Any, ...]
    ) -> None:
        """Go on with an answer that was waited for; a failure is ours."""
        self._waiting = None
        if self._ended:
            if isinstance(answer, Failure):
                answer.cleanFailure()  # its traceback holds the session
            return  # a late result of something that nobody waits for any more
        if isinstance(answer, Failure):
            self._failed(answer)
            return
        self.active = self.factory.now  # the client could not say anything meanwhile
        try:
            if finish is not None:
                finish(self, answer, *context)
        except Exception:
            self._failed()
            return
        if not self._running and self._waiting is None and not self._ended:
            if self._clogged and self._machine.pending:
                self._write(self._machine.outgoing())  # the rest when this has been read
            else:
                self._advance()
            if self.factory.stopping and not self._ended:
                self.shut_down()  # before the client begins another message

    def _failed(self, failure: Failure | None = None) -> None:
        """Close the connection because of an error that is ours."""
        log.failure("The engine failed in session {session}", failure, session=self.session.id)
        self.close(Reply(421, "Internal error, closing connection", "4.3.0"))

    def _cancel(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            # Whoever is cancelled can see why, and the chain that it is nobody's fault.
            session = self.session
            session.ended = True
            if session.transaction is not None:
                session.transaction.ended = True
            ended, self._ended = self._ended, True
            waiting.cancel()
            self._ended = ended

    def _tell(self, ask: Ask, scope: Session | Transaction) -> None:
        """Tell of what is over; nobody waits for what components do about it."""
        told = ask(scope)
        if told is not None and told.__class__ in WAITING:
            self.factory.let_finish(told)

    # Ends of transactions.

    def _reset(self) -> None:
        """End the open transaction, if there is one."""
        session = self.session
        transaction = session.transaction
        if transaction is None:
            return
        session.transaction = None
        self._refused = None
        if self.chain.reset_transaction is not None:
            self._tell(self.chain.reset_transaction, transaction)
        if logs.wanted(6) and transaction.trace:
            log.info(
                "transaction {transaction} trace: {trace}",
                transaction=transaction.id,
                session=session.id,
                trace=describe(transaction.trace),
            )
        transaction.end()

    # Replies.

    def _refuse(self, hook: str, verdict: Verdict, subject: object = "") -> Reply:
        """Say what a verdict that is no ``OK`` stands for, and give it."""
        if verdict.kind is Kind.DONE:
            reply = verdict.reply or self.session.take_reply()
            if reply is None:
                text = f"{hook} was answered with DONE and no reply"
                logs.tell(self.session, text, 3)
                reply = INTERNAL_ERROR
        else:
            reply = refusal(hook, verdict, subject)
            if logs.wanted(6) and hook == "mail":
                name = "deny" if verdict.kind is Kind.DENY else "denysoft"
                logs.tell(self.session, f"{name} mail from {subject} ({reply.lines[0]})")
        machine = self._machine
        machine.reply(reply)
        if verdict.disconnect or reply.code == 421:
            machine.close()
        return reply

    def greeting(self) -> Reply:
        """The 220 that begins the session."""
        return self.generation.banner

    def _at_this_host(self, recipient: Address) -> Address:
        """A recipient at the address that the client connected to, with our name instead.

        RFC 5321, 4.1.3 has such literals for hosts that no name leads to. Like qmail-smtpd we
        know them for our own before anybody asks whether the domain is.
        """
        assert recipient.domain is not None
        literal = recipient.domain[1:-1]
        try:
            address = ip_address(literal[5:] if ":" in literal else literal)
            if unmapped(str(address)) != str(ip_address(self.session.local_ip)):
                return recipient
            settings = self.generation.settings
            return Address(recipient.local_part, settings.localiphost or settings.me)
        except ValueError:  # a UNIX socket has no address, and a name in `me` may be no domain
            return recipient

    def ehlo_reply(self) -> Reply:
        """The 250 with the extensions that are offered now."""
        session = self.session
        settings = self.generation.settings
        mechanisms = self.generation.mechanisms
        if settings.tls_before_auth and session.tls is None:
            mechanisms = ()
        starttls = session.tls is None and session.tls_context is not None
        self._machine.extensions, reply = self.generation.offer(
            session, mechanisms, starttls, session.capabilities
        )
        return reply


def _fire(turn: Deferred[None]) -> None:
    if not turn.called:
        turn.callback(None)


# Connection.


def _pre_connected(self: SMTPProtocol, verdict: Verdict | None) -> None:
    if verdict is not None and verdict.kind is not _ACCEPT:
        self._refuse("pre_connection", verdict)
        self._machine.close()
    elif self.session.tls_implicit and self.session.tls is None:
        _start_tls(self, _connect_secured)
    else:
        _connect(self)


def _connect_secured(self: SMTPProtocol) -> None:
    _connect(self)
    self._advance()


def _connect(self: SMTPProtocol) -> None:
    if self.early:
        self._machine.receive(self.early)
        self.early = b""
    if self.generation.settings.reverse_dns and _wants_name(self):
        self._then(settle(_look_up(self)), _named)
    else:
        _named(self, None)


def _wants_name(self: SMTPProtocol) -> bool:
    ip = self.session.remote_ip
    local = not ip or ip.startswith("127.") or ip == "::1"
    return self.factory.resolver is not None and not local


async def _look_up(self: SMTPProtocol) -> None:
    """Find the client's name by DNS; one that cannot be found is no reason to refuse it.

    Anybody can name an address as he likes, so the name has to lead back to it.
    """
    resolver = self.factory.resolver
    ip = self.session.remote_ip
    ask = resolver.aaaa if ":" in ip else resolver.a
    try:
        for name in (await resolver.ptr(ip))[:_NAMES_TRIED]:
            if any(ip_address(found) == ip_address(ip) for found in await ask(name)):
                self.session.remote_host = name
                return
    except ResolverError as error:
        if logs.wanted(7):
            logs.tell(self.session, f"no name for {ip}: {error}", 7)


def _named(self: SMTPProtocol, nothing: None) -> None:
    if logs.wanted(5):
        _introduce(self)
    ask = self.chain.connect
    self._then(ask(self.session) if ask is not None else None, _connected)


def _introduce(self: SMTPProtocol) -> None:
    """Log who has come."""
    session = self.session
    logs.tell(session, f"Connection from {session.remote_name} [{session.remote_ip}]", 5)


def _connected(self: SMTPProtocol, verdict: Verdict | None) -> None:
    if verdict is None or verdict.kind is _ACCEPT:
        self._machine.reply(self.greeting())
        return
    self._refuse("connect", verdict)
    if verdict.kind is not Kind.DONE:
        self._machine.close()


# EHLO and HELO.


def _ehlo(self: SMTPProtocol, command: Ehlo) -> None:
    ask = self.chain.ehlo
    self.session.capabilities = ()
    answer = ask(self.session, command.host) if ask is not None else None
    self._then(answer, _greeted, "ehlo", command.host)


def _helo(self: SMTPProtocol, command: Helo) -> None:
    ask = self.chain.helo
    answer = ask(self.session, command.host) if ask is not None else None
    self._then(answer, _greeted, "helo", command.host)


def _greeted(self: SMTPProtocol, verdict: Verdict | None, hello: str, host: str) -> None:
    said = None
    if verdict is not None and verdict.kind is not _ACCEPT:
        said = self._refuse(hello, verdict, host)
        if not said.positive:
            return
    self._reset()
    session = self.session
    session.hello = hello
    session.hello_host = host
    if said is not None:
        return
    if hello == "ehlo":
        self._machine.reply(self.ehlo_reply())
    else:
        self._machine.reply(self.generation.helo_reply(session))


# Commands that a component may want to read itself.


def _unparsed(self: SMTPProtocol, event: Unparsed) -> None:
    self._then(settle(_parsed(self, event)), _dispatch)


async def _parsed(self: SMTPProtocol, event: Unparsed) -> Command | Reply:
    """Ask the ``_parse`` and ``_pre`` hooks of a command, then read it."""
    name = event.verb.decode("ascii").lower()
    scope: Session | Transaction = self.session
    if name == "rcpt" and self.session.transaction is not None:
        scope = self.session.transaction
    argument = event.argument
    ask: Ask | None = getattr(self.chain, f"{name}_parse", None)
    if ask is not None:
        found = ask(scope, argument.decode("utf-8", "surrogateescape"))
        if isinstance(found, Deferred):
            found = await found
        if isinstance(found, str):
            argument = found.encode("utf-8", "surrogateescape")
        elif found is not None:
            return found  # type: ignore[no-any-return]
    pre: Ask | None = getattr(self.chain, f"{name}_pre", None)
    if pre is not None:
        path, parameters = split_path(argument)
        text = pre(scope, path.decode("utf-8", "surrogateescape"), _rough(parameters))
        if isinstance(text, Deferred):
            text = await text
        if text is not None:
            path = text.encode("utf-8", "surrogateescape")
        argument = argument[: argument.find(b":") + 1] + path + b" " + parameters
    machine = self._machine
    return parse_argument(event.verb, argument, machine.extensions, machine.utf8)


def _rough(parameters: bytes) -> Parameters:
    """Parameters as they stand, unchecked, for components that rewrite a path."""
    found: dict[str, str | None] = {}
    for word in parameters.decode("utf-8", "replace").split():
        keyword, equals, value = word.partition("=")
        found[keyword.upper()] = value if equals else None
    return found


def _dispatch(self: SMTPProtocol, command: Command | Reply) -> None:
    if not isinstance(command, Reply):
        refused = self._machine.parsed(command)
        if refused is None:
            _HANDLERS[type(command)](self, command)
            return
        command = refused
    self._machine.reply(command)


# MAIL and RCPT.


def _mail(self: SMTPProtocol, command: Mail) -> None:
    session = self.session
    if session.transaction is not None:
        self._reset()
    path = command.reverse_path
    session.transaction = transaction = Transaction(session, path, command.parameters)
    ask = self.chain.mail
    if ask is None:
        _mail_decided(self, None, transaction)
        return
    answer = ask(transaction, path)
    if answer is not None and answer.__class__ in WAITING:
        self._then(answer, _mail_decided, transaction)
    else:
        _mail_decided(self, answer, transaction)


def _mail_decided(self: SMTPProtocol, verdict: Verdict | None, transaction: Transaction) -> None:
    if verdict is None or verdict.kind is _ACCEPT:
        if verdict is None or not verdict.text:
            path = transaction.reverse_path
            reply = Reply.plain(
                f"{path!s}, sender OK - how exciting to get mail from you!", "2.1.0"
            )
        else:
            reply = Reply(250, verdict.text, verdict.status or "2.1.0")
        self._machine.reply(reply)
        return
    if not self._refuse("mail", verdict, transaction.reverse_path).positive:
        self._reset()


def _rcpt(self: SMTPProtocol, command: Rcpt) -> None:
    transaction = self.session.transaction
    assert transaction is not None
    recipient = command.forward_path
    if recipient.domain is not None and recipient.domain[0] == "[":
        recipient = self._at_this_host(recipient)
    if command.parameters is not NO_PARAMETERS:
        if transaction.recipient_parameters is None:
            transaction.recipient_parameters = {}
        transaction.recipient_parameters[recipient] = command.parameters
    ask = self.chain.rcpt
    if ask is None:
        self._machine.reply(_UNDECIDED)
        return
    answer = ask(transaction, recipient)
    if answer is not None and answer.__class__ in WAITING:
        self._then(answer, _rcpt_decided, transaction, recipient)
    else:
        _rcpt_decided(self, answer, transaction, recipient)


def _rcpt_decided(
    self: SMTPProtocol, verdict: Verdict | None, transaction: Transaction, recipient: Any
) -> None:
    if verdict is OK:
        transaction.recipients.append(recipient)
        self._machine.reply(Reply.plain(f"{recipient!s}, recipient ok", "2.1.5"))
        return
    if verdict is not None and verdict.kind is _ACCEPT:
        transaction.recipients.append(recipient)
        self._machine.reply(Reply(250, verdict.text, verdict.status or "2.1.5"))
        return
    if transaction.recipient_parameters is not None and recipient not in transaction.recipients:
        transaction.recipient_parameters.pop(recipient, None)
    if verdict is None:
        self._machine.reply(_UNDECIDED)
    else:
        self._refuse("rcpt", verdict, recipient)


# The message.


def _data(self: SMTPProtocol, command: Data | Bdat) -> None:
    transaction = self.session.transaction
    assert transaction is not None
    if not transaction.recipients:  # components answered all of them in their own way
        self._machine.reply(_NO_RECIPIENTS)
        self._reset()
        return
    ask = self.chain.data
    answer = ask(transaction) if ask is not None else None
    if answer is not None and answer.__class__ in WAITING:
        self._then(answer, _data_decided, transaction)
    else:
        _data_decided(self, answer, transaction)


def _data_decided(self: SMTPProtocol, verdict: Verdict | None, transaction: Transaction) -> None:
    if verdict is None or verdict.kind is _ACCEPT:
        self._machine.reply(_GO_AHEAD)
    else:
        self._refuse("data", verdict)
        if not self._machine.recipients:  # the machine has ended the transaction
            self._reset()
            return
    settings = self.generation.settings
    # What is no header section to us, and is one to others, could hold what we have to remove.
    header_limit = self._machine.limits.header_size or sys.maxsize
    spool = Spool(settings.size_threshold, settings.spool_dir)
    transaction.message = Message(spool, header_limit)
    self._refused = None
    self._content_began = self.factory.now


def _content(self: SMTPProtocol, chunk: bytes) -> None:
    if self._refused is not None:
        return
    transaction = self.session.transaction
    assert transaction is not None
    assert transaction.message is not None
    try:
        transaction.message.spool.write(chunk)
    except OSError as error:
        logs.tell(self.session, f"cannot spool a message: {error}", 3)
        self._refused = _STORAGE if error.errno in DISK_FULL else _NOT_STORED
        return
    ask = self.chain.content
    if ask is not None:
        answer = ask(transaction, chunk)
        if answer is not None:
            self._machine.hold()
            self._then(answer, _content_decided, "content")


def _headers_end(self: SMTPProtocol, event: object) -> None:
    ask = self.chain.data_headers_end
    if ask is not None and self._refused is None:
        self._machine.hold()
        self._then(ask(self.session.transaction), _content_decided, "data_headers_end")


def _content_decided(self: SMTPProtocol, verdict: Verdict | None, hook: str) -> None:
    """Go on receiving. A refusal is said when the client has sent its message, or at once
    where it closes the connection."""
    self._machine.go_on()
    if verdict is None or not verdict.refuses:
        return
    self._refused = refusal(hook, verdict)
    if verdict.disconnect:
        self._machine.close(self._refused)


def _content_end(self: SMTPProtocol, event: ContentEnd) -> None:
    refused = self._refused or event.refusal
    if refused is not None:
        self._machine.reply(refused)
        self._reset()
        return
    transaction = self.session.transaction
    assert transaction is not None
    if logs.wanted(6):
        assert transaction.message is not None
        if not transaction.message.spool.in_memory:
            logs.tell(self.session, "spooling message to disk")
    answer = settle(judged(self.chain, transaction, self.generation.settings))
    if answer.__class__ is Deferred:
        self._then(answer, _message_decided, transaction)
    else:
        _message_decided(self, answer, transaction)


async def judged(
    chain: Chain, transaction: Transaction, settings: Settings
) -> tuple[str, Verdict | None]:
    """Ask everybody about a complete message, and give it its trace fields.

    :returns: The hook that decided, and its verdict.
    """
    message = transaction.message
    assert message is not None
    if chain.data_post_headers is not None:
        told = chain.data_post_headers(transaction)
        if told is not None and told.__class__ in WAITING:
            await told
    own = settings.authserv_id
    if own is not None:
        auth_results.clean(message, own)
    line = None
    if chain.received_line is not None:
        line = await _written_line(chain.received_line, transaction)
    if line is None:
        message.prepend_field(received(transaction, settings.me))
    else:
        message.prepend("Received", line)
    for hook, ask in (("data_post", chain.data_post), ("queue_pre", chain.queue_pre)):
        if hook == "queue_pre" and own is not None:
            auth_results.add_own(transaction, own)  # what was found out at data_post, too
        if ask is not None:
            verdict = ask(transaction)
            if verdict is not None and verdict.__class__ in WAITING:
                verdict = await verdict
            if verdict is not None and verdict.kind is not _ACCEPT:
                return hook, verdict
    if (ask := chain.queue) is None:
        return "queue", None
    verdict = ask(transaction)
    if verdict is not None and verdict.__class__ in WAITING:
        verdict = await verdict
    return "queue", verdict


async def _written_line(ask: Ask, transaction: Transaction) -> str | None:
    """The Received field that a component writes."""
    line = ask(
        transaction,
        protocol_name(transaction),
        auth_comment(transaction.session),
        tls_comment(transaction.session),
    )
    if isinstance(line, Deferred):
        line = await line
    if line is None:
        return None
    return "\r\n ".join(part.strip() for part in str(line).splitlines() if part.strip())


def _message_decided(
    self: SMTPProtocol, decided: tuple[str, Verdict | None], transaction: Transaction
) -> None:
    hook, verdict = decided
    if verdict is None:
        self._machine.reply(_NOT_QUEUED)
        self._reset()
        return
    if verdict.kind is not _ACCEPT:
        self._refuse(hook, verdict)
        self._reset()
        return
    if verdict.text or verdict.status:
        self._machine.reply(Reply(250, verdict.text or "Queued", verdict.status or "2.0.0"))
    else:
        self._machine.reply(_QUEUED)
    if self.chain.queue_post is not None:
        self._write(self._machine.outgoing())
        told = self.chain.queue_post(transaction)
        if told is not None and told.__class__ in WAITING:
            # The message stays readable until the notice was taken.
            self.session.transaction = None
            told.addBoth(lambda _: _late_reset(self, transaction))
            self.factory.let_finish(told)
            return
    self._reset()


def _late_reset(self: SMTPProtocol, transaction: Transaction) -> None:
    if self.chain.reset_transaction is not None:
        self._tell(self.chain.reset_transaction, transaction)
    transaction.end()


# The other commands.


def _rset(self: SMTPProtocol, command: Rset) -> None:
    self._reset()
    self._machine.reply(_OK)


def _simple(hook: str, default: Reply, fine: str) -> _Handler:
    """A command whose hook is a decision: a reply for no answer, and a text for ``OK``."""

    def decided(self: SMTPProtocol, verdict: Verdict | None) -> None:
        if verdict is None:
            self._machine.reply(default)
        elif verdict.kind is _ACCEPT:
            self._machine.reply(Reply(250, verdict.text or fine, verdict.status or "2.0.0"))
        else:
            self._refuse(hook, verdict)

    def handle(self: SMTPProtocol, command: Any) -> None:
        ask: Ask | None = getattr(self.chain, hook)
        answer = None
        if ask is not None:
            answer = ask(self.session, command.argument)
        self._then(answer, decided)

    return handle


_noop: Final = _simple("noop", _OK, "OK")
_vrfy: Final = _simple("vrfy", _VRFY, "User OK")


def _help(self: SMTPProtocol, command: Help) -> None:
    ask = self.chain.help
    answer = ask(self.session, command.argument) if ask is not None else None
    self._then(answer, _helped)


def _helped(self: SMTPProtocol, verdict: Verdict | None) -> None:
    if verdict is None or (verdict.kind is _ACCEPT and not verdict.text):
        self._machine.reply(self.generation.help)
    elif verdict.kind is _ACCEPT:
        self._machine.reply(Reply(214, verdict.text, verdict.status or "2.0.0"))
    else:
        self._refuse("help", verdict)


def _unrecognized(self: SMTPProtocol, command: Unrecognized) -> None:
    ask = self.chain.unrecognized_command
    answer = None
    if ask is not None:
        answer = ask(self.session, command.verb, command.argument)
    self._then(answer, _unrecognized_decided)


def _unrecognized_decided(self: SMTPProtocol, verdict: Verdict | None) -> None:
    if verdict is None or verdict.kind is _ACCEPT:
        self._machine.reply(_UNRECOGNIZED)
    else:
        self._refuse("unrecognized_command", verdict)


def _quit(self: SMTPProtocol, command: Quit) -> None:
    ask = self.chain.quit
    self._then(ask(self.session) if ask is not None else None, _quitted)


def _quitted(self: SMTPProtocol, verdict: Verdict | None) -> None:
    if verdict is None or not (verdict.text or verdict.reply):
        reply = self.session.take_reply() or self.generation.goodbye
    else:
        reply = verdict.reply or Reply(221, verdict.text, "2.0.0")
    self._machine.reply(reply)  # which closes it, too


# STARTTLS.


def _starttls(self: SMTPProtocol, command: Starttls) -> None:
    self._reset()
    session = self.session
    self._machine.reply(_TLS_READY)
    self._write(self._machine.outgoing())
    # What was said in clear is forgotten (RFC 3207, 4.2).
    session.hello = session.hello_host = ""
    session.auth_failed = None
    if session.auth_user is not None:
        session.auth_user = session.auth_mechanism = None
        session.relay_client = self._relayed
    _start_tls(self, _nothing)


def _start_tls(self: SMTPProtocol, secured: Callable[[SMTPProtocol], None]) -> None:
    """Begin a TLS handshake; whatever the client says from now on is part of it.

    :param secured: Called when it has succeeded. When it fails, the connection closes.
    """
    if self._send is None:
        self.transport.unregisterProducer()
    self._send = None
    self._secured = secured
    self._clogged = False
    self._resume()
    if self._descriptor >= 0:
        self.leave_hub()
    self.transport.startTLS(self.session.tls_context)
    self.transport.registerProducer(self, True)
    if self.early:
        early, self.early = self.early, b""
        self.transport.protocol.dataReceived(early)


def _nothing(self: SMTPProtocol) -> None:
    pass  # the client speaks next


# AUTH (RFC 4954).


def _auth(self: SMTPProtocol, command: Auth) -> None:
    session = self.session
    machine = self._machine
    if session.hello != "ehlo":
        machine.reply(_AUTH_NEEDS_EHLO)
    elif session.auth_user is not None:
        machine.reply(_AUTH_TWICE)
    elif self.generation.settings.tls_before_auth and session.tls is None:
        machine.reply(_AUTH_NEEDS_TLS)
    elif command.mechanism not in self.generation.mechanisms:
        machine.reply(_AUTH_UNKNOWN)
    else:
        try:
            initial = None if command.initial is None else decode(command.initial)
        except SASLError:
            machine.reply(_AUTH_BAD)
            return
        me = self.generation.settings.me
        self._exchange = MECHANISMS[command.mechanism](me, initial)
        _auth_step(self, None)


def _auth_line(self: SMTPProtocol, event: AuthLine) -> None:
    if event.octets is None:
        self._exchange = None
        self._machine.reply(_AUTH_LINE_TOO_LONG)
    elif event.octets == b"*":
        self._exchange = None
        self._machine.reply(AUTH_CANCELLED)
    else:
        try:
            response = decode(event.octets)
        except SASLError:
            self._exchange = None
            self._machine.reply(_AUTH_BAD)
            return
        _auth_step(self, response)


def _auth_step(self: SMTPProtocol, response: bytes | None) -> None:
    """Give the exchange a response; it has a challenge, or the credentials, or enough."""
    exchange = self._exchange
    try:
        challenge = exchange.send(response)
    except StopIteration as stop:
        self._exchange = None
        credentials: Credentials = stop.value
        self._relayed = self.session.relay_client  # a component may set it when it answers
        self._then(settle(_authenticated(self, credentials)), _auth_decided, credentials)
    except CredentialsError as error:
        self._exchange = None
        _auth_failed(self, error.mechanism, error.user, str(error), _auth_invalid)
    except SASLError as error:
        self._exchange = None
        self._machine.reply(Reply(501, f"Authentication failed: {error}", "5.5.2"))
    else:
        self._machine.reply(Reply(334, challenge_text(challenge)))


async def _authenticated(self: SMTPProtocol, credentials: Credentials) -> Verdict | None:
    hook = "auth_" + credentials.mechanism.lower().replace("-", "_")
    for ask in (getattr(self.chain, hook), self.chain.auth):
        if ask is None:
            continue
        verdict = ask(self.session, credentials)
        if isinstance(verdict, Deferred):
            verdict = await verdict
        if verdict is not None:
            return verdict  # type: ignore[no-any-return]
    return None


def _auth_decided(self: SMTPProtocol, verdict: Verdict | None, credentials: Credentials) -> None:
    session = self.session
    mechanism = credentials.mechanism
    if verdict is not None and verdict.kind is _ACCEPT:
        session.auth_user = credentials.user
        session.auth_mechanism = mechanism
        session.relay_client = True
        if session.note(NAUGHTY):
            session.notes.pop(NAUGHTY)
            session.notes.pop(NAUGHTY_TYPE, None)
            if logs.wanted(6):
                logs.tell(session, "auth success cleared naughty")
        log.info(
            "{mechanism} authentication successful for {user} from {ip}",
            mechanism=mechanism,
            user=_shown(credentials.user),
            ip=session.remote_ip,
            session=session.id,
        )
        text = f"{mechanism} authentication successful for {_shown(credentials.user)}"
        if verdict.text:
            text += f" - {verdict.text}"
        self._machine.reply(Reply(235, text, "2.7.0"))
        return
    if verdict is not None and verdict.kind is not Kind.DENY:
        self._refuse("auth", verdict)  # nobody knows whether they are right
        return
    refused = verdict or Verdict(Kind.DENY)
    _auth_failed(self, mechanism, credentials.user, refused.text, _auth_refused, refused)


def _auth_failed(
    self: SMTPProtocol,
    mechanism: str,
    user: str,
    reason: str,
    answer: Callable[..., None],
    *context: Any,
) -> None:
    """Count a failed authentication, log it, and answer it: the more there were, the later.

    :param reason: For the log. A client that learns whether there is such a user can look for
        users.
    """
    session = self.session
    session.auth_failed = (mechanism, user)
    limits = self._machine.limits
    delay = min(limits.auth_delay * session.auth_failures, AUTH_DELAY_LIMIT)
    session.auth_failures += 1
    log.warn(
        AUTH_FAILED + (" - {reason}" if reason else ""),
        mechanism=mechanism,
        user=_shown(user),
        ip=session.remote_ip,
        reason=reason,
        session=session.id,
    )
    waits: Deferred[None] | None = deferLater(self.factory.clock, delay) if delay else None
    self._then(waits, _auth_answered, answer, context)


def _auth_answered(
    self: SMTPProtocol, nothing: None, answer: Callable[..., None], context: tuple[Any, ...]
) -> None:
    if self.session.auth_failures >= self._machine.limits.auth_failures > 0:
        self._machine.reply(_AUTH_TOO_OFTEN)
        self._machine.close()
    else:
        answer(self, *context)


def _auth_refused(self: SMTPProtocol, verdict: Verdict) -> None:
    """Say the same of every failure, unless a component has found another code or status."""
    mechanism, user = self.session.auth_failed or ("", "")
    text = verdict.text if verdict.status or verdict.code else ""
    if not text:
        ip = self.session.remote_ip
        text = AUTH_FAILED.format(mechanism=mechanism, user=_shown(user), ip=ip)
    said = Verdict(Kind.DENY, text, verdict.status, verdict.code, verdict.disconnect)
    self._refuse("auth", said)


def _auth_invalid(self: SMTPProtocol) -> None:
    self._machine.reply(_AUTH_INVALID)


def _shown(user: str) -> str:
    """A user's name as one word, so that it cannot be taken for more of the line it stands in."""
    word = user.replace(" ", "?") or "?"
    return word if len(word) <= _USER_SHOWN else word[:_USER_SHOWN] + "..."


_HANDLERS: Final[dict[type, Callable[[SMTPProtocol, Any], None]]] = {
    bytes: _content,
    type(HEADERS_END): _headers_end,
    ContentEnd: _content_end,
    Mail: _mail,
    Rcpt: _rcpt,
    Data: _data,
    Bdat: _data,
    Ehlo: _ehlo,
    Helo: _helo,
    Rset: _rset,
    Noop: _noop,
    Vrfy: _vrfy,
    Help: _help,
    Quit: _quit,
    Starttls: _starttls,
    Auth: _auth,
    AuthLine: _auth_line,
    Unparsed: _unparsed,
    Unrecognized: _unrecognized,
}

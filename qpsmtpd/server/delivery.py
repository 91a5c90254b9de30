# -*- test-case-name: tests.server.test_delivery -*-
"""The edges to :mod:`twisted.mail.smtp` and :mod:`twisted.cred`, both ways.

A chain behind Twisted's own server, for an application that has one::

    factory = SMTPFactory(Portal(ChainRealm(chain), [AllowAnonymousAccess()]))
    factory.protocol = ESMTP

What an application has for Twisted's server, as components of a chain::

    Chain([PortalAuth(portal), RcptOk(...), MessageDelivery(delivery)])
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from functools import partial
from ipaddress import ip_address
from typing import Any, Final, TypeAlias

from twisted.cred.checkers import ANONYMOUS
from twisted.cred.credentials import IUsernameHashedPassword, UsernamePassword
from twisted.cred.error import LoginFailed, Unauthorized
from twisted.cred.portal import IRealm, Portal
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    DeferredLock,
    maybeDeferred,
    succeed,
)
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import TaskFinished, cooperate
from twisted.logger import Logger
from twisted.mail import smtp
from twisted.mail.interfaces import IMessageDelivery, IMessageDeliveryFactory, IMessageSMTP
from zope.interface import alsoProvides, implementer

from qpsmtpd.chain import TEMPFAIL, Ask, Chain
from qpsmtpd.interfaces import (
    IAuthCramMD5,
    IAuthLogin,
    IAuthPlain,
    IDisconnect,
    IMail,
    IQueue,
    IRcpt,
)
from qpsmtpd.message import Message
from qpsmtpd.server.protocol import judged
from qpsmtpd.server.replies import INTERNAL_ERROR, refusal
from qpsmtpd.session import Session, TLSState, Transaction
from qpsmtpd.settings import Settings
from qpsmtpd.smtp.address import Address, AddressError, parse_path
from qpsmtpd.smtp.commands import NO_PARAMETERS
from qpsmtpd.smtp.limits import BareNewlines
from qpsmtpd.smtp.reply import Reply
from qpsmtpd.smtp.sasl import Credentials
from qpsmtpd.spool import Spool
from qpsmtpd.verdicts import OK, Kind, Verdict, defer, deny
from qpsmtpd.waiting import settle

__all__ = ["AVATAR", "ChainDelivery", "ChainRealm", "MessageDelivery", "PortalAuth"]

log: Final = Logger()

#: The argument of HELO or EHLO and the client's address, as twisted.mail hands them out.
_Helo: TypeAlias = tuple[bytes | None, bytes | str]

_GONE: Final = Reply(421, "The connection is gone", "4.4.2")
_NO_SENDER: Final = Reply(503, "MAIL comes before RCPT", "5.5.1")
_TOO_MANY_RECIPIENTS: Final = Reply(452, "Too many recipients", "4.5.3")
_UNDECIDED: Final = Reply(450, "No plugin decided if relaying is allowed", "4.7.1")
_NOT_QUEUED: Final = Reply(451, "Queuing declined or disabled; try again later", "4.3.0")
_STORAGE: Final = Reply(452, "Insufficient system storage", "4.3.1")
_TOO_BIG: Final = Reply(552, "Message too big", "5.3.4")
_HEADER_TOO_BIG: Final = Reply(552, "Header section too big", "5.3.4")
_BARE_NEWLINE: Final = Reply(
    550, "Message refused: bare CR or LF; lines end with CR LF (RFC 5321, 2.3.8)", "5.6.0"
)

_NEWLINE: Final = re.compile(rb"\r\n|\r|\n")

#: Octets of a message that go to a chain or to a delivery at once.
_PIECE: Final = 65536


# A chain behind twisted.mail's server.


@implementer(IRealm)
class ChainRealm:
    """Gives each connection of Twisted's server, anonymous or authenticated, a chain to ask.

    It goes into a ``twisted.cred`` portal, and that into the server's factory: so a connection's
    end becomes known too. Who has authenticated may relay.
    """

    def __init__(self, chain: Chain, settings: Settings | None = None) -> None:
        """Make the realm; start and stop of the chain are the application's.

        :param settings: The engine's settings, as far as they are about messages.
        """
        self.chain = chain
        self.settings = settings or Settings()

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: Any) -> Any:  # noqa: N803
        if IMessageDelivery not in interfaces:
            raise NotImplementedError("a chain is an IMessageDelivery and nothing else")
        user = None
        if avatarId is not ANONYMOUS:
            user = avatarId.decode("utf-8", "replace") if isinstance(avatarId, bytes) else avatarId
        delivery = ChainDelivery(self.chain, self.settings, user)
        return IMessageDelivery, delivery, delivery.end


@implementer(IMessageDelivery)
class ChainDelivery:
    """A chain as the delivery of one connection of Twisted's server.

    The server asks it late and tells it little: the client is not known before MAIL, when
    ``pre_connection``, ``connect`` and ``ehlo`` are asked too, and HELO looks like EHLO. A refusal
    that should close the connection refuses everything from then on. Twisted's server does
    not wait for answers, so a client must not pipeline.

    :ivar session: What components see; ``None`` before the first MAIL.
    """

    def __init__(
        self, chain: Chain, settings: Settings | None = None, user: str | None = None
    ) -> None:
        """Make the delivery of one connection. Whoever makes it calls :meth:`end`.

        :param user: Who has authenticated.
        """
        self.chain = chain
        self.settings = settings or Settings()
        self.session: Session | None = None
        self._user = user
        self._refused: Reply | None = None
        self._incoming: _Incoming | None = None
        self._turn = DeferredLock()
        self._running: set[Deferred[Any]] = set()
        self._open: set[Transaction] = set()
        self._ended = False

    # What twisted.mail calls.

    def validateFrom(self, helo: _Helo, origin: Any) -> Any:
        return self._run(self._mail(helo, origin))

    def validateTo(self, user: Any) -> Any:
        return self._run(self._rcpt(user))

    def receivedHeader(self, helo: _Helo, origin: Any, recipients: Any) -> bytes:
        return b""  # the field is written when the message is complete, as in our own server

    def end(self) -> None:
        """The connection has ended: end the session, and tell the chain."""
        if self._ended:
            return
        self._ended = True
        session = self.session
        if session is None:
            return
        # Whoever is cancelled can see why, and the chain that it is nobody's fault.
        session.ended = True
        for transaction in self._open:
            transaction.ended = True
        for running in list(self._running):
            running.cancel()
        for transaction in list(self._open):
            self._reset(transaction)
        for ask in (self.chain.disconnect, self.chain.post_connection):
            if ask is not None:
                self._tell(ask(session))
        session.end()

    # The commands.

    async def _mail(self, helo: _Helo, origin: Any) -> Any:
        async with self._turn:
            session = await self._greeted(helo)
            if session.transaction is not None:
                self._reset(session.transaction)
            path = _path(origin)
            transaction = Transaction(session, path, NO_PARAMETERS)
            session.transaction = transaction
            self._open.add(transaction)
            verdict = await _asked(self.chain.mail, transaction, path)
            if verdict is not None and verdict.kind is not Kind.OK:
                self._reset(transaction)
                raise _error(self._refusal("mail", verdict, path))
            return origin

    async def _greeted(self, helo: _Helo) -> Session:
        """The session of a client that is welcome."""
        if self._ended:
            raise _error(_GONE)
        if self._refused is not None:
            raise _error(self._refused)
        name, ip = helo
        session = self.session
        if session is None:
            session = self.session = Session(_ip(ip))
            if self._user is not None:
                session.auth_user = self._user
                session.relay_client = True
            for hook in ("pre_connection", "connect"):
                verdict = await _asked(getattr(self.chain, hook), session)
                if verdict is not None and verdict.refuses:
                    self._refused = self._refusal(hook, verdict)
                    raise _error(self._refused)
        host = (name or b"").decode("utf-8", "replace")
        if host and host != session.hello_host:
            verdict = await _asked(self.chain.ehlo, session, host)
            if verdict is not None and verdict.kind is not Kind.OK:
                raise _error(self._refusal("ehlo", verdict, host))
            session.hello, session.hello_host = "ehlo", host
        return session

    async def _rcpt(self, user: Any) -> Callable[[], _Copy]:
        async with self._turn:
            session = self.session
            if self._refused is not None:
                raise _error(self._refused)
            if session is None or session.transaction is None:
                raise _error(_NO_SENDER)
            transaction = session.transaction
            if len(transaction.recipients) >= self.settings.limits.recipients > 0:
                raise _error(_TOO_MANY_RECIPIENTS)
            _see_tls(session, user.protocol)
            recipient = _path(user.dest)
            verdict = await _asked(self.chain.rcpt, transaction, recipient)
            if verdict is None:
                raise _error(_UNDECIDED)
            if verdict.kind is not Kind.OK:
                raise _error(self._refusal("rcpt", verdict, recipient))
            transaction.recipients.append(recipient)
            return partial(self._message, transaction, user.protocol)

    def _message(self, transaction: Transaction, protocol: Any) -> _Copy:
        """What receives the message for one recipient; all of a transaction share one."""
        incoming = self._incoming
        if incoming is None or incoming.transaction is not transaction:
            incoming = self._incoming = _Incoming(self, transaction, protocol)
            incoming.begin()
        incoming.copies += 1
        return _Copy(incoming, first=incoming.copies == 1)

    # What they share.

    def _run(self, work: Any) -> Any:
        """Run a coroutine; the end of the connection ends it."""
        result = settle(work)
        if not isinstance(result, Deferred):
            return result
        self._running.add(result)

        def finished(outcome: Any) -> Any:
            self._running.discard(result)
            return outcome

        def cancelled(failure: Any) -> None:
            failure.trap(CancelledError)
            raise _error(_GONE)

        result.addBoth(finished)
        result.addErrback(cancelled)
        return result

    def _refusal(self, hook: str, verdict: Verdict, subject: object = "") -> Reply:
        assert self.session is not None
        if verdict.kind is Kind.DONE:
            return verdict.reply or self.session.take_reply() or INTERNAL_ERROR
        reply = refusal(hook, verdict, subject)
        if verdict.disconnect:
            self._refused = reply
        return reply

    def _reset(self, transaction: Transaction) -> None:
        if transaction not in self._open:
            return
        self._open.remove(transaction)
        if transaction.session.transaction is transaction:
            transaction.session.transaction = None
        if self._incoming is not None and self._incoming.transaction is transaction:
            transaction.ended = True
            self._incoming.drop()
            self._incoming = None
        if self.chain.reset_transaction is not None:
            self._tell(self.chain.reset_transaction(transaction))
        transaction.end()

    def _tell(self, told: object) -> None:
        """See a notice to its end that nobody waits for."""
        if isinstance(told, Deferred):
            told.addErrback(lambda failure: log.failure("A notice failed", failure))


class _Incoming:
    """A message that arrives line by line, once for all its recipients."""

    def __init__(self, delivery: ChainDelivery, transaction: Transaction, protocol: Any) -> None:
        self.transaction = transaction
        self.copies = 0
        self._delivery = delivery
        self._protocol = protocol
        self._lines: list[bytes] = []
        self._size = 0
        self._message_size = 0
        self._in_header = True
        #: What a component is still thinking about, and at which hook.
        self._pending: tuple[str, Deferred[Verdict | None]] | None = None
        #: Octets that the hook ``content`` was asked about.
        self._asked = 0
        self._refused: Reply | None = None
        self._waiting: list[Deferred[None]] = []

    def begin(self) -> None:
        settings = self._delivery.settings
        self._answer("data", self._delivery.chain.data, self.transaction)
        if self._refused is not None:
            reply = self._refused
            self._delivery._reset(self.transaction)
            raise _error(reply, octets=True)
        spool = Spool(settings.size_threshold, settings.spool_dir)
        self.transaction.message = Message(spool, settings.limits.header_size or sys.maxsize)

    def line(self, line: bytes) -> None:
        limits = self._delivery.settings.limits
        if (b"\r" in line or b"\n" in line) and limits.bare_newlines is not BareNewlines.KEEP:
            if limits.bare_newlines is BareNewlines.REJECT:
                raise _error(_BARE_NEWLINE, octets=True)
            line = _NEWLINE.sub(b"\r\n", line)
        self._lines.append(line)
        self._size += len(line) + 2
        self._message_size += len(line) + 2
        if self._message_size > limits.message_size > 0:
            raise _error(_TOO_BIG, octets=True)
        if self._in_header:
            if self._message_size > limits.header_size > 0:
                raise _error(_HEADER_TOO_BIG, octets=True)
            self._in_header = bool(line)
        if self._size >= _PIECE:
            self._store()

    def _store(self) -> None:
        message = self.transaction.message
        assert message is not None
        if not self._lines:
            return
        self._lines.append(b"")
        octets = b"\r\n".join(self._lines)
        self._lines, self._size = [], 0
        try:
            message.spool.write(octets)
        except (OSError, ValueError) as error:
            log.error("cannot spool a message: {error}", error=error)
            raise _error(_STORAGE, octets=True) from None
        # The server cannot be held back. While a component thinks, octets lie in the spool.
        ask = self._delivery.chain.content
        if ask is not None and self._pending is None and self._refused is None:
            self._asked += len(octets)
            self._answer("content", ask, self.transaction, octets)

    def _answer(self, hook: str, ask: Ask | None, *arguments: Any) -> None:
        answer = ask(*arguments) if ask is not None else None
        if isinstance(answer, Deferred):
            self._pending = hook, answer
        else:
            self._decided(hook, answer)

    def _decided(self, hook: str, verdict: Verdict | None) -> None:
        if verdict is not None and verdict.kind is not Kind.OK:
            self._refused = self._delivery._refusal(hook, verdict)

    def end_of_message(self) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        if len(self._waiting) == self.copies:
            finishing = self._delivery._run(self._finish())
            if isinstance(finishing, Deferred):
                finishing.addErrback(lambda gone: gone.trap(smtp.SMTPServerError) and None)
        return waiting

    async def _finish(self) -> None:
        delivery = self._delivery
        transaction = self.transaction
        async with delivery._turn:
            try:
                reply = await self._judge()
            except CancelledError:
                return  # nobody waits for the reply
            except smtp.SMTPServerError:
                reply = _STORAGE
            except Exception:
                log.failure("The engine failed in {transaction}", transaction=transaction.id)
                reply = INTERNAL_ERROR
            if transaction.session.transaction is transaction:
                transaction.session.transaction = None
            self._tell(reply)
        try:
            if reply.positive and delivery.chain.queue_post is not None:
                await _asked(delivery.chain.queue_post, transaction)
        except CancelledError:
            pass
        finally:
            delivery._reset(transaction)

    async def _judge(self) -> Reply:
        """Ask about the message what was not asked yet."""
        self._store()
        delivery = self._delivery
        chain = delivery.chain
        transaction = self.transaction
        message = transaction.message
        assert message is not None
        if self._pending is not None:
            hook, answer = self._pending
            self._decided(hook, await answer)
            self._pending = None
        if chain.content is not None and self._asked < message.size:
            for chunk in message.spool.chunks(self._asked):
                if self._refused is not None:
                    break
                self._decided("content", await _asked(chain.content, transaction, chunk))
        if self._refused is None:
            self._decided("data_headers_end", await _asked(chain.data_headers_end, transaction))
        if self._refused is not None:
            return self._refused
        hook, verdict = await judged(chain, transaction, delivery.settings)
        if verdict is None:
            return _NOT_QUEUED
        if verdict.kind is not Kind.OK:
            return delivery._refusal(hook, verdict)
        return Reply(250, verdict.text or "Queued", verdict.status or "2.0.0")

    def _tell(self, reply: Reply) -> None:
        _say(self._protocol, reply)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if reply.positive:
                each.callback(None)
            else:
                each.errback(_error(reply))

    def lost(self) -> None:
        """The server has given the message up."""
        self._delivery._reset(self.transaction)

    def drop(self) -> None:
        """Wait for no component any more."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending[1].addErrback(lambda failure: failure.trap(CancelledError) and None)
            pending[1].cancel()


@implementer(IMessageSMTP)
class _Copy:
    """What twisted.mail takes for one recipient's message."""

    def __init__(self, incoming: _Incoming, first: bool) -> None:
        self._incoming = incoming
        self._first = first

    def lineReceived(self, line: bytes) -> None:
        if self._first:
            self._incoming.line(line)

    def eomReceived(self) -> Deferred[None]:
        return self._incoming.end_of_message()

    def connectionLost(self) -> None:
        if self._first:
            self._incoming.lost()


def _say(protocol: Any, reply: Reply) -> None:
    """Let the server's answer to the message it has just received be this one.

    By itself it knows two, 250 and 550; a client that should come back later would bounce
    the message.
    """
    if not isinstance(protocol, smtp.SMTP):
        return
    original = protocol.sendCode

    def say(code: int, message: bytes = b"") -> None:
        protocol.sendCode = original  # type: ignore[method-assign]
        original(reply.code, _text(reply))

    protocol.sendCode = say  # type: ignore[method-assign]


def _see_tls(session: Session, protocol: Any) -> None:
    """Learn that the connection is encrypted; the first that can be asked is behind RCPT."""
    transport: Any = getattr(protocol, "transport", None)
    if session.tls is None and ISSLTransport.providedBy(transport):
        session.tls = TLSState.of(transport.getHandle())  # type: ignore[attr-defined]


def _text(reply: Reply) -> bytes:
    return b"\n".join([line[4:] for line in reply.octets.splitlines()])


def _error(reply: Reply, octets: bool = False) -> smtp.SMTPServerError:
    """What the server says a reply for.

    :param octets: In replies to DATA and to the message it wants octets, elsewhere text.
    """
    text = _text(reply)
    return smtp.SMTPServerError(reply.code, text if octets else text.decode("ascii"))


def _path(address: Any) -> Address:
    """The address that twisted.mail has parsed.

    :raises SMTPServerError: If it is none by RFC 5321.
    """
    try:
        return parse_path(b"<" + bytes(address) + b">")
    except AddressError as error:
        raise _error(Reply(553, f"Not an address: {error}", "5.1.3")) from None


def _ip(host: bytes | str) -> str:
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    try:
        ip_address(text)
    except ValueError:
        return ""  # a UNIX socket, which twisted.mail names by its repr
    return text


async def _asked(ask: Ask | None, *arguments: Any) -> Verdict | None:
    if ask is None:
        return None
    answer = ask(*arguments)
    verdict: Verdict | None = await answer if isinstance(answer, Deferred) else answer
    return verdict


# What was written for twisted.mail's server, in a chain.

#: The session's note with the avatar of who has authenticated through a portal.
AVATAR: Final = "portal_avatar"

_STATUS: Final = re.compile(r"([45])\.[0-9]{1,3}\.[0-9]{1,3}(?= |$)")


@implementer(IMail, IRcpt, IQueue)
class MessageDelivery:
    """An ``IMessageDelivery`` that decides about senders and recipients and takes messages.

    A client that authenticated through :class:`PortalAuth` is served by its avatar, if that is a
    delivery. The recipients that another component accepted are shown to the delivery before
    the message is.

    A message is one for all its recipients here: if the delivery fails for one of them, the
    client is told so for all, and may send it again to all.
    """

    def __init__(self, delivery: Any = None) -> None:
        """Make the component.

        :param delivery: An ``IMessageDelivery``; or an ``IMessageDeliveryFactory``, which
            makes one for each message. Without either, only avatars are asked.
        """
        self._delivery = delivery
        self._note = f"message_delivery {id(self):x}"

    async def mail(self, transaction: Transaction, reverse_path: Address) -> Verdict | None:
        mounted = self._mounted(transaction)
        return await mounted.sender() if mounted is not None else None

    async def rcpt(self, transaction: Transaction, recipient: Address) -> Verdict | None:
        mounted = self._mounted(transaction)
        if mounted is None:
            return None
        refused = await mounted.sender()
        return refused or await mounted.recipient(recipient) or OK

    async def queue(self, transaction: Transaction) -> Verdict | None:
        mounted = self._mounted(transaction)
        if mounted is None:
            return None
        refused = await mounted.sender()
        for recipient in transaction.recipients:
            refused = refused or await mounted.recipient(recipient)
        return refused or await mounted.deliver(transaction)

    def _mounted(self, transaction: Transaction) -> _Mounted | None:
        found: _Mounted | None = transaction.notes[self._note]
        if found is not None:
            return found
        session = transaction.session
        delivery = self._delivery
        avatar = session.note(AVATAR) if session.auth_user is not None else None
        if IMessageDelivery.providedBy(avatar) or IMessageDeliveryFactory.providedBy(avatar):
            delivery = avatar
        if IMessageDeliveryFactory.providedBy(delivery):
            delivery = delivery.getMessageDelivery()
        if delivery is None:
            return None
        transaction.notes[self._note] = mounted = _Mounted(delivery, transaction)
        return mounted


class _Mounted:
    """A delivery at work on one transaction."""

    def __init__(self, delivery: Any, transaction: Transaction) -> None:
        session = transaction.session
        self._delivery = delivery
        self._sender = transaction.reverse_path
        self._binary = (transaction.parameters.get("BODY") or "").upper() == "BINARYMIME"
        self._helo = (
            session.hello_host.encode("utf-8", "surrogateescape") or None,
            session.remote_ip.encode("ascii"),
        )
        self._peer = _Peer(session)
        self._origin: Any = None
        self._makers: dict[Address, tuple[smtp.User, Callable[[], Any]]] = {}

    async def sender(self) -> Verdict | None:
        """Whether the delivery refuses the sender; it is asked once."""
        if self._origin is not None:
            return None
        if self._binary:
            return deny("Messages are handed on in lines here, not in octets", "5.6.1", code=554)
        try:
            origin = smtp.Address(self._sender.mailbox.encode("utf-8"))
            answer = maybeDeferred(self._delivery.validateFrom, self._helo, origin)
            self._origin = await answer or origin
        except smtp.AddressError:
            return deny(f"{self._sender} cannot be delivered for here", "5.6.7", code=553)
        except smtp.SMTPServerError as error:
            return _verdict(error)
        return None

    async def recipient(self, recipient: Address) -> Verdict | None:
        """Whether the delivery refuses a recipient; it is asked once for each."""
        if recipient in self._makers:
            return None
        try:
            mailbox = recipient.mailbox.encode("utf-8")
            user = smtp.User(mailbox, self._helo, self._peer, self._origin)
            self._makers[recipient] = user, await maybeDeferred(self._delivery.validateTo, user)
        except smtp.AddressError:
            return deny(f"{recipient} cannot be delivered to here", "5.6.7", code=553)
        except smtp.SMTPServerError as error:
            return _verdict(error)
        return None

    async def deliver(self, transaction: Transaction) -> Verdict:
        """Hand the message over, one copy for each recipient."""
        message = transaction.message
        assert message is not None
        copies: list[Any] = []
        try:
            for recipient in transaction.recipients:
                user, make = self._makers[recipient]
                copy = make()
                copies.append(copy)
                field = self._delivery.receivedHeader(self._helo, self._origin, [user])
                if field:
                    copy.lineReceived(field)
            await _fed(message, copies)
        except BaseException as error:
            for copy in copies:
                _lost(copy)
            if isinstance(error, smtp.SMTPServerError):
                return _verdict(error)
            raise
        taken = [maybeDeferred(copy.eomReceived) for copy in copies]
        outcomes = await DeferredList(taken, consumeErrors=True)
        verdicts = [_failed(failure) for taken_by, failure in outcomes if not taken_by]
        for verdict in verdicts:
            if verdict.kind is Kind.DEFER:
                return verdict
        return verdicts[0] if verdicts else OK


def _fed(message: Message, copies: list[Any]) -> Awaitable[Any]:
    """Hand over the lines; a long message in turns with everything else."""
    feeding = _feed(_lines(message.chunks()), copies)
    if message.delivered_size <= _PIECE:
        for _ in feeding:
            pass
        return succeed(None)
    return _in_turns(feeding)


async def _in_turns(feeding: Generator[None, None, None]) -> None:
    task = cooperate(feeding)
    try:
        await task.whenDone()
    finally:
        try:
            task.stop()
        except TaskFinished:
            pass


def _feed(lines: Iterable[bytes], copies: list[Any]) -> Generator[None, None, None]:
    size = 0
    for line in lines:
        for copy in copies:
            copy.lineReceived(line)
        size += len(line) + 2
        if size >= _PIECE:
            size = 0
            yield


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their CR LF, whatever their length."""
    rest = bytearray()
    for chunk in chunks:
        fresh = max(len(rest) - 1, 0)  # a CR may have been the last octet
        rest += chunk
        end = rest.rfind(b"\r\n", fresh)
        if end >= 0:
            lines = bytes(rest[:end])
            del rest[: end + 2]
            yield from lines.split(b"\r\n")
    if rest:
        yield bytes(rest)


def _lost(copy: Any) -> None:
    try:
        copy.connectionLost()
    except Exception:
        log.failure("A message was not discarded")


def _failed(failure: Any) -> Verdict:
    if isinstance(failure.value, smtp.SMTPServerError):
        return _verdict(failure.value)
    log.failure("A delivery failed", failure)
    return TEMPFAIL


def _verdict(error: smtp.SMTPServerError) -> Verdict:
    """What a refusal of twisted.mail stands for."""
    text = error.resp
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    status = _STATUS.match(text)
    kind = str(error.code)[:1]
    found = None
    if status is not None:
        text = text[status.end() :].lstrip()
        found = status[0] if status[1] == kind else None
    if kind == "5":
        return deny(text, found, code=error.code)
    if kind == "4":
        return defer(text, found, code=error.code)
    raise error


class _Peer:
    """Stands for the protocol in a ``User``: deliveries ask it who the client is."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.transport = self

    def getPeer(self) -> IPv4Address | IPv6Address | UNIXAddress:
        return _address(self._session.remote_ip, self._session.remote_port)

    def getHost(self) -> IPv4Address | IPv6Address | UNIXAddress:
        return _address(self._session.local_ip, self._session.local_port)


def _address(ip: str, port: int) -> IPv4Address | IPv6Address | UNIXAddress:
    if not ip:
        return UNIXAddress(None)
    return (IPv6Address if ":" in ip else IPv4Address)("TCP", ip, port)


@implementer(IDisconnect)
class PortalAuth:
    """A ``twisted.cred`` portal that knows users and passwords.

    It offers the mechanisms that the portal's checkers can judge when the component is made:
    PLAIN and LOGIN with ``IUsernamePassword``, CRAM-MD5 with ``IUsernameHashedPassword``.
    Whom the portal does not know, other components may.

    The avatar is the session's note :data:`AVATAR`, and is logged out when the session ends.
    """

    def __init__(
        self,
        portal: Portal,
        interfaces: tuple[Any, ...] = (IMessageDeliveryFactory, IMessageDelivery),
    ) -> None:
        """Make the component.

        :param interfaces: What is asked of the realm.
        """
        self._portal = portal
        self._interfaces = interfaces
        kinds = portal.listCredentialsInterfaces()
        if any(kind.implementedBy(UsernamePassword) for kind in kinds):
            alsoProvides(self, IAuthPlain, IAuthLogin)
        if any(kind.implementedBy(_Digest) for kind in kinds):
            alsoProvides(self, IAuthCramMD5)

    async def auth_plain(self, session: Session, credentials: Credentials) -> Verdict | None:
        user = credentials.user.encode("utf-8")
        return await self._login(session, UsernamePassword(user, credentials.password or b""))

    auth_login = auth_plain

    async def auth_cram_md5(self, session: Session, credentials: Credentials) -> Verdict | None:
        return await self._login(session, _Digest(credentials))

    async def _login(self, session: Session, credentials: Any) -> Verdict | None:
        try:
            login = self._portal.login(credentials, None, *self._interfaces)
            _, avatar, logout = await login
        except (LoginFailed, Unauthorized):
            return None
        session.notes.setdefault(_LOGOUTS, []).append(logout)
        session.notes[AVATAR] = avatar
        return OK

    def disconnect(self, session: Session) -> None:
        logouts = session.note(_LOGOUTS)
        if isinstance(logouts, list):
            del session.notes[_LOGOUTS]
            for logout in logouts:
                try:
                    logout()
                except Exception:
                    log.failure("A user was not logged out")


_LOGOUTS: Final = "portal_logouts"


@implementer(IUsernameHashedPassword)
class _Digest:
    """CRAM-MD5's credentials as a checker wants them."""

    def __init__(self, credentials: Credentials) -> None:
        self.username = credentials.user.encode("utf-8")
        self._credentials = credentials

    def checkPassword(self, password: Any) -> bool:
        octets = password.encode("utf-8") if isinstance(password, str) else password
        return self._credentials.matches(octets)

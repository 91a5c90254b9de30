# -*- test-case-name: tests.server.test_factory -*-
"""The ESMTP factory: connections to sessions, and the limits over all of them.

It goes on any endpoint::

    factory = SMTPFactory([RcptOk(...), Maildir(...)], Settings(me="mail.example"))
    serverFromString(reactor, "tcp:2525").listen(factory)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Iterable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IProtocolFactory,
    IReactorTime,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.protocol import Protocol
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from qpsmtpd import __version__, logs
from qpsmtpd.chain import Chain
from qpsmtpd.networks import unmapped
from qpsmtpd.server.dialogue import LoggedMachine
from qpsmtpd.server.hub import Hub
from qpsmtpd.server.protocol import SMTPProtocol
from qpsmtpd.server.proxy import ProxyFrom, ProxyProtocol, Trusted
from qpsmtpd.session import Session
from qpsmtpd.settings import Settings
from qpsmtpd.smtp.extensions import Extensions
from qpsmtpd.smtp.machine import ServerMachine
from qpsmtpd.smtp.reply import Reply
from qpsmtpd.smtp.sasl import MECHANISMS

__all__ = ["Generation", "SMTPFactory", "start_chain"]

log: Final = Logger()

#: Seconds between two looks at who took too long; the precision of all time limits.
TICK: Final = 1.0

_TOO_MANY: Final = Reply(421, "Too many connections, try again later", "4.7.0")
_TOO_MANY_FROM_YOU: Final = Reply(421, "Too many connections from your address", "4.7.0")
_STOPPING: Final = Reply(421, "Service shutting down, try again later", "4.3.2")

#: The hooks of one mechanism, which make the server offer it.
_AUTH_HOOKS: Final = {
    "PLAIN": "auth_plain",
    "LOGIN": "auth_login",
    "CRAM-MD5": "auth_cram_md5",
}


class Generation:
    """A configuration in use: a chain, its settings, and the sessions that run on it.

    A reload makes a new one; sessions stay on theirs. What every session says alike
    is made once.
    """

    def __init__(self, chain: Chain, settings: Settings) -> None:
        self.chain = chain
        self.settings = settings
        self.sessions = 0
        self.retired = False
        self.banner = _banner(settings)
        self.goodbye = Reply(
            221, f"{settings.me} closing connection. Have a wonderful day.", "2.0.0"
        )
        version = "" if settings.greeting else f" {__version__}"
        self.help = Reply(
            214, [f"This is qpsmtpd{version}", "See the documentation for more"], "2.0.0"
        )
        self.mechanisms = _mechanisms(chain)
        self._template = dataclasses.replace(
            settings.extensions,
            size=settings.limits.message_size,
            recipients=settings.limits.recipients,
        )
        self._offers: dict[tuple[object, ...], tuple[Extensions, Reply]] = {}
        self._unparsed = _unparsed(chain)
        self._announce = chain.data_headers_end is not None

    def machine(self, session: Session) -> ServerMachine:
        """A protocol machine for a new session."""
        if logs.wanted(6):
            machine: ServerMachine = LoggedMachine(session, self.settings.limits, self._template)
        else:
            machine = ServerMachine(self.settings.limits, self._template)
        machine.unparsed = self._unparsed
        machine.announce_headers = self._announce
        return machine

    def offer(
        self,
        session: Session,
        mechanisms: tuple[str, ...],
        starttls: bool,
        other: tuple[str, ...],
    ) -> tuple[Extensions, Reply]:
        """What a session is offered, and the reply to EHLO that says so (RFC 5321, 4.1.1.1).

        Few offers differ, so few are made.
        """
        key = (mechanisms, starttls, other)
        offer = self._offers.get(key)
        if offer is None:
            extensions = dataclasses.replace(
                self._template, auth=mechanisms, starttls=starttls, other=other
            )
            offer = extensions, Reply(250, extensions.keywords())
            if len(self._offers) < 100:
                self._offers[key] = offer
        extensions, keywords = offer
        return extensions, keywords.led_by(self._hello(session))

    def helo_reply(self, session: Session) -> Reply:
        """The reply to HELO (RFC 5321, 4.1.1.1)."""
        return Reply(250, self._hello(session) + "; I am so happy to meet you.")

    def _hello(self, session: Session) -> str:
        return f"{self.settings.me} Hi {session.remote_name} [{session.remote_ip}]"


def _banner(settings: Settings) -> Reply:
    text = settings.greeting
    if text is None:
        text = (
            f"{settings.me} ESMTP qpsmtpd {__version__} ready; "
            "send us your mail, but not your spam."
        )
    elif "ESMTP" not in text.split():
        text += " ESMTP"
    return Reply(220, text)


def _mechanisms(chain: Chain) -> tuple[str, ...]:
    """The SASL mechanisms that some component can decide about."""
    if chain.auth is not None:
        return tuple(MECHANISMS)
    return tuple(name for name, hook in _AUTH_HOOKS.items() if getattr(chain, hook) is not None)


def _unparsed(chain: Chain) -> frozenset[bytes]:
    """The commands that some component wants to read itself."""
    return frozenset(
        verb.upper().encode("ascii")
        for verb in ("ehlo", "helo", "auth", "mail", "rcpt")
        if any(getattr(chain, f"{verb}_{stage}", None) for stage in ("parse", "pre"))
    )


@implementer(IProtocolFactory)
class SMTPFactory:
    """Makes a session of each connection.

    :ivar now: The time by the reactor's clock, as of the last tick.
    :ivar generation: What new sessions run on.
    :ivar stopping: Whether new connections are turned away because the server stops.
    :ivar expected: Connections of load balancers that have not said who the client is.
    """

    noisy = False

    def __init__(
        self,
        components: Chain | Iterable[object],
        settings: Settings | None = None,
        clock: IReactorTime | None = None,
        *,
        proxy_from: ProxyFrom = (),
        resolver: Any = None,
    ) -> None:
        """Make a factory.

        :param components: A chain, or the components of one.
        :param settings: The engine's settings; the defaults are good for a start.
        :param clock: The reactor, or a ``task.Clock`` in tests.
        :param proxy_from: Networks (of :mod:`ipaddress`) of load balancers: connections from
            there begin with a PROXY header, and all others with none. ``"unix"`` in it
            means connections on UNIX sockets.
        :param resolver: An ``IResolver`` for clients' names; see ``Settings.reverse_dns``.
        """
        if clock is None:
            from twisted.internet import reactor

            clock = IReactorTime(reactor)
        self.clock = clock
        self.resolver = resolver
        settings = settings or Settings()
        if not isinstance(components, Chain):
            components = Chain(components, clock=clock, time_limit=settings.limits.component_time)
        self.generation = Generation(components, settings)
        self.now = clock.seconds()
        #: Reads for TCP connections where the reactor can have it; see :mod:`qpsmtpd.server.hub`.
        self.hub: Any = Hub(clock) if Hub.suits(clock) else None
        self.protocols: set[SMTPProtocol] = set()
        self.expected: set[ProxyProtocol] = set()
        self.stopping = False
        self._proxies = Trusted(proxy_from) or None
        self._ports = 0
        self._addresses: dict[str, int] = {}
        self._finishing: set[Deferred[Any]] = set()
        self._idle: list[Deferred[None]] = []
        self._ticking = LoopingCall(self.tick)
        self._ticking.clock = clock

    # What ports call.

    def doStart(self) -> None:
        """A port listens."""
        self._ports += 1
        self.now = self.clock.seconds()
        if not self._ticking.running:
            self._ticking.start(TICK, now=False)

    def doStop(self) -> None:
        """A port has stopped to listen."""
        self._ports -= 1
        if not self._ports and not self.protocols and self._ticking.running:
            self._ticking.stop()

    def buildProtocol(self, addr: Any) -> Any:
        """Make a session of a connection, or turn the client away."""
        return self.accepted(getattr(addr, "host", "") or "", getattr(addr, "port", 0) or 0)

    def accepted(self, ip: str, port: int) -> Any:
        """Do what :meth:`buildProtocol` does, without an object for the address.

        :param ip: The address that connects; empty for a UNIX socket.
        :param port: Its port.
        """
        proxies = self._proxies
        if proxies is not None and ip in proxies:
            return self._turn_away() or ProxyProtocol(self, ip, port)
        return self.session(ip, port)

    def session(self, ip: str, port: int, local_ip: str = "", local_port: int = 0) -> Any:
        """Make a session for a client, or what turns it away.

        :param ip: The client's address; empty for a UNIX socket.
        :param port: The client's port.
        :param local_ip: The address it connected to, where that is not the transport's.
        :param local_port: The port it connected to.
        """
        turned_away = self._turn_away()
        if turned_away is not None:
            return turned_away
        ip = unmapped(ip)
        generation = self.generation
        settings = generation.settings
        addresses = self._addresses
        count = addresses.get(ip, 0) + 1
        if 0 < settings.connections_per_address < count and ip:
            log.warn("Too many connections from {ip}: {count}", ip=ip, count=count)
            return _TurnedAway(_TOO_MANY_FROM_YOU)
        addresses[ip] = count
        session = Session(ip, port, unmapped(local_ip), local_port)
        session.connections = count
        generation.sessions += 1
        protocol = SMTPProtocol(self, generation, session)
        self.protocols.add(protocol)
        return protocol

    def _turn_away(self) -> _TurnedAway | None:
        if self.stopping:
            return _TurnedAway(_STOPPING)
        count = len(self.protocols) + len(self.expected)
        if 0 < self.generation.settings.connections <= count:
            log.warn("Too many connections: {count}", count=count)
            return _TurnedAway(_TOO_MANY)
        return None

    # What protocols call.

    def forget(self, protocol: SMTPProtocol) -> None:
        """A connection has ended."""
        protocols = self.protocols
        if protocol not in protocols:
            return
        protocols.remove(protocol)
        ip = protocol.address
        addresses = self._addresses
        count = addresses[ip] - 1
        if count:
            addresses[ip] = count
        else:
            del addresses[ip]
        generation = protocol.generation
        generation.sessions -= 1
        if generation.retired and not generation.sessions:
            self._stop_chain(generation.chain)
        if not protocols:
            idle, self._idle = self._idle, []
            for waiting in idle:
                waiting.callback(None)
            if not self._ports and self._ticking.running:
                self._ticking.stop()

    def let_finish(self, told: Deferred[Any]) -> None:
        """See something to its end that no session waits for."""
        self._finishing.add(told)

        def finished(result: Any) -> None:
            self._finishing.discard(told)

        told.addBoth(finished)

    def tick(self) -> None:
        """Look who took too long."""
        self.now = now = self.clock.seconds()
        for protocol in list(self.protocols):
            try:
                protocol.check_time(now)
            except Exception:  # or nobody's time would be looked at any more
                log.failure("The engine failed in session {session}", session=protocol.session.id)
                protocol.cut()

    # What whoever runs the server calls.

    async def start(self) -> None:
        """Start the chain's components.

        :raises Exception: What a component raised.
        """
        await start_chain(self.generation.chain)

    async def replace(self, chain: Chain, settings: Settings) -> None:
        """Let new sessions run on a new chain. Running ones stay on theirs.

        :raises Exception: What a component of the new chain raised at its start; then
            nothing has changed.
        """
        await start_chain(chain)
        self.use(chain, settings)

    def use(self, chain: Chain, settings: Settings) -> None:
        """Do what :meth:`replace` does, with a chain whose components have started."""
        old = self.generation
        self.generation = Generation(chain, settings)
        old.retired = True
        if not old.sessions:
            self._stop_chain(old.chain)

    async def stop(self, grace: float = 30.0) -> None:
        """End all sessions: idle ones at once, the others when they are done.

        :param grace: Seconds that messages on their way are given.
        """
        self.stopping = True
        for expected in list(self.expected):
            expected.transport.abortConnection()
        for protocol in list(self.protocols):
            protocol.shut_down()
        if self.protocols:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            patience = LoopingCall(self._hurry)
            patience.clock = self.clock
            patience.start(0.25, now=False)
            cut = self.clock.callLater(grace, self._cut)
            try:
                await idle
            finally:
                patience.stop()
                if cut.active():
                    cut.cancel()
        while self._finishing:
            await _either_way(next(iter(self._finishing)))
        await self.generation.chain.stop()

    def _hurry(self) -> None:
        """End the sessions that have come to the end of their message."""
        for protocol in list(self.protocols):
            protocol.shut_down()

    def _cut(self) -> None:
        for protocol in list(self.protocols):
            protocol.close(_STOPPING)
            protocol.cut()

    def _stop_chain(self, chain: Chain) -> None:
        self.let_finish(Deferred.fromCoroutine(self._stop_after(list(self._finishing), chain)))

    async def _stop_after(self, notices: list[Deferred[Any]], chain: Chain) -> None:
        """Stop a chain when its components are done with what they were told."""
        for told in notices:
            await _either_way(told)
        await chain.stop()


async def start_chain(chain: Chain) -> None:
    """Start a chain's components.

    :raises Exception: What one of them raised.
    """
    await chain.start()
    if chain.post_fork is not None:
        told = chain.post_fork()
        if isinstance(told, Deferred):
            await told


async def _either_way(finishing: Awaitable[Any]) -> None:
    waiting: Deferred[None] = Deferred()
    if isinstance(finishing, Deferred):
        finishing.addBoth(lambda _: waiting.callback(None))
        await waiting


class _TurnedAway(Protocol):
    """Says why there is no session, and closes."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def makeConnection(self, transport: Any) -> None:
        if ITCPTransport.providedBy(transport) and not ISSLTransport.providedBy(transport):
            # At once: many who come together would keep a descriptor each until the next turn.
            try:
                transport.getHandle().send(self._reply.octets)  # type: ignore[attr-defined]
            except OSError:
                pass  # it is gone already
            transport.connectionLost(Failure(CONNECTION_DONE))  # type: ignore[attr-defined]
        elif ISSLTransport.providedBy(transport):
            transport.abortConnection()  # or it would wait for a handshake, for as long as it likes
        else:
            transport.write(self._reply.octets)
            transport.loseConnection()

# -*- test-case-name: tests.server.test_sockets -*-
"""Listening sockets: opened from an endpoint, taken over from another process, and closed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.address import IPv6Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IListeningPort
from twisted.internet.tcp import Connection, Server
from twisted.internet.tcp import Port as TCPPort
from twisted.internet.unix import Port as UNIXPort
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from qpsmtpd.configuration.errors import ConfigurationError
from qpsmtpd.networks import unmapped

__all__ = ["Accepted", "adopt", "close", "endpoint", "listen"]

log: Final = Logger()

#: Connections that may wait to be accepted, where the endpoint does not say. Those beyond
#: Twisted's 50 lose a second, and more each time, before they try again.
BACKLOG: Final = 1024


class Accepted(Server):
    """A connection whose protocol may have somebody else read from it.

    Twisted's own is watched by the reactor at once, which takes a system call, and another one to
    undo it; writes two texts about itself for logs that nobody may ever write; and ends the
    socket before it closes it, which alone does the same. Without that a message that has a
    connection of its own takes three system calls less, by ``strace``, and less of Python.
    """

    _shouldShutdown = False
    reading = False
    writing = False

    def __init__(
        self, sock: Any, protocol: Any, client: Any, server: Any, sessionno: int, reactor: Any
    ) -> None:
        Connection.__init__(self, sock, protocol, reactor)
        if len(client) != 2:
            self._addressType = IPv6Address
        self.server = server
        self.client = client
        self.sessionno = sessionno
        self.hostname = client[0]
        if not getattr(protocol, "starts_reading", False):
            self.startReading()
        self.connected = 1

    @property
    def local(self) -> tuple[str, int]:
        """The address, as its own protocol writes it, and the port that the client connected to."""
        address = self.socket.getsockname()
        return address if len(address) == 2 else (unmapped(_host(address)), address[1])

    def connectionLost(self, reason: Failure) -> None:
        watched = self.reading or self.writing or self.producer is not None
        if watched or not self.connected or reason.type is not ConnectionDone:
            super().connectionLost(reason)
            return
        # The reactor does not know us, so there is only the socket to close.
        self.connected = 0
        self.disconnected = 1
        protocol, sock = self.protocol, self.socket
        del self.protocol, self.socket, self.fileno
        sock.close()
        protocol.connectionLost(reason)

    def logPrefix(self) -> str:
        return f"SMTP,{self.sessionno},{self.hostname}"

    def __repr__(self) -> str:
        return f"<Accepted {self.logPrefix()}>"

    def startReading(self) -> None:
        self.reading = True
        super().startReading()

    def stopReading(self) -> None:
        if self.reading:
            self.reading = False
            super().stopReading()

    def startWriting(self) -> None:
        self.writing = True
        super().startWriting()

    def stopWriting(self) -> None:
        if self.writing:
            self.writing = False
            super().stopWriting()


def endpoint(reactor: Any, description: str) -> Any:
    """An endpoint from its description.

    :raises ConfigurationError: If there is no such endpoint, or a file that it names is not
        usable.
    """
    from twisted.internet.endpoints import serverFromString

    try:
        return serverFromString(reactor, description)
    except Exception as error:  # each sort of endpoint, also one of a plugin, raises its own
        raise ConfigurationError(
            description, f"an endpoint such as tcp:25 or ssl:465:privateKey=F ({error})"
        ) from None


def listen(reactor: Any, description: str, factory: Any) -> IListeningPort:
    """Listen on an endpoint, now.

    :raises Exception: What keeps it from listening.
    """
    outcome: list[Any] = []
    endpoint(reactor, description).listen(factory).addBoth(outcome.append)
    if not outcome:
        raise ConfigurationError(description, "an endpoint that listens at once")
    if not IListeningPort.providedBy(outcome[0]):
        outcome[0].raiseException()
    port: IListeningPort = outcome[0]
    _spare(port, factory)
    if description.startswith("systemd:"):
        _share(port)  # systemd has it, too
    elif isinstance(port, TCPPort | UNIXPort) and "backlog=" not in description:
        port.socket.listen(BACKLOG)
    return port


def adopt(reactor: Any, description: str, descriptor: int, factory: Any) -> IListeningPort:
    """Listen on a socket that is bound already.

    :param description: The endpoint it was bound for; says whether TLS comes first.
    """
    if description.startswith("ssl:"):
        factory = _tls_factory(description, factory)
    with socket.socket(fileno=os.dup(descriptor)) as bound:
        bound.setblocking(False)
        family = bound.family
    port: IListeningPort = reactor.adoptStreamPort(descriptor, family, factory)
    os.close(descriptor)
    _spare(port, factory)
    _share(port)
    return port


async def close(port: IListeningPort) -> None:
    """Stop to listen.

    A path in the file system that cannot be removed, since privileges were dropped, stays.
    """
    _remove_path(port)
    stopped = port.stopListening()
    if stopped is not None:
        await stopped


def _spare(port: Any, factory: Any) -> None:
    """Make what a plain TCP port accepts cheaper, where somebody else reads for it."""
    plain = type(port) is TCPPort and port.factory is factory  # a UNIX port is one, too
    if plain and getattr(factory, "hub", None) is not None:
        port.transport = Accepted
        if hasattr(factory, "accepted") and hasattr(port.socket, "_accept"):
            port.doRead = _acceptor(port, factory, port.doRead)


def _acceptor(port: Any, factory: Any, otherwise: Callable[[], None]) -> Callable[[], None]:
    """What a port does when connections wait: the same as Twisted's own, with less for each.

    No object is made for the client's address, and nobody looks a socket's family and type up in
    their enumerations: 17 calls less. Whatever error ``accept`` has, and what there is to do
    about it, is left to Twisted's.
    """
    listening = port.socket
    accept = listening._accept  # gives a descriptor, which accept() makes the costly socket of
    family, kind, number = int(listening.family), int(listening.type), listening.proto
    make = socket.SocketType

    def accept_some() -> None:
        most = port.numberAccepts
        accepted = 0
        while accepted < most:
            try:
                descriptor, address = accept()
            except BlockingIOError:
                break
            except OSError:
                otherwise()
                return
            accepted += 1
            transport = None
            connection = make(family, kind, number, descriptor)
            try:
                if len(address) != 2:
                    address = (_host(address), *address[1:])
                protocol = factory.accepted(address[0], address[1])
                session = port.sessionno
                port.sessionno = session + 1
                transport = Accepted(connection, protocol, address, port, session, port.reactor)
                protocol.makeConnection(transport)
            except BaseException:  # as Twisted: what the reactor hears of closes the port
                log.failure("The engine failed before a session")
                _abandon(connection, transport)
        # As Twisted: more are expected when so many came; and none, when the last one has come.
        port.numberAccepts = most + 20 if accepted == most else max(1, accepted)

    return accept_some


def _abandon(connection: Any, transport: Accepted | None) -> None:
    """Close a connection that could not begin."""
    try:
        if transport is not None:
            transport.connectionLost(Failure())
    except BaseException:
        log.failure("The engine failed without a session")
    finally:
        connection.close()


def _host(address: Any) -> str:
    """The host of a socket's address, with the scope that one of a link has (RFC 4007, 11)."""
    host: str = address[0]
    if len(address) == 4 and address[3]:
        flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        host = socket.getnameinfo(address, flags)[0]
    return host


def _share(port: Any) -> None:
    # A UNIX port removes its path and ends the socket for all when it closes, wherever the
    # socket came from; a TCP port that was adopted does not. Where the path may not be
    # removed, it never tells that it has closed. An abstract name is never removed.
    if isinstance(port, UNIXPort):
        port._shouldShutdown = False
        port._bindPath = "\0"
        port.lockFile = None


def _remove_path(port: Any) -> None:
    if not isinstance(port, UNIXPort):
        return
    path, lock = os.fsdecode(port._bindPath), port.lockFile
    _share(port)
    try:
        if not path.startswith("\0"):
            os.unlink(path)
        if lock is not None:
            lock.unlock()
    except OSError:
        pass


def _tls_factory(description: str, factory: Any) -> Any:
    made: list[Any] = []

    class Catcher:
        """Takes the TLS context that the endpoint makes of its description."""

        def listenSSL(self, port: int, factory: Any, **rest: Any) -> None:
            made.append(TLSMemoryBIOFactory(rest["contextFactory"], False, factory))

    endpoint(Catcher(), description).listen(factory)
    return made[0]

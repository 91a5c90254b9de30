# -*- test-case-name: tests.server.test_stdio -*-
"""One session on standard input and output, for a process that a super-server starts.

tcpserver and others that speak UCSPI say in the environment who the client is; inetd and
xinetd leave it to the socket on descriptor 0.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import stat
import struct
import termios
from collections.abc import Awaitable, Callable, Mapping, Sequence
from threading import Thread
from types import MappingProxyType
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger
from twisted.python.failure import Failure

from qpsmtpd.configuration.errors import ConfigurationError, ConfigurationErrors
from qpsmtpd.interfaces import IResolver
from qpsmtpd.networks import unmapped
from qpsmtpd.server.factory import SMTPFactory
from qpsmtpd.server.options import ServerOptions
from qpsmtpd.server.protocol import SMTPProtocol
from qpsmtpd.server.service import finish, prepare, tell
from qpsmtpd.services.logs import LogService, begin_plainly
from qpsmtpd.services.registry import ServiceRegistry
from qpsmtpd.session import Session, TLSState

__all__ = ["describe_client", "main"]

log: Final = Logger()

#: What a client is told whose server has a configuration that cannot be used.
_UNUSABLE: Final = b"421 4.3.0 unable to read controls\r\n"

#: Seconds between two looks whether all is answered that standard input said before its end.
_LOOK: Final = 0.05

#: Octets that are carried at once between pipes and the session.
_PIECE: Final = 65536

_NO_NAME: Final = re.compile(r"[^A-Za-z0-9.\[\]-]")

#: What would end the word or the line that a user's name stands in.
_NO_USER: Final = re.compile("[^!-~]")

#: Characters of a user's name; RFC 1413 allows 512.
_USER_LIMIT: Final = 255


def describe_client(session: Session, environ: Mapping[str, str]) -> None:
    """Tell a session what the super-server knows of its client.

    The names are those of UCSPI; ``SSL_PROTOCOL`` and ``SSL_CIPHER`` come from a super-server
    that speaks TLS in our place.
    """
    session.environment = MappingProxyType(dict(environ))
    if "TCPREMOTEIP" not in environ:
        return
    session.remote_ip = unmapped(environ["TCPREMOTEIP"])
    session.remote_port = _port(environ, "TCPREMOTEPORT")
    session.local_ip = unmapped(environ.get("TCPLOCALIP", ""))
    session.local_port = _port(environ, "TCPLOCALPORT")
    # Whoever runs the client's name server or ident daemon chose these octets.
    session.remote_host = _NO_NAME.sub("", environ.get("TCPREMOTEHOST", "")) or None
    user = environ.get("TCPREMOTEINFO", "")[:_USER_LIMIT]
    session.remote_info = _NO_USER.sub("?", user) or None
    if environ.get("PROTO") == "SSL":
        session.tls = TLSState(
            environ.get("SSL_PROTOCOL", "TLS"), environ.get("SSL_CIPHER", "unknown")
        )


def _port(environ: Mapping[str, str], name: str) -> int:
    word = environ.get(name, "")
    return int(word) if word.isascii() and word.isdigit() else 0


class _OneSession(SMTPFactory):
    """Serves one client.

    :ivar over: Fires when its session is over.
    """

    def __init__(self, environ: Mapping[str, str], *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._environ = environ
        self.over: Deferred[None] = Deferred()

    @property
    def busy(self) -> bool:
        """Whether the session has not begun, or has something to read or to answer."""
        if not self.protocols:
            return not self.over.called
        [protocol] = self.protocols
        handle = protocol.transport.getHandle()
        return protocol.waits or _unread(handle.fileno()) > 0

    def session(self, ip: str, port: int, local_ip: str = "", local_port: int = 0) -> Any:
        protocol = super().session(ip, port, local_ip, local_port)
        if isinstance(protocol, SMTPProtocol):
            describe_client(protocol.session, self._environ)
        return protocol

    def forget(self, protocol: SMTPProtocol) -> None:
        super().forget(protocol)
        if not self.over.called:
            self.over.callback(None)


def main(directories: Sequence[str], state: str, grace: float) -> int:
    """Serve the client on descriptors 0 and 1.

    :param directories: Folders with control files; empty for the search path.
    :param state: Folder for what plugins remember.
    :param grace: Seconds that a message on its way gets when the process is told to stop.

    :returns: The exit status: 1 if there was no session.
    """
    from twisted.internet import reactor as global_reactor

    reactor: Any = global_reactor
    ended: Deferred[Callable[[], None]] = Deferred()
    connection, pump = _take_descriptors(
        lambda hang_up: reactor.callFromThread(ended.callback, hang_up)
    )
    begin_plainly()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what is read again is for the next process
    registry = ServiceRegistry(reactor, state)
    options = ServerOptions(tuple(directories), state=state)
    try:
        prepared = prepare(options, registry, reactor)
    except (ConfigurationError, ConfigurationErrors) as error:
        for line in str(error).splitlines():
            _complain(line)
        connection.sendall(_UNUSABLE)
        connection.close()
        _join(pump)
        return 1
    [found] = prepared.values()
    logs = LogService.of(found.chain, found.loglevel)
    logs.start()
    tell([found])
    told = "TCPREMOTEIP" in os.environ  # or we may look for the client's name ourselves
    factory = _OneSession(
        os.environ,
        found.chain,
        found.settings,
        reactor,
        resolver=None if told else registry(IResolver),
    )

    async def start() -> None:
        nonlocal logs
        if found.whole:
            await factory.start()
            return
        [whole] = (await finish(prepared, options, registry, reactor)).values()
        await factory.replace(whole.chain, whole.settings)
        logs.stop()
        logs = LogService.of(whole.chain, whole.loglevel)
        logs.start()
        tell([whole])

    served = _Served(factory, start, registry, connection, grace)
    reactor.callWhenRunning(served.begin, reactor)
    ended.addCallback(lambda hang_up: served.input_ended(reactor, hang_up))
    reactor.addSystemEventTrigger("before", "shutdown", served.end)
    reactor.run()
    _join(pump)
    logs.stop()
    return 0 if served.failure is None else 1


class _Served:
    """The life of the session within the reactor's.

    :ivar failure: What kept it from beginning.
    """

    def __init__(
        self,
        factory: _OneSession,
        start: Callable[[], Awaitable[None]],
        registry: ServiceRegistry,
        connection: socket.socket,
        grace: float,
    ) -> None:
        self.failure: Failure | None = None
        self._factory = factory
        self._start = start
        self._registry = registry
        self._connection = connection
        self._grace = grace
        self._started = False

    def begin(self, reactor: Any) -> None:
        """Start the components, then greet the client."""
        Deferred.fromCoroutine(self._serve(reactor)).addErrback(self._failed).addBoth(
            lambda _: _stop(reactor)
        )

    async def _serve(self, reactor: Any) -> None:
        factory = self._factory
        await self._start()
        self._started = True
        connection = self._connection
        connection.setblocking(False)
        factory.doStart()
        try:
            reactor.adoptStreamConnection(connection.fileno(), connection.family, factory)
        except OSError as error:
            log.info("The client has gone: {error}", error=error)
            return
        finally:
            factory.doStop()  # nobody else comes
            connection.close()
        await factory.over

    def input_ended(self, reactor: Any, hang_up: Callable[[], None]) -> None:
        """Hang up for a client whose pipe has ended, once all is answered that it said.

        The end of a pipe says nothing of its reader: it may wait for the answers still.
        """
        if self._factory.busy:
            reactor.callLater(_LOOK, self.input_ended, reactor, hang_up)
        else:
            hang_up()

    def _failed(self, failure: Failure) -> None:
        self.failure = failure
        log.failure("qpsmtpd cannot start", failure)
        try:
            self._connection.send(_UNUSABLE)
        except OSError:
            pass  # it has gone
        self._connection.close()

    def end(self) -> Deferred[None]:
        """Let the session end, and then the components."""
        return Deferred.fromCoroutine(self._end())

    async def _end(self) -> None:
        if self._started:
            await self._factory.stop(self._grace)
        await self._registry.close()


def _stop(reactor: Any) -> None:
    try:
        reactor.stop()
    except ReactorNotRunning:
        pass  # a signal was faster


def _complain(line: str) -> None:
    os.write(2, f"qpsmtpd cannot start: {line}\n".encode("utf-8", "replace"))


# Descriptors.


def _unread(descriptor: int) -> int:
    """Octets that a socket has and nobody has read."""
    [count] = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))
    return int(count)


def _take_descriptors(
    ended: Callable[[Callable[[], None]], None],
) -> tuple[socket.socket, Thread | None]:
    """Take what the session is spoken on, and leave nothing of it on descriptors 0, 1 and 2.

    :param ended: Called in a thread when a pipe has ended, with what hangs up for it.

    :returns: A connected socket; and, where it is not the client's own, who carries octets
        from it to standard output until the session ends.
    """
    if _same(0, 2):  # inetd has the client there, too, who shall not see the log
        _forget(2)
    if stat.S_ISSOCK(os.fstat(0).st_mode) and _same(0, 1):
        connection, pump = socket.socket(fileno=os.dup(0)), None
    else:
        connection, pump = _through_pipes(os.dup(0), os.dup(1), ended)
    _forget(0)
    _forget(1)
    return connection, pump


def _same(one: int, other: int) -> bool:
    first, second = os.fstat(one), os.fstat(other)
    return stat.S_ISSOCK(first.st_mode) and os.path.samestat(first, second)


def _forget(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _through_pipes(
    source: int, sink: int, ended: Callable[[Callable[[], None]], None]
) -> tuple[socket.socket, Thread]:
    """A socket in the place of two pipes, so that a session is the same on both.

    The reading thread ends with the process, the writing one when the session has ended.
    """
    ours, theirs = socket.socketpair()

    def read() -> None:
        try:
            while piece := os.read(source, _PIECE):
                theirs.sendall(piece)
        except OSError:
            return  # the session has ended
        ended(hang_up)

    def hang_up() -> None:
        try:
            theirs.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the session has ended

    def write() -> None:
        try:
            while piece := theirs.recv(_PIECE):
                while piece:
                    piece = piece[os.write(sink, piece) :]
        except OSError:
            pass  # nobody reads; the session hears of it
        finally:
            theirs.close()
            os.close(sink)

    Thread(target=read, daemon=True, name="from standard input").start()
    pump = Thread(target=write, daemon=True, name="to standard output")
    pump.start()
    return ours, pump


def _join(pump: Thread | None) -> None:
    if pump is not None:
        pump.join(10.0)  # of a client that does not read, enough is enough

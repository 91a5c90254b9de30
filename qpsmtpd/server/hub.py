# -*- test-case-name: tests.server.test_hub -*-
"""One reader for many connections, which also says when their replies go out.

Twisted's reactor takes about 6 us of CPU time to find out which protocol a readable socket
belongs to and to call it: a logging context, a dispatch, a read, a call. A message is
five reads. A hub is a single descriptor for the reactor, behind which the kernel keeps the
list of readable sockets; it reads them in one go. Everything else stays the
transport's: closing, errors and the end of the stream.

Replies are held until all who were readable have been served, and go out together. Each sent by
itself would wake its client, whom the kernel then has to start, and stop again before the next:
5 to 10 % of the CPU time of a message, and a third where no core is free.

Measured with ``python -m benchmarks messages``; see docs/explanation/speed.md.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

if TYPE_CHECKING:
    from qpsmtpd.server.protocol import SMTPProtocol

__all__ = ["Hub"]

log: Final = Logger()

#: An event of a socket that can be read; a look into a module costs as much as one into a dict.
_READABLE: Final[int] = getattr(select, "EPOLLIN", 1)

#: Octets read at once, as Twisted's transports do.
READ_SIZE: Final = 65536

#: Connections served before their replies go out and the reactor's other business has its turn.
AT_ONCE: Final = 32


@implementer(IReadDescriptor)
class Hub:
    """Reads for connections, and hands what it read to their protocols.

    It watches only while it has connections, and holds no descriptor before the first.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._epoll: Any = None
        self._protocols: dict[int, SMTPProtocol] = {}
        #: Those who have something to say.
        self._holding: list[SMTPProtocol] = []
        self._serving = False

    @staticmethod
    def suits(reactor: Any) -> bool:
        """Whether the reactor and the system can have one: descriptors, and Linux's epoll."""
        return IReactorFDSet.providedBy(reactor) and hasattr(select, "epoll")

    def add(self, descriptor: int, protocol: SMTPProtocol) -> None:
        """Read for a connection.

        :raises OSError: The system has no descriptor or no memory for it.
        """
        if self._epoll is None:
            self._epoll = select.epoll()
        self._epoll.register(descriptor, _READABLE)
        if not self._protocols:
            self._reactor.addReader(self)
        self._protocols[descriptor] = protocol

    def pause(self, descriptor: int) -> None:
        """Leave unread what a connection's client sends. That it has vanished is still noticed."""
        if descriptor in self._protocols:
            self._epoll.modify(descriptor, 0)

    def resume(self, descriptor: int) -> None:
        """Read for a connection again."""
        if descriptor in self._protocols:
            self._epoll.modify(descriptor, _READABLE)

    def remove(self, descriptor: int) -> None:
        """Read for a connection no more."""
        if self._protocols.pop(descriptor, None) is None:
            return
        try:
            self._epoll.unregister(descriptor)
        except OSError:
            pass  # it is closed, and the kernel has forgotten it
        if not self._protocols:
            self._reactor.removeReader(self)
            self._epoll.close()
            self._epoll = None

    def hold(self, protocol: SMTPProtocol) -> None:
        """Have a protocol say what it holds when all who are served now have been."""
        if not self._holding and not self._serving:
            self._reactor.callLater(0, self._release)
        self._holding.append(protocol)

    def _release(self) -> None:
        holding, self._holding = self._holding, []
        for protocol in holding:
            try:
                protocol.send_held()
            except BaseException:
                _failed(protocol)

    # What the reactor calls.

    def fileno(self) -> int:
        return self._epoll.fileno() if self._epoll is not None else -1

    def doRead(self) -> None:
        self._serving = True
        try:
            self._serve()
        finally:
            self._serving = False
            self._release()

    def _serve(self) -> None:
        protocols = self._protocols
        for descriptor, events in self._epoll.poll(0, AT_ONCE):
            try:
                protocol = protocols[descriptor]
            except KeyError:
                continue  # another one's data has ended it
            try:
                if not events & _READABLE:
                    protocol.vanished()
                    continue
                try:
                    data = protocol.receive(READ_SIZE)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if data:
                    protocol.dataReceived(data)
                else:
                    protocol.leave_hub()  # the transport finds the end, or the error, itself
            except BaseException:  # what the reactor hears of, such as sys.exit(), ends all
                _failed(protocol)

    def connectionLost(self, reason: Failure) -> None:
        # The reactor is shutting down, and knows nothing of whom we read for.
        self._release()
        for protocol in list(self._protocols.values()):
            try:
                protocol.vanished()
            except BaseException:
                _failed(protocol)

    def logPrefix(self) -> str:
        return "qpsmtpd"


def _failed(protocol: SMTPProtocol) -> None:
    log.failure("The engine failed in session {id}", id=protocol.session.id)
    protocol.cut()

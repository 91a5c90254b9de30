# -*- test-case-name: tests.server.test_workers -*-
"""A worker: one of several processes that serve on the same listening sockets.

The supervisor starts it with the sockets as open descriptors, and with a pipe on standard
input that closes when the supervisor dies.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from typing import Any

from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from qpsmtpd.server.options import ServerOptions

__all__ = ["FIRST_DESCRIPTOR", "adopt", "command_line", "main"]

#: Where the sockets begin among a worker's descriptors.
FIRST_DESCRIPTOR = 3


def command_line(options: ServerOptions) -> str:
    """The options of a worker as one argument of its command line."""
    return json.dumps(dataclasses.asdict(options))


def main(argument: str) -> int:
    """Serve until the supervisor says stop or is gone."""
    from twisted.internet import reactor as global_reactor

    from qpsmtpd.server.service import SMTPService

    reactor: Any = global_reactor
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in json.loads(argument).items()
    }
    options = ServerOptions(**values)
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + len(options.endpoints))
    service = SMTPService(
        dataclasses.replace(options, pid_file=None),
        reactor,
        share=options.workers,
        descriptors=tuple(descriptors),
    )
    service.privilegedStartService()
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    StandardIO(_Lifeline(reactor), stdout=nowhere)  # type: ignore[call-arg]
    reactor.run()
    return 0


class _Lifeline(Protocol):
    """Ends the process when the supervisor's end of the pipe closes."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
        if self._reactor.running:
            self._reactor.stop()


def adopt(reactor: Any, description: str, descriptor: int, factory: Any) -> IListeningPort:
    """Listen on a socket that is bound already.

    :param description: The endpoint it was bound for; says whether TLS comes first.
    """
    if description.startswith("ssl:"):
        factory = _tls_factory(reactor, description, factory)
    with socket.socket(fileno=os.dup(descriptor)) as bound:
        family = bound.family
    port: IListeningPort = reactor.adoptStreamPort(descriptor, family, factory)
    os.close(descriptor)
    return port


def _tls_factory(reactor: Any, description: str, factory: Any) -> Any:
    from twisted.internet.endpoints import serverFromString

    made: list[Any] = []

    class Catcher:
        """Takes the TLS context that the endpoint makes of its description."""

        def listenSSL(self, port: int, factory: Any, context: Any, **rest: Any) -> None:
            made.append(TLSMemoryBIOFactory(context, False, factory))

    serverFromString(Catcher(), description).listen(factory)
    return made[0]

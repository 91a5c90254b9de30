# -*- test-case-name: tests.server.test_workers -*-
"""A worker: one of several processes that serve on the same listening sockets.

The supervisor starts it with the sockets as open descriptors, and with a pipe on standard
input that closes when the supervisor dies.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure

from qpsmtpd.server.options import ServerOptions
from qpsmtpd.services.logs import begin_plainly

__all__ = ["FIRST_DESCRIPTOR", "command_line", "main", "read_command_line"]

#: Where the sockets begin among a worker's descriptors.
FIRST_DESCRIPTOR = 3


def command_line(options: ServerOptions) -> str:
    """The options of a worker as one argument of its command line."""
    return json.dumps(dataclasses.asdict(options))


def read_command_line(argument: str) -> ServerOptions:
    """The options that :func:`command_line` wrote."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in json.loads(argument).items()
    }
    return ServerOptions(**values)


def main(argument: str) -> int:
    """Serve until the supervisor says stop or is gone.

    :returns: The exit status: 1 if the server could not start.
    """
    from twisted.internet import reactor as global_reactor

    from qpsmtpd.server.service import SMTPService

    reactor: Any = global_reactor
    # Ctrl-C reaches us as well as the supervisor, who then tells us to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    begin_plainly()
    options = read_command_line(argument)
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + len(options.endpoints))
    service = SMTPService(
        dataclasses.replace(options, pid_file=None),
        reactor,
        share=options.workers,
        descriptors=tuple(descriptors),
    )
    service.privilegedStartService()
    service.startService()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # the supervisor blocked it
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    StandardIO(_Lifeline(reactor), stdout=nowhere)  # type: ignore[call-arg]
    reactor.run()
    return 0 if service.failure is None else 1


class _Lifeline(Protocol):
    """Ends the process when the supervisor's end of the pipe closes."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            pass  # it stops already

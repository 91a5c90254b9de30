# -*- test-case-name: tests.server.test_supervisor -*-
"""The supervisor: binds the sockets, keeps workers running, and hands on every signal."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from qpsmtpd.server.options import ServerOptions
from qpsmtpd.server.pidfile import write_pid
from qpsmtpd.server.service import drop_privileges, listen
from qpsmtpd.server.workers import FIRST_DESCRIPTOR, command_line

__all__ = ["Supervisor"]

log: Final = Logger()

#: Seconds until a worker that died is replaced; doubled while workers die young.
FIRST_DELAY: Final = 0.1
LAST_DELAY: Final = 30.0

#: A worker that lived for so many seconds did not die of its start.
YOUNG: Final = 10.0

#: Seconds that a worker gets beyond its grace before it is killed.
PATIENCE: Final = 5.0


class Supervisor(Service):
    """Several processes that share the listening sockets."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.workers: list[_Worker] = []
        self._ports: list[Any] = []
        self._delay = FIRST_DELAY
        self._calls: list[Any] = []
        self._stopped: Deferred[None] | None = None

    @property
    def _reactor(self) -> Any:
        from twisted.internet import reactor

        return reactor

    def privilegedStartService(self) -> None:
        """Bind the sockets, while we may. The workers accept on them."""
        for endpoint in self.options.endpoints:
            port = listen(self._reactor, endpoint, Factory())
            port.stopReading()  # type: ignore[attr-defined]
            self._ports.append(port)

    def startService(self) -> None:
        """Start the workers."""
        super().startService()
        if not self._ports:
            self.privilegedStartService()
        if self.options.pid_file is not None:
            write_pid(self.options.pid_file)
        drop_privileges(self.options.user)
        signal.signal(signal.SIGHUP, self._on_hangup)
        for _ in range(self.options.workers):
            self._spawn()

    def _spawn(self) -> None:
        worker = _Worker(self)
        descriptors: dict[int, Any] = {0: "w", 1: "r", 2: "r"}
        for number, port in enumerate(self._ports):
            descriptors[FIRST_DESCRIPTOR + number] = port.fileno()
        arguments = [sys.executable, "-m", "qpsmtpd", "worker", command_line(self.options)]
        self._reactor.spawnProcess(
            worker, sys.executable, arguments, env=dict(os.environ), childFDs=descriptors
        )
        self.workers.append(worker)

    def ended(self, worker: _Worker, reason: Failure) -> None:
        """A worker has ended; start another, unless we are stopping."""
        self.workers.remove(worker)
        if self._stopped is not None:
            if not self.workers and not self._stopped.called:
                self._stopped.callback(None)
            return
        age = self._reactor.seconds() - worker.started
        self._delay = FIRST_DELAY if age > YOUNG else min(self._delay * 2, LAST_DELAY)
        log.error(
            "Worker {pid} ended ({reason}), another starts in {delay:g} s",
            pid=worker.pid,
            reason=reason.getErrorMessage(),
            delay=self._delay,
        )
        self._calls = [call for call in self._calls if call.active()]
        self._calls.append(self._reactor.callLater(self._delay, self._spawn))

    def reload(self) -> None:
        """Let every worker read the configuration again."""
        for worker in self.workers:
            worker.signal("HUP")

    def _on_hangup(self, number: int, frame: Any) -> None:
        self._reactor.callFromThread(self.reload)

    def stopService(self) -> Deferred[None] | None:
        """Let every worker come to its end."""
        super().stopService()
        self._stopped = Deferred()
        for call in self._calls:
            if call.active():
                call.cancel()
        for port in self._ports:
            port.stopListening()
        self._ports = []
        if self.options.pid_file is not None and os.path.exists(self.options.pid_file):
            os.unlink(self.options.pid_file)
        if not self.workers:
            return None
        for worker in self.workers:
            worker.signal("TERM")
        kill = self._reactor.callLater(self.options.grace + PATIENCE, self._kill)

        def stopped(result: None) -> None:
            if kill.active():
                kill.cancel()

        return self._stopped.addCallback(stopped)

    def _kill(self) -> None:
        for worker in self.workers:
            worker.signal("KILL")

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        state["workers"] = []
        state["_ports"] = []
        state["_calls"] = []
        return state


class _Lines(LineOnlyReceiver):
    """What a worker says goes into the supervisor's log."""

    delimiter = b"\n"
    MAX_LENGTH = 65536

    def lineReceived(self, line: bytes) -> None:
        log.info("{line}", line=line.decode("utf-8", "replace"), severity=6)


class _Worker(ProcessProtocol):
    """The supervisor's end of one worker.

    :ivar pid: Its process id.
    :ivar started: When it was started, by the reactor's clock.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._said = {1: _Lines(), 2: _Lines()}
        self.pid: int | None = None
        self.started = 0.0

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.pid = self.transport.pid
        self.started = self._supervisor._reactor.seconds()

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N803
        self._said[childFD].dataReceived(data)

    def processEnded(self, reason: Failure) -> None:
        self._supervisor.ended(self, reason)

    def signal(self, name: str) -> None:
        """Send the worker a signal, if it still lives."""
        assert self.transport is not None
        try:
            self.transport.signalProcess(name)
        except ProcessExitedAlready:
            pass

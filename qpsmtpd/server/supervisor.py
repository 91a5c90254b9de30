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
from twisted.python.failure import Failure

from qpsmtpd.server import sockets
from qpsmtpd.server.options import ServerOptions
from qpsmtpd.server.pidfile import remove_pid, write_pid
from qpsmtpd.server.privileges import drop_privileges
from qpsmtpd.server.service import prepare
from qpsmtpd.server.workers import FIRST_DESCRIPTOR, command_line
from qpsmtpd.services.logs import LogService, PlainLog
from qpsmtpd.services.registry import ServiceRegistry

__all__ = ["Supervisor"]

log: Final = Logger()

#: Seconds until a worker that died is replaced; doubled while workers die young.
FIRST_DELAY: Final = 0.1
LAST_DELAY: Final = 30.0

#: A worker that lived for so many seconds did not die of its start.
YOUNG: Final = 10.0

#: Seconds that a worker gets beyond its grace before it is killed.
PATIENCE: Final = 5.0


#: Octets of a line from a worker that are kept until it is whole.
LINE_LIMIT: Final = 65536


class Supervisor(Service):
    """Several processes that share the listening sockets."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.workers: list[_Worker] = []
        self._ports: list[Any] = []
        self._delay = FIRST_DELAY
        self._calls: list[Any] = []
        self._stopped: Deferred[None] | None = None
        self._on_hangup_before: Any = None
        self._logs: LogService | None = None

    @property
    def _reactor(self) -> Any:
        from twisted.internet import reactor

        return reactor

    def privilegedStartService(self) -> None:
        """Bind the sockets, while we may. The workers accept on them."""
        found = prepare(self.options, ServiceRegistry(self._reactor, self.options.state), None)
        if PlainLog.begun:  # or all that we say would be in Twisted's own log
            self._logs = LogService(None, next(iter(found.values())).loglevel)
            self._logs.start()
        for endpoint in self.options.endpoints:
            port: Any = sockets.listen(self._reactor, endpoint, _Nobody())
            port.stopReading()
            self._ports.append(port)
            log.info("Listening on {port}", port=port.getHost(), severity=6)
        write_pid(self.options.pid_file)

    def startService(self) -> None:
        """Start the workers."""
        super().startService()
        if not self._ports:
            self.privilegedStartService()
        drop_privileges(self.options.user)
        self._on_hangup_before = signal.signal(signal.SIGHUP, self._on_hangup)
        for _ in range(self.options.workers):
            self._spawn()

    def _spawn(self) -> None:
        worker = _Worker(self)
        # Where the log is plain, workers write theirs themselves; otherwise it is ours.
        said: dict[int, Any] = {1: 2, 2: 2} if PlainLog.begun else {1: "r", 2: "r"}
        descriptors: dict[int, Any] = {0: "w", **said}
        for number, port in enumerate(self._ports):
            descriptors[FIRST_DESCRIPTOR + number] = port.fileno()
        arguments = [sys.executable, "-m", "qpsmtpd", "worker", command_line(self.options)]
        # A worker that is told to reload before it knows how would die of it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            self._reactor.spawnProcess(
                worker, sys.executable, arguments, env=dict(os.environ), childFDs=descriptors
            )
        except OSError as error:  # too many processes, or no memory for one more
            log.error("No worker could be started: {error}", error=error)
            self._spawn_later()
        else:
            self.workers.append(worker)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def ended(self, worker: _Worker, reason: Failure) -> None:
        """A worker has ended; start another, unless we are stopping."""
        self.workers.remove(worker)
        if self._stopped is not None:
            if not self.workers and not self._stopped.called:
                self._stopped.callback(None)
            return
        log.error("Worker {pid} ended: {reason}", pid=worker.pid, reason=reason.getErrorMessage())
        if self._reactor.seconds() - worker.started > YOUNG:
            self._delay = FIRST_DELAY
        self._spawn_later()

    def _spawn_later(self) -> None:
        log.info("Another worker starts in {delay:g} s", delay=self._delay, severity=5)
        self._calls = [call for call in self._calls if call.active()]
        self._calls.append(self._reactor.callLater(self._delay, self._spawn))
        self._delay = min(self._delay * 2, LAST_DELAY)

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
            Deferred.fromCoroutine(sockets.close(port))
        self._ports = []
        remove_pid(self.options.pid_file)
        if self._on_hangup_before is not None:
            signal.signal(signal.SIGHUP, self._on_hangup_before)
            self._on_hangup_before = None
        if not self.workers:
            self._end_log()
            return None
        for worker in self.workers:
            worker.signal("TERM")
        kill = self._reactor.callLater(self.options.grace + PATIENCE, self._kill)

        def stopped(result: None) -> None:
            if kill.active():
                kill.cancel()
            self._end_log()

        return self._stopped.addCallback(stopped)

    def _end_log(self) -> None:
        if self._logs is not None:
            self._logs.stop()
            self._logs = None

    def _kill(self) -> None:
        for worker in self.workers:
            worker.signal("KILL")

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        state["workers"] = []
        state["_ports"] = []
        state["_calls"] = []
        state["_logs"] = None
        return state


class _Nobody(Factory):
    """Stands at the supervisor's ports, where nobody is let in."""

    noisy = False


class _Worker(ProcessProtocol):
    """The supervisor's end of one worker.

    :ivar pid: Its process id.
    :ivar started: When it was started, by the reactor's clock.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._said = {1: b"", 2: b""}
        self.pid: int | None = None
        self.started = 0.0

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.pid = self.transport.pid
        self.started = self._supervisor._reactor.seconds()

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N803
        *lines, rest = (self._said[childFD] + data).split(b"\n")
        if len(rest) > LINE_LIMIT:
            lines, rest = [*lines, rest], b""
        self._said[childFD] = rest
        for line in lines:
            log.info("{line}", line=line.decode("utf-8", "replace"), severity=6)

    def processEnded(self, reason: Failure) -> None:
        for descriptor, rest in self._said.items():
            if rest:
                self.childDataReceived(descriptor, b"\n")
        self._supervisor.ended(self, reason)

    def signal(self, name: str) -> None:
        """Send the worker a signal, if it still lives."""
        assert self.transport is not None
        try:
            self.transport.signalProcess(name)
        except ProcessExitedAlready:
            pass

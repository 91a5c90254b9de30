# -*- test-case-name: tests.server.test_service -*-
"""The server as a Twisted service: endpoints, privileges, reload, stop."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Coroutine
from ipaddress import ip_network
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from qpsmtpd.configuration.errors import ConfigurationError, ConfigurationErrors
from qpsmtpd.configuration.load import Configuration, control_files, load
from qpsmtpd.interfaces import IResolver
from qpsmtpd.server import sockets
from qpsmtpd.server.descriptors import provide
from qpsmtpd.server.factory import SMTPFactory
from qpsmtpd.server.memory import calm_collector
from qpsmtpd.server.options import ServerOptions
from qpsmtpd.server.pidfile import remove_pid, write_pid
from qpsmtpd.server.privileges import check_user, drop_privileges, make_folder
from qpsmtpd.server.proxy import ProxyFrom
from qpsmtpd.services.logs import LogService
from qpsmtpd.services.registry import ServiceRegistry
from qpsmtpd.settings import Settings
from qpsmtpd.spool import remove_stale

__all__ = ["SMTPService", "check", "prepare"]

log: Final = Logger()


def check(options: ServerOptions) -> Configuration:
    """Read the configuration without using it.

    :raises ConfigurationError: With what is wrong with it.
    :raises ConfigurationErrors: With all that is.
    """
    from twisted.internet import reactor

    for endpoint in options.endpoints:
        sockets.endpoint(reactor, endpoint)
    check_user(options.user)
    return _load(options, ServiceRegistry(reactor, options.state), None)


def prepare(
    options: ServerOptions, registry: ServiceRegistry, clock: IReactorTime | None
) -> Configuration:
    """Read the configuration, and make the folders that it needs, while we may.

    :raises ConfigurationError: As :func:`check`.
    :raises ConfigurationErrors: As :func:`check`.
    """
    found = _load(options, registry, clock)
    spool = found.settings.spool_dir
    for folder in [*registry.folders(), *([] if spool is None else [spool])]:
        try:
            make_folder(folder, options.user)
        except OSError as error:
            raise ConfigurationError(
                folder, f"a folder that can be made: {error.strerror}"
            ) from error
    return found


def _load(
    options: ServerOptions, registry: ServiceRegistry, clock: IReactorTime | None
) -> Configuration:
    files = control_files(options.directories, os.environ, os.getcwd())
    return load(files, os.environ, registry, clock)


class SMTPService(Service):
    """One process that serves.

    Holds nothing but its options until it starts, so that it can be pickled.

    :ivar failure: What kept it from starting.
    """

    def __init__(
        self,
        options: ServerOptions,
        reactor: Any = None,
        share: int = 1,
        descriptors: tuple[int, ...] = (),
    ) -> None:
        """Make the service.

        :param reactor: Where to listen; the global reactor if ``None``.
        :param share: How many processes share the limits on connections.
        :param descriptors: Sockets that are bound already, one for each endpoint.
        """
        self.options = options
        self.factory: SMTPFactory | None = None
        self.failure: Failure | None = None
        self._given_reactor = reactor
        self._share = share
        self._descriptors = descriptors
        self._ports: list[Any] = []
        self._registry: ServiceRegistry | None = None
        self._logs: LogService | None = None
        self._on_hangup_before: Any = None
        self._reloading = DeferredLock()
        self._changing: Deferred[None] | None = None

    @property
    def _reactor(self) -> Any:
        if self._given_reactor is not None:
            return self._given_reactor
        from twisted.internet import reactor

        return reactor

    @property
    def addresses(self) -> list[Any]:
        """Where it listens: each endpoint's address, with the port that the system chose."""
        return [port.getHost() for port in self._ports]

    def _prepare(self) -> Configuration:
        assert self._registry is not None
        return prepare(self.options, self._registry, self._reactor)

    def _settings(self, configuration: Configuration) -> Settings:
        """The settings of a configuration, as far as this process can have them."""
        settings = _shared(configuration.settings, self._share)
        return dataclasses.replace(settings, connections=provide(settings.connections))

    def privilegedStartService(self) -> None:
        """Open the sockets, while we may. Nobody is spoken to before the start."""
        reactor = self._reactor
        self._registry = ServiceRegistry(reactor, self.options.state)
        configuration = self._prepare()
        self._logs = LogService.of(configuration.chain, configuration.loglevel)
        self._logs.start()
        _tell(configuration)
        self.factory = SMTPFactory(
            configuration.chain,
            self._settings(configuration),
            reactor,
            proxy_from=_networks(self.options),
            resolver=self._registry(IResolver),
        )
        for number, endpoint in enumerate(self.options.endpoints):
            port: Any
            if self._descriptors:
                port = sockets.adopt(reactor, endpoint, self._descriptors[number], self.factory)
            else:
                port = sockets.listen(reactor, endpoint, self.factory)
            port.stopReading()  # accept nobody yet: clients wait in the backlog
            self._ports.append(port)
        write_pid(self.options.pid_file)

    def startService(self) -> None:
        """Drop privileges, start the components, and then speak to clients.

        :raises Exception: What a component raised; if it does so later, the reactor stops.
        """
        super().startService()
        if self.factory is None:
            self.privilegedStartService()
        drop_privileges(self.options.user)
        self._on_hangup_before = signal.signal(signal.SIGHUP, self._on_hangup)
        starting = Deferred.fromCoroutine(self._start())
        starting.addErrback(self._failed)
        if self.failure is not None:
            remove_pid(self.options.pid_file)
            self.failure.raiseException()
        starting.addCallback(lambda _: self._stop_if_failed())

    async def _start(self) -> None:
        assert self.factory is not None
        spool = self.factory.generation.settings.spool_dir
        if spool is not None:
            remove_stale(spool)
        await self._reloading.acquire()
        try:
            await self._change(self.factory.start())
        finally:
            self._reloading.release()
        calm_collector()
        for port in self._ports:
            port.startReading()
            log.info("Listening on {port}", port=port.getHost(), severity=6)

    def _failed(self, failure: Failure) -> None:
        self.failure = failure

    def _stop_if_failed(self) -> None:
        if self.failure is not None and self.running:
            log.failure("qpsmtpd cannot start", self.failure)
            self._reactor.callWhenRunning(self._reactor.stop)

    def _on_hangup(self, number: int, frame: Any) -> None:
        self._reactor.callFromThread(self.reload)

    def reload(self) -> Deferred[bool]:
        """Read the configuration again. New sessions run on it; running ones stay on theirs.

        :returns: Whether it could be used; otherwise the old one stays, and the log says why.
        """
        return Deferred.fromCoroutine(self._reload())

    async def _reload(self) -> bool:
        await self._reloading.acquire()
        try:
            if not self.running or self.factory is None:
                return False
            configuration = self._prepare()
            settings = self._settings(configuration)
            await self._change(self.factory.replace(configuration.chain, settings))
        except CancelledError:
            return False  # the service stops
        except (ConfigurationError, ConfigurationErrors) as error:
            for line in str(error).splitlines():
                log.error("The configuration stays as it was: {line}", line=line)
            return False
        except Exception:
            log.failure("The configuration stays as it was: the new one does not start")
            return False
        finally:
            self._reloading.release()
        if self._logs is not None:
            self._logs.stop()
        self._logs = LogService.of(configuration.chain, configuration.loglevel)
        self._logs.start()
        _tell(configuration)
        log.warn("The configuration was read again")
        return True

    def _change(self, work: Coroutine[Any, Any, None]) -> Deferred[None]:
        """Let components start, until the service stops."""
        self._changing = Deferred.fromCoroutine(work)
        return self._changing

    def stopService(self) -> Deferred[None]:
        """Stop to listen, let messages on their way arrive, stop the components."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        ports, self._ports = self._ports, []
        for port in ports:
            await sockets.close(port)
        if self._changing is not None:
            self._changing.cancel()
        await self._reloading.acquire()
        self._reloading.release()  # whoever comes now sees that the service does not run
        if self.factory is not None:
            await self.factory.stop(self.options.grace)
            self.factory = None
        if self._registry is not None:
            await self._registry.close()
        if self._logs is not None:
            self._logs.stop()
        remove_pid(self.options.pid_file)
        if self._on_hangup_before is not None:
            signal.signal(signal.SIGHUP, self._on_hangup_before)
            self._on_hangup_before = None

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        for name in ("factory", "failure", "_given_reactor", "_registry", "_logs", "_changing"):
            state[name] = None
        state["_ports"] = []
        return state


def _tell(configuration: Configuration) -> None:
    """Log what the configuration says without an effect."""
    for notice in configuration.notices:
        tell = log.error if notice.grave else log.warn
        tell("{notice}", notice=str(notice))


def _networks(options: ServerOptions) -> ProxyFrom:
    return ["unix" if each == "unix" else ip_network(each) for each in options.proxy_from]


def _shared(settings: Settings, share: int) -> Settings:
    """The settings of one of several processes, so that together they keep the limits."""
    return dataclasses.replace(
        settings,
        connections=-(-settings.connections // share),
        connections_per_address=-(-settings.connections_per_address // share),
    )

# -*- test-case-name: tests.server.test_service -*-
"""The server as a Twisted service: endpoints, privileges, reload, stop."""

from __future__ import annotations

import dataclasses
import os
import pwd
import signal
from ipaddress import ip_network
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from zope.interface.interface import InterfaceClass

from qpsmtpd.configuration.errors import ConfigurationError, ConfigurationErrors
from qpsmtpd.configuration.load import Configuration, control_files, load
from qpsmtpd.server.factory import SMTPFactory
from qpsmtpd.server.options import ServerOptions
from qpsmtpd.server.pidfile import write_pid
from qpsmtpd.server.workers import adopt
from qpsmtpd.services.logs import LogService
from qpsmtpd.services.registry import ServiceRegistry
from qpsmtpd.settings import Settings
from qpsmtpd.spool import remove_stale

__all__ = ["SMTPService", "check", "drop_privileges", "listen"]

log: Final = Logger()


def check(options: ServerOptions) -> Configuration:
    """Read the configuration without using it.

    :raises ConfigurationError: With what is wrong with it.
    :raises ConfigurationErrors: With all that is.
    """
    from twisted.internet import reactor

    for endpoint in options.endpoints:
        _endpoint(reactor, endpoint)
    return load(_files(options), os.environ, _Unmade(reactor), None)


class _Unmade:
    """Stands for services while a configuration is only checked: none is opened."""

    def __init__(self, reactor: Any) -> None:
        self._registry = ServiceRegistry(reactor, "")

    def __call__(self, interface: InterfaceClass) -> object:
        if self._registry.opens(interface):
            return None
        return self._registry(interface)


def _files(options: ServerOptions) -> Any:
    return control_files(options.directories, os.environ, os.getcwd())


def _endpoint(reactor: Any, description: str) -> Any:
    try:
        return serverFromString(reactor, description)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ConfigurationError(
            description, f"an endpoint such as tcp:25 or ssl:465:privateKey=F ({error})"
        ) from None


def listen(reactor: Any, description: str, factory: Any) -> IListeningPort:
    """Listen on an endpoint, now.

    :raises Exception: What keeps it from listening.
    """
    outcome: list[Any] = []
    _endpoint(reactor, description).listen(factory).addBoth(outcome.append)
    if not outcome:
        raise ConfigurationError(description, "an endpoint that listens at once")
    if not IListeningPort.providedBy(outcome[0]):
        outcome[0].raiseException()
    port: IListeningPort = outcome[0]
    return port


def drop_privileges(user: str | None) -> None:
    """Become another user, with its groups, for good.

    :raises ConfigurationError: If there is no such user, or it may not be done.
    """
    if user is None:
        return
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ConfigurationError(user, "the name of a user") from None
    if os.getuid() == entry.pw_uid:
        return
    try:
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    except PermissionError:
        raise ConfigurationError(user, "a start as root, to become this user") from None


class SMTPService(Service):
    """One process that serves.

    Holds nothing but its options until it starts, so that it can be pickled.
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
        self._given_reactor = reactor
        self._share = share
        self._descriptors = descriptors
        self._ports: list[Any] = []
        self._registry: ServiceRegistry | None = None
        self._logs: LogService | None = None

    @property
    def _reactor(self) -> Any:
        if self._given_reactor is not None:
            return self._given_reactor
        from twisted.internet import reactor

        return reactor

    def _load(self) -> Configuration:
        assert self._registry is not None
        found = load(_files(self.options), os.environ, self._registry, self._reactor)
        return dataclasses.replace(found, settings=_shared(found.settings, self._share))

    def privilegedStartService(self) -> None:
        """Open the sockets, while we may. Nobody is spoken to before the start."""
        reactor = self._reactor
        self._registry = ServiceRegistry(reactor, self.options.state)
        configuration = self._load()
        networks = [ip_network(network) for network in self.options.proxy_from]
        self.factory = SMTPFactory(
            configuration.chain, configuration.settings, reactor, proxy_from=networks
        )
        self._logs = LogService.of(configuration.chain, configuration.loglevel)
        self._logs.start()
        for number, endpoint in enumerate(self.options.endpoints):
            port: Any
            if self._descriptors:
                port = adopt(reactor, endpoint, self._descriptors[number], self.factory)
            else:
                port = listen(reactor, endpoint, self.factory)
            port.stopReading()  # accept nobody yet: clients wait in the backlog
            self._ports.append(port)

    def startService(self) -> None:
        """Drop privileges, start the components, and then speak to clients."""
        super().startService()
        if self.factory is None:
            self.privilegedStartService()
        drop_privileges(self.options.user)
        if self.options.pid_file is not None:
            write_pid(self.options.pid_file)
        signal.signal(signal.SIGHUP, self._on_hangup)
        starting = Deferred.fromCoroutine(self._start())
        starting.addErrback(self._failed)

    async def _start(self) -> None:
        assert self.factory is not None
        settings = self.factory.generation.settings
        if settings.spool_dir is not None:
            os.makedirs(settings.spool_dir, mode=0o700, exist_ok=True)
            remove_stale(settings.spool_dir)
        await self.factory.start()
        for port in self._ports:
            port.startReading()
            log.info("Listening on {port}", port=port.getHost(), severity=6)

    def _failed(self, failure: Any) -> None:
        log.failure("qpsmtpd cannot start", failure)
        self._reactor.callWhenRunning(self._reactor.stop)

    def _on_hangup(self, number: int, frame: Any) -> None:
        self._reactor.callFromThread(self.reload)

    def reload(self) -> Deferred[bool]:
        """Read the configuration again. New sessions run on it; running ones stay on theirs.

        :returns: Whether it could be used; otherwise the old one stays, and the log says why.
        """
        return Deferred.fromCoroutine(self._reload())

    async def _reload(self) -> bool:
        assert self.factory is not None
        try:
            configuration = self._load()
            await self.factory.replace(configuration.chain, configuration.settings)
        except (ConfigurationError, ConfigurationErrors) as error:
            for line in str(error).splitlines():
                log.error("The configuration stays as it was: {line}", line=line)
            return False
        except Exception:
            log.failure("The configuration stays as it was: the new one does not start")
            return False
        if self._logs is not None:
            self._logs.stop()
        self._logs = LogService.of(configuration.chain, configuration.loglevel)
        self._logs.start()
        log.warn("The configuration was read again")
        return True

    def stopService(self) -> Deferred[None]:
        """Stop to listen, let messages on their way arrive, stop the components."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        ports, self._ports = self._ports, []
        for port in ports:
            stopped = port.stopListening()
            if stopped is not None:
                await stopped
        if self.factory is not None:
            await self.factory.stop(self.options.grace)
            self.factory = None
        if self._registry is not None:
            await self._registry.close()
        if self._logs is not None:
            self._logs.stop()
        if self.options.pid_file is not None and os.path.exists(self.options.pid_file):
            os.unlink(self.options.pid_file)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        for name in ("factory", "_given_reactor", "_registry", "_logs"):
            state[name] = None
        state["_ports"] = []
        return state


def _shared(settings: Settings, share: int) -> Settings:
    """The settings of one of several processes, so that together they keep the limits."""
    return dataclasses.replace(
        settings,
        connections=-(-settings.connections // share),
        connections_per_address=-(-settings.connections_per_address // share),
    )

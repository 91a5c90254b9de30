# -*- test-case-name: tests.server.test_service -*-
"""The server as a Twisted service: endpoints, privileges, reload, stop."""

from __future__ import annotations

import dataclasses
import os
import signal
import stat
from collections.abc import Coroutine, Iterable
from ipaddress import ip_network
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from qpsmtpd import logs
from qpsmtpd.chain import Chain
from qpsmtpd.configuration.asking import complete
from qpsmtpd.configuration.errors import ConfigurationError, ConfigurationErrors
from qpsmtpd.configuration.load import Configuration, control_files, load
from qpsmtpd.interfaces import IResolver
from qpsmtpd.server import sockets
from qpsmtpd.server.descriptors import provide
from qpsmtpd.server.factory import SMTPFactory, start_chain
from qpsmtpd.server.memory import calm_collector
from qpsmtpd.server.options import ServerOptions
from qpsmtpd.server.pidfile import remove_pid, write_pid
from qpsmtpd.server.privileges import check_user, drop_privileges, make_folder
from qpsmtpd.server.proxy import ProxyFrom
from qpsmtpd.services.logs import LogService
from qpsmtpd.services.registry import ServiceRegistry
from qpsmtpd.settings import Settings
from qpsmtpd.spool import remove_stale

__all__ = ["SMTPService", "check", "check_files", "finish", "prepare"]

log: Final = Logger()


def check(options: ServerOptions) -> Configuration:
    """Read the whole configuration without using it.

    Where components have to be asked for settings, this runs the reactor, to its end.

    :returns: That of the first endpoint.

    :raises ConfigurationError: With what is wrong with it.
    :raises ConfigurationErrors: With all that is.
    """
    from twisted.internet import reactor

    found = check_files(options)
    if not _is_whole(found):
        outcome: list[dict[str, Configuration] | Failure] = []

        def begin() -> None:
            asking = Deferred.fromCoroutine(_check_whole(options, reactor, found))
            asking.addBoth(outcome.append).addBoth(lambda _: reactor.stop())

        reactor.callWhenRunning(begin)
        reactor.run()
        [result] = outcome
        if isinstance(result, Failure):
            result.raiseException()
        assert isinstance(result, dict)
        found = result
    return next(iter(found.values()))


async def _check_whole(
    options: ServerOptions, reactor: Any, found: dict[str, Configuration]
) -> dict[str, Configuration]:
    registry = ServiceRegistry(reactor, options.state)
    whole = await _complete(found, registry, reactor)
    for each in whole.values():
        await each.chain.stop()
    await registry.close()
    return whole


def check_files(options: ServerOptions) -> dict[str, Configuration]:
    """Read the configuration without using it, as far as no component has to be asked.

    :returns: One for each policy.

    :raises ConfigurationError: As :func:`check`.
    :raises ConfigurationErrors: As :func:`check`.
    """
    from twisted.internet import reactor

    for endpoint in options.endpoints:
        sockets.endpoint(reactor, endpoint)
    check_user(options.user)
    return _load(options, ServiceRegistry(reactor, options.state), None)


def prepare(
    options: ServerOptions, registry: ServiceRegistry, clock: IReactorTime | None
) -> dict[str, Configuration]:
    """Read the configuration, and make the folders that it needs, while we may.

    :returns: One for each policy; :func:`finish` makes them whole.

    :raises ConfigurationError: As :func:`check`.
    :raises ConfigurationErrors: As :func:`check`.
    """
    found = _load(options, registry, clock)
    _make_folders(found, options, registry)
    return found


async def finish(
    found: dict[str, Configuration],
    options: ServerOptions,
    registry: ServiceRegistry,
    clock: IReactorTime,
) -> dict[str, Configuration]:
    """Make what :func:`prepare` gave whole, now that the reactor runs.

    :raises ConfigurationError: As :func:`~qpsmtpd.configuration.asking.complete`, or if there is
        a folder that cannot be made.
    :raises ConfigurationErrors: As :func:`~qpsmtpd.configuration.asking.complete`.
    """
    if _is_whole(found):
        return found
    whole = await _complete(found, registry, clock)
    try:
        _make_folders(whole, options, registry)
    except ConfigurationError:
        for each in whole.values():
            await each.chain.stop()
        raise
    return whole


async def _complete(
    found: dict[str, Configuration], registry: ServiceRegistry, clock: IReactorTime
) -> dict[str, Configuration]:
    whole: dict[str, Configuration] = {}
    try:
        for policy, each in found.items():
            whole[policy] = await complete(each, os.environ, registry, clock)
    except BaseException:
        for each in whole.values():
            await each.chain.stop()
        raise
    return whole


def _is_whole(found: dict[str, Configuration]) -> bool:
    return all(each.whole for each in found.values())


def _make_folders(
    found: dict[str, Configuration], options: ServerOptions, registry: ServiceRegistry
) -> None:
    folders = dict.fromkeys(registry.folders(), 0o700)
    everybody = [each.settings for each in found.values()]
    spools = {each.spool_dir: each.spool_perms for each in everybody if each.spool_dir is not None}
    for folder, mode in [*folders.items(), *spools.items()]:
        try:
            make_folder(folder, options.user, mode)
        except OSError as error:
            raise ConfigurationError(
                folder, f"a folder that can be made: {error.strerror}"
            ) from error
    for folder, mode in spools.items():
        found_mode = stat.S_IMODE(os.stat(folder).st_mode)
        if found_mode != mode:
            log.warn(
                "Permissions on spool_dir {folder} are not {mode:04o}, but {found:04o}",
                folder=folder,
                mode=mode,
                found=found_mode,
            )


def _load(
    options: ServerOptions, registry: ServiceRegistry, clock: IReactorTime | None
) -> dict[str, Configuration]:
    found: dict[str, Configuration] = {}
    errors: dict[str, ConfigurationError] = {}
    try:  # one store for all policies
        registry.configure(control_files(options.directories, os.environ, os.getcwd()))
    except ConfigurationError as error:
        errors[str(error)] = error
    for policy in options.all_policies():
        files = control_files(options.directories, os.environ, os.getcwd(), policy)
        try:
            found[policy] = load(files, os.environ, registry, clock)
        except ConfigurationErrors as several:  # many are those of another policy, too
            errors.update((str(error), error) for error in several)
    if errors:
        raise ConfigurationErrors(errors.values())
    return found


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
        #: One for each policy.
        self.factories: dict[str, SMTPFactory] = {}
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
        self._prepared: dict[str, Configuration] = {}

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

    def _prepare(self) -> dict[str, Configuration]:
        assert self._registry is not None
        return prepare(self.options, self._registry, self._reactor)

    def _settings(self, configurations: dict[str, Configuration]) -> dict[str, Settings]:
        """The settings of each policy, as far as this process can have them."""
        found = {
            policy: _shared(_overruled(each.settings, self.options), self._share)
            for policy, each in configurations.items()
        }
        numbers = [each.connections for each in found.values()]
        wanted = sum(numbers) if all(numbers) else 0
        most = provide(wanted)
        # What is left for each policy without a limit of its own; 0 where the system has none.
        rest = max(1, (most - sum(numbers)) // numbers.count(0)) if most and not wanted else 0
        return {
            policy: dataclasses.replace(
                each,
                connections=max(1, each.connections * most // wanted)
                if wanted
                else each.connections or rest,
            )
            for policy, each in found.items()
        }

    def privilegedStartService(self) -> None:
        """Open the sockets, while we may. Nobody is spoken to before the start."""
        reactor = self._reactor
        self._registry = ServiceRegistry(reactor, self.options.state)
        configurations = self._prepared = self._prepare()
        self._log_by(configurations)
        settings = self._settings(configurations)
        whole = _is_whole(configurations)  # otherwise a chain comes when the reactor runs
        self.factories = {
            policy: SMTPFactory(
                configuration.chain if whole else Chain(()),
                settings[policy],
                reactor,
                proxy_from=_networks(self.options),
                resolver=self._registry(IResolver),
            )
            for policy, configuration in configurations.items()
        }
        for number, endpoint in enumerate(self.options.endpoints):
            factory = self.factories[self.options.policy(number)]
            port: Any
            if self._descriptors:
                port = sockets.adopt(reactor, endpoint, self._descriptors[number], factory)
            else:
                port = sockets.listen(reactor, endpoint, factory)
            port.stopReading()  # accept nobody yet: clients wait in the backlog
            self._ports.append(port)
        write_pid(self.options.pid_file)

    def _log_by(self, configurations: dict[str, Configuration]) -> None:
        """Log as the configuration of the first endpoint says; there is one log for all."""
        if self._logs is not None:
            self._logs.stop()
        first = next(iter(configurations.values()))
        self._logs = LogService.of(first.chain, first.loglevel)
        self._logs.start()
        if logs.wanted(6):
            for configuration in configurations.values():
                for link in configuration.chain.links:
                    log.info("Loaded {name}", name=link.name)
        tell(configurations.values())

    def startService(self) -> None:
        """Drop privileges, start the components, and then speak to clients.

        :raises Exception: What a component raised; if it does so later, the reactor stops.
        """
        super().startService()
        if not self.factories:
            self.privilegedStartService()
        drop_privileges(self.options.user)
        if self.options.user is not None and logs.wanted(6):
            log.info("Running as user {user}", user=self.options.user)
        self._on_hangup_before = signal.signal(signal.SIGHUP, self._on_hangup)
        starting = Deferred.fromCoroutine(self._start())
        starting.addErrback(self._failed)
        if self.failure is not None:
            remove_pid(self.options.pid_file)
            self.failure.raiseException()
        starting.addCallback(lambda _: self._stop_if_failed())

    async def _start(self) -> None:
        factories = list(self.factories.values())
        prepared, self._prepared = self._prepared, {}
        await self._reloading.acquire()
        try:
            if _is_whole(prepared):
                for factory in factories:
                    await self._change(factory.start())
            else:
                await self._change(self._use(prepared))
        finally:
            self._reloading.release()
        for spool in {factory.generation.settings.spool_dir for factory in factories}:
            if spool is not None:
                remove_stale(spool)
        calm_collector()
        for port in self._ports:
            port.startReading()
            log.info("Listening on {port}", port=port.getHost(), severity=6)

    def _failed(self, failure: Failure) -> None:
        self.failure = failure

    def _stop_if_failed(self) -> None:
        if self.failure is not None and self.running:
            if self.failure.check(ConfigurationError, ConfigurationErrors):
                for line in self.failure.getErrorMessage().splitlines():
                    log.critical("qpsmtpd cannot start: {line}", line=line)
            else:
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
            if not self.running or not self.factories:
                return False
            await self._change(self._use(self._prepare()))
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
        log.warn("The configuration was read again")
        return True

    async def _use(self, prepared: dict[str, Configuration]) -> None:
        """Make configurations whole, and let new sessions run on them."""
        assert self._registry is not None
        found = await finish(prepared, self.options, self._registry, self._reactor)
        settings = self._settings(found)
        await _start_all([each.chain for each in found.values()])
        for policy, configuration in found.items():
            self.factories[policy].use(configuration.chain, settings[policy])
        self._log_by(found)

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
        factories, self.factories = self.factories, {}
        stopping = [
            Deferred.fromCoroutine(factory.stop(self.options.grace))
            for factory in factories.values()
        ]
        for stopped in stopping:
            await stopped
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
        for name in ("failure", "_given_reactor", "_registry", "_logs", "_changing"):
            state[name] = None
        state["factories"] = {}
        state["_prepared"] = {}
        state["_ports"] = []
        return state


def tell(configurations: Iterable[Configuration]) -> None:
    """Log what configurations say without an effect, once if several say it."""
    notices = {str(notice): notice for each in configurations for notice in each.notices}
    for text, notice in notices.items():
        say = log.error if notice.grave else log.warn
        say("{notice}", notice=text)


def _networks(options: ServerOptions) -> ProxyFrom:
    return ["unix" if each == "unix" else ip_network(each) for each in options.proxy_from]


async def _start_all(chains: list[Chain]) -> None:
    """Start all chains, or none."""
    try:
        for chain in chains:
            await start_chain(chain)
    except BaseException:
        for chain in chains:  # some components were started before, to be asked
            await chain.stop()
        raise


def _overruled(settings: Settings, options: ServerOptions) -> Settings:
    """The settings with what the command line says in their place."""
    given: dict[str, Any] = {
        "connections": options.connections,
        "connections_per_address": options.connections_per_address,
        "reverse_dns": options.reverse_dns or None,
    }
    return dataclasses.replace(
        settings, **{name: value for name, value in given.items() if value is not None}
    )


def _shared(settings: Settings, share: int) -> Settings:
    """The settings of one of several processes, so that together they keep the limits."""
    return dataclasses.replace(
        settings,
        connections=-(-settings.connections // share),
        connections_per_address=-(-settings.connections_per_address // share),
    )

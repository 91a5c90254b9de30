# -*- test-case-name: tests.services.test_registry -*-
"""The services of one process, each made when the first component asks for it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReactorCore, IReactorProcess, IReactorThreads, IReactorTime
from zope.interface.interface import InterfaceClass

from qpsmtpd.configuration.errors import ConfigurationError
from qpsmtpd.configuration.files import ControlFiles, Line
from qpsmtpd.services.interfaces import IResolver, IStore
from qpsmtpd.services.redis import RedisAddress, RedisStore

__all__ = ["ServiceRegistry"]


class ServiceRegistry:
    """Gives services by their interfaces; they live as long as the process.

    Nothing is opened before a component uses a service, so one that is only checked may ask
    for it, too.

    :ivar state: The folder of the embedded store, unless the control file ``store`` names another.
    """

    def __init__(self, reactor: Any, state: str) -> None:
        self._reactor = reactor
        self.state = state
        self._made: dict[InterfaceClass, Any] = {}
        #: The path of the embedded store, or where a Redis is.
        self._place: str | RedisAddress = os.path.join(state, "store.sqlite")

    def configure(self, files: ControlFiles) -> None:
        """Read where the store is: the control file ``store``.

        :raises ConfigurationError: What it says cannot be meant, or the process has another store.
        """
        line = files.first("store")
        place = os.path.join(self.state, "store.sqlite") if line is None else _place(line)
        if place != self._place and IStore in self._made:
            expected = "the store that the server was started with; another one needs a restart"
            raise _error(line, expected)
        self._place = place

    def __call__(self, interface: InterfaceClass) -> object:
        """The service behind an interface.

        :raises KeyError: If there is none.
        """
        if interface in _REACTOR:
            return self._reactor
        made = self._made.get(interface)
        if made is None:
            make: Callable[[ServiceRegistry], Any] = _MAKERS[interface]
            made = self._made[interface] = make(self)
        return made

    def folders(self) -> list[str]:
        """The folders that have to be there before what was made is used."""
        if IStore not in self._made or isinstance(self._place, RedisAddress):
            return []
        return [os.path.dirname(self._place)]

    async def close(self) -> None:
        """Close what was made."""
        made, self._made = self._made, {}
        for service in made.values():
            close = getattr(service, "close", None)
            if close is not None:
                await close()

    def _resolver(self) -> object:
        from qpsmtpd.services.dns import Resolver

        return Resolver(reactor=self._reactor)

    def _store(self) -> object:
        from qpsmtpd.services.store import SQLiteStore

        if isinstance(self._place, RedisAddress):
            return RedisStore(self._place, reactor=self._reactor)
        return SQLiteStore(self._place, reactor=self._reactor)


def _place(line: Line) -> str | RedisAddress:
    kind, _, path = line.text.partition(" ")
    if kind == "sqlite" and path.strip():
        return os.path.abspath(path.strip())
    try:
        address = RedisAddress.parse(line.text)
    except ValueError as error:
        raise _error(line, f"{error}, or sqlite PATH") from None
    if importlib.util.find_spec("txredisapi") is None:
        raise _error(line, "the extra redis: pip install 'qpsmtpd[redis]'")
    return address


def _error(line: Line | None, expected: str) -> ConfigurationError:
    """What is wrong, without the line itself, which may hold a password."""
    if line is None:
        return ConfigurationError("store", expected)
    return ConfigurationError("", expected, file=line.file, line=line.number)


_REACTOR: Final = frozenset({IReactorTime, IReactorCore, IReactorThreads, IReactorProcess})

_MAKERS: Final[dict[InterfaceClass, Callable[[ServiceRegistry], Any]]] = {
    IResolver: ServiceRegistry._resolver,
    IStore: ServiceRegistry._store,
}

# -*- test-case-name: tests.services.test_registry -*-
"""The services of one process, each made when the first component asks for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReactorCore, IReactorProcess, IReactorThreads, IReactorTime
from zope.interface.interface import InterfaceClass

from qpsmtpd.services.interfaces import IResolver, IStore

__all__ = ["ServiceRegistry"]


class ServiceRegistry:
    """Gives services by their interfaces; they live as long as the process.

    Nothing is opened before a component uses a service, so one that is only checked may ask
    for it, too.

    :ivar state: The folder of the embedded store.
    """

    def __init__(self, reactor: Any, state: str) -> None:
        self._reactor = reactor
        self.state = state
        self._made: dict[InterfaceClass, Any] = {}

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
        return [self.state] if IStore in self._made else []

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

        return SQLiteStore(os.path.join(self.state, "store.sqlite"), reactor=self._reactor)


_REACTOR: Final = frozenset({IReactorTime, IReactorCore, IReactorThreads, IReactorProcess})

_MAKERS: Final[dict[InterfaceClass, Callable[[ServiceRegistry], Any]]] = {
    IResolver: ServiceRegistry._resolver,
    IStore: ServiceRegistry._store,
}

# -*- test-case-name: tests.testing.test_fakes -*-
"""Services that hold their world as plain data, can fail, and can stay silent.

Each behaves as the real one does, and the same tests run against both.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from qpsmtpd.chain import ComponentError
from qpsmtpd.configuration.reference import DEFAULTS
from qpsmtpd.services.dns import wire_name
from qpsmtpd.services.interfaces import (
    IConfiguration,
    IResolver,
    ResolverError,
    StoreError,
)
from qpsmtpd.services.store import MemoryStore, Table
from qpsmtpd.smtp.address import Address

__all__ = ["FakeConfiguration", "FakeResolver", "FakeStore"]

_T = TypeVar("_T")


@implementer(IResolver)
class FakeResolver:
    """A small DNS: what is not listed does not exist.

    ::

        FakeResolver(
            a={"mx.example.org": ["192.0.2.1"]},
            mx={"example.org": [(10, "mx.example.org")]},
            ptr={"192.0.2.1": ["mx.example.org"]},
            fails={"broken.example"},
            silent={"slow.example"},
        )

    :ivar questions: What was asked, in order: pairs of method and name.
    """

    def __init__(
        self,
        *,
        a: Mapping[str, Sequence[str]] = {},
        aaaa: Mapping[str, Sequence[str]] = {},
        txt: Mapping[str, Sequence[str]] = {},
        mx: Mapping[str, Sequence[tuple[int, str]]] = {},
        ns: Mapping[str, Sequence[str]] = {},
        ptr: Mapping[str, Sequence[str]] = {},
        fails: Collection[str] = (),
        silent: Collection[str] = (),
    ) -> None:
        """Take the world; what it maps may be changed later.

        :param fails: Names and addresses that raise :exc:`ResolverError`.
        :param silent: Names and addresses that are never answered; the
            waiting can be cancelled.
        """
        self.questions: list[tuple[str, str]] = []
        self.fails = fails
        self.silent = silent
        self._a = a
        self._aaaa = aaaa
        self._txt = txt
        self._mx = mx
        self._ns = ns
        self._ptr = ptr

    async def a(self, name: str) -> list[str]:
        return list(await self._ask("a", self._a, name))

    async def aaaa(self, name: str) -> list[str]:
        return list(await self._ask("aaaa", self._aaaa, name))

    async def txt(self, name: str) -> list[str]:
        return list(await self._ask("txt", self._txt, name))

    async def mx(self, name: str) -> list[tuple[int, str]]:
        return sorted((order, _host(host)) for order, host in await self._ask("mx", self._mx, name))

    async def ns(self, name: str) -> list[str]:
        return [_host(host) for host in await self._ask("ns", self._ns, name)]

    async def ptr(self, address: str) -> list[str]:
        return [_host(host) for host in await self._ask("ptr", self._ptr, address, _address)]

    async def _ask(
        self,
        method: str,
        world: Mapping[str, Sequence[_T]],
        name: str,
        written: Callable[[str], str] | None = None,
    ) -> Sequence[_T]:
        written = written or _name
        asked = written(name)
        self.questions.append((method, asked))
        if asked in map(written, self.fails):
            raise ResolverError(f"{asked} fails")
        if asked in map(written, self.silent):
            await Deferred[None]()
        return next((values for key, values in world.items() if written(key) == asked), ())


class FakeStore(MemoryStore):
    """A store in memory that can be made to fail or to stay silent.

    :ivar fails: Whether every operation raises :exc:`StoreError`.
    :ivar silent: Whether no operation ever ends.
    """

    def __init__(self, clock: IReactorTime) -> None:
        """Start empty and in good health."""
        super().__init__(clock)
        self.fails = False
        self.silent = False

    async def operate(self, operation: Callable[[Table, float], _T], writes: bool) -> _T:
        if self.fails:
            raise StoreError("this store fails")
        if self.silent:
            await Deferred[None]()
        return await super().operate(operation, writes)


@implementer(IConfiguration)
class FakeConfiguration:
    """Settings of everybody and of users.

    ::

        FakeConfiguration(
            {"databytes": ["10000"]},
            users={"user@example.org": {"databytes": ["500"]}},
            fails={"broken"},
            silent={"slow"},
        )

    :ivar questions: What was asked, in order: pairs of name and address.
    """

    def __init__(
        self,
        settings: Mapping[str, Sequence[str]] = {},
        *,
        users: Mapping[str, Mapping[str, Sequence[str]]] = {},
        fails: Collection[str] = (),
        silent: Collection[str] = (),
    ) -> None:
        """Take the world; what it maps may be changed later.

        :param users: Settings by mailbox; an empty one is no value.
        :param fails: Names of settings for which a component fails.
        :param silent: Names of settings that are never answered.
        """
        self.questions: list[tuple[str, Address | None]] = []
        self.fails = fails
        self.silent = silent
        self._settings = settings
        self._users = users

    async def first(self, name: str, address: Address | None = None) -> str | None:
        return next(iter(await self.lines(name, address)), None)

    async def lines(self, name: str, address: Address | None = None) -> tuple[str, ...]:
        self.questions.append((name, address))
        if name in self.fails:
            raise ComponentError(f"a component failed for {name}")
        if name in self.silent:
            await Deferred[None]()
        if address is not None:
            for mailbox, settings in self._users.items():
                if Address.parse(mailbox) == address and name in settings:
                    return tuple(settings[name])
        if name in self._settings:
            return tuple(self._settings[name])
        return (DEFAULTS[name](),) if name in DEFAULTS else ()


def _name(name: str) -> str:
    wire = wire_name(name)
    return name if wire is None else wire.decode("ascii")


def _host(name: str) -> str:
    return name if name == "." else name.removesuffix(".").lower()


def _address(text: str) -> str:
    try:
        address: Any = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text
    return str(getattr(address, "ipv4_mapped", None) or address)

# -*- test-case-name: tests.configuration.test_lookup -*-
"""Settings that a component asks for while it works, also on behalf of an address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from qpsmtpd.chain import Ask, Chain
from qpsmtpd.configuration.files import ControlFiles
from qpsmtpd.configuration.plugins import Services
from qpsmtpd.configuration.reference import DEFAULTS, FILES_ONLY
from qpsmtpd.interfaces import IConfiguration
from qpsmtpd.smtp.address import Address

__all__ = ["Lookup"]


@implementer(IConfiguration)
class Lookup:
    """Asks ``user_config``, then ``config``, then the files, then the built-in defaults.

    What ``config`` and the files say is asked for once and remembered, as long as the
    configuration is in use; ``user_config`` is asked each time.

    :ivar chain: The components of this configuration; set once they are there.
    """

    def __init__(self, files: ControlFiles, services: Services) -> None:
        self.chain: Chain | None = None
        self._files = files
        self._services = services

    async def first(self, name: str, address: Address | None = None) -> str | None:
        return next(iter(await self.lines(name, address)), None)

    async def lines(self, name: str, address: Address | None = None) -> tuple[str, ...]:
        chain = self.chain
        if chain is not None and address is not None:
            said = await _answer(chain.user_config, address, name)
            if said is not None:
                return tuple(said)
        files = self._files
        if not files.has_read(name):
            said = None
            if chain is not None and name not in FILES_ONLY:
                said = await _answer(chain.config, name)
            if said is not None:
                files.answer(name, said, "config")
            else:
                reactor: Any = self._services(IReactorThreads)
                await deferToThreadPool(reactor, reactor.getThreadPool(), files.lines, name)
        found = tuple(line.text for line in files.lines(name))
        if not found and name in DEFAULTS and name not in files.answered:
            return (DEFAULTS[name](),)
        return found


async def _answer(ask: Ask | None, *arguments: object) -> Sequence[str] | None:
    answer = ask(*arguments) if ask is not None else None
    if isinstance(answer, Deferred):
        answer = await answer
    found: Sequence[str] | None = answer
    return found

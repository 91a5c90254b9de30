# -*- test-case-name: tests.configuration.test_asking -*-
"""Components that know settings are started and asked before all others are built.

Their hook ``config`` comes before the control files. An answer may take its time, from
another machine perhaps, so a configuration that has such a component is made whole only when
the reactor runs: first it has no other component.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from qpsmtpd.chain import Chain, ComponentError
from qpsmtpd.configuration.errors import ConfigurationError
from qpsmtpd.configuration.files import ControlFiles
from qpsmtpd.configuration.load import Configuration, load
from qpsmtpd.configuration.plugins import Services, declared_files
from qpsmtpd.configuration.reference import ENGINE_FILES, FILES_ONLY

__all__ = ["ANSWER_TIME", "complete"]

#: Seconds that a component may take to start and for each answer, unless its line has a
#: ``time_limit``.
ANSWER_TIME: Final = 30.0


async def complete(
    configuration: Configuration,
    environ: Mapping[str, str],
    services: Services,
    clock: IReactorTime,
) -> Configuration:
    """Make a configuration whole: ask the components that know settings, then build the others.

    :param configuration: From :func:`~qpsmtpd.configuration.load.load`; one that is whole already
        is given back.

    :returns: Its components that were asked have been started, the others not: whoever does not
        start the chain stops it.

    :raises ConfigurationError: If a component does not start or answer; names it.
    :raises ConfigurationErrors: With everything else that is wrong.
    """
    if configuration.whole:
        return configuration
    links = configuration.first
    asked = [Chain([link], clock=clock, time_limit=ANSWER_TIME) for link in links.values()]
    try:
        for chain in asked:
            await _start(chain, clock)
        await _ask(asked, configuration.files)
        return load(configuration.files, environ, services, clock, links)
    except BaseException:
        for chain in reversed(asked):
            await chain.stop()
        raise


async def _start(chain: Chain, clock: IReactorTime) -> None:
    [link] = chain.links
    limit = link.time_limit or ANSWER_TIME
    try:
        await Deferred.fromCoroutine(chain.start()).addTimeout(limit, clock)
    except CancelledError:
        raise
    except TimeoutError:
        raise ConfigurationError(link.name, f"to start within {limit:g} seconds") from None
    except Exception as error:
        raise ConfigurationError(link.name, f"a component that starts; {error!r}") from error


async def _ask(chains: Sequence[Chain], files: ControlFiles) -> None:
    for name in (*ENGINE_FILES, *declared_files(files)):
        if name in FILES_ONLY or name in files.answered:
            continue
        for chain in chains:
            [link] = chain.links
            assert chain.config is not None
            try:
                answer = chain.config(name)
                if isinstance(answer, Deferred):
                    answer = await answer
            except ComponentError as error:
                raise ConfigurationError(name, f"an answer; {error}", file=link.name) from error
            if answer is not None:
                files.answer(name, answer, link.name)
                break

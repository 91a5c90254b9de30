# -*- test-case-name: tests.configuration.test_load -*-
"""A whole configuration, read and checked: a chain and the engine's settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from twisted.internet.interfaces import IReactorTime
from zope.interface.interface import InterfaceClass

import qpsmtpd
from qpsmtpd.chain import Chain, Link
from qpsmtpd.configuration.errors import ConfigurationError, ConfigurationErrors, Notice
from qpsmtpd.configuration.files import ControlFiles, Line
from qpsmtpd.configuration.lookup import Lookup
from qpsmtpd.configuration.plugins import Services, read_first_links, read_links
from qpsmtpd.configuration.settings import read_settings
from qpsmtpd.configuration.values import log_level
from qpsmtpd.interfaces import IConfiguration
from qpsmtpd.settings import Settings

__all__ = ["Configuration", "control_files", "load"]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a server runs on.

    :ivar chain: The components, compiled; not yet started.
    :ivar loglevel: What is logged where no component logs.
    :ivar files: Where it was read from.
    :ivar notices: What it says without an effect.
    :ivar whole: Whether all is there. A configuration with components that know settings begins
        with an empty chain, until :func:`~qpsmtpd.configuration.asking.complete` asks them.
    :ivar first: The links of those components, by their lines.
    """

    chain: Chain
    settings: Settings
    loglevel: int
    files: ControlFiles
    notices: tuple[Notice, ...] = ()
    whole: bool = True
    first: Mapping[Line, Link] = field(default_factory=dict)


def control_files(
    directories: Sequence[str], environ: Mapping[str, str], base: str, policy: str = ""
) -> ControlFiles:
    """Where control files are looked for.

    :param directories: What the operator named; nothing else is searched then. Otherwise it
        is the search path of the Perl qpsmtpd, and where that has no ``plugins`` file, the
        sample configuration that comes with the package.
    :param base: The folder that ``config/`` is looked for in.
    :param policy: A folder whose files win over all others, if there is one.

    :raises ConfigurationError: For a folder that is none.
    """
    for directory in [*directories, *([policy] if policy else [])]:
        if not os.path.isdir(directory):
            raise ConfigurationError(directory, "a folder with control files")
    files = _general_files(directories, environ, base)
    return ControlFiles([*files.directories, os.path.abspath(policy)]) if policy else files


def _general_files(
    directories: Sequence[str], environ: Mapping[str, str], base: str
) -> ControlFiles:
    if directories:
        return ControlFiles([os.path.abspath(directory) for directory in directories])
    files = ControlFiles.from_environment(environ, base)
    if files.path("plugins") is None:
        sample = os.path.join(os.path.dirname(qpsmtpd.__file__), "config")
        files = ControlFiles([sample, *files.directories])
    return files


def load(
    files: ControlFiles,
    environ: Mapping[str, str],
    services: Services,
    clock: IReactorTime | None = None,
    given: Mapping[Line, Link] | None = None,
) -> Configuration:
    """Read and check a configuration.

    :param given: The components that were asked for settings, by their lines, started; ``None``
        where that is still to be done, if there are any. An empty one: nobody is to be asked.

    :raises ConfigurationErrors: With everything that is wrong.
    """
    errors: list[ConfigurationError] = []
    settings = Settings()
    try:
        settings = read_settings(files, environ)
    except ConfigurationErrors as several:
        errors.extend(several)
    level = 4
    try:
        first = files.first("loglevel")
        if first is not None:
            level = first.value(log_level)
        if files.path("plugins") is None:
            where = ", ".join(files.directories)
            raise ConfigurationError("plugins", f"a file of this name in one of {where}")
    except ConfigurationError as error:
        errors.append(error)
    links: list[Link] = []
    notices: list[Notice] = []
    asked: Mapping[Line, Link] = given or {}
    lookup = Lookup(files, services)

    def offered(interface: InterfaceClass) -> object:
        return lookup if interface is IConfiguration else services(interface)

    try:
        if given is None:
            asked = read_first_links(files, services)
        whole = not asked or given is not None
        if whole:
            links, notices = read_links(files, offered, asked)
    except ConfigurationErrors as several:
        errors.extend(several)
    if errors:  # several may read the same file, and one word about each is enough
        raise ConfigurationErrors({str(error): error for error in errors}.values())
    limit = settings.limits.component_time
    chain = Chain(links, clock=clock, time_limit=limit, started=asked.values() if whole else ())
    lookup.chain = chain
    return Configuration(chain, settings, level, files, tuple(notices), whole, asked)

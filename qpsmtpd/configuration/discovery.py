# -*- test-case-name: tests.configuration.test_discovery -*-
"""A plugin's name to its maker. Only what is named is imported.

``queue/qmail-queue`` is the module ``qpsmtpd.plugins.queue.qmail_queue``, wherever along
that package's path it lies: among the bundled plugins, in a distribution of somebody
else, or in a folder that ``plugin_dirs`` names.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable, Iterator
from typing import Final

import qpsmtpd.plugins
from qpsmtpd.component import PluginMaker

__all__ = ["DiscoveryError", "NotFoundError", "add_folders", "find", "names", "perl_file"]

_PART: Final = re.compile(r"[A-Za-z0-9_-]+")

#: Octets of a file that are looked at for signs of Perl.
_LOOKED_AT: Final = 65536

_PERL: Final = re.compile(
    rb"^(?:#!.*\bperl\b|=(?:head1|pod)\b|use (?:strict|warnings|Qpsmtpd)\b|sub \w+\b)", re.MULTILINE
)


class DiscoveryError(Exception):
    """There is no plugin of a name, or its module cannot be used; says why."""


class NotFoundError(DiscoveryError):
    """No module has the name."""


def add_folders(folders: Iterable[str]) -> None:
    """Search these folders before all others, the first of them first."""
    path = qpsmtpd.plugins.__path__
    for folder in reversed(list(folders)):
        folder = os.path.abspath(folder)
        if folder in path:
            path.remove(folder)
        path.insert(0, folder)
    importlib.invalidate_caches()


def find(name: str) -> PluginMaker:
    """The maker of the plugin of a name.

    :param name: As a line of the ``plugins`` file has it.

    :raises DiscoveryError: If there is none.
    """
    if not all(_PART.fullmatch(part) for part in name.split("/")):
        raise DiscoveryError(f"{name} is no plugin's name")
    module = _module(name)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            where = ", ".join(filter(os.path.isdir, qpsmtpd.plugins.__path__))
            raise NotFoundError(f"plugin {name} not found in {where}") from None
        raise DiscoveryError(
            f"plugin {name} needs the Python module {error.name}, which is not installed"
        ) from None
    except (Exception, SystemExit) as error:
        raise DiscoveryError(f"plugin {name} cannot be imported: {error!r}") from error
    for value in vars(found).values():
        if isinstance(value, PluginMaker) and _module(value.name) == module:
            return value
    raise DiscoveryError(f"{found.__file__} has no PluginMaker for {name}")


def perl_file(name: str) -> str | None:
    """The file that the Perl qpsmtpd would take for a plugin, if it looks like Perl."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return None
    for folder in qpsmtpd.plugins.__path__:
        path = os.path.join(folder, *parts)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                if _PERL.search(file.read(_LOOKED_AT)):
                    return path
        except OSError:
            continue
    return None


def _module(name: str) -> str:
    """The module of a plugin. No module's name has hyphens."""
    return ".".join(["qpsmtpd.plugins", *name.replace("-", "_").split("/")])


def names() -> list[str]:
    """The names of all plugins that can be found, sorted. Imports none of them.

    They are those of the modules, with underscores where the maker's name may have hyphens;
    :func:`find` takes either.
    """
    return sorted(set(_names(qpsmtpd.plugins.__path__)))


def _names(folders: Iterable[str], prefix: str = "") -> Iterator[str]:
    for folder in folders:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            stem, ending = os.path.splitext(entry.name)
            if entry.is_dir() and _PART.fullmatch(entry.name) and entry.name != "__pycache__":
                yield from _names([entry.path], f"{prefix}{entry.name}/")
            elif ending == ".py" and _PART.fullmatch(stem) and not stem.startswith("_"):
                yield prefix + stem

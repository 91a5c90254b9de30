# -*- test-case-name: tests.plugins.test_user_config -*-
"""Read settings of users from folders of their own.

A component that asks for a setting on behalf of an address gets the lines of the file of the
setting's name in the address's folder, if there is one; otherwise what holds for everybody::

    user_config
    user_config /srv/mail/%h/%u/config
    user_config /home/%u/.qpsmtpd extension +

Arguments:

the folder
    ``%u`` stands for the local part, ``%h`` for the domain, ``%a`` for the whole address, all in
    lower case. The default is ``/home/%u/.qpsmtpd``.
``extension``
    Characters that begin what does not count of a local part: with ``+``, ``joe+list`` has the
    settings of ``joe``.

Blank lines and lines that begin with ``#`` mean nothing. A file may be of 1 MiB at most. One that
cannot be read is told in the log, and what holds for everybody counts.

What a client writes as an address never leads anywhere else: an address has no folder if what
stands for ``%u``, ``%h`` or ``%a`` would be empty, begin with a dot, or hold a slash or what is
not printable. Links are followed, but neither out of the user's folder nor, for that folder
itself, out of the part of the path that stands before the first ``%``. In the Perl qpsmtpd a
local part such as ``x/../../etc`` led to any folder, comments were values, and upper case
mattered.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from zope.interface import implementer

from qpsmtpd.component import PluginMaker, argument, component, service
from qpsmtpd.configuration.values import ConversionError, converter, text
from qpsmtpd.interfaces import IUserConfig
from qpsmtpd.smtp.address import Address

log: Final = Logger()

_SIZE_LIMIT: Final = 1 << 20
_DEFAULT: Final = "/home/%u/.qpsmtpd"


@converter("the path of a folder, with %u, %h or %a in it")
def folder_pattern(text: str) -> str:
    """Take the pattern of users' folders."""
    if not text.startswith("/"):
        raise ConversionError("it does not begin with /")
    if not any(sign in text for sign in ("%u", "%h", "%a")):
        raise ConversionError("one folder for all users is what control files are for")
    return os.path.normpath(text)


@implementer(IUserConfig)
@component
class UserConfig:
    """Reads files in threads, for each question anew."""

    folder: str = argument(
        folder_pattern, positional=True, default=_DEFAULT, help="folders of users"
    )
    extension: str = argument(
        text, default="", help="characters that begin what does not count of a local part"
    )
    threads: IReactorThreads = service(IReactorThreads)

    async def user_config(self, address: Address, name: str) -> Sequence[str] | None:
        folder = self._folder(address)
        if folder is None or not _is_plain(name):
            return None
        reactor: Any = self.threads
        path = os.path.join(folder, name)
        base = os.path.dirname(self.folder.partition("%")[0])
        try:
            octets: bytes | None = await deferToThreadPool(
                reactor, reactor.getThreadPool(), _read, path, folder, base
            )
            return None if octets is None else _lines(octets)
        except (OSError, UnicodeDecodeError) as error:
            log.info("Couldn't open {path}: {error}", path=path, error=error, severity=5)
            return None

    def _folder(self, address: Address) -> str | None:
        """The folder of an address; ``None`` for one that could lead elsewhere."""
        if address.domain is None:
            return None
        user = address.local_part.lower()
        for character in self.extension:
            user = user.partition(character)[0]
        values = {"u": user, "h": address.domain.lower(), "a": f"{user}@{address.domain.lower()}"}
        first, *parts = self.folder.split("%")
        path = first
        for part in parts:
            value = values.get(part[:1])
            if value is None:  # a percent sign of the operator's own
                path += f"%{part}"
            elif _is_plain(value):
                path += value + part[1:]
            else:
                return None
        return path


def _is_plain(part: str) -> bool:
    """Whether something is a name in a folder, and no way out of it."""
    return bool(part) and part.isprintable() and "/" not in part and not part.startswith(".")


def _read(path: str, folder: str, base: str) -> bytes | None:
    """What a file holds; ``None`` if there is no plain one. Runs in a thread.

    :raises OSError: If it cannot be read, or lies where it has no business.
    """
    real = os.path.realpath(path)
    if not os.path.isfile(real):
        return None
    real_folder = os.path.realpath(folder)
    if not (_is_below(real, real_folder) and _is_below(real_folder, os.path.realpath(base))):
        raise PermissionError(f"it leads out of its folder, to {real}")
    # Whoever owns the folder may have put something else there in between.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(real, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return None
        octets = file.read(_SIZE_LIMIT + 1)
    if len(octets) > _SIZE_LIMIT:
        raise PermissionError(f"it is longer than {_SIZE_LIMIT} octets")
    return octets


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _lines(octets: bytes) -> list[str]:
    lines = (line.strip() for line in octets.split(b"\n"))
    return [line.decode() for line in lines if line and not line.startswith(b"#")]


maker = PluginMaker("user_config", UserConfig)

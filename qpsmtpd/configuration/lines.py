# -*- test-case-name: tests.configuration.test_lines -*-
"""A line of the ``plugins`` file: a plugin, its instance and its arguments.

::

    relay:0  only
    rcpt_ok
    logging/file  loglevel LOGINFO  "/var/log/mail traffic"

The fields are separated by spaces and tabs. Single quotes, double quotes and the
backslash keep a field together as in a shell, but nothing is ever expanded. In
the Perl qpsmtpd they were ordinary characters and a tab was an error.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from qpsmtpd.configuration.files import Line

__all__ = ["PluginLine", "parse", "quote"]


@dataclass(frozen=True, slots=True)
class PluginLine:
    """One line of the ``plugins`` or ``logging`` file.

    :ivar name: The plugin's name, as in ``queue/maildir``.
    :ivar instance: The digits after ``:`` that tell several uses of a plugin
        apart; `None` and ``"0"`` are different instances.
    :ivar arguments: The other fields, without their quotes.
    :ivar file: The file it stands in.
    :ivar line: The line in that file, counted from 1.
    """

    name: str
    instance: str | None
    arguments: tuple[str, ...]
    file: str
    line: int

    @property
    def title(self) -> str:
        """The plugin as the file names it: ``relay:0``."""
        return self.name if self.instance is None else f"{self.name}:{self.instance}"

    @property
    def log_name(self) -> str:
        """The title as the Perl qpsmtpd logs it, for tools that read such logs.

        What is no letter, digit, ``_`` or ``/`` becomes ``_`` and two hexadecimal
        digits, and so does a digit after a slash; slashes become ``::``.
        """
        escaped = _UNSAFE_IN_LOG.sub(_escaped, self.title)
        return _SLASH.sub(lambda match: "::" + _escaped(match), escaped)

    @classmethod
    def parse(cls, line: Line) -> "PluginLine":
        """Read one line.

        :raises ConfigurationError: It has characters other than printable
            ASCII and tab, a quote that does not end, or a first field that
            cannot be a plugin's name.
        """
        if unsafe := _UNSAFE.search(line.text):
            raise line.error(f"printable ASCII, not the unsafe characters {unsafe[0]!a}")
        name, *arguments = _fields(line)
        if "::" in name:
            raise line.error(
                "a plugin's name as in queue/maildir; Package::Module cannot be loaded", name
            )
        match = _TITLE.fullmatch(name)
        if match is None:
            raise line.error("a plugin's name as in queue/maildir, or with a number, relay:1", name)
        return cls(match["name"], match["instance"], tuple(arguments), line.file, line.number)


def parse(lines: Iterable[Line]) -> tuple[PluginLine, ...]:
    """Read the lines of a ``plugins`` file, in their order.

    :raises ConfigurationError: As for `PluginLine.parse`, at the first wrong line.
    """
    return tuple(map(PluginLine.parse, lines))


def quote(fields: Iterable[str]) -> str:
    """Write fields as a line, with quotes where one needs them: the inverse of reading."""
    return shlex.join(fields)


_UNSAFE: Final = re.compile(r"[^\t\x20-\x7e]+")
_PART: Final = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
_TITLE: Final = re.compile(rf"(?P<name>{_PART}(?:/{_PART})*)(?::(?P<instance>[0-9]+))?")
_UNSAFE_IN_LOG: Final = re.compile(r"([^A-Za-z0-9_/])")
_SLASH: Final = re.compile(r"/+([0-9]?)")


def _fields(line: Line) -> list[str]:
    try:
        return shlex.split(line.text) or [""]
    except ValueError as error:
        raise line.error("every quote to be closed, and a character after a backslash") from error


def _escaped(match: re.Match[str]) -> str:
    return f"_{ord(match[1]):02x}" if match[1] else ""

# -*- test-case-name: tests.configuration.test_settings -*-
"""Control files to the engine's settings."""

from __future__ import annotations

import dataclasses
import os
import pwd
import stat
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from qpsmtpd.configuration.errors import ConfigurationError, ConfigurationErrors
from qpsmtpd.configuration.files import ControlFiles, Line
from qpsmtpd.configuration.reference import DEFAULTS
from qpsmtpd.configuration.values import (
    choice,
    converter,
    domain,
    integer,
    octal_mode,
    path,
    seconds,
    size,
    text,
    yes_no,
)
from qpsmtpd.settings import Settings
from qpsmtpd.smtp.extensions import Extensions
from qpsmtpd.smtp.limits import BareNewlines, Limits

__all__ = ["read_settings"]

T = TypeVar("T")

_BARE: Final = choice(*(policy.value for policy in BareNewlines))


@converter("a number of octets above 0, or a number with k, M or G as in 2k")
def _some_octets(text: str) -> int:
    found = size(text)
    if not found:
        raise ValueError(text)
    return found


_NUMBERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "command_line": _some_octets,
    "auth_line": _some_octets,
    "text_line": size,
    "header_size": size,
    "recipients": integer,
    "errors": integer,
    "auth_failures": integer,
    "auth_delay": seconds,
    "unknown_commands": integer,
    "idle_commands": integer,
    "bare_newlines": lambda word: BareNewlines(_BARE(word)),
    "command_time": seconds,
    "content_time": seconds,
    "message_time": seconds,
    "session_time": seconds,
    "component_time": seconds,
}

_CONNECTIONS: Final = ("connections", "connections_per_address")

_KEYWORDS: Final[Mapping[str, str]] = {
    "PIPELINING": "pipelining",
    "8BITMIME": "eightbitmime",
    "SMTPUTF8": "smtputf8",
    "CHUNKING": "chunking",
    "BINARYMIME": "binarymime",
    "DSN": "dsn",
}


def read_settings(files: ControlFiles, environ: Mapping[str, str]) -> Settings:
    """Read the engine's settings.

    :param environ: The process's environment; ``DATABYTES`` counts, as in qmail-smtpd.

    :raises ConfigurationErrors: With all that is wrong.
    """
    reader = _Reader(files)
    limits: dict[str, Any] = {}
    connections: dict[str, Any] = {}
    for line in reader.lines("limits"):
        name, *rest = line.text.split(None, 1)
        value = "".join(rest)
        if name in _CONNECTIONS:
            connections[name] = reader.value(line, integer, value)
        elif name in _NUMBERS:
            limits[name] = reader.value(line, _NUMBERS[name], value)
        else:
            known = ", ".join(sorted([*_NUMBERS, *_CONNECTIONS]))
            reader.errors.append(line.error(f"the name of a limit: {known}"))
    databytes = reader.first("databytes", size)
    if environ.get("DATABYTES"):
        databytes = reader.variable("DATABYTES", size, environ)
    if databytes is not None:
        limits["message_size"] = databytes
    timeouts = reader.first("timeoutsmtpd", seconds), reader.first("timeout", seconds)
    timeout = timeouts[0] or timeouts[1] or seconds(DEFAULTS["timeout"]())
    limits.setdefault("command_time", timeout)
    limits.setdefault("content_time", timeout)
    spool_perms = reader.first("spool_perms", octal_mode)
    threshold = reader.first("size_threshold", size)
    me = reader.first("me", text) or DEFAULTS["me"]()
    settings = Settings(
        me=me,
        authserv_id=_authserv_id(reader, me),
        greeting=reader.first("smtpgreeting", text),
        extensions=_extensions(reader),
        localiphost=reader.first("localiphost", domain),
        spool_dir=reader.first("spool_dir", path) or _own_folder(environ),
        spool_perms=0o700 if spool_perms is None else spool_perms,
        tls_before_auth=bool(reader.first("tls_before_auth", yes_no)),
        reverse_dns=bool(reader.first("reverse_dns", yes_no)),
        **connections,
    )
    if reader.errors:
        raise ConfigurationErrors(reader.errors)
    if threshold is not None:
        settings = dataclasses.replace(settings, size_threshold=threshold)
    return dataclasses.replace(settings, limits=Limits(**limits))


def _own_folder(environ: Mapping[str, str]) -> str | None:
    """The folder that the Perl qpsmtpd made for messages, ``~/tmp``, if it is there for us.

    It is not made: whoever begins anew has a better one in ``spool_dir``.
    """
    user = os.geteuid()
    if user == 0:  # root's is of no use to the user who serves
        return None
    home = environ.get("HOME") or environ.get("LOGDIR")
    try:
        folder = os.path.join(home or pwd.getpwuid(user).pw_dir, "tmp")
        found = os.stat(folder)
    except (KeyError, OSError):
        return None
    return folder if stat.S_ISDIR(found.st_mode) and found.st_uid == user else None


def _authserv_id(reader: _Reader, me: str) -> str | None:
    name = reader.first("me-auth-results", text) or me
    return None if name == "none" else name


def _extensions(reader: _Reader) -> Extensions:
    flags: dict[str, Any] = {}
    for line in reader.lines("extensions"):
        keyword = line.text.removeprefix("-").upper()
        if keyword in _KEYWORDS:
            flags[_KEYWORDS[keyword]] = not line.text.startswith("-")
        else:
            known = ", ".join(_KEYWORDS)
            reader.errors.append(line.error(f"one of {known}, with - before it to not offer it"))
    return Extensions(**flags)


class _Reader:
    """Reads control files and gathers what is wrong with them."""

    def __init__(self, files: ControlFiles) -> None:
        self._files = files
        self.errors: list[ConfigurationError] = []

    def lines(self, name: str) -> tuple[Line, ...]:
        try:
            return self._files.lines(name)
        except ConfigurationError as error:
            self.errors.append(error)
            return ()

    def first(self, name: str, converter: Callable[[str], T]) -> T | None:
        lines = self.lines(name)
        return self.value(lines[0], converter, lines[0].text) if lines else None

    def variable(
        self, name: str, converter: Callable[[str], T], environ: Mapping[str, str]
    ) -> T | None:
        try:
            return converter(environ[name])
        except ValueError as error:
            self.errors.append(ConfigurationError(f"{name}={environ[name]}", str(error)))
            return None

    def value(self, line: Line, converter: Callable[[str], T], found: str) -> Any:
        try:
            return converter(found.strip())
        except ValueError as error:
            self.errors.append(line.error(str(error)))
            return None

# -*- test-case-name: tests.plugins.logging.test_json -*-
"""Log structured: one JSON object on each line, for programs that gather logs.

::

    logging/json
    logging/json /var/log/qpsmtpd/mx.json
    logging/json loglevel LOGNOTICE /var/log/qpsmtpd/mx.json

Without a path it goes to standard error. The file is made if need be and appended to; when it was
moved away or removed, another one is made.

A line is one event::

    {"time": "2026-11-25T21:30:00.123456Z", "level": 6, "severity": "info", "pid": 2412,
     "session": "65610d1a-96c-1f", "transaction": "65610d1a-96c-1f.1",
     "plugin": "rcpt_ok", "hook": "rcpt", "text": "pass: mail.example in rcpthosts"}

``time`` is in UTC. ``session``, ``transaction``, ``plugin`` and ``hook`` are only there where an
event has them; ``traceback`` has the lines of one; ``fields`` is an object with whatever else was
logged with the event. Secrets are left out of all of it.

loglevel
    The least severe level to log, by number or name. ``LOGINFO`` is the default.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import IO, Any, Final

from twisted.python.failure import Failure
from zope.interface import implementer

from qpsmtpd.component import PluginMaker, argument, component
from qpsmtpd.configuration.values import log_level, path
from qpsmtpd.interfaces import ILifecycle, ILogging
from qpsmtpd.services.logs import (
    END_LIMIT,
    LineWriter,
    StreamWriter,
    plugin_of,
    redacted,
    standard_error,
    text_of,
    traceback_of,
)

NAME = "logging/json"

_SEVERITIES: Final = ("emerg", "alert", "crit", "error", "warn", "notice", "info", "debug")

#: What has a place of its own, or is for Twisted.
_OWN: Final = frozenset({"session", "transaction", "plugin", "hook", "text", "severity", "pid"})

#: What Twisted's older logging adds to an event when somebody still uses it.
_LEGACY: Final = frozenset({"message", "time", "system", "format", "isError", "failure", "why"})


@implementer(ILogging, ILifecycle)
@component
class Json:
    """Hands lines to a thread, which has the file."""

    path: str = argument(path, default="", positional=True, help="the file; standard error without")
    loglevel: int = argument(log_level, default=6, help="the least severe level to log")

    def __post_init__(self) -> None:
        self._writer: LineWriter[str]
        if self.path:
            self._file = JsonFile(self.path)
            self._writer = LineWriter(self._file.write, _lost, self._file.close)
        else:
            self._writer = StreamWriter(standard_error())

    def start(self) -> None:
        """The first line opens the file."""

    def stop(self) -> None:
        self._writer.close(END_LIMIT)

    def logging(self, level: int, event: dict[str, Any]) -> None:
        if level <= self.loglevel:
            self._writer.put(line_of(level, event))


def line_of(level: int, event: dict[str, Any]) -> str:
    """An event as one line of JSON."""
    made: dict[str, Any] = {
        "time": _utc(event.get("log_time") or time.time()),
        "level": level,
        "severity": _SEVERITIES[level],
        "pid": os.getpid(),
    }
    for name in ("session", "transaction"):
        if event.get(name):
            made[name] = str(event[name])
    plugin = plugin_of(event)
    if plugin:
        made["plugin"] = plugin
    if event.get("hook"):
        made["hook"] = str(event["hook"])
    made["text"] = text_of(event)
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        made["traceback"] = list(traceback_of(failure))
    fields = _fields(event)
    if fields:
        made["fields"] = fields
    return json.dumps(made)


def _fields(event: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    own = _OWN | _LEGACY if "log_legacy" in event else _OWN
    for name, value in event.items():
        if name in own or name.startswith("log_"):
            continue
        plain = value is None or isinstance(value, (str, int))
        if isinstance(value, float):
            plain = math.isfinite(value)  # JSON has no others
        try:
            fields[name] = value if plain else str(value)
        except Exception:
            fields[name] = f"<{type(value).__name__}>"
    return redacted(fields)  # objects are texts only now


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def _lost(count: int) -> str:
    text = f"{count} lines were lost: they could not be written in time"
    return line_of(4, {"log_format": "{text}", "text": text, "plugin": NAME})


class JsonFile:
    """A file of lines that others may move away. All of it runs in the writer's thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._complained = ""

    def write(self, lines: Sequence[str]) -> None:
        """Write lines.

        :raises OSError: The file cannot be opened or written.
        """
        if self._file is not None and self._moved(self._file):
            self.close()
        if self._file is None:
            self._file = self._opened()
        rest = memoryview("".join([f"{line}\n" for line in lines]).encode("ascii"))
        while rest:
            rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _moved(self, file: IO[bytes]) -> bool:
        try:
            there = os.stat(self._path)
        except OSError:
            return True
        return not os.path.samestat(there, os.fstat(file.fileno()))

    def _opened(self) -> IO[bytes]:
        try:
            file = open(self._path, "ab", buffering=0)  # noqa: SIM115 - kept open
        except OSError as error:
            text = f"{NAME}: {self._path} cannot be opened: {error.strerror}"
            if text != self._complained:
                self._complained = text
                print(text, file=standard_error(), flush=True)
            raise
        self._complained = ""
        return file


maker = PluginMaker(NAME, Json)

# -*- test-case-name: tests.logtools.test_lines -*-
"""A line of a log, taken apart.

A line is ``[time stamp] NUMBER [session] (hook) plugin: text``, as in
``docs/reference/log-format.md``. All but the text may be missing. Stamps are known from
``multilog`` and ``svlogd``; the plugin ``logging/file`` has a stamp that anybody can choose, and
behind it ``HOST[NUMBER]:`` in the place of the number. ``logging/adaptive`` and
``logging/connection_id`` write ``plugin plugin (hook): text``, the second with the id of the
session in the place of the number. ``logging/json`` writes an object with the same parts.

The text has what a client sent. It is shown with :func:`printable` alone.
"""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from typing import Final, NamedTuple

from qpsmtpd.logtools import registry

__all__ = ["Line", "parse", "printable", "time_of"]


class Line(NamedTuple):
    """What a line says.

    :ivar stamp: Its time stamp as written, or an empty text.
    :ivar pid: The number that all lines of a session have: the id of its process, with six digits
        of the session's behind it unless the Perl qpsmtpd wrote it. Or an empty text.
    :ivar session: The id of the session, without brackets.
    :ivar hook: The hook at which the plugin was asked.
    :ivar plugin: The plugin's name, such as ``queue::maildir``.
    :ivar text: The rest.
    """

    stamp: str
    pid: str
    session: str
    hook: str
    plugin: str
    text: str

    @property
    def rest(self) -> str:
        """Hook, plugin and text: the line without what tells whose it is."""
        hook = f"({self.hook}) " if self.hook else ""
        return f"{hook}{self.plugin}: {self.text}" if self.plugin else hook + self.text

    @property
    def whole(self) -> str:
        """The line without its time stamp."""
        pid = f"{self.pid} " if self.pid else ""
        return pid + (f"[{self.session}] " if self.session else "") + self.rest


#: What multilog and svlogd put before a line.
_STAMP: Final = re.compile(
    r"@[0-9a-f]{24} |\d{4}-\d\d-\d\d[_T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)? "
)

#: The id of a process has seven digits at most, and six more are the session's.
_NUMBER: Final = r"\d{1,13}"

#: Not a time stamp of ``logging/file`` that happens to be a number.
_PID: Final = re.compile(rf"({_NUMBER}) (?![\w.-]{{1,255}}\[{_NUMBER}\]: )")

#: What ``logging/file`` has before a line, whatever its time stamp; likewise syslog.
_FILE: Final = re.compile(
    rf"(?P<stamp>.{{1,80}}?) (?P<host>[\w.-]{{1,255}})\[(?P<pid>{_NUMBER})\]: "
)

#: Ids of sessions as the server makes them: three hexadecimal numbers; behind a dot, the
#: transaction's number.
_ID: Final = r"([0-9a-f]{1,16}-[0-9a-f]{1,8}-[0-9a-f]{1,16})(?:\.\d{1,9})?"

_SESSION: Final = re.compile(rf"\[{_ID}\] ")

_BARE_ID: Final = re.compile(rf"(?:{_ID}|\?\?\?) ")

_HOOK: Final = re.compile(r"\(([a-z][\w-]{0,40})\) ")

_PLUGIN: Final = re.compile(r"([A-Za-z_][\w/-]*(?:::?[\w/-]+)*): ")

#: The other order, with what ``logging/adaptive`` puts before it. Commands of clients look like
#: this if they want to, so it counts for names that are known.
_ADAPTIVE: Final = re.compile(r"\W{0,8}([A-Za-z_][\w:]*) plugin(?: \(([a-z][\w-]{0,40})\))?: ")

#: Queue plugins of the Perl qpsmtpd log from a process of their own.
_FOR: Final = re.compile(rf"\(for ({_NUMBER})\s*\)\s*")


def parse(line: bytes) -> Line:
    """Take a line apart; what is not understood is all text.

    :param line: Without its end.
    """
    text = line.decode("utf-8", "backslashreplace").rstrip("\r")
    stamp = pid = session = ""
    if found := _STAMP.match(text):
        stamp, text = found[0][:-1], text[found.end() :]
    if text.startswith("{") and (made := _parse_json(text)):
        return made
    if found := _PID.match(text):
        pid, text = found[1], text[found.end() :]
    elif found := _BARE_ID.match(text):
        session, text = found[1] or "", text[found.end() :]
    elif found := _FILE.match(f"{stamp} {text}" if stamp else text):
        text = text[found.end() - (len(stamp) + 1 if stamp else 0) :]
        stamp, pid = found["stamp"], found["pid"]
    if found := _SESSION.match(text):
        session, text = found[1], text[found.end() :]
    return _parse_rest(stamp, pid, session, text)


def _parse_json(text: str) -> Line | None:
    """A line of ``logging/json``, or nothing if it is none."""
    try:
        made = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(made, dict) or not isinstance(made.get("text"), str):
        return None
    names = ("time", "pid", "session", "hook", "plugin", "text")
    # JSON has escapes for halves of characters, which nothing else takes.
    stamp, pid, *rest = (
        str(made.get(name) or "").encode("utf-8", "backslashreplace").decode() for name in names
    )
    return Line(stamp, pid if re.fullmatch(_NUMBER, pid) else "", *rest)


def _parse_rest(stamp: str, pid: str, session: str, text: str) -> Line:
    hook = plugin = ""
    if found := _HOOK.match(text):
        hook, text = found[1], text[found.end() :]
    # Only a plugin's line has a name: behind a hook, or as one word. A command or a reply that
    # is logged begins with other words.
    if found := _PLUGIN.match(text):
        plugin, text = found[1], text[found.end() :]
    elif not hook and (found := _ADAPTIVE.match(text)) and registry.find(found[1]).id:
        plugin, hook, text = found[1], found[2] or "", text[found.end() :]
    if plugin.startswith("queue::") and (found := _FOR.match(text)):
        pid, text = found[1], text[found.end() :]
    return Line(stamp, pid, session, hook, plugin, text)


#: The Unix epoch in multilog's and svlogd's TAI64N labels.
_TAI_EPOCH: Final = 4611686018427387914


def time_of(stamp: str) -> float | None:
    """The seconds since 1970 that a time stamp says; ``None`` if it is of an unknown form."""
    if stamp.startswith("@") and len(stamp) == 25:
        seconds = int(stamp[1:17], 16) - _TAI_EPOCH
        return seconds + int(stamp[17:], 16) / 1e9 if 0 <= seconds < 2**40 else None
    try:
        when = datetime.fromisoformat(stamp.replace("_", "T"))
    except ValueError:
        return _local_time(stamp)
    # svlogd's times are in UTC and do not say so.
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _local_time(stamp: str) -> float | None:
    try:
        return time.mktime(time.strptime(stamp, "%a %b %d %H:%M:%S %Y"))
    except (ValueError, OverflowError):
        return None


def printable(text: str) -> str:
    """A text in which nothing can command a terminal: what is not printable is escaped."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode()
        for each in text
    )

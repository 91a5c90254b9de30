# -*- test-case-name: tests.logtools.test_command -*-
"""The commands of ``python -m qpsmtpd log``."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from qpsmtpd.logtools.files import follow, read
from qpsmtpd.logtools.lines import parse, printable

if TYPE_CHECKING:
    from qpsmtpd.logtools.sessions import Session

__all__ = ["add_commands"]

#: Where a log service beside the server writes, counted from the service's folder.
CURRENT: Final = Path("log/main/current")

#: Lines to begin with.
WATCH_LINES: Final = 300
SUMMARIZE_LINES: Final = 1000

_DESCRIPTION: Final = """\
Look at the log: as it grows, in a table, for one message, or in a database.

The log is log/main/current below the current folder, unless files are named. Lines are those of
logging/warn, logging/file or logging/json, with or without the time stamps of multilog and svlogd.
For the table and the database the level has to be LOGINFO. Logs of the Perl qpsmtpd can be read
as well.
"""

_SYMBOLS: Final = """\
One row for each connection, when it is over; a column for each plugin that has said something:
  o  pass, positive            X  fail: refused
  -  skip: not tested          x  fail, tolerated; negative
  !  error: not testable
Anything else is shown as the plugin said it. --once ends with figures of all connections.
"""

_SHOW: Final = """\
WANTED is one of
  2412000031            the number that the lines of a session begin with
  2412                  the id of a process
  65610d1a-96c-1f       the id of a session
  65610d1a-96c-1f.2     the id of a mail transaction
  192.0.2.7, 2001:db8::7        a client's address: its last connection
  a@example.org, <id@example.org>  what stands in a line: the last connection with it

Without FILE, log/main/current and the older files beside it are searched.
"""

_SQL: Final = """\
Each FILE goes in whole or not at all. What was read of it is remembered, so the command can be run
again and again, also while files grow and are rotated. Without FILE, log/main/current and the
older files beside it are read.
"""


def add_commands(commands: Any) -> None:
    """Add ``log`` to the commands of a command line."""
    log = commands.add_parser(
        "log",
        help="watch, summarize or search the log",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tools = log.add_subparsers(required=True, metavar="TOOL")

    watch = tools.add_parser("watch", help="follow the log, without its time stamps")
    _add_file(watch)
    _add_lines(watch, WATCH_LINES)
    watch.set_defaults(run=_guarded(_watch))

    summarize = _described(tools, "summarize", "a table with a row for each connection", _SYMBOLS)
    _add_file(summarize)
    _add_lines(summarize, SUMMARIZE_LINES)
    summarize.add_argument("-l", "--long", action="store_true", help="wide columns")
    summarize.add_argument(
        "-1", "--once", action="store_true", help="all that is there, then figures, then the end"
    )
    summarize.set_defaults(run=_guarded(_summarize))

    show = _described(tools, "show", "all lines of a message or connection", _SHOW)
    show.add_argument("wanted", metavar="WANTED", help="see below")
    show.add_argument("file", nargs="*", type=Path, metavar="FILE", help="files to look in")
    show.add_argument("-a", "--all", action="store_true", help="each connection, not the last one")
    show.set_defaults(run=_guarded(_show))

    sql = _described(tools, "sql", "put the log into an SQLite database", _SQL, ["log2sql"])
    sql.add_argument("file", nargs="*", type=Path, metavar="FILE", help="files of the log")
    sql.add_argument(
        "-d", "--database", required=True, type=Path, metavar="FILE", help="the database"
    )
    sql.set_defaults(run=_guarded(_sql))


def _described(
    tools: Any, name: str, text: str, epilog: str, aliases: Sequence[str] = ()
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = tools.add_parser(
        name,
        aliases=aliases,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", nargs="?", type=Path, default=CURRENT, metavar="FILE", help=f"instead of {CURRENT}"
    )


def _add_lines(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "-n",
        "--lines",
        type=_count,
        default=default,
        metavar="NUMBER",
        help=f"lines to begin with, {default} unless it says otherwise",
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of lines")
    return int(text)


def _guarded(
    run: Callable[[argparse.Namespace], int],
) -> Callable[[argparse.Namespace], int]:
    """A tool that ends well with Ctrl-C, and says which file it could not read."""

    def guarded(options: argparse.Namespace) -> int:
        try:
            return run(options)
        except KeyboardInterrupt:
            return 0
        except BrokenPipeError:
            raise  # who reads has enough; the caller knows
        except OSError as error:
            if error.filename is None:
                raise
            print(f"{error.filename}: {error.strerror}", file=sys.stderr)
            if options.file in (CURRENT, []):
                print("Name the files of the log, or run it beside log/main.", file=sys.stderr)
            return 1

    return guarded


def _print(lines: Iterator[str], output: TextIO) -> None:
    for line in lines:
        encoding = output.encoding or "utf-8"
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=output)


def _watch(options: argparse.Namespace) -> int:
    for octets in follow(options.file, options.lines):
        if octets is None:
            sys.stdout.flush()
        else:
            _print(iter([printable(parse(octets).whole)]), sys.stdout)
    return 0


def _summarize(options: argparse.Namespace) -> int:
    from qpsmtpd.logtools.figures import Figures
    from qpsmtpd.logtools.summary import Summary

    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    summary = Summary(long=options.long, colour=colour)
    figures = Figures()
    for session in _sessions(options):
        if session is None:
            sys.stdout.flush()
        elif session.has_client:
            figures.add(session)
            _print(summary.lines(session), sys.stdout)
    _print(itertools.chain([""], figures.lines()), sys.stdout)
    return 0


def _sessions(options: argparse.Namespace) -> Iterator[Session | None]:
    """Sessions of the log, and ``None`` when nothing new is there."""
    from qpsmtpd.logtools.sessions import Sessions

    sessions = Sessions()
    for octets in _whole(options.file) if options.once else follow(options.file, options.lines):
        if octets is None:
            yield from sessions.idle()
            yield None
        else:
            yield from sessions.feed(parse(octets))
    yield from sessions.end()


def _whole(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from read(file)


def _show(options: argparse.Namespace) -> int:
    from qpsmtpd.logtools.show import show

    found = False
    for line in show(options.wanted, _files(options.file), every=options.all):
        found = True
        _print(iter([line]), sys.stdout)
    if not found:
        print(f"{options.wanted}: nothing in the log is about it", file=sys.stderr)
    return 0 if found else 1


def _sql(options: argparse.Namespace) -> int:
    from qpsmtpd.logtools.sql import DatabaseError, load

    try:
        for path, loaded in load(options.database, _files(options.file)):
            print(f"{path}: {loaded.lines} new lines, {loaded.sessions} new connections")
    except DatabaseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _files(named: Sequence[Path]) -> list[Path]:
    """Files of a log from the oldest on: those named, or the current one and its former ones."""
    paths = named or [*CURRENT.parent.glob("@*.[su]"), CURRENT]
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns)

# -*- test-case-name: tests.configuration.test_files -*-
"""Control files: where a setting's file is found, and the lines it holds.

A control file is text in UTF-8, a value on each line. White space around a
line, blank lines and lines that begin with ``#`` mean nothing; there are no
comments after a value, no quotes and no continuation lines. A line
``$include TARGET`` stands for the lines of another file, or of all files in a
directory. A file ``NAME.cdb`` is a constant database instead, whose keys are looked up.
"""

import codecs
import errno
import os
import re
import stat
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from qpsmtpd.configuration.databases import open_database
from qpsmtpd.configuration.errors import ConfigurationError
from qpsmtpd.configuration.values import Converter

__all__ = ["ControlFiles", "Line"]

T = TypeVar("T")

#: How deep files may include files. Far more than anyone arranges by hand, and
#: far less than Python's stack.
INCLUDE_DEPTH: Final = 20


#: Octets of the largest file that is read: some million lines, and no accident.
FILE_LIMIT: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Line:
    """One line that means something, and where it stands.

    :ivar text: The line, without white space around it; never empty.
    :ivar file: The file it stands in, which may be an included one.
    :ivar number: The line in that file, counted from 1.
    """

    text: str
    file: str
    number: int

    def value(self, converter: Converter[T]) -> T:
        """Convert the whole line to a setting.

        :raises ConfigurationError: The converter does not take it.
        """
        try:
            return converter(self.text)
        except ValueError as error:
            raise self.error(str(error)) from error

    def error(self, expected: str, found: str | None = None) -> ConfigurationError:
        """Make the error that says what is wrong here.

        :param expected: What would have been right.
        :param found: The part of the line that is wrong; else all of it.
        """
        shown = self.text if found is None else found
        return ConfigurationError(shown, expected, file=self.file, line=self.number)


class ControlFiles:
    """The control files of one generation of the configuration.

    A file is read when first asked for, and then remembered, so that all who
    ask see the same. Reading blocks and is for the time of start and reload
    only; a reload makes new `ControlFiles`.

    :param directories: Where files are looked for. For each name on its own,
        the last directory that has a file of that name wins.

    :ivar answered: The names for which a component has answered in place of a file.
    """

    def __init__(self, directories: Sequence[str]) -> None:
        self.directories: Final = tuple(directories)
        self._paths: Final[dict[str, str | None]] = {}
        self._lines: Final[dict[str, tuple[Line, ...]]] = {}
        self._contents: Final[dict[str, tuple[Line, ...]]] = {}
        self._databases: Final[dict[str, Container[bytes]]] = {}
        self.answered: Final[set[str]] = set()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], base: str) -> "ControlFiles":
        """Look where qmail, the installation and the operator keep their files.

        That is ``$QMAIL/control`` (without the variable
        ``/var/qmail/control``), then ``config`` in the base directory, then
        ``$QPSMTPD_CONFIG``. The base directory is that of the program ``$PROCESS`` if
        the variable is set, as supervisors do that rename what they run; else the
        working directory.

        :param environ: The environment, as `os.environ`.
        :param base: The working directory.

        :raises ConfigurationError: ``QPSMTPD_CONFIG`` names no directory.
        """
        base = os.path.dirname(environ.get("PROCESS", "")) or base
        qmail = environ.get("QMAIL") or "/var/qmail"
        directories = [os.path.join(qmail, "control"), os.path.join(base, "config")]
        if chosen := environ.get("QPSMTPD_CONFIG"):
            if not os.path.isdir(chosen):
                raise ConfigurationError(f"QPSMTPD_CONFIG={chosen}", "an existing directory")
            directories.append(chosen)
        return cls(directories)

    def path(self, name: str) -> str | None:
        """Find the file of a name.

        :param name: Its parts, separated by ``/``, are plain: none is empty,
            ``.`` or ``..``.

        :returns: `None` when no directory has one.

        :raises ConfigurationError: The name could lead out of the
            directories, or a directory cannot be searched.
        """
        if name not in self._paths:
            _check_name(name)
            self._paths[name] = next(
                (path for path, mode in self._candidates(name) if not stat.S_ISDIR(mode)), None
            )
        return self._paths[name]

    def lines(self, name: str) -> tuple[Line, ...]:
        """Read the lines of a name's file, with those of the files it includes.

        In the Perl qpsmtpd an include that led nowhere was passed over, and one
        file included twice emptied the setting. Here the first is an error, the
        second is fine, and a file that includes itself, however far around, is
        an error too.

        :returns: Nothing when there is no such file.

        :raises ConfigurationError: A file cannot be read, is not UTF-8, or
            includes what cannot be included.
        """
        if name not in self._lines:
            path = self.path(name)
            self._lines[name] = () if path is None else tuple(self._expanded(path, ()))
        return self._lines[name]

    def first(self, name: str) -> Line | None:
        """Read the first line of a name's file, for a setting that is one value.

        :returns: `None` when there is no such file, or it says nothing.

        :raises ConfigurationError: As for `lines`.
        """
        return next(iter(self.lines(name)), None)

    def answer(self, name: str, texts: Sequence[str], who: str) -> None:
        """Take the lines of a name from somebody else than its file.

        :param texts: Empty for a setting that shall have no value, whatever the file says.
        :param who: Stands in errors in place of the folder.

        :raises ConfigurationError: They are no texts.
        """
        for text in texts:
            if not isinstance(text, str):
                raise ConfigurationError(repr(text), "texts, one for each line", file=who)
        self.answered.add(name)
        self._lines[name] = tuple(
            Line(text.strip(), f"{who}: {name}", number)
            for number, text in enumerate(texts, start=1)
            if text.strip()
        )

    def has_read(self, name: str) -> bool:
        """Whether the lines of a name are known, so that to give them reads nothing."""
        return name in self._lines

    def database(self, name: str) -> Container[bytes]:
        """Open the constant database of a name, ``NAME.cdb``.

        The Perl qpsmtpd looked for it only where it had found a plain file ``NAME``. Here it is
        looked for under its own name.

        :returns: An empty container when there is no such file.

        :raises ConfigurationError: It cannot be read.
        """
        path = self.path(f"{name}.cdb")
        if path is None:
            return frozenset()
        if path not in self._databases:
            self._databases[path] = open_database(path)
        return self._databases[path]

    def files_read(self) -> tuple[str, ...]:
        """List the files read so far, included ones and databases too, in the order read."""
        return (*self._contents, *self._databases)

    def _candidates(self, name: str) -> Iterator[tuple[str, int]]:
        """Yield the paths that exist for a name and their modes, the best one first."""
        directories = ("",) if os.path.isabs(name) else reversed(self.directories)
        for directory in directories:
            path = os.path.join(directory, name)
            mode = _mode(path)
            if mode is not None:
                yield path, mode

    def _expanded(self, path: str, including: tuple[str, ...]) -> Iterator[Line]:
        """Yield a file's lines, and in place of each ``$include`` what it names.

        :param including: The files on the way here, the outermost first.
        """
        including = (*including, path)
        for line in self._content(path):
            words = line.text.split()
            if words[:1] != ["$include"]:
                yield line
                continue
            if len(words) != 2:
                raise line.error("$include and one file or directory")
            for target in self._targets(line, words[1]):
                _check_including(line, including, target)
                yield from self._expanded(target, including)

    def _targets(self, line: Line, target: str) -> Sequence[str]:
        """Find the files that an ``$include`` names."""
        # A relative target may lead upwards, unlike a name: only the operator writes
        # targets, and an absolute one leads anywhere already.
        try:
            path, mode = next(self._candidates(target), (target, None))
        except ConfigurationError as error:
            raise line.error(error.expected) from error
        if mode is None:
            searched = "" if os.path.isabs(target) else f" in {', '.join(self.directories)}"
            raise line.error(f"an existing file or directory{searched}")
        return _plain_files(path) if stat.S_ISDIR(mode) else [path]

    def _content(self, path: str) -> tuple[Line, ...]:
        if path not in self._contents:
            octets = _read(path).removeprefix(codecs.BOM_UTF8)
            self._contents[path] = tuple(_parsed(octets, path))
        return self._contents[path]


_NAME: Final = re.compile(r"(?!\.\.?(?:/|\Z))[^/]+(?:/(?!\.\.?(?:/|\Z))[^/]+)*")


def _check_name(name: str) -> None:
    """Refuse a name that could lead elsewhere; parts of it may come from a client."""
    if not name.isprintable() or not _NAME.fullmatch(name):
        raise ConfigurationError(
            name, "the name of a control file, without . or .. or a / in front"
        )


def _check_including(line: Line, including: tuple[str, ...], target: str) -> None:
    if os.path.realpath(target) in map(os.path.realpath, including):
        chain = " includes ".join((*including, target))
        raise line.error(f"no circle of files: {chain}")
    if len(including) > INCLUDE_DEPTH:
        raise line.error(f"files to include each other at most {INCLUDE_DEPTH} deep")


def _mode(path: str) -> int | None:
    """Return the kind and permissions of what stands at a path; `None` if nothing does."""
    try:
        return os.stat(path).st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise _unreadable(path, error) from error
    except ValueError as error:  # NUL, or no such character in this system's file names
        raise ConfigurationError(path, "a path that this system can have") from error


def _plain_files(directory: str) -> Sequence[str]:
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise _unreadable(directory, error) from error
    paths = [os.path.join(directory, name) for name in names if not name.startswith(".")]
    return [path for path in paths if os.path.isfile(path)]


def _read(path: str) -> bytes:
    try:
        # Without O_NONBLOCK, opening a FIFO that nobody writes to never returns.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigurationError("", "a regular file", file=path)
            octets = file.read(FILE_LIMIT + 1)
            if len(octets) > FILE_LIMIT:
                raise ConfigurationError("", f"at most {FILE_LIMIT} octets", file=path)
            return octets
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> ConfigurationError:
    return ConfigurationError("", f"something readable: {error.strerror}", file=path)


def _parsed(octets: bytes, path: str) -> Iterator[Line]:
    for number, raw in enumerate(octets.split(b"\n"), start=1):
        line = raw.strip()
        # Comments go before decoding: older files have them in any encoding.
        if not line or line.startswith(b"#"):
            continue
        try:
            yield Line(line.decode("utf-8"), path, number)
        except UnicodeDecodeError as error:
            shown = line.decode("ascii", "backslashreplace")
            raise ConfigurationError(shown, "UTF-8", file=path, line=number) from error

# -*- test-case-name: tests.logtools.test_files -*-
"""Files of a log: read as they are, or followed while they grow and are rotated."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["LINE_LIMIT", "Splitter", "follow", "read", "seek_last"]

#: Octets of a line that are kept. What is longer was not written by this server.
LINE_LIMIT: Final = 65536

_BLOCK: Final = 65536

#: Seconds between two looks at a file that did not grow.
PAUSE: Final = 0.5


class Splitter:
    """Makes lines of octets, however these are cut.

    :ivar consumed: Octets of all complete lines so far.
    """

    def __init__(self) -> None:
        self.consumed = 0
        self._rest = b""
        self._cut = 0  # octets of this line that were dropped

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give more octets, and take the lines that are complete, without their ends."""
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self.consumed += len(line) + 1 + self._cut
            self._cut = 0
            yield line[:LINE_LIMIT]
        self._rest = rest[:LINE_LIMIT]
        self._cut += len(rest) - len(self._rest)

    def end(self) -> Iterator[bytes]:
        """Take a last line that has no end."""
        rest, self._rest = self._rest, b""
        if rest:
            yield rest


def read(
    file: BinaryIO, splitter: Splitter | None = None, size: int | None = None
) -> Iterator[bytes]:
    """The lines of a file from where it stands.

    :param splitter: Complete lines go through it; without one, the last line counts as complete.
    :param size: Octets to read at most; to the end if ``None``.
    """
    taken = splitter or Splitter()
    while size is None or size > 0:
        data = file.read(_BLOCK if size is None else min(size, _BLOCK))
        if not data:
            break
        if size is not None:
            size -= len(data)
        yield from taken.feed(data)
    if splitter is None:
        yield from taken.end()


def seek_last(file: BinaryIO, count: int) -> None:
    """Go to where the last lines of a file begin."""
    position = file.seek(0, os.SEEK_END)
    wanted = count + 1  # the last line has an end, too
    while position > 0:
        size = min(_BLOCK, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        found = block.count(b"\n")
        if found >= wanted:
            begin = len(block)
            for _ in range(wanted):
                begin = block.rfind(b"\n", 0, begin)
            file.seek(position + begin + 1)
            return
        wanted -= found
    file.seek(0)


def follow(
    path: Path, count: int, pause: Callable[[float], object] = time.sleep
) -> Iterator[bytes | None]:
    """The last lines of a file, and all that are added, for ever.

    A file that is renamed is read to its end, then the new one of its name; what multilog or
    svlogd have filled and put away since then is read before that. One that became shorter is
    read from its beginning.

    :param count: Lines to begin with.
    :param pause: Waits some seconds.

    :returns: Lines; ``None`` each time that nothing new is there.

    :raises OSError: The file cannot be opened at first. Later on it is waited for.
    """
    file: BinaryIO = path.open("rb")
    seek_last(file, count)
    splitter = Splitter()
    try:
        while True:
            if data := file.read(_BLOCK):
                yield from splitter.feed(data)
                continue
            replaced = _replaced(file, path)
            if replaced is not None:
                yield from _read_rest(file, splitter)
                for between in _between(file, replaced, path.parent):
                    with between.open("rb") as whole:
                        yield from read(whole)
                file.close()
                file, splitter = replaced, Splitter()
            elif os.fstat(file.fileno()).st_size < file.tell():
                file.seek(0)
                splitter = Splitter()
            else:
                yield None
                pause(PAUSE)
    finally:
        file.close()


def _read_rest(file: BinaryIO, splitter: Splitter) -> Iterator[bytes]:
    """What came to a file between the last look and its renaming, to a last line without end."""
    yield from read(file, splitter)
    yield from splitter.end()


def _replaced(file: BinaryIO, path: Path) -> BinaryIO | None:
    """The file that now has the name, if that is another one."""
    try:
        new = path.open("rb")
    except OSError:  # between two files; or it may not be read, and that may change
        return None
    if os.path.sameopenfile(file.fileno(), new.fileno()):
        new.close()
        return None
    return new


def _between(old: BinaryIO, new: BinaryIO, folder: Path) -> list[Path]:
    """Files that were current after one and before the other, by their names' time stamps."""
    names = sorted(folder.glob("@*.[su]"))
    inodes = [path.stat().st_ino for path in names]
    first, last = (os.fstat(file.fileno()).st_ino for file in (old, new))
    if first not in inodes:
        return []
    end = inodes.index(last) if last in inodes else len(names)
    return names[inodes.index(first) + 1 : end]

"""Where the octets of one message lie: in memory first, in a file when they are many.

Memory does not grow with the size of a message: from a threshold on, what was
kept is moved to a file and the rest follows in blocks. Nothing here is synced to
disk. A message is durable when a queue has stored it, and a spool file that
outlives its process is rubbish that :func:`remove_stale` clears away.

A spool file is locked (``flock``) for as long as its process lives. The lock tells
a leftover from a file in use even where process numbers repeat, as they do in
containers that share a folder and at each start of the same container.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, Final

__all__ = ["DISK_FULL", "Spool", "remove_stale"]

#: The errors that mean that there is no space for more octets: on the disk, for the user, or
#: within what the process may write.
DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

#: Small writes are collected until this many octets go to the file at once.
WRITE_BLOCK: Final = 64 * 1024

#: A reader takes this many octets from the file at once.
READ_BLOCK: Final = 128 * 1024

#: So many chunks in a row are joined into one: a client that sends octet by octet
#: would otherwise have each of them cost an object.
JOIN_CHUNKS: Final = 256

_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW
_NAME: Final = re.compile(r"qpsmtpd-[0-9]+-[0-9a-f]{32}\.spool")


class Spool:
    """Takes octets once, gives them to as many readers as ask.

    :ivar size: how many octets were written.
    """

    __slots__ = (
        "_chunks",
        "_closed",
        "_descriptor",
        "_directory",
        "_flush_at",
        "_join_at",
        "_path",
        "_written",
        "size",
    )

    def __init__(self, threshold: int, directory: str | None) -> None:
        """Start empty and in memory.

        :param threshold: from this many octets on they lie in a file; with 0,
            from the first.
        :param directory: the folder of the file, by default the system's for
            temporary files.
        """
        self.size = 0
        self._directory = directory
        self._path = ""
        self._descriptor = -1
        self._written = 0  # what lies in the file; the rest is in _chunks
        self._chunks: list[bytes] = []
        self._flush_at = threshold
        self._join_at = JOIN_CHUNKS
        self._closed = False

    @property
    def in_memory(self) -> bool:
        """Whether there is no file (yet)."""
        return self._descriptor < 0

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called or a write failed."""
        return self._closed

    def write(self, chunk: bytes) -> None:
        """Append octets.

        :raises OSError: the file cannot be made or written, as on a full disk. The
            spool is closed then and its file removed.
        :raises ValueError: the spool is closed.
        """
        if self._closed:
            raise ValueError("write to a closed spool")
        if not chunk:
            return
        chunks = self._chunks
        chunks.append(chunk)
        size = self.size = self.size + len(chunk)
        if size >= self._flush_at:
            self._flush()
        elif len(chunks) >= self._join_at:
            first = self._join_at - JOIN_CHUNKS
            chunks[first:] = [b"".join(chunks[first:])]
            self._join_at = len(chunks) + JOIN_CHUNKS

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """Read from an offset to the end of what is written at this moment.

        Readers share no position: any number may be under way, also in threads. One
        that is half way through a file when the spool closes gets :exc:`ValueError`.

        :raises ValueError: the spool is closed, or the offset is negative.
        """
        if self._closed:
            raise ValueError("read from a closed spool")
        if start < 0:
            raise ValueError("negative offset")
        held = self._chunks.copy()
        if self._descriptor >= 0:
            return self._read(start, self._written, held)
        return _from_offset(held, start) if start else iter(held)

    def first(self) -> bytes:
        """Read the first octets that are written: all, where they are few and came at once.

        :raises ValueError: the spool is closed.
        """
        if self._descriptor < 0 and self._chunks:
            return self._chunks[0]
        return next(self.chunks(), b"")

    def path(self) -> str:
        """Name a file that holds everything written so far, made now if need be.

        :raises OSError: as :meth:`write`.
        :raises ValueError: the spool is closed.
        """
        if self._closed:
            raise ValueError("path of a closed spool")
        if self._chunks or self._descriptor < 0:
            self._flush()
        return self._path

    def open(self) -> BinaryIO:
        """Open what is written so far as a file with a position of its own.

        The caller closes it. It stays readable after the spool is closed.

        :raises OSError: as :meth:`write`.
        :raises ValueError: the spool is closed.
        """
        if self._closed:
            raise ValueError("open of a closed spool")
        if self._descriptor < 0:
            return BytesIO(b"".join(self._chunks))
        return os.fdopen(os.open(self.path(), os.O_RDONLY | _FLAGS), "rb")

    def close(self) -> None:
        """Release the memory and remove the file; more than once does no harm."""
        self._closed = True
        self._chunks = []
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                os.unlink(self._path)
            except OSError:
                pass  # somebody cleared the folder
            os.close(descriptor)

    def _flush(self) -> None:
        try:
            if self._descriptor < 0:
                self._descriptor, self._path = _create(self._directory or tempfile.gettempdir())
            data = b"".join(self._chunks)
            done = os.write(self._descriptor, data) if data else 0
            while done < len(data):  # a disk that fills up takes a part first
                done += os.write(self._descriptor, memoryview(data)[done:])
        except OSError:
            self.close()
            raise
        self._chunks = []
        self._written = self.size
        self._flush_at = self.size + WRITE_BLOCK
        self._join_at = JOIN_CHUNKS

    def _read(self, start: int, end: int, held: list[bytes]) -> Iterator[bytes]:
        if self._closed:
            raise ValueError("read from a closed spool")
        # A descriptor of its own: the number of one that another thread just closed may
        # by now belong to another message's file.
        descriptor = os.dup(self._descriptor)
        try:
            position = start
            while position < end:
                if self._closed:
                    raise ValueError("read from a closed spool")
                block = os.pread(descriptor, min(READ_BLOCK, end - position), position)
                if not block:
                    raise OSError(errno.EIO, "spool file was cut short", self._path)
                position += len(block)
                yield block
        finally:
            os.close(descriptor)
        yield from _from_offset(held, position - end)


def _from_offset(chunks: list[bytes], start: int) -> Iterator[bytes]:
    for chunk in chunks:
        if start < len(chunk):
            yield chunk[start:] if start else chunk
            start = 0
        else:
            start -= len(chunk)


def _create(directory: str) -> tuple[int, str]:
    """Make a locked file that nobody else has, under a name nobody can foretell."""
    for _ in range(8):
        path = os.path.join(directory, f"qpsmtpd-{os.getpid()}-{secrets.token_hex(16)}.spool")
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | _FLAGS, 0o600)
        try:
            # Between open and lock a starting process may take the file for a leftover.
            ours = _lock(descriptor) and os.fstat(descriptor).st_nlink > 0
        except OSError:
            ours = True  # a file system without locks, where remove_stale removes nothing
        if ours:
            return descriptor, path
        os.close(descriptor)
    raise OSError(errno.EAGAIN, "spool files are removed as soon as made", directory)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_stale(directory: str) -> int:
    """Remove the spool files that processes left behind when they died.

    Only files with a spool's name that no living process holds are touched.

    :returns: how many were removed.
    :raises OSError: the folder cannot be read.
    """
    removed = 0
    with os.scandir(directory) as entries:
        paths = [entry.path for entry in entries if _NAME.fullmatch(entry.name)]
    for path in paths:
        try:
            # Not blocking: a named pipe may have the name.
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | _FLAGS)
        except OSError:
            continue  # gone meanwhile, or somebody else's
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode) and _lock(descriptor):
                os.unlink(path)
                removed += 1
        except OSError:
            continue  # a file system without locks: nobody can tell whose it is
        finally:
            os.close(descriptor)
    return removed

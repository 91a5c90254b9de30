# -*- test-case-name: tests.test_maildir -*-
"""Store messages in Maildir folders so that an acknowledged one survives a loss of power.

Many deliveries share one wait for the disk: while a batch is being synced, new deliveries
queue up and are the next batch. Why the procedure is durable, and what was measured and
rejected, is in ``docs/explanation/durability.md``.
"""

import itertools
import os
import socket
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final, TypeAlias

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.threadpool import ThreadPool

__all__ = ["Chunks", "Disk", "MaildirWriter", "QueueFull"]

#: The octets of a message, or what gives them when called. Both run in a writer thread.
Chunks: TypeAlias = Iterable[bytes] | Callable[[], Iterable[bytes]]

#: Age in seconds at which a file in ``tmp/`` counts as left behind; the age is Maildir's own.
STALE_AFTER: Final = 36 * 3600

#: Chunks are gathered up to this many octets, since each write gives up and retakes the GIL.
WRITE_SIZE: Final = 256 * 1024

#: Folders remembered as complete and durable before all are forgotten and looked at again.
KNOWN_FOLDERS: Final = 10_000

# One for the process, since several writers may share a folder and a microsecond.
_counter = itertools.count()


class QueueFull(Exception):  # noqa: N818 - says what is, as queue.Full does
    """The writer takes no further delivery now: its limit is reached, or it is stopping.

    The client should get a transient negative reply.
    """


def _start_writeback(descriptor: int) -> None:
    # Beyond what its name says, this makes Linux begin to write dirty pages, without waiting.
    if hasattr(os, "posix_fadvise"):
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            pass  # a hint; fsync reports what went wrong


@dataclass(frozen=True, slots=True)
class Disk:
    """The calls by which a message reaches the disk, for a test to replace."""

    open: Callable[[str, int, int], int] = os.open
    write: Callable[[int, memoryview], int] = os.write
    start_writeback: Callable[[int], None] = _start_writeback
    fsync: Callable[[int], None] = os.fsync
    close: Callable[[int], None] = os.close
    rename: Callable[[str, str], None] = os.rename
    unlink: Callable[[str], None] = os.unlink


class MaildirWriter:
    """Delivers messages into Maildir folders, durably and in batches, off the reactor's thread.

    Missing folders are created. On the first delivery to a folder since the start, files
    that a crash left in its ``tmp/`` more than 36 hours ago are removed.

    :param reactor: Hears of each finished batch.
    :param threads: Batches under way at the same time. One leaves the reactor the most of
        the interpreter; more help when a folder is on a slow or remote disk.
    :param mode: Permissions of folders; files get its read and write bits. The umask
        does not matter.
    :param size_tag: Add ``,S=<octets>`` to file names, for readers that count a quota.
    :param hostname: The last part of file names; this machine's name when not given.
    :param max_deliveries: Deliveries waiting or under way before `QueueFull`.
    :param max_bytes: Sum of their sizes, where the caller gave one, before `QueueFull`. A
        message above it is taken when nothing else waits.
    :param batch: Files synced together, and the most that one batch holds open.
    :param disk: The calls to the operating system.
    """

    def __init__(
        self,
        reactor: IReactorFromThreads,
        *,
        threads: int = 1,
        mode: int = 0o700,
        size_tag: bool = False,
        hostname: str | None = None,
        max_deliveries: int = 1000,
        max_bytes: int = 64 * 1024 * 1024,
        batch: int = 64,
        disk: Disk | None = None,
    ) -> None:
        self._reactor = reactor
        self._threads = threads
        self._mode = mode
        self._size_tag = size_tag
        self._hostname = _escaped(socket.gethostname() if hostname is None else hostname)
        self._max_deliveries = max_deliveries
        self._max_bytes = max_bytes
        self._batch = batch
        self._disk = disk or Disk()
        self._pool = ThreadPool(minthreads=0, maxthreads=threads, name="maildir")
        # Touched by the reactor's thread alone:
        self._deliveries = 0
        self._bytes = 0
        self._stopping = False
        self._stopped: list[Deferred[None]] = []
        # Under the lock:
        self._lock = Lock()
        self._waiting: deque[_Delivery] = deque()
        self._running = 0
        # Single operations on a set, which the interpreter makes atomic:
        self._known: set[str] = set()

    def deliver(self, folder: str, chunks: Chunks, *, size: int = 0) -> Deferred[str]:
        """Store one message in one folder.

        Cancelling gives the message up if it is not yet in ``new/``. If it is, it stays there:
        a message that arrives twice is better than one lost. Its chunks may still be read for
        a moment after the cancelling.

        :param folder: The folder that has ``tmp``, ``new`` and ``cur`` in it.
        :param chunks: Nobody may change what they come from until the Deferred fires.
        :param size: Octets that the message holds in memory while it waits.

        :returns: Fires with the path of the file once it is on stable storage. Fails with
            `QueueFull`, `OSError` or what ``chunks`` raised; then no file is left.
        """
        return self.deliver_many([(folder, chunks)], size=size).addCallback(_first)

    def deliver_many(
        self, copies: Sequence[tuple[str, Chunks]], *, size: int = 0
    ) -> Deferred[list[str]]:
        """Store a message in several folders: in all, or in none and the Deferred fails.

        All copies are synced before the first appears in a ``new/``. If a later step fails,
        those that did appear are removed again, unless a reader was faster.

        :param copies: Folder and chunks of each copy; as for `deliver`.
        :param size: As for `deliver`.

        :returns: Fires with the paths in the order of ``copies``.
        """
        if self._stopping:
            return fail(QueueFull("stopping"))
        if self._deliveries >= self._max_deliveries:
            return fail(QueueFull(f"{self._deliveries} deliveries are waiting"))
        if self._deliveries and self._bytes + size > self._max_bytes:
            return fail(QueueFull(f"deliveries of {self._bytes} octets are waiting"))
        self._deliveries += 1
        self._bytes += size
        delivery = _Delivery(copies, size, self._lock)
        with self._lock:
            self._waiting.append(delivery)
            idle = self._running < self._threads
            self._running += idle
        if idle:
            if not self._pool.started:
                self._pool.start()
            self._pool.callInThread(self._work)
        return delivery.deferred

    def stop(self) -> Deferred[None]:
        """Take no further deliveries.

        :returns: Fires when those waiting or under way are done and the threads have ended.
        """
        stopped: Deferred[None] = Deferred()
        self._stopping = True
        self._stopped.append(stopped)
        self._end_if_done()
        return stopped

    def _finish(self, batch: "list[_Delivery]") -> None:
        for delivery in batch:
            self._deliveries -= 1
            self._bytes -= delivery.size
            delivery.finish()
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._deliveries or not self._stopping:
            return
        if self._pool.started:
            self._pool.stop()
        waiting, self._stopped = self._stopped, []
        for stopped in waiting:
            stopped.callback(None)

    # What follows runs in a writer thread.

    def _work(self) -> None:
        while batch := self._take():
            self._commit(batch)
            self._reactor.callFromThread(self._finish, batch)

    def _take(self) -> "list[_Delivery]":
        batch: list[_Delivery] = []
        with self._lock:
            room = min(self._batch, -(-len(self._waiting) // self._threads))
            while self._waiting and room > 0:
                batch.append(self._waiting.popleft())
                room -= len(batch[-1].copies)
            if not batch:
                self._running -= 1
        return batch

    def _commit(self, batch: "list[_Delivery]") -> None:
        copies = [copy for delivery in batch for copy in delivery.copies]
        for start in range(0, len(copies), self._batch):
            self._store(copies[start : start + self._batch])
        with self._lock:  # from here on a cancelled delivery stays
            for delivery in batch:
                delivery.published = delivery.error is None
        for delivery in batch:
            if not delivery.published:
                self._remove(delivery)
        for copy in copies:
            self._attempt(copy, self._publish)
        self._sync_new(copies)

    def _store(self, copies: "list[_Copy]") -> None:
        for copy in copies:
            self._attempt(copy, self._write)
        if len(copies) > 1:
            # Blocks are allocated now, so on a file system with a journal the first fsync
            # commits the files of all: 1.7k messages a second become 4.3k
            # (benchmarks/maildir_writer.py).
            for copy in copies:
                self._attempt(copy, self._start_writeback)
        for copy in copies:
            self._attempt(copy, self._sync)

    def _attempt(self, copy: "_Copy", step: "Callable[[_Copy], None]") -> None:
        if copy.delivery.error is not None:
            return
        try:
            step(copy)
        except Exception as error:  # chunks are foreign code and may raise anything
            self._fail(copy.delivery, error)

    def _fail(self, delivery: "_Delivery", error: Exception) -> None:
        delivery.error = error
        self._remove(delivery)
        for copy in delivery.copies:
            self._known.discard(copy.folder)

    def _remove(self, delivery: "_Delivery") -> None:
        for copy in delivery.copies:
            try:
                if copy.descriptor >= 0:
                    self._close(copy)
                if copy.path:
                    self._disk.unlink(copy.path)
            except OSError:
                pass  # the first error is the one to report; a file in tmp/ goes when stale
            copy.path = ""

    def _write(self, copy: "_Copy") -> None:
        if copy.folder not in self._known:
            self._prepare(copy.folder)
        try:
            self._create(copy)
        except FileNotFoundError:  # removed since it was last looked at
            self._prepare(copy.folder)
            self._create(copy)
        if self._mode & 0o077:
            os.fchmod(copy.descriptor, self._mode & 0o666)
        for block in _blocks(copy.chunks() if callable(copy.chunks) else copy.chunks):
            rest = memoryview(block)
            while rest:
                count = self._disk.write(copy.descriptor, rest)
                copy.size += count
                rest = rest[count:]

    def _create(self, copy: "_Copy") -> None:
        copy.name = self._name()
        path = f"{copy.folder}/tmp/{copy.name}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        copy.descriptor = self._disk.open(path, flags, 0o600)
        copy.path = path

    def _name(self) -> str:
        seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
        count = next(_counter)
        return f"{seconds}.P{os.getpid()}M{microseconds}Q{count}.{self._hostname}"

    def _start_writeback(self, copy: "_Copy") -> None:
        self._disk.start_writeback(copy.descriptor)

    def _sync(self, copy: "_Copy") -> None:
        self._disk.fsync(copy.descriptor)
        self._close(copy)

    def _close(self, copy: "_Copy") -> None:
        descriptor, copy.descriptor = copy.descriptor, -1
        self._disk.close(descriptor)

    def _publish(self, copy: "_Copy") -> None:
        tag = f",S={copy.size}" if self._size_tag else ""
        path = f"{copy.folder}/new/{copy.name}{tag}"
        self._disk.rename(copy.path, path)
        copy.path = path

    def _sync_new(self, copies: "list[_Copy]") -> None:
        folders: dict[str, list[_Copy]] = {}
        for copy in copies:
            if copy.delivery.error is None:
                folders.setdefault(copy.folder, []).append(copy)
        for folder, inside in folders.items():
            try:
                self._sync_folder(f"{folder}/new")
            except OSError as error:
                for copy in inside:
                    self._fail(copy.delivery, error)

    def _sync_folder(self, path: str) -> None:
        descriptor = self._disk.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, 0)
        try:
            self._disk.fsync(descriptor)
        finally:
            self._disk.close(descriptor)

    def _prepare(self, folder: str) -> None:
        self._make(folder)
        for name in ("tmp", "new", "cur"):
            self._mkdir(f"{folder}/{name}")
        self._sync_folder(folder)
        _remove_stale(f"{folder}/tmp")
        if len(self._known) >= KNOWN_FOLDERS:
            self._known.clear()
        self._known.add(folder)

    def _make(self, path: str) -> None:
        parent = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(path):
            self._make(parent)
            self._mkdir(path)
        # Also if it was there: an earlier process may have been killed between mkdir and
        # fsync. Each level is synced before the next, so only the lowest can be in doubt.
        try:
            self._sync_folder(parent)
        except PermissionError:
            if os.access(parent, os.W_OK):  # otherwise it was not us who made the folder
                raise

    def _mkdir(self, path: str) -> None:
        try:
            os.mkdir(path, self._mode)
        except FileExistsError:
            if not os.path.isdir(path):
                raise
        else:
            os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | self._mode)


class _Delivery:
    """A message for one or more folders, and the Deferred that waits for all of them."""

    __slots__ = ("_lock", "copies", "deferred", "error", "published", "size")

    def __init__(self, copies: Sequence[tuple[str, Chunks]], size: int, lock: Lock) -> None:
        self.copies = [_Copy(self, folder, chunks) for folder, chunks in copies]
        self.size = size
        self.error: Exception | None = None
        self.published = False
        self.deferred: Deferred[list[str]] = Deferred(self._cancel)
        self._lock = lock

    def _cancel(self, deferred: Deferred[list[str]]) -> None:
        with self._lock:
            if not self.published:
                self.error = CancelledError()

    def finish(self) -> None:
        if self.deferred.called:  # cancelled
            return
        if self.error is None:
            self.deferred.callback([copy.path for copy in self.copies])
        else:
            self.deferred.errback(self.error)


class _Copy:
    """One file of a delivery: where it is, and where it is to go."""

    __slots__ = ("chunks", "delivery", "descriptor", "folder", "name", "path", "size")

    def __init__(self, delivery: _Delivery, folder: str, chunks: Chunks) -> None:
        self.delivery = delivery
        self.folder = folder
        self.chunks = chunks
        self.name = ""
        self.path = ""  # empty: there is no file
        self.descriptor = -1
        self.size = 0


def _first(paths: list[str]) -> str:
    return paths[0]


def _escaped(hostname: str) -> str:
    """Make a host name safe in a file name, as Maildir prescribes."""
    return hostname.replace("/", r"\057").replace(":", r"\072")


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    gathered: list[bytes] = []
    size = 0
    for chunk in chunks:
        gathered.append(chunk)
        size += len(chunk)
        if size >= WRITE_SIZE:
            yield b"".join(gathered)
            gathered.clear()
            size = 0
    yield b"".join(gathered)


def _remove_stale(folder: str) -> None:
    oldest = time.time() - STALE_AFTER
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if entry.stat(follow_symlinks=False).st_mtime < oldest:
                    os.unlink(entry.path)
            except OSError:
                pass  # gone, not ours, or no file: nothing that stands in our way

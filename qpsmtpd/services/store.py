# -*- test-case-name: tests.services.test_store -*-
"""Keep shared state, in memory or in an SQLite file.

What each operation of :class:`IStore` means is written once, over a
:class:`Table`. A store says where its table is and in what thread it is used.
"""

from __future__ import annotations

import os
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from qpsmtpd.services.interfaces import IStore, StoreError

__all__ = ["BaseStore", "MemoryStore", "NamespacedStore", "SQLiteStore", "Table", "counter"]

log = Logger()

_T = TypeVar("_T")

#: Operations that share one transaction at most; each waits for the last of them.
BATCH: Final = 500

#: Seconds between two searches for rows that have expired.
PURGE_INTERVAL: Final = 60.0

#: Expired rows removed by one search, so that no batch becomes long by it.
PURGE_LIMIT: Final = 1000

#: Seconds that another process may hold the file before an operation fails.
BUSY_LIMIT: Final = 5.0


class Table(Protocol):
    """Rows of key, value and the time at which the row expires, if it does."""

    def read(self, key: str) -> tuple[bytes, float | None] | None:
        """Return value and time of expiry."""

    def write(self, key: str, value: bytes, expiry: float | None) -> None:
        """Put a row in the place of what was there."""

    def remove(self, key: str) -> None:
        """Remove a row; that there is none does no harm."""

    def rows(self, prefix: str) -> Iterator[tuple[str, float | None]]:
        """Yield key and time of expiry of every key that begins with a text."""


@implementer(IStore)
class BaseStore(ABC):
    """The operations of a store, each a function of its table and the time."""

    @abstractmethod
    async def operate(self, operation: Callable[[Table, float], _T], writes: bool) -> _T:
        """Call a function with the table and the time, alone, and return what it returns."""

    async def get(self, key: str) -> bytes | None:
        return await self.operate(lambda table, now: _live(table, key, now), writes=False)

    async def set(self, key: str, value: bytes, expires: float | None = None) -> None:
        def operation(table: Table, now: float) -> None:
            table.write(key, value, _expiry(now, expires))

        await self.operate(operation, writes=True)

    async def add(self, key: str, value: bytes, expires: float | None = None) -> bool:
        return await self.replace(key, None, value, expires)

    async def increment(self, key: str, by: int = 1, expires: float | None = None) -> int:
        def operation(table: Table, now: float) -> int:
            row = table.read(key)
            if row is None or _expired(row[1], now):
                row = (b"0", _expiry(now, expires))
            count = counter(key, row[0]) + by
            table.write(key, b"%d" % count, row[1])
            return count

        return await self.operate(operation, writes=True)

    async def replace(
        self, key: str, old: bytes | None, new: bytes, expires: float | None = None
    ) -> bool:
        def operation(table: Table, now: float) -> bool:
            if _live(table, key, now) != old:
                return False
            table.write(key, new, _expiry(now, expires))
            return True

        return await self.operate(operation, writes=True)

    async def delete(self, key: str) -> bool:
        def operation(table: Table, now: float) -> bool:
            found = _live(table, key, now) is not None
            table.remove(key)
            return found

        return await self.operate(operation, writes=True)

    async def keys(self, prefix: str) -> list[str]:
        def operation(table: Table, now: float) -> list[str]:
            return sorted(key for key, expiry in table.rows(prefix) if not _expired(expiry, now))

        return await self.operate(operation, writes=False)

    def namespace(self, name: str) -> IStore:
        return NamespacedStore(self, f"{name}:")


def _expiry(now: float, expires: float | None) -> float | None:
    return None if expires is None else now + expires


def _expired(expiry: float | None, now: float) -> bool:
    return expiry is not None and expiry <= now


def _live(table: Table, key: str, now: float) -> bytes | None:
    row = table.read(key)
    return None if row is None or _expired(row[1], now) else row[0]


def counter(key: str, value: bytes) -> int:
    """Read a counter.

    :raises StoreError: The value is none.
    """
    try:
        return int(value)
    except ValueError as problem:
        raise StoreError(f"{key} holds no counter") from problem


@implementer(IStore)
class NamespacedStore:
    """A store seen through a prefix that stands before every key."""

    def __init__(self, store: IStore, prefix: str) -> None:
        """Look at a store through a prefix."""
        self._store = store
        self._prefix = prefix

    async def get(self, key: str) -> bytes | None:
        return await self._store.get(self._prefix + key)

    async def set(self, key: str, value: bytes, expires: float | None = None) -> None:
        await self._store.set(self._prefix + key, value, expires)

    async def add(self, key: str, value: bytes, expires: float | None = None) -> bool:
        return await self._store.add(self._prefix + key, value, expires)

    async def increment(self, key: str, by: int = 1, expires: float | None = None) -> int:
        return await self._store.increment(self._prefix + key, by, expires)

    async def replace(
        self, key: str, old: bytes | None, new: bytes, expires: float | None = None
    ) -> bool:
        return await self._store.replace(self._prefix + key, old, new, expires)

    async def delete(self, key: str) -> bool:
        return await self._store.delete(self._prefix + key)

    async def keys(self, prefix: str) -> list[str]:
        found = await self._store.keys(self._prefix + prefix)
        return [key.removeprefix(self._prefix) for key in found]

    def namespace(self, name: str) -> IStore:
        return NamespacedStore(self._store, f"{self._prefix}{name}:")


class MemoryStore(BaseStore):
    """State of one process, gone with it."""

    def __init__(self, clock: IReactorTime) -> None:
        """Start empty."""
        self._clock = clock
        self._table = _MemoryTable()
        self._purge_at = 0
        self._closed = False

    async def operate(self, operation: Callable[[Table, float], _T], writes: bool) -> _T:
        if self._closed:
            raise StoreError("the store is closed")
        now = self._clock.seconds()
        if writes and len(self._table.data) >= self._purge_at:
            self._table.purge(now)
            # When it is twice as large: the walk then costs each write a constant.
            self._purge_at = max(1000, 2 * len(self._table.data))
        return operation(self._table, now)

    async def close(self) -> None:
        """Forget everything; later operations fail."""
        self._closed = True
        self._table = _MemoryTable()


class _MemoryTable:
    def __init__(self) -> None:
        self.data: dict[str, tuple[bytes, float | None]] = {}

    def read(self, key: str) -> tuple[bytes, float | None] | None:
        return self.data.get(key)

    def write(self, key: str, value: bytes, expiry: float | None) -> None:
        self.data[key] = (value, expiry)

    def remove(self, key: str) -> None:
        self.data.pop(key, None)

    def rows(self, prefix: str) -> Iterator[tuple[str, float | None]]:
        return ((key, row[1]) for key, row in self.data.items() if key.startswith(prefix))

    def purge(self, now: float) -> None:
        self.data = {key: row for key, row in self.data.items() if not _expired(row[1], now)}


class _Job:
    """One operation on its way to the thread and back."""

    __slots__ = ("answer", "failed", "operation", "result", "writes")

    def __init__(self, operation: Callable[[Table, float], Any], writes: bool) -> None:
        self.operation = operation
        self.writes = writes
        self.answer: Deferred[Any] = Deferred()
        self.result: Any = None
        self.failed: Exception | None = None


class SQLiteStore(BaseStore):
    """State in a file that several processes of one machine may share.

    A thread of its own has the file; it begins with the first operation, so a
    process may fork before. What comes while it is busy is done together, in
    one transaction. After a crash of the machine the last moments may be
    missing, and the file is sound (WAL, ``synchronous=NORMAL``).
    """

    def __init__(
        self,
        path: str,
        clock: IReactorTime | None = None,
        *,
        waiting: int = 10_000,
        reactor: Any = None,
    ) -> None:
        """Name the file; it is opened, or made, when it is first needed.

        :param clock: What time it is, alike for all who share the file; by
            default the reactor's.
        :param waiting: Operations that wait for the thread; one more fails.
        """
        if reactor is None:
            from twisted.internet import reactor
        self._reactor = reactor
        self._clock: IReactorTime = reactor if clock is None else clock
        self._worker = _Worker(path, self._clock.seconds, self._hand_back)
        self._limit = waiting
        self._waiting = 0
        self._closed = False

    async def operate(self, operation: Callable[[Table, float], _T], writes: bool) -> _T:
        if self._closed:
            raise StoreError("the store is closed")
        if self._waiting >= self._limit:
            raise StoreError("too many operations wait for the store")
        job = _Job(operation, writes)
        self._waiting += 1
        self._worker.put(job)
        result: _T = await job.answer
        return result

    async def close(self) -> None:
        """Do what still waits and let go of the file; later operations fail."""
        if self._closed:
            return
        self._closed = True
        if self._worker.started:
            job = _Job(lambda table, now: None, writes=False)
            self._waiting += 1
            self._worker.close(job)
            await job.answer

    def _hand_back(self, jobs: list[_Job]) -> None:
        """Bring results from the thread into the reactor's."""
        self._reactor.callFromThread(self._finish, jobs)

    def _finish(self, jobs: list[_Job]) -> None:
        self._waiting -= len(jobs)
        for job in jobs:
            if job.failed is None:
                job.answer.callback(job.result)
            else:
                job.answer.errback(job.failed)


class _Worker:
    """The thread that has the file. Only :meth:`put` and :meth:`close` are called from outside."""

    def __init__(
        self, path: str, seconds: Callable[[], float], hand_back: Callable[[list[_Job]], None]
    ) -> None:
        self.started = False
        self._path = path
        self._seconds = seconds
        self._hand_back = hand_back
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._connection: sqlite3.Connection | None = None
        self._purge_at = 0.0

    def put(self, job: _Job | None) -> None:
        if not self.started:
            self.started = True
            Thread(target=self._run, name=f"store {self._path}", daemon=True).start()
        self._jobs.put(job)

    def close(self, job: _Job) -> None:
        """End after this job, which is answered when the file is closed."""
        self._jobs.put(None)
        self._jobs.put(job)

    def _run(self) -> None:
        open_ = True
        while open_:
            batch, open_ = self._next_batch()
            if batch:
                self._do(batch)
                self._hand_back(batch)
        self._disconnect()
        last = self._jobs.get()
        assert last is not None
        self._hand_back([last])

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """Wait for one job and take with it those that wait already."""
        batch: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            batch.append(job)
            if len(batch) == BATCH:
                return batch, True
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return batch, True
        return batch, False

    def _do(self, batch: list[_Job]) -> None:
        try:
            self._transact(batch)
        except (sqlite3.Error, OSError) as problem:
            # The connection too: a file that was replaced or mended is found again.
            self._disconnect()
            log.error("{path}: {problem}", path=self._path, problem=problem)
            for job in batch:
                job.failed = StoreError(f"{self._path}: {problem}")
        except Exception as problem:
            self._disconnect()
            log.failure("{path}: operations failed", path=self._path)
            for job in batch:
                job.failed = problem

    def _transact(self, batch: list[_Job]) -> None:
        connection = self._connected()
        table = _SQLiteTable(connection)
        now = self._seconds()
        writes = any(job.writes for job in batch)
        # IMMEDIATE: one that begins by reading cannot wait for a writer once it has read.
        connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        for job in batch:
            try:
                job.result = job.operation(table, now)
            except StoreError as problem:
                job.failed = problem
        if writes and now >= self._purge_at:
            table.purge(now)
            self._purge_at = now + PURGE_INTERVAL
        connection.execute("COMMIT")

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            # Made here, since it tells who wrote to whom; SQLite would make it as the umask says.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(self._path, timeout=BUSY_LIMIT, isolation_level=None)
            _begin_log(self._connection)
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS state"
                " (key BLOB PRIMARY KEY, value BLOB NOT NULL, expiry REAL) WITHOUT ROWID"
            )
            self._connection.execute(
                "CREATE INDEX IF NOT EXISTS state_expiry ON state (expiry) WHERE expiry IS NOT NULL"
            )
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as problem:
                log.error("{path}: {problem}", path=self._path, problem=problem)


def _begin_log(connection: sqlite3.Connection) -> None:
    """Have a file written ahead in a log, if it is not yet.

    Of two who do so at the same time one is told at once that the file is busy: SQLite does not
    wait for a lock where it might wait for ever.
    """
    give_up = time.monotonic() + BUSY_LIMIT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as problem:
            if problem.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up:
                raise
            time.sleep(0.01)  # in the store's own thread


class _SQLiteTable:
    """Keys are octets there: text with a lone surrogate, from a client, is a key like any other."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute

    def read(self, key: str) -> tuple[bytes, float | None] | None:
        row = self._execute(
            "SELECT CAST(value AS BLOB), expiry FROM state WHERE key = ?", (_octets(key),)
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def write(self, key: str, value: bytes, expiry: float | None) -> None:
        self._execute(
            "INSERT OR REPLACE INTO state VALUES (?, ?, ?)", (_octets(key), value, expiry)
        )

    def remove(self, key: str) -> None:
        self._execute("DELETE FROM state WHERE key = ?", (_octets(key),))

    def rows(self, prefix: str) -> Iterator[tuple[str, float | None]]:
        first = _octets(prefix)
        # No octet of UTF-8 is 255, so this is greater than all that begin with the prefix.
        for key, expiry in self._execute(
            "SELECT key, expiry FROM state WHERE key >= ? AND key < ?", (first, first + b"\xff")
        ):
            yield bytes(key).decode("utf-8", "surrogatepass"), expiry

    def purge(self, now: float) -> None:
        self._execute(
            "DELETE FROM state WHERE key IN (SELECT key FROM state WHERE expiry <= ? LIMIT ?)",
            (now, PURGE_LIMIT),
        )


def _octets(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")

"""Tests for :mod:`qpsmtpd.services.store`."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor, task
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from qpsmtpd.services.interfaces import IStore, StoreError
from qpsmtpd.services.store import PURGE_INTERVAL, MemoryStore, SQLiteStore
from tests.services import contracts

#: Counts to 50 in a file, in a process of its own.
COUNTER = """
import sys
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react
from qpsmtpd.services.store import SQLiteStore

async def main(reactor):
    store = SQLiteStore(sys.argv[1])
    for _ in range(50):
        await store.increment("n")
    await store.close()

react(lambda reactor: ensureDeferred(main(reactor)))
"""


class MemoryStoreTests(contracts.StoreContract):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.store = MemoryStore(self.clock)


class MemoryStoreLifeTests(SynchronousTestCase):
    def test_expired_values_do_not_pile_up(self) -> None:
        """Values that nobody reads again after their time do not fill the memory."""
        clock = task.Clock()
        store = MemoryStore(clock)
        for i in range(10_000):
            self.successResultOf(Deferred.fromCoroutine(store.set(f"{i}", b"", 1)))
            clock.advance(1)
        self.assertLess(len(store._table.data), 1500)

    def test_closed(self) -> None:
        """A closed store says so."""
        store = MemoryStore(task.Clock())
        self.successResultOf(Deferred.fromCoroutine(store.close()))
        self.failureResultOf(Deferred.fromCoroutine(store.get("k")), StoreError)


class SQLiteCase(TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = f"{folder.name}/state.sqlite"
        self.clock = task.Clock()
        self.opened = self.open()
        self.store: IStore = self.opened

    def open(self, **settings: Any) -> SQLiteStore:
        store = SQLiteStore(self.path, self.clock, **settings)
        self.addCleanup(lambda: Deferred.fromCoroutine(store.close()))
        return store


class SQLiteStoreContractTests(SQLiteCase, contracts.StoreContract):
    pass


class SQLiteStoreTests(SQLiteCase):
    async def test_outlives_the_process(self) -> None:
        """What was set is there when the file is opened again."""
        await self.store.set("k", b"v", 10)
        await self.opened.close()
        again = self.open()
        self.assertEqual(await again.get("k"), b"v")
        self.clock.advance(10)
        self.assertIsNone(await again.get("k"))

    async def test_shared_by_two(self) -> None:
        """Two who have the same file see each other, and no count is lost."""
        other = self.open()
        await gatherResults(
            [
                Deferred.fromCoroutine(store.increment("n"))
                for _ in range(200)
                for store in (self.store, other)
            ]
        )
        self.assertEqual(await self.store.get("n"), b"400")
        self.assertFalse(await other.add("n", b""))
        self.assertTrue(await other.replace("n", b"400", b"x"))
        self.assertEqual(await self.store.get("n"), b"x")

    async def test_shared_by_processes(self) -> None:
        """Processes that begin at the same time share a file that none had made yet."""
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", COUNTER, self.path],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                stderr=subprocess.PIPE,
            )
            for _ in range(3)
        ]
        for process in processes:
            _, said = await deferToThread(process.communicate, None, 60)
            self.assertEqual((process.returncode, said), (0, b""))
        self.assertEqual(await self.store.get("n"), b"150")

    async def test_made_by_several_at_once(self) -> None:
        """Of those who make a file together none fails."""
        folder = Path(self.path).parent
        for number in range(60):
            self.path = str(folder / f"{number}.sqlite")
            stores = [self.open() for _ in range(4)]
            counts = [Deferred.fromCoroutine(store.increment("n")) for store in stores]
            self.assertEqual(sorted(await gatherResults(counts)), [1, 2, 3, 4])
            for store in stores:
                await store.close()

    async def test_file_is_private(self) -> None:
        """Others on the machine cannot read who wrote to whom."""
        await self.store.set("k", b"v")
        for path in Path(self.path).parent.iterdir():
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600, path)

    async def test_work_is_done_elsewhere(self) -> None:
        """Operations run in one thread, which is not the reactor's, and answers come in that."""
        seen = []

        def look(table: object, now: float) -> None:
            seen.append(threading.current_thread())

        for _ in range(3):
            await self.opened.operate(look, writes=False)
        self.assertEqual(len(set(seen)), 1)
        self.assertIsNot(seen[0], threading.current_thread())

    async def test_thread_ends(self) -> None:
        """A closed store leaves no thread."""
        await self.opened.operate(lambda table, now: None, writes=False)
        (thread,) = (t for t in threading.enumerate() if self.path in t.name)
        await self.opened.close()
        await deferToThread(thread.join, 30)
        self.assertFalse(thread.is_alive())

    async def test_what_waits_is_done_together(self) -> None:
        """Operations that came while the thread was busy share one transaction."""
        busy, go_on = threading.Event(), threading.Event()
        statements: list[str] = []

        def hold(table: object, now: float) -> None:
            assert self.opened._worker._connection is not None
            self.opened._worker._connection.set_trace_callback(statements.append)
            busy.set()
            go_on.wait(30)

        held = Deferred.fromCoroutine(self.opened.operate(hold, writes=False))
        await deferToThread(busy.wait, 30)
        seen = []
        waiting = [
            Deferred.fromCoroutine(
                self.opened.operate(lambda table, now: seen.append(now), writes=True)
            )
            for _ in range(10)
        ]
        counted = Deferred.fromCoroutine(self.store.increment("n"))
        go_on.set()
        await gatherResults([held, *waiting])
        self.assertEqual(await counted, 1)
        self.assertEqual(len(seen), 10)
        self.assertEqual(statements.count("BEGIN IMMEDIATE"), 1)

    async def test_too_much_waits(self) -> None:
        """When too many operations wait, the next is told so at once, and later ones succeed."""
        store = self.open(waiting=2)
        waiting = [Deferred.fromCoroutine(store.increment("n")) for _ in range(2)]
        self.failureResultOf(Deferred.fromCoroutine(store.increment("n")), StoreError)
        self.assertEqual(await gatherResults(waiting), [1, 2])
        self.assertEqual(await store.increment("n"), 3)

    async def test_cancelled(self) -> None:
        """One who gives up disturbs nobody."""
        given_up = Deferred.fromCoroutine(self.store.increment("n"))
        other = Deferred.fromCoroutine(self.store.increment("m"))
        given_up.addErrback(lambda failure: None)
        given_up.cancel()
        self.assertEqual(await other, 1)

    async def test_close_does_what_waits(self) -> None:
        """Closing takes nothing back; what comes later fails."""
        waiting = [Deferred.fromCoroutine(self.store.increment("n")) for _ in range(50)]
        await self.opened.close()
        self.assertEqual(await gatherResults(waiting), list(range(1, 51)))
        with self.assertRaises(StoreError):
            await self.store.get("n")
        await self.opened.close()
        self.assertEqual(await self.open().get("n"), b"50")

    async def test_close_unused(self) -> None:
        """A store that was never used makes no file."""
        await self.opened.close()
        self.assertEqual(os.listdir(Path(self.path).parent), [])

    async def test_not_a_database(self) -> None:
        """A file that is something else is an error for each who asks, and stays as it is."""
        Path(self.path).write_bytes(b"something else\n" * 1000)
        for question in (self.store.get("k"), self.store.increment("k")):
            with self.assertRaises(StoreError) as caught:
                await question
            self.assertIn(self.path, str(caught.exception))
        self.assertEqual(Path(self.path).read_bytes(), b"something else\n" * 1000)

    async def test_corrupted(self) -> None:
        """A file that was damaged is an error, and a file put in its place is used."""
        for i in range(1000):
            await self.store.set(f"{i}", b"x" * 100)
        await self.opened.close()
        whole = Path(self.path).read_bytes()
        Path(self.path).write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
        damaged = self.open()
        with self.assertRaises(StoreError):
            await damaged.get("1")
        for name in os.listdir(Path(self.path).parent):
            (Path(self.path).parent / name).unlink()
        self.assertTrue(await damaged.add("1", b"new"))

    async def test_no_such_folder(self) -> None:
        """A file that cannot be made is an error that names it."""
        self.path += "/absent/state.sqlite"
        with self.assertRaises(StoreError) as caught:
            await self.open().get("k")
        self.assertIn(self.path, str(caught.exception))

    async def test_foreign_value(self) -> None:
        """What another program put there as text or number is read as octets."""
        await self.store.set("a", b"")
        with sqlite3.connect(self.path) as connection:
            connection.execute("UPDATE state SET value = 12")
        connection.close()
        self.assertEqual(await self.store.get("a"), b"12")

    async def test_a_fault_in_an_operation(self) -> None:
        """An operation that breaks changes nothing, says how it broke, and the store goes on."""

        def broken(table: Any, now: float) -> None:
            table.write("k", b"half", None)
            raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            await self.opened.operate(broken, writes=True)
        self.assertIsNone(await self.store.get("k"))
        self.flushLoggedErrors(ZeroDivisionError)

    async def test_expired_rows_are_removed(self) -> None:
        """Rows that nobody reads again after their time leave the file."""
        for i in range(10):
            await self.store.set(f"{i}", b"", 1)
        await self.store.set("kept", b"")
        self.clock.advance(PURGE_INTERVAL + 1)
        await self.store.set("last", b"")
        with sqlite3.connect(self.path) as connection:
            rows = connection.execute("SELECT key FROM state ORDER BY key").fetchall()
        connection.close()
        self.assertEqual(rows, [(b"kept",), (b"last",)])

    async def test_time_of_the_reactor(self) -> None:
        """Without a clock, time is the reactor's, which processes have in common."""
        store = SQLiteStore(self.path)
        self.addCleanup(lambda: Deferred.fromCoroutine(store.close()))
        now = await store.operate(lambda table, now: now, writes=False)
        self.assertLessEqual(now, reactor.seconds())

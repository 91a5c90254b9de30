# -*- test-case-name: tests.test_maildir -*-
"""Tests for qpsmtpd.maildir, on real files and with the real threads.

What is tested is what another thread and the operating system do; so these wait for the
reactor, and a `Gate` holds the writer's thread where a test wants it.
"""

import errno
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.trial.unittest import TestCase

from qpsmtpd.maildir import Chunks, Disk, MaildirWriter, QueueFull

reactor: Any = _reactor
ROOT = Path(__file__).parent.parent


def files(folder: str) -> list[str]:
    """The names of files in ``tmp`` and ``new`` of a Maildir, as ``new/name``."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).glob("*/*"))


def is_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


class Gate:
    """An fsync that stops the first time ``where`` is true, until `open` is called."""

    def __init__(self, where: Callable[[int], bool]) -> None:
        self.reached: Deferred[None] = Deferred()
        self._where = where
        self._closed = True
        self._event = threading.Event()

    def __call__(self, descriptor: int) -> None:
        if self._closed and self._where(descriptor):
            self._closed = False
            reactor.callFromThread(self.reached.callback, None)
            if not self._event.wait(30):
                raise TimeoutError("the test did not open the gate")
        os.fsync(descriptor)

    def open(self) -> None:
        self._event.set()


class MaildirTestCase(TestCase):
    timeout = 20  # for a gate that is never reached

    def setUp(self) -> None:
        self.folder = os.path.abspath(self.mktemp())

    def writer(self, **options: Any) -> MaildirWriter:
        writer = MaildirWriter(reactor, **{"hostname": "mail.example", **options})
        self.addCleanup(writer.stop)
        return writer

    def gated(self, where: Callable[[int], bool], **options: Any) -> tuple[Gate, MaildirWriter]:
        gate = Gate(where)
        return gate, self.writer(disk=Disk(fsync=gate), **options)

    async def failure(self, delivery: Deferred[Any], *kinds: type[Exception]) -> Any:
        """Wait for a delivery to fail, and give the exception."""
        return await self.assertFailure(delivery, *kinds)


class DeliverTests(MaildirTestCase):
    async def test_delivered(self) -> None:
        """A message is in ``new/`` as it was given, and nothing stays in ``tmp/``."""
        path = await self.writer().deliver(self.folder, [b"Subject: x\n", b"\n", b"text\n"])
        self.assertEqual(Path(path).read_bytes(), b"Subject: x\n\ntext\n")
        self.assertEqual(files(self.folder), [os.path.relpath(path, self.folder)])
        self.assertTrue(path.startswith(f"{self.folder}/new/"))

    async def test_chunks_when_called(self) -> None:
        """Chunks may come from a callable, and be many and large."""
        chunks = [bytes([n]) * 100_000 for n in range(12)]
        path = await self.writer().deliver(self.folder, lambda: iter(chunks))
        self.assertEqual(Path(path).read_bytes(), b"".join(chunks))

    async def test_iterated_off_reactor(self) -> None:
        """Chunks are asked for in a thread of the writer, not in the reactor's."""
        seen = []

        def chunks() -> Iterator[bytes]:
            seen.append(threading.get_ident())
            yield b"text\n"

        await self.writer().deliver(self.folder, chunks)
        self.assertNotEqual(seen, [threading.get_ident()])

    async def test_name(self) -> None:
        """A name is the time, process, microseconds, a counter and the host."""
        path = await self.writer().deliver(self.folder, [b"x"])
        self.assertRegex(
            os.path.basename(path), rf"^\d{{10,}}\.P{os.getpid()}M\d{{1,6}}Q\d+\.mail\.example$"
        )

    async def test_host_escaped(self) -> None:
        """A host name cannot lead out of the folder or start Maildir's flags."""
        path = await self.writer(hostname="a/b:2").deliver(self.folder, [b"x"])
        self.assertTrue(path.endswith(r".a\057b\0722"), path)

    async def test_names_differ(self) -> None:
        """Each message has its own name, also between two writers and their threads."""
        writers = [self.writer(threads=3), self.writer(threads=3)]
        paths = [await d for d in [w.deliver(self.folder, [b"x"]) for w in writers * 100]]
        self.assertEqual(len(set(paths)), 200)
        self.assertEqual(len(files(self.folder)), 200)

    async def test_size_tag(self) -> None:
        """On request the name says how many octets the file has."""
        path = await self.writer(size_tag=True).deliver(self.folder, [b"12", b"345"])
        self.assertTrue(path.endswith(".mail.example,S=5"), path)
        self.assertEqual(os.path.getsize(path), 5)

    async def test_short_writes(self) -> None:
        """A write that took a part only is continued."""
        writer = self.writer(disk=Disk(write=lambda fd, data: os.write(fd, data[:3])))
        path = await writer.deliver(self.folder, [b"0123456789"])
        self.assertEqual(Path(path).read_bytes(), b"0123456789")

    async def test_stopped(self) -> None:
        """Stopping waits for every delivery; afterwards none is taken."""
        writer = self.writer()
        deliveries = [writer.deliver(self.folder, [b"x"]) for _ in range(100)]
        stops = [writer.stop(), writer.stop()]
        for stop in stops:
            await stop
        self.assertEqual(len(files(self.folder)), 100)
        for delivery in deliveries:
            self.successResultOf(delivery)
        await self.failure(writer.deliver(self.folder, [b"x"]), QueueFull)

    async def test_stopped_from_callback(self) -> None:
        """The one who waits for the last delivery may stop the writer at once."""
        writer = self.writer()
        await writer.deliver(self.folder, [b"x"]).addCallback(lambda _: writer.stop())


class FolderTests(MaildirTestCase):
    def modes(self, path: str) -> list[str]:
        below = [path, *(f"{path}/{name}" for name in ("tmp", "new", "cur"))]
        return [oct(stat.S_IMODE(os.stat(name).st_mode)) for name in below]

    async def test_created(self) -> None:
        """Missing folders are created, for their owner alone, and so are files."""
        folder = f"{self.folder}/example.org/anna"
        path = await self.writer().deliver(folder, [b"x"])
        self.assertEqual(self.modes(folder), ["0o700"] * 4)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)

    async def test_mode(self) -> None:
        """The mode holds for folders, and without execution for files, whatever the umask."""
        self.addCleanup(os.umask, os.umask(0o077))
        path = await self.writer(mode=0o770).deliver(self.folder, [b"x"])
        self.assertEqual(self.modes(self.folder), ["0o770"] * 4)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o660)

    async def test_each_level_synced(self) -> None:
        """A new folder is durable before anything is made in it."""
        synced: list[str] = []

        def fsync(descriptor: int) -> None:
            if is_folder(descriptor):
                path = path_of(descriptor)
                synced.append(f"{os.path.relpath(path, top)}: {sorted(os.listdir(path))}")

        top = self.folder
        os.makedirs(top)
        await self.writer(disk=Disk(fsync=fsync)).deliver(f"{top}/a/b", [b"x"])
        self.assertEqual(
            [line for line in synced if not line.startswith((".:", "..:", "a/b/new:"))],
            ["a: ['b']", "a/b: ['cur', 'new', 'tmp']"],
        )
        self.assertIn(".: ['a']", synced)
        self.assertLess(synced.index(".: ['a']"), synced.index("a: ['b']"))

    async def test_parent_of_somebody_else(self) -> None:
        """A parent that we may neither read nor write does not matter: it was not ours to make."""
        await self.writer().deliver(self.folder, [b"x"])
        parent = os.path.dirname(self.folder)
        self.patch(os, "access", lambda path, mode: path != parent)
        await self.writer(disk=Disk(open=self.refusing(parent))).deliver(self.folder, [b"x"])
        self.assertEqual(len(files(self.folder)), 2)

    async def test_parent_that_cannot_be_synced(self) -> None:
        """A parent where the folder may just have been made must be synced."""
        writer = self.writer(disk=Disk(open=self.refusing(os.path.dirname(self.folder))))
        await self.failure(writer.deliver(self.folder, [b"x"]), PermissionError)
        await self.failure(writer.deliver(self.folder, [b"x"]), PermissionError)

    def refusing(self, folder: str) -> Callable[[str, int, int], int]:
        def refusing(path: str, flags: int, mode: int) -> int:
            if path == folder:
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return os.open(path, flags, mode)

        return refusing

    async def test_removed_while_running(self) -> None:
        """A folder that somebody removed is created again."""
        writer = self.writer()
        await writer.deliver(self.folder, [b"x"])
        shutil.rmtree(self.folder)
        path = await writer.deliver(self.folder, [b"y"])
        self.assertEqual(Path(path).read_bytes(), b"y")

    async def test_new_removed_while_running(self) -> None:
        """A lost ``new/`` costs one delivery an error, and is back for the next."""
        writer = self.writer()
        await writer.deliver(self.folder, [b"x"])
        shutil.rmtree(f"{self.folder}/new")
        await self.failure(writer.deliver(self.folder, [b"x"]), FileNotFoundError)
        self.assertEqual(files(self.folder), [])
        await writer.deliver(self.folder, [b"x"])

    async def test_stale_removed(self) -> None:
        """What a crash left in ``tmp/`` more than 36 hours ago goes; what is younger stays."""
        os.makedirs(f"{self.folder}/tmp")
        for name, hours in ("old", 37), ("young", 35):
            path = Path(self.folder, "tmp", name)
            path.touch()
            then = path.stat().st_mtime - hours * 3600
            os.utime(path, (then, then))
        os.mkdir(f"{self.folder}/tmp/folder")
        os.utime(f"{self.folder}/tmp/folder", (0, 0))
        await self.writer().deliver(self.folder, [b"x"])
        self.assertEqual(sorted(os.listdir(f"{self.folder}/tmp")), ["folder", "young"])


class FailureTests(MaildirTestCase):
    def failing(self, number: int, where: Callable[[int], bool]) -> Callable[..., Any]:
        def failing(descriptor: int, *rest: Any) -> Any:
            if where(descriptor):
                raise OSError(number, os.strerror(number))
            return os.write(descriptor, *rest) if rest else os.fsync(descriptor)

        return failing

    async def fails(self, number: int, disk: Disk) -> None:
        error = await self.failure(self.writer(disk=disk).deliver(self.folder, [b"x"]), OSError)
        self.assertEqual(error.errno, number)
        self.assertEqual(files(self.folder), [])

    async def test_disk_full(self) -> None:
        """A full disk is reported, and the part that was written is removed."""
        await self.fails(errno.ENOSPC, Disk(write=self.failing(errno.ENOSPC, lambda _: True)))

    async def test_fsync_of_file(self) -> None:
        """What the disk says at fsync is reported, and the file never appears."""
        renamed: list[str] = []
        disk = Disk(
            fsync=self.failing(errno.EIO, lambda fd: not is_folder(fd)),
            rename=lambda old, new: renamed.append(new),
        )
        await self.fails(errno.EIO, disk)
        self.assertEqual(renamed, [])

    async def test_fsync_of_folder(self) -> None:
        """A file whose folder cannot be synced is removed, since the client will send it again."""
        await self.fails(
            errno.EIO,
            Disk(fsync=self.failing(errno.EIO, lambda fd: path_of(fd).endswith("/new"))),
        )

    async def test_close(self) -> None:
        """What the file system says no sooner than at close is reported."""

        def close(descriptor: int) -> None:
            late = not is_folder(descriptor)
            os.close(descriptor)
            if late:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        await self.fails(errno.EDQUOT, Disk(close=close))

    async def test_file_in_place_of_folder(self) -> None:
        """A folder that is a file is an error and stays as it is."""
        Path(self.folder).write_bytes(b"mbox")
        writer = self.writer()
        await self.failure(writer.deliver(self.folder, [b"x"]), OSError)
        await self.failure(writer.deliver(f"{self.folder}/sub", [b"x"]), OSError)
        self.assertEqual(Path(self.folder).read_bytes(), b"mbox")

    async def test_chunks_raise(self) -> None:
        """What the chunks raise is what the delivery fails with, and nothing is left."""

        def chunks() -> Iterator[bytes]:
            yield b"x" * 1_000_000
            raise LookupError("spool file is gone")

        await self.failure(self.writer().deliver(self.folder, chunks), LookupError)
        self.assertEqual(files(self.folder), [])

    async def test_neighbours(self) -> None:
        """A delivery that fails takes nothing from the others of its batch."""
        gate, writer = self.gated(lambda fd: not is_folder(fd))
        first = writer.deliver(self.folder, [b"0"])
        await gate.reached
        gone: dict[str, bytes] = {}
        bad = writer.deliver(self.folder, lambda: [b"1", gone["1"]])
        good = writer.deliver(self.folder, [b"2"])
        gate.open()
        await self.failure(bad, KeyError)
        self.assertEqual([Path(await d).read_bytes() for d in (first, good)], [b"0", b"2"])
        self.assertEqual(len(files(self.folder)), 2)


class DeliverManyTests(MaildirTestCase):
    def copies(self, *names: str) -> list[tuple[str, Chunks]]:
        return [(f"{self.folder}/{name}", [name.encode(), b" text"]) for name in names]

    async def test_all(self) -> None:
        """A message for several folders is in each, with what belongs to each."""
        paths = await self.writer().deliver_many(self.copies("anna", "bert"))
        self.assertEqual([Path(p).read_bytes() for p in paths], [b"anna text", b"bert text"])

    async def test_none_for_error_before(self) -> None:
        """When one folder cannot be written, the message is in none."""
        await self.writer().deliver_many(self.copies("anna"))
        Path(self.folder, "bert").touch()
        copies = self.copies("anna", "bert", "carl")
        await self.failure(self.writer().deliver_many(copies), OSError)
        self.assertEqual(len(files(f"{self.folder}/anna")), 1)
        self.assertEqual(files(f"{self.folder}/carl"), [])

    async def test_none_for_error_late(self) -> None:
        """When the last copy cannot appear, those that did are removed."""

        def rename(old: str, new: str) -> None:
            if "/bert/" in new:
                self.assertEqual(len(files(f"{self.folder}/anna")), 1)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            os.rename(old, new)

        writer = self.writer(disk=Disk(rename=rename))
        error = await self.failure(writer.deliver_many(self.copies("anna", "bert")), OSError)
        self.assertEqual(error.errno, errno.EIO)
        self.assertEqual(files(f"{self.folder}/anna") + files(f"{self.folder}/bert"), [])

    async def test_open_files_limited(self) -> None:
        """A message for many folders holds no more files open than a batch has."""
        opened: set[int] = set()
        most = 0

        def note_open(path: str, flags: int, mode: int) -> int:
            nonlocal most
            opened.add(descriptor := os.open(path, flags, mode))
            most = max(most, len(opened))
            return descriptor

        def close(descriptor: int) -> None:
            opened.remove(descriptor)
            os.close(descriptor)

        disk = Disk(open=note_open, close=close)
        names = [f"user{n}" for n in range(20)]
        await self.writer(batch=4, disk=disk).deliver_many(self.copies(*names))
        self.assertEqual((most, opened), (4, set()))
        self.assertEqual([len(files(f"{self.folder}/{name}")) for name in names], [1] * 20)


class BatchTests(MaildirTestCase):
    async def test_reactor_woken_once(self) -> None:
        """What arrived during a batch is the next one, and the reactor hears of it once."""
        gate, writer = self.gated(lambda fd: not is_folder(fd))
        first = writer.deliver(self.folder, [b"x"])
        await gate.reached
        calls: list[Any] = []
        call_from_thread = reactor.callFromThread

        def counting(function: Any, *rest: Any) -> None:
            calls.append(function)
            call_from_thread(function, *rest)

        self.patch(reactor, "callFromThread", counting)
        waiting = [writer.deliver(self.folder, [b"x"]) for _ in range(10)]
        gate.open()
        await DeferredList([first, *waiting])
        self.assertEqual(len(calls), 2)

    async def test_limit(self) -> None:
        """Beyond the limit of deliveries none is taken until one is done."""
        gate, writer = self.gated(lambda fd: not is_folder(fd), max_deliveries=2)
        taken = [writer.deliver(self.folder, [b"x"]) for _ in range(2)]
        await self.failure(writer.deliver(self.folder, [b"x"]), QueueFull)
        gate.open()
        await DeferredList(taken)
        await writer.deliver(self.folder, [b"x"])
        self.assertEqual(len(files(self.folder)), 3)

    async def test_limit_of_octets(self) -> None:
        """Beyond the limit of octets none is taken, but one large message always fits alone."""
        gate, writer = self.gated(lambda fd: not is_folder(fd), max_bytes=100)
        large = writer.deliver(self.folder, [b"x" * 200], size=200)
        await self.failure(writer.deliver(self.folder, [b"x"], size=1), QueueFull)
        gate.open()
        await large
        await writer.deliver(self.folder, [b"x"], size=1)

    async def test_durable_in_this_order(self) -> None:
        """Each file is synced before it appears, its folder after, and only then is it said.

        So at any instant at which the power goes, what is in ``new/`` is whole, and what was
        acknowledged is in ``new/``.
        """
        gate = Gate(lambda fd: not is_folder(fd))
        whole: set[int] = set()  # inodes whose content is on the disk
        visible: dict[str, set[str]] = {}  # what is in a folder, by now
        durable: dict[str, set[str]] = {}  # what would be in it after a loss of power

        def write(descriptor: int, data: memoryview) -> int:
            whole.discard(os.fstat(descriptor).st_ino)
            return os.write(descriptor, data)

        def fsync(descriptor: int) -> None:
            gate(descriptor)
            if is_folder(descriptor):
                path = path_of(descriptor)
                durable[path] = set(visible.get(path, ()))
            else:
                whole.add(os.fstat(descriptor).st_ino)

        def rename(old: str, new: str) -> None:
            self.assertIn(os.stat(old).st_ino, whole)
            os.rename(old, new)
            visible.setdefault(os.path.dirname(new), set()).add(new)

        def said(path: str) -> None:
            self.assertIn(path, durable[os.path.dirname(path)])
            told.append(path)

        told: list[str] = []
        writer = self.writer(disk=Disk(write=write, fsync=fsync, rename=rename))
        deliveries = [
            writer.deliver(f"{self.folder}/{n % 3}", [b"x" * 5000]).addCallback(said)
            for n in range(30)
        ]
        await gate.reached
        gate.open()
        for delivery in deliveries:
            await delivery
        self.assertEqual(len(told), 30)


class CancelTests(MaildirTestCase):
    async def test_while_written(self) -> None:
        """A delivery cancelled before it appeared leaves nothing."""
        gate, writer = self.gated(lambda fd: not is_folder(fd))
        delivery = writer.deliver(self.folder, [b"x"])
        await gate.reached
        delivery.cancel()
        await self.failure(delivery, CancelledError)
        gate.open()
        await writer.stop()
        self.assertEqual(files(self.folder), [])

    async def test_while_waiting(self) -> None:
        """A delivery cancelled before its turn does not even read its message."""
        gate, writer = self.gated(lambda fd: not is_folder(fd))
        first = writer.deliver(self.folder, [b"x"])
        await gate.reached
        read: list[bool] = []

        def chunks() -> list[bytes]:
            read.append(True)
            return [b"x"]

        second = writer.deliver(self.folder, chunks)
        second.cancel()
        await self.failure(second, CancelledError)
        gate.open()
        await first
        await writer.stop()
        self.assertEqual((len(files(self.folder)), read), (1, []))

    async def test_too_late(self) -> None:
        """A delivery cancelled after it appeared stays: better twice than lost."""
        gate, writer = self.gated(lambda fd: path_of(fd).endswith("/new"))
        delivery = writer.deliver(self.folder, [b"x"])
        await gate.reached
        delivery.cancel()
        await self.failure(delivery, CancelledError)
        gate.open()
        await writer.stop()
        self.assertEqual([name[:4] for name in files(self.folder)], ["new/"])


class CrashTests(TestCase):
    def test_killed(self) -> None:
        """A process killed at any instant lost nothing it acknowledged, and left nothing partial.

        The files in ``new/`` say in their first line what the rest must be.
        """
        folder = os.path.abspath(self.mktemp())
        for count in 1, 30, 75, 150, 300:
            acknowledged = self.kill_after(count, folder)
            self.assertGreaterEqual(len(acknowledged), count)
            inside = {f"{folder}/new/{name}" for name in os.listdir(f"{folder}/new")}
            self.assertEqual(acknowledged - inside, set())
            for path in inside:
                digest, _, rest = Path(path).read_bytes().partition(b"\n")
                self.assertEqual(digest.decode(), sha256(rest).hexdigest(), path)

    def kill_after(self, count: int, folder: str) -> set[str]:
        code = f"from tests.test_maildir import deliver_for_ever as f; f({folder!r})"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment
        ) as victim:
            assert victim.stdout is not None
            lines = [victim.stdout.readline() for _ in range(count)]
            victim.kill()
            lines += victim.stdout.readlines()
        self.assertEqual(victim.returncode, -signal.SIGKILL)
        return {line.decode().rstrip("\n") for line in lines if line.endswith(b"\n")}


def deliver_for_ever(folder: str) -> None:
    """Deliver with twenty clients at once, and print each path when it is acknowledged."""
    signal.alarm(60)  # should the one who is to kill us be gone
    writer = MaildirWriter(reactor, threads=2, size_tag=True)

    def chunks() -> Iterator[bytes]:
        rest = random.randbytes(random.choice([10, 4000, 400_000]))
        yield sha256(rest).hexdigest().encode() + b"\n"
        for start in range(0, len(rest), 70_000):
            yield rest[start : start + 70_000]

    def acknowledged(path: str) -> None:
        os.write(1, path.encode() + b"\n")
        again()

    def again() -> None:
        writer.deliver(folder, chunks).addCallback(acknowledged)

    for _ in range(20):
        reactor.callWhenRunning(again)
    reactor.run()

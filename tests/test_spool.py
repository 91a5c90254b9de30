"""Tests for :mod:`qpsmtpd.spool`."""

from __future__ import annotations

import fcntl
import os
import resource
import secrets
import signal
import stat
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.spool import READ_BLOCK, WRITE_BLOCK, Spool, remove_stale


class SpoolCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.directory = folder.name

    def spool(self, threshold: int, *chunks: bytes) -> Spool:
        spool = Spool(threshold, self.directory)
        self.addCleanup(spool.close)
        for chunk in chunks:
            spool.write(chunk)
        return spool


class MemoryTests(SpoolCase):
    def test_below_the_threshold_no_file(self) -> None:
        """Octets below the threshold stay in memory, as the chunks that were written."""
        spool = self.spool(10, b"abcd", b"", b"efghi")
        self.assertEqual(list(spool.chunks()), [b"abcd", b"efghi"])
        self.assertEqual((spool.size, spool.in_memory), (9, True))
        self.assertEqual(os.listdir(self.directory), [])

    def test_chunks_are_not_copied(self) -> None:
        """A reader gets the very objects that were written."""
        chunk = b"x" * 100
        self.assertIs(next(self.spool(1000, chunk).chunks()), chunk)

    def test_first(self) -> None:
        """The first octets are a part of all, wherever they lie; none are only where none are."""
        for threshold in (1, 5, 100):
            for chunks in ((b"abc", b"def", b"g"), (b"abcdefg",), ()):
                spool = self.spool(threshold, *chunks)
                first = spool.first()
                self.assertTrue(b"".join(chunks).startswith(first))
                self.assertEqual(bool(first), bool(chunks))
                spool.close()
                self.assertRaises(ValueError, spool.first)

    def test_octet_by_octet(self) -> None:
        """Many tiny chunks are joined, so that each does not cost an object."""
        data = bytes(range(256)) * 64
        spool = self.spool(1 << 20, *(data[i : i + 1] for i in range(len(data))))
        self.assertEqual(b"".join(spool.chunks()), data)
        self.assertLess(len(list(spool.chunks())), 1000)

    def test_reader_ends_where_it_began(self) -> None:
        """A reader gives what was written when it was asked for, also if the rest spills."""
        spool = self.spool(10, b"abc", b"def")
        reader = spool.chunks()
        self.assertEqual(next(reader), b"abc")
        spool.write(b"ghijkl")
        self.assertFalse(spool.in_memory)
        self.assertEqual(list(reader), [b"def"])


class FileTests(SpoolCase):
    def test_from_the_threshold_on_a_file(self) -> None:
        """At the threshold the octets move to a file that only its owner may read."""
        spool = self.spool(10, b"abcde", b"fghij")
        [name] = os.listdir(self.directory)
        path = Path(self.directory, name)
        self.assertEqual(path.read_bytes(), b"abcdefghij")
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertIn(f"-{os.getpid()}-", name)
        self.assertEqual(spool.path(), str(path))

    def test_nobody_elses_file(self) -> None:
        """A file that is there already is not taken, nor is what a link leads to."""
        elsewhere = Path(self.directory, "elsewhere")
        elsewhere.write_bytes(b"precious")
        number = f"{0:032x}"
        self.patch(secrets, "token_hex", lambda size: number)
        os.symlink(elsewhere, Path(self.directory, f"qpsmtpd-{os.getpid()}-{number}.spool"))
        with self.assertRaises(FileExistsError):
            self.spool(1, b"abc")
        self.assertEqual(elsewhere.read_bytes(), b"precious")

    def test_threshold_zero(self) -> None:
        """With threshold 0 the first octet makes the file, and no octet makes none."""
        spool = self.spool(0)
        self.assertEqual(os.listdir(self.directory), [])
        spool.write(b"a")
        self.assertEqual(len(os.listdir(self.directory)), 1)

    def test_small_writes_are_collected(self) -> None:
        """What follows a spilled start goes to the file in blocks; readers see all of it."""
        spool = self.spool(1, b"abc", b"def")
        [name] = os.listdir(self.directory)
        path = Path(self.directory, name)
        self.assertEqual(path.read_bytes(), b"abc")
        self.assertEqual(list(spool.chunks(2)), [b"c", b"def"])
        self.assertEqual(list(spool.chunks(4)), [b"ef"])
        spool.write(b"x" * WRITE_BLOCK)
        self.assertEqual(path.stat().st_size, spool.size)

    def test_path_is_complete(self) -> None:
        """The named file holds everything, whether it existed before or not."""
        for threshold in (1, 100):
            spool = self.spool(threshold, b"abc", b"def")
            self.assertEqual(Path(spool.path()).read_bytes(), b"abcdef")
            spool.write(b"ghi")
            self.assertEqual(Path(spool.path()).read_bytes(), b"abcdefghi")
            self.assertEqual(b"".join(spool.chunks()), b"abcdefghi")

    def test_path_of_nothing(self) -> None:
        """An empty message has a path too: an empty file."""
        self.assertEqual(Path(self.spool(100).path()).read_bytes(), b"")

    def test_readers_are_independent(self) -> None:
        """Two readers and two open files, mixed, each see the whole from their place on."""
        data = os.urandom(3 * READ_BLOCK + 17)
        spool = self.spool(10, data)
        first, second = spool.chunks(), spool.chunks(READ_BLOCK)
        start = next(first)
        self.assertEqual(b"".join(second), data[READ_BLOCK:])
        with spool.open() as one, spool.open() as two:
            self.assertEqual(one.read(1000), data[:1000])
            self.assertEqual(two.read(), data)
            self.assertEqual(one.read(1000), data[1000:2000])
        self.assertEqual(start + b"".join(first), data)

    def test_readers_leave_no_descriptor(self) -> None:
        """Readers that ended, stopped midway or never began hold no descriptor."""
        spool = self.spool(10, b"x" * (3 * READ_BLOCK))
        before = len(os.listdir("/proc/self/fd"))
        list(spool.chunks())
        next(spool.chunks())
        spool.chunks()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_flat_memory(self) -> None:
        """A message of 100 MiB raises the peak of memory by less than 1 MiB."""
        code = (
            "import sys\n"
            "from qpsmtpd.spool import Spool\n"
            "def peak():\n"
            "    lines = open('/proc/self/status').read().splitlines()\n"
            "    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM'))\n"
            "spool = Spool(65536, sys.argv[1])\n"
            "for _ in range(32): spool.write(bytes(65536))\n"
            "sum(map(len, spool.chunks()))\n"
            "before = peak()\n"
            "for _ in range(1600): spool.write(bytes(65536))\n"
            "assert sum(map(len, spool.chunks())) == spool.size\n"
            "spool.close()\n"
            "print(peak() - before)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, self.directory],
            capture_output=True,
            check=True,
            cwd=Path(__file__).parents[1],
        )
        self.assertLess(int(done.stdout), 1024)
        self.assertEqual(os.listdir(self.directory), [])


class SameOctetsTests(SynchronousTestCase):
    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(st.binary(max_size=40)), st.integers(0, 300), st.integers(0, 300), st.booleans()
    )
    def test_any_chunking_and_threshold(
        self, chunks: list[bytes], threshold: int, start: int, named: bool
    ) -> None:
        """However octets are cut and wherever they lie, the same ones come back."""
        data = b"".join(chunks)
        with TemporaryDirectory() as directory:
            spool = Spool(threshold, directory)
            for chunk in chunks:
                spool.write(chunk)
            if named:
                spool.path()
            self.assertEqual(spool.size, len(data))
            self.assertEqual(b"".join(spool.chunks()), data)
            self.assertEqual(b"".join(spool.chunks(start)), data[start:])
            with spool.open() as file:
                self.assertEqual(file.read(), data)
            spool.close()
            self.assertEqual(os.listdir(directory), [])


class CloseTests(SpoolCase):
    def test_closed(self) -> None:
        """Closing removes the file, may be repeated, and ends all use."""
        for threshold in (1, 100):
            spool = self.spool(threshold, b"abcdef")
            spool.close()
            spool.close()
            self.assertEqual(os.listdir(self.directory), [])
            self.assertTrue(spool.closed)
            self.assertRaises(ValueError, spool.chunks)
            self.assertRaises(ValueError, spool.open)
            self.assertRaises(ValueError, spool.path)
            self.assertRaises(ValueError, spool.write, b"x")

    def test_closed_under_a_reader(self) -> None:
        """A reader half way through the file, or not begun, raises when the spool closes."""
        spool = self.spool(1, b"x" * (2 * READ_BLOCK))
        begun, fresh = spool.chunks(), spool.chunks()
        next(begun)
        spool.close()
        self.assertRaises(ValueError, next, begun)
        self.assertRaises(ValueError, next, fresh)

    def test_open_file_outlives_the_spool(self) -> None:
        """A file that was opened stays readable after the spool is closed."""
        for threshold in (1, 100):
            spool = self.spool(threshold, b"abcdef")
            with spool.open() as file:
                spool.close()
                self.assertEqual(file.read(), b"abcdef")

    def test_file_gone(self) -> None:
        """Closing does not mind that somebody removed the file."""
        spool = self.spool(1, b"abc")
        os.unlink(spool.path())
        spool.close()

    def test_negative_offset(self) -> None:
        """A negative offset is an error, not an offset from the end."""
        self.assertRaises(ValueError, self.spool(10, b"abc").chunks, -1)


class FailureTests(SpoolCase):
    def test_no_directory(self) -> None:
        """Where no file can be made, the write that needs it fails and closes the spool."""
        spool = Spool(4, os.path.join(self.directory, "missing"))
        spool.write(b"abc")
        self.assertRaises(FileNotFoundError, spool.write, b"d")
        self.assertRaises(ValueError, spool.chunks)
        self.assertRaises(ValueError, spool.write, b"e")

    def test_full_disk(self) -> None:
        """A write that does not fit raises OSError, and the file is removed."""
        spool = self.spool(1, b"abc")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGXFSZ, old)
        resource.setrlimit(resource.RLIMIT_FSIZE, (WRITE_BLOCK // 2, before[1]))
        try:
            self.assertRaises(OSError, spool.write, b"x" * WRITE_BLOCK)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        self.assertTrue(spool.closed)
        self.assertEqual(os.listdir(self.directory), [])

    def test_file_cut_short(self) -> None:
        """Octets that vanished from the file are an error, never a short message."""
        spool = self.spool(1, b"abcdef")
        os.truncate(spool.path(), 3)
        reader = spool.chunks()
        self.assertEqual(next(reader), b"abc")
        self.assertRaises(OSError, next, reader)


class RemoveStaleTests(SpoolCase):
    def test_leftover_of_a_killed_process(self) -> None:
        """The file of a process that was killed is removed; those of the living stay."""
        code = (
            "import os, signal, sys\n"
            "from qpsmtpd.spool import Spool\n"
            "Spool(1, sys.argv[1]).write(b'abc')\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        subprocess.run(
            [sys.executable, "-c", code, self.directory],
            check=False,
            cwd=Path(__file__).parents[1],
        )
        live = self.spool(1, b"abc")
        self.assertEqual(len(os.listdir(self.directory)), 2)
        self.assertEqual(remove_stale(self.directory), 1)
        self.assertEqual(os.listdir(self.directory), [os.path.basename(live.path())])
        self.assertEqual(b"".join(live.chunks()), b"abc")

    def test_same_process_number(self) -> None:
        """A leftover under this process's own number is one too: numbers come again."""
        Path(self.directory, f"qpsmtpd-{os.getpid()}-{'0' * 32}.spool").touch()
        self.assertEqual(remove_stale(self.directory), 1)

    def test_other_names_stay(self) -> None:
        """Nothing else in the folder is touched, nor what only looks like a spool file."""
        token = "0" * 32
        Path(self.directory, "qpsmtpd.conf").touch()
        Path(self.directory, f"qpsmtpd-1-{token}.spool.bak").touch()
        Path(self.directory, f"qpsmtpd-1-{token}.spool").mkdir()
        os.mkfifo(Path(self.directory, f"qpsmtpd-2-{token}.spool"))
        os.symlink("qpsmtpd.conf", Path(self.directory, f"qpsmtpd-3-{token}.spool"))
        self.assertEqual(remove_stale(self.directory), 0)
        self.assertEqual(len(os.listdir(self.directory)), 5)

    def test_file_lost_to_a_sweep(self) -> None:
        """A file removed between its making and its lock is made again."""
        lock = fcntl.flock
        swept: list[str] = []

        def sweep_first(descriptor: int, operation: int) -> None:
            if not swept:
                swept.extend(os.listdir(self.directory))
                os.unlink(os.path.join(self.directory, swept[0]))
            lock(descriptor, operation)

        self.patch(fcntl, "flock", sweep_first)
        spool = self.spool(1, b"abc")
        self.assertEqual(len(swept), 1)
        self.assertEqual(Path(spool.path()).read_bytes(), b"abc")

    def test_no_folder(self) -> None:
        """A folder that is not there is an error for whoever configured it."""
        self.assertRaises(OSError, remove_stale, os.path.join(self.directory, "missing"))

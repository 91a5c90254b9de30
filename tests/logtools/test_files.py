"""Files of a log, as they are and as they change."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.logtools.files import LINE_LIMIT, Splitter, follow, read, seek_last


class SplitterTests(SynchronousTestCase):
    @given(st.lists(st.sampled_from([b"a", b"bc", b"\n", b"d\ne", b"\n\n"])))
    def test_cuts(self, pieces: list[bytes]) -> None:
        """Lines are the same however the octets come, and are counted."""
        splitter = Splitter()
        found = [line for piece in pieces for line in splitter.feed(piece)]
        whole = b"".join(pieces)
        *lines, rest = whole.split(b"\n")
        self.assertEqual(found, lines)
        self.assertEqual(splitter.consumed, len(whole) - len(rest))
        self.assertEqual(list(splitter.end()), [rest] if rest else [])

    def test_endless(self) -> None:
        """Of a line without end, its beginning is kept."""
        splitter = Splitter()
        for _ in range(10):
            self.assertEqual(list(splitter.feed(b"x" * LINE_LIMIT)), [])
        self.assertEqual(list(splitter.feed(b"x\ny\n")), [b"x" * LINE_LIMIT, b"y"])
        self.assertEqual(splitter.consumed, 10 * LINE_LIMIT + 4)


class ReadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def test_read(self) -> None:
        """A file is read to its end, or so far; the last line may have no end."""
        self.path.write_bytes(b"a\nb\nc")
        with self.path.open("rb") as file:
            self.assertEqual(list(read(file)), [b"a", b"b", b"c"])
            file.seek(0)
            self.assertEqual(list(read(file, size=3)), [b"a", b"b"])
            file.seek(0)
            splitter = Splitter()
            self.assertEqual(list(read(file, splitter)), [b"a", b"b"])
            self.assertEqual(splitter.consumed, 4)

    def test_last(self) -> None:
        """The last lines are found, in short files and in long ones."""
        lines = [b"%d" % number for number in range(50_000)]
        for count in (0, 1, 3, 300, 49_999, 50_000, 60_000):
            self.path.write_bytes(b"".join(line + b"\n" for line in lines))
            with self.path.open("rb") as file:
                seek_last(file, count)
                self.assertEqual(list(read(file)), lines[len(lines) - min(count, len(lines)) :])


class FollowTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_bytes(b"1\n2\n3\n")

    def run_follow(self, *changes: Callable[[], object], count: int = 2) -> list[bytes]:
        """Follow the file; whenever nothing new is there, the next change happens."""
        waiting = iter(changes)
        found: list[bytes] = []
        lines: Iterator[bytes | None] = follow(self.path, count, lambda seconds: next(waiting)())
        try:
            found.extend(line for line in lines if line is not None)
        except RuntimeError as error:  # there were no more changes
            self.assertIsInstance(error.__cause__, StopIteration)
        return found

    def add(self, octets: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(octets)

    def test_grows(self) -> None:
        """The last lines come, then those that are added, each when it is whole."""
        found = self.run_follow(lambda: self.add(b"4\n5"), lambda: None, lambda: self.add(b"6\n"))
        self.assertEqual(found, [b"2", b"3", b"4", b"56"])

    def test_rotated(self) -> None:
        """A file that is renamed is read to its end, then the new one."""
        old = self.path.with_name(f"{self.path.name}-old")

        def rename() -> None:
            self.path.rename(old)

        def late() -> None:
            with old.open("ab") as file:
                file.write(b"4\n5")

        def new() -> None:
            late()
            self.path.write_bytes(b"6\n7\n")

        self.assertEqual(
            self.run_follow(rename, late, new, lambda: self.add(b"8\n")),
            [b"2", b"3", b"4", b"54", b"5", b"6", b"7", b"8"],
        )

    def test_truncated(self) -> None:
        """A file that became shorter is read from its beginning."""
        found = self.run_follow(lambda: self.path.write_bytes(b"4\n"), lambda: self.add(b"5\n"))
        self.assertEqual(found, [b"2", b"3", b"4", b"5"])

    def test_missing(self) -> None:
        """A file that is not there at first is an error."""
        os.unlink(self.path)
        self.assertRaises(FileNotFoundError, self.run_follow)

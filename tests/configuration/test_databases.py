"""Constant databases that a real tool has made, and files that are none."""

import os
import subprocess
import sys
from collections.abc import Container
from unittest.mock import patch

from twisted.internet.task import Clock

from qpsmtpd.configuration.databases import open_database
from qpsmtpd.configuration.errors import ConfigurationError, ConfigurationErrors
from qpsmtpd.configuration.load import load
from qpsmtpd.plugins.rcpt_ok import RcptOk
from tests.configuration.folders import FolderTestCase
from tests.services.binaries import find


class DatabaseTestCase(FolderTestCase):
    def make(self, path: str, *keys: str) -> str:
        """Make a database with the program ``cdb`` of tinycdb."""
        path = self.at(path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        lines = "".join(f"{key} \n" for key in keys)
        subprocess.run([find("cdb"), "-c", "-m", path], input=lines.encode(), check=True)
        return path

    def error(self, path: str) -> str:
        return self.plain(self.assertRaises(ConfigurationError, open_database, path))


class OpenTests(DatabaseTestCase):
    def test_keys(self) -> None:
        """It has the keys that were put in, and no others."""
        found = open_database(self.make("more.cdb", "example.org", ".example.net"))
        self.assertIn(b"example.org", found)
        self.assertIn(b".example.net", found)
        for key in (b"example.net", b"example.or", b"", b"x" * 1000):
            self.assertNotIn(key, found)

    def test_empty(self) -> None:
        """A database without a key has none."""
        self.assertNotIn(b"example.org", open_database(self.make("more.cdb")))

    def test_replaced(self) -> None:
        """A database that is replaced stays as it was for whoever has it open."""
        found = open_database(self.make("more.cdb", "old.example"))
        self.make("more.cdb", "new.example")
        self.assertIn(b"old.example", found)
        self.assertNotIn(b"new.example", found)
        self.assertIn(b"new.example", open_database(self.at("more.cdb")))

    def test_overwritten(self) -> None:
        """A database that is cut short in its place is an error, and not the end of the process."""
        path = self.make("more.cdb", *(f"{number}.example" for number in range(5000)))
        script = (
            "import os, sys\n"
            "from qpsmtpd.configuration.databases import open_database\n"
            "found = open_database(sys.argv[1])\n"
            "assert b'1.example' in found\n"
            "os.truncate(sys.argv[1], 0)\n"
            "try:\n"
            "    b'2.example' in found\n"
            "except OSError:\n"
            "    print('an error')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, path], capture_output=True, text=True, check=False
        )
        self.assertEqual((done.returncode, done.stdout), (0, "an error\n"), done.stderr)

    def test_memory(self) -> None:
        """A database of many megabytes is not loaded."""
        path = self.make("more.cdb", *(f"{number}.{'x' * 200}.example" for number in range(60_000)))
        self.assertGreater(os.path.getsize(path), 12_000_000)
        before = _private_octets()
        found = open_database(path)
        self.assertIn(f"59999.{'x' * 200}.example".encode(), found)
        self.assertLess(_private_octets() - before, 4_000_000)

    def test_no_database(self) -> None:
        """What is no database is an error that names the file."""
        path = self.write("more.cdb", "example.org\n")
        self.assertIn(
            "TOP/more.cdb: expected a constant database, in the format of cdb", self.error(path)
        )
        with open(self.make("cut.cdb", "example.org"), "r+b") as file:
            file.truncate(2050)
        self.assertIn(
            "TOP/cut.cdb: expected a constant database, in the format of cdb", self.error(file.name)
        )
        os.mkfifo(self.at("pipe.cdb"))
        self.assertEqual(self.error(self.at("pipe.cdb")), "TOP/pipe.cdb: expected a regular file")
        self.assertIn("No such file", self.error(self.at("gone.cdb")))

    def test_no_library(self) -> None:
        """Without cdbx, a database that is there stops the start and says what is missing."""
        with patch.dict(sys.modules, {"cdbx": None}):
            said = self.error(self.make("more.cdb"))
        self.assertTrue(said.startswith("TOP/more.cdb: expected the Python package cdbx"), said)


class FilesTests(DatabaseTestCase):
    def test_none(self) -> None:
        """Where there is no database, nothing is in it, and cdbx is not needed."""
        with patch.dict(sys.modules, {"cdbx": None}):
            self.assertNotIn(b"example.org", self.configure({}).database("morercpthosts"))

    def test_name(self) -> None:
        """It is found without a plain file of its name, and told among the files read."""
        path = self.make("config/morercpthosts.cdb", "example.org")
        files = self.configure({})
        self.assertIn(b"example.org", files.database("morercpthosts"))
        self.assertIs(files.database("morercpthosts"), files.database("morercpthosts"))
        self.assertEqual(files.files_read(), (path,))

    def test_component(self) -> None:
        """A component is given the database that it declares."""
        self.make("config/morercpthosts.cdb", "example.org")
        found = load(self.configure({"plugins": "rcpt_ok"}), {}, lambda interface: Clock())
        [link] = found.chain.links
        assert isinstance(link.component, RcptOk)
        keys: Container[bytes] = link.component.database
        self.assertIn(b"example.org", keys)

    def test_component_error(self) -> None:
        """A database that cannot be read is among all that is wrong."""
        files = self.configure({"plugins": "rcpt_ok", "morercpthosts.cdb": "x", "rcpthosts": ".."})
        caught = self.assertRaises(ConfigurationErrors, load, files, {}, lambda interface: Clock())
        self.assertIn("TOP/config/morercpthosts.cdb: ", self.plain(caught))
        self.assertIn("TOP/config/rcpthosts:1: ", self.plain(caught))


def _private_octets() -> int:
    """Memory that is this process's own; not pages of files."""
    with open("/proc/self/status", encoding="ascii") as file:
        [line] = [line for line in file if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024

"""The file that says which process serves."""

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.configuration.errors import ConfigurationError
from qpsmtpd.server.pidfile import remove_pid, write_pid


class PidFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = self.mktemp()

    def write(self, text: str) -> None:
        with open(self.path, "w", encoding="ascii") as file:
            file.write(text)

    def read(self) -> str:
        with open(self.path, encoding="ascii") as file:
            return file.read()

    def test_write_and_remove(self) -> None:
        """The file has our id until it is removed; without a name there is none."""
        write_pid(self.path)
        self.assertEqual(self.read(), f"{os.getpid()}\n")
        write_pid(self.path)
        remove_pid(self.path)
        self.assertFalse(os.path.exists(self.path))
        write_pid(None)
        remove_pid(None)

    def test_left_behind(self) -> None:
        """A file that a dead process left, or that has no process's id, is written over."""
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        for text in (f"{dead.pid}\n", "", "x\n", "0\n", "9" * 50):
            self.write(text)
            write_pid(self.path)
            self.assertEqual(self.read(), f"{os.getpid()}\n")

    def test_living(self) -> None:
        """A process that lives keeps another from taking its file."""
        self.write(f"{os.getppid()}\n")
        caught = self.assertRaises(ConfigurationError, write_pid, self.path)
        self.assertIn(f"not one with pid {os.getppid()}", str(caught))
        self.assertEqual(self.read(), f"{os.getppid()}\n")

    def test_of_another(self) -> None:
        """A file of another process is not removed."""
        self.write(f"{os.getppid()}\n")
        remove_pid(self.path)
        self.assertEqual(self.read(), f"{os.getppid()}\n")

    def test_removed_already(self) -> None:
        """A file that somebody has removed is no error."""
        write_pid(self.path)
        os.unlink(self.path)
        remove_pid(self.path)
        self.assertFalse(os.path.exists(self.path))

    def test_cannot_be_written(self) -> None:
        """A file that cannot be written is an error of the configuration."""
        path = os.path.join(self.path, "missing", "pid")
        caught = self.assertRaises(ConfigurationError, write_pid, path)
        self.assertIn("No such file or directory", str(caught))

"""Servers in processes of their own, for tests that run them for real."""

import os
import re
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

__all__ = ["LIMIT", "PYTHON", "TWISTD", "Server", "connect", "run", "until"]

#: Seconds that anything may take, on the slowest machine.
LIMIT = 60.0

PYTHON = [sys.executable]

#: ``twistd``, whatever PATH has.
TWISTD = [
    sys.executable,
    "-c",
    "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()",
]


def until(condition: Callable[[], object], what: Callable[[], str]) -> None:
    """Wait for a condition.

    :param what: What is said when it does not come true.
    """
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(what())
        time.sleep(0.02)


def run(
    command: Sequence[str],
    folder: str | Path,
    environ: Mapping[str, str] = {},
    status: int | None = 0,
) -> str:
    """Run a command to its end.

    :returns: What it said.
    """
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=5 * LIMIT,
    )
    if status is not None and done.returncode != status:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


class Server:
    """A process and those that it starts. None of them outlives the test.

    :ivar pid: Its id.
    """

    def __init__(
        self,
        case: SynchronousTestCase,
        command: Sequence[str],
        folder: str | Path,
        environ: Mapping[str, str] = {},
    ) -> None:
        """Start it.

        :param folder: Where it runs; what it says goes to ``server.log`` in there.
        """
        self._log = Path(folder, "server.log")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that its children can be ended with it
            )
        self.pid = self._process.pid
        case.addCleanup(self._kill)

    @property
    def said(self) -> str:
        """All that it has said."""
        return self._log.read_text(errors="replace")

    def wait_for(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until it has said something, so many times.

        :returns: Each time, what the pattern's group matched.
        """

        def failed() -> str:
            return f"{pattern!r} was not said {count} times:\n{self.said}"

        def found() -> bool:
            if self._process.poll() is not None and len(re.findall(pattern, self.said)) < count:
                raise AssertionError(f"ended with {self._process.returncode}; {failed()}")
            return len(re.findall(pattern, self.said)) >= count

        until(found, failed)
        return re.findall(pattern, self.said)

    def port(self, number: int = 0) -> int:
        """The TCP port that it listens on, when it does."""
        pattern = r"Listening on IPv[46]Address\(type='TCP', host='[^']*', port=(\d+)"
        return int(self.wait_for(pattern, number + 1)[number])

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end.

        :returns: Its exit status; negative is the signal that it died of.
        """
        try:
            return self._process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end:\n{self.said}") from None

    def stop(self) -> int:
        """Ask it to stop, and wait for its end.

        :returns: Its exit status.
        """
        self.signal(signal.SIGTERM)
        return self.wait()

    def _kill(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()


def connect(port: int | str, host: str = "127.0.0.1") -> smtplib.SMTP:
    """Open a session with a server.

    :param port: A TCP port, or the path of a UNIX socket.
    """
    if isinstance(port, int):
        return smtplib.SMTP(host, port, local_hostname="client.example", timeout=LIMIT)
    client = smtplib.SMTP(local_hostname="client.example", timeout=LIMIT)
    client.sock = socket.socket(socket.AF_UNIX)
    client.sock.settimeout(LIMIT)
    client.sock.connect(port)
    client.getreply()
    return client

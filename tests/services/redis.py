"""A real Redis of one test, and a clock for it."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from twisted.internet import task
from twisted.trial.unittest import SynchronousTestCase

from tests.services.binaries import find

__all__ = ["PASSWORD", "SECOND", "RedisClock", "RedisServer"]

#: What a client that comes by TCP has to know.
PASSWORD: Final = "s3cret%"

#: Milliseconds of a second in these tests: so many that the time which they take is nothing.
SECOND: Final = 1_000_000

#: Seconds that it may take to answer its first PING, or to end.
_LIMIT: Final = 60


class RedisServer:
    """One Redis, with its files in a temporary folder.

    :ivar path: The UNIX socket it listens on.
    :ivar port: The port it listens on at 127.0.0.1.
    """

    def __init__(self, case: SynchronousTestCase) -> None:
        """Start it; it ends with the test."""
        folder = Path(tempfile.mkdtemp(prefix="redis-"))  # the path of a socket has to be short
        case.addCleanup(shutil.rmtree, folder)
        self.path = str(folder / "redis.socket")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        case.addCleanup(self.kill)
        self.start()

    def start(self) -> None:
        """Start it, and return when it answers. What it has was written before it was killed."""
        # setpriv: a test process that is killed takes Redis with it.
        command = [find("setpriv"), "--pdeathsig", "KILL", find("redis-server")]
        command += ["--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", self.path]
        command += ["--dir", str(self._folder), "--appendonly", "yes", "--appendfsync", "always"]
        command += ["--requirepass", PASSWORD]
        log = self._folder / "log"
        with log.open("ab") as stream:
            self._process = subprocess.Popen(command, stdout=stream, stderr=stream)
        deadline = time.monotonic() + _LIMIT
        while True:
            try:
                self.say("PING")
            except (OSError, RuntimeError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"Redis does not answer:\n{log.read_text()}") from None
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """End it without a warning."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(_LIMIT)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def say(self, *words: str | bytes | int) -> Any:
        """Say something to it, and wait for the answer, beside all others."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_LIMIT)
            connection.connect(self.path)
            stream = connection.makefile("rwb")
            for command in (("AUTH", PASSWORD), words):
                octets = [
                    each if isinstance(each, bytes) else str(each).encode() for each in command
                ]
                stream.write(b"*%d\r\n" % len(octets))
                for each in octets:
                    stream.write(b"$%d\r\n%s\r\n" % (len(each), each))
                stream.flush()
                answer = _answer(stream)
            return answer


def _answer(stream: Any) -> Any:
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("no answer")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise RuntimeError(rest)
    if kind == b"*":
        return [_answer(stream) for _ in range(int(rest))]
    if kind == b"$":
        return None if rest == b"-1" else stream.read(int(rest) + 2)[:-2]
    return int(rest) if kind == b":" else rest


class RedisClock(task.Clock):
    """Lets time pass for a Redis: what its keys have left to live becomes less."""

    def __init__(self, server: RedisServer) -> None:
        """Make the clock of a Redis whose seconds are :data:`SECOND` long."""
        super().__init__()
        self._server = server

    def advance(self, amount: float) -> None:
        """Let some seconds pass, in which halves count."""
        super().advance(amount)
        for key in self._server.say("KEYS", "*"):
            left = self._server.say("PTTL", key)
            if left >= 0:
                halves = round(left / SECOND * 2 - amount * 2)
                # Where no half is left, Redis removes it as one whose time is over.
                self._server.say("PEXPIRE", key, halves * SECOND // 2)

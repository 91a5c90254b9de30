"""Start a server on its core, wait until it answers, and ask the kernel what it used."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers.base import ROOT, Server

TICK = 1 / os.sysconf("SC_CLK_TCK")

#: From ``linux/prctl.h``.
PR_SET_CHILD_SUBREAPER = 36

#: How long a server may take until it greets, and until it has stopped.
PATIENCE = 30.0


class BenchmarkError(Exception):
    """A server or a load did not do what a measurement needs."""


def statistics(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` that follow the name of the command."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(statistics(int(entry))[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is up."""

    server: Server
    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    def cpu(self) -> float:
        """Return the seconds of CPU that the tree has used, its dead and reaped included."""
        ticks = 0
        for pid in tree(self.process.pid):
            with contextlib.suppress(OSError):
                ticks += sum(int(value) for value in statistics(pid)[11:15])
        return ticks * TICK

    def memory(self, field: str) -> int:
        """Return ``VmRSS`` or ``VmHWM`` in octets, summed over the tree."""
        total = 0
        for pid in tree(self.process.pid):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith(f"{field}:"):
                        total += int(line.split()[1]) * 1024
        return total

    def reset_peak(self) -> None:
        """Let ``VmHWM`` start again at the present size, where the kernel can do that."""
        for pid in tree(self.process.pid):
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def said(self) -> str:
        """Return the end of what the server wrote to its standard streams."""
        return (self.folder / "output").read_text(errors="replace")[-2000:]


def greets(port: int) -> bool:
    """Say whether an SMTP server answers, and take leave of it."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            greeted = connection.recv(1024).startswith(b"220")
            connection.sendall(b"QUIT\r\n")
            connection.recv(1024)
            return greeted
    except OSError:
        return False


@contextlib.contextmanager
def running(server: Server, cpus: str, folder: str | None = None) -> Iterator[Running]:
    """Run a server, pinned to some CPUs, for as long as the block lasts.

    :param folder: Where the server's own folder is made; decides the file
        system that a durable server writes to.
    """
    home = Path(tempfile.mkdtemp(prefix="benchmark-", dir=folder))
    home.chmod(0o755)  # Postfix looks into it as another user
    port = free_port()
    try:
        command = server.prepare(home, port)
        with (home / "output").open("wb") as output:
            process = subprocess.Popen(
                ["taskset", "-c", cpus, *command.argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={**os.environ, **command.environment},
                start_new_session=True,
            )
        up = Running(server, process, port, home)
        try:
            began = time.monotonic()
            while not greets(port):
                if process.poll() is not None or time.monotonic() - began > PATIENCE:
                    raise BenchmarkError(f"{server.title} does not answer:\n{up.said()}")
                time.sleep(0.05)
            yield up
            if process.poll() is not None:
                raise BenchmarkError(f"{server.title} died:\n{up.said()}")
        finally:
            stop(process)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and whatever it has started."""
    started = tree(process.pid)
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in started[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def adopt_orphans() -> None:
    """Become the parent of what a server leaves behind, so that ``stop`` can reap it.

    In a container there may be no other process that does.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

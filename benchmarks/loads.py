"""The loads: Postfix's smtp-source, and the pipelining client beside this file."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.processes import BenchmarkError, Running
from benchmarks.servers.base import HERE

#: How long one load may take.
LIMIT = 900.0


@dataclass(frozen=True, slots=True)
class Sent:
    """What it took to have some messages accepted, every reply checked."""

    messages: int
    seconds: float
    pipelining_offered: bool = True

    @property
    def rate(self) -> float:
        return self.messages / self.seconds


#: Sends a number of messages to a server.
Load = Callable[[Running, int], Sent]


def run(argv: list[str]) -> str:
    """Run a client, which inherits the CPUs of the runner; return what it printed."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode:
        raise BenchmarkError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def smtp_source(
    up: Running, messages: int, *, sessions: int = 20, octets: int = 4096, persistent: bool
) -> Sent:
    argv = ["/usr/sbin/smtp-source", "-s", str(sessions), "-m", str(messages), "-l", str(octets)]
    argv += ["-M", "client.example", "-f", "sender@client.example", "-t", "recipient@mail.example"]
    argv += ["-d"] if persistent else []
    began = time.perf_counter()
    run([*argv, f"inet:127.0.0.1:{up.port}"])
    return Sent(messages, time.perf_counter() - began)


def pipelined(up: Running, messages: int, *, sessions: int = 20, octets: int = 4096) -> Sent:
    argv = [sys.executable, "-P", str(HERE / "pipelining_client.py")]
    argv += [str(number) for number in (up.port, sessions, messages, octets)]
    argv += [] if up.server.after_data else ["apart"]
    said = json.loads(run(argv))
    return Sent(messages, said["seconds"], said["offered"])


#: The loads of the table of messages, by the title of their column.
LOADS: dict[str, Load] = {
    "once": partial(smtp_source, persistent=False),
    "persistent": partial(smtp_source, persistent=True),
    "pipelined": pipelined,
}

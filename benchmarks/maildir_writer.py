"""Measure durable Maildir delivery: ``python -m benchmarks.maildir_writer [FOLDER] [SECONDS]``.

Clients that each wait for one 4 KiB message to be durable before they hand over the next. The
folder decides the file system; what is written below it is removed. ``reactor`` is the CPU
time of the reactor's thread for one message, the benchmark's own bookkeeping included.
"""

import os
import statistics
import sys
import tempfile
import time
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from qpsmtpd.maildir import Disk, MaildirWriter

MESSAGE = (b"x" * 78 + b"\n") * 51 + b"x" * 66 + b"\n"


def _nothing(descriptor: int) -> None:
    pass


VARIANTS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "without early writeback": {"disk": Disk(start_writeback=_nothing)},
    "fdatasync": {"disk": Disk(fsync=os.fdatasync)},
    "2 threads": {"threads": 2},
    "4 threads": {"threads": 4},
    "batches of 1": {"batch": 1},
    "batches of 1, 16 threads": {"batch": 1, "threads": 16},
    "not durable": {"disk": Disk(fsync=_nothing, start_writeback=_nothing)},
}


async def client(writer: MaildirWriter, folder: str, end: float, took: list[float]) -> None:
    """Deliver one message after the other until the time is over."""
    while (began := time.perf_counter()) < end:
        await writer.deliver(folder, [MESSAGE], size=len(MESSAGE))
        took.append(time.perf_counter() - began)


async def measure(writer: MaildirWriter, clients: int, folder: str, seconds: float) -> str:
    """Run one variant, and give its cells of the table."""
    took: list[float] = []
    await writer.deliver(folder, [MESSAGE])
    began, cpu, mine = time.perf_counter(), time.process_time(), time.thread_time()
    await gatherResults(
        [
            Deferred.fromCoroutine(client(writer, folder, began + seconds, took))
            for _ in range(clients)
        ]
    )
    elapsed = time.perf_counter() - began
    cpu, mine = time.process_time() - cpu, time.thread_time() - mine
    await writer.stop()
    percent = statistics.quantiles(took, n=100)
    return (
        f"{len(took) / elapsed:.0f} | {percent[49] * 1e3:.1f} | {percent[98] * 1e3:.1f} "
        f"| {cpu / len(took) * 1e6:.0f} | {mine / len(took) * 1e6:.0f}"
    )


async def main(reactor: Any, below: str = ".", seconds: str = "2") -> None:
    """Print the table."""
    print("| variant | clients | messages/s | median ms | 99 % ms | CPU us | reactor us |")
    print("|---|---|---|---|---|---|---|")
    # All is removed at the end: ext4 without a journal is slow to create files for a while
    # after many were removed.
    with tempfile.TemporaryDirectory(prefix="maildir-", dir=below) as scratch:
        for clients in (1, 20, 100):
            for name, options in VARIANTS.items():
                folder = f"{scratch}/{clients} {name}"
                writer = MaildirWriter(reactor, **options)
                cells = await measure(writer, clients, folder, float(seconds))
                print(f"| {name} | {clients} | {cells} |", flush=True)


if __name__ == "__main__":
    react(main, sys.argv[1:])

"""The measurements; each returns a table."""

from __future__ import annotations

import gc
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.loads import LOADS, Load, Sent, smtp_source
from benchmarks.processes import BenchmarkError, Running, running
from benchmarks.servers import BASELINE, SERVERS, WAITING
from benchmarks.servers.base import Server
from benchmarks.tables import Table

MB = 1_000_000
MIB = 1024 * 1024

#: A cell has as many messages as take about ``Options.seconds``, but no more than this.
MOST = 50000


@dataclass(frozen=True, slots=True)
class Options:
    """What every measurement is told on the command line."""

    servers: Sequence[str]
    rounds: int
    seconds: float
    cpus: str
    folder: str

    def chosen(self) -> dict[str, Server]:
        return {name: SERVERS[name] for name in self.servers}

    def run(self, server: Server) -> AbstractContextManager[Running]:
        return running(server, self.cpus, self.folder)


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(text, file=sys.stderr, flush=True)


def settle(up: Running) -> None:
    """Wait until a server has dealt with what its clients left behind."""
    before = up.cpu()
    for _ in range(50):
        time.sleep(0.1)
        if (now := up.cpu()) == before:
            return
        before = now


@dataclass(frozen=True, slots=True)
class Cell:
    """One load on one server, in one round."""

    sent: Sent
    cpu: float

    @property
    def microseconds(self) -> float:
        return self.cpu / self.sent.messages * 1e6


class Sizes:
    """How many messages each cell gets: settled in the first round, then kept."""

    def __init__(self, seconds: float, fewest: int) -> None:
        self.seconds = seconds
        self.fewest = fewest
        self.known: dict[tuple[str, str], int] = {}

    def measure(self, up: Running, server: str, title: str, load: Load, warm_up: int) -> Cell:
        tried = load(up, warm_up)
        size = self.known.setdefault(
            (server, title), min(max(round(tried.rate * self.seconds), self.fewest), MOST)
        )
        settle(up)
        before = up.cpu()
        sent = load(up, size)
        settle(up)
        return Cell(sent, up.cpu() - before)


def in_rounds(
    options: Options,
    servers: Mapping[str, Server],
    loads: Mapping[str, Load],
    *,
    warm_up: int,
    fewest: int = 2000,
) -> dict[tuple[str, str], list[Cell]]:
    """Measure every load on every server, in rounds, so that a slow minute meets them all.

    :raises BenchmarkError: When a durable server has another number of messages on
        disk than it acknowledged.
    """
    sizes = Sizes(options.seconds, fewest)
    cells: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for number in range(options.rounds):
        for name, server in servers.items():
            with options.run(server) as up:
                acknowledged = 0
                for title, load in loads.items():
                    cell = sizes.measure(up, name, title, load, warm_up)
                    cells[name, title].append(cell)
                    acknowledged += warm_up + cell.sent.messages
                    say(
                        f"round {number + 1}: {name}, {title}: {cell.microseconds:.0f} us,"
                        f" {cell.sent.rate:.0f}/s, {cell.sent.messages} messages"
                    )
                if server.stored and (found := server.stored(up.folder)) != acknowledged:
                    raise BenchmarkError(f"{name}: {acknowledged} acknowledged, {found} on disk")
    return cells


def messages(options: Options) -> Table:
    """CPU and rate for small messages."""
    servers = options.chosen()
    cells = in_rounds(options, servers, LOADS, warm_up=1000)

    def cpu(name: str, title: str) -> float:
        return median(cell.microseconds for cell in cells[name, title])

    table = Table(
        "4 KiB messages, 20 sessions at a time",
        ["server", *(cell for title in LOADS for cell in (f"{title}, us", "x sink", "msg/s"))],
    )
    for name, server in servers.items():
        row = [server.title]
        for title in LOADS:
            ratio = f"{cpu(name, title) / cpu(BASELINE, title):.1f}" if BASELINE in servers else "-"
            rate = median(cell.sent.rate for cell in cells[name, title])
            mark = "" if cells[name, title][0].sent.pipelining_offered else "*"
            if title == "pipelined" and not server.after_data:
                mark += "+"
            row += [f"{cpu(name, title):.0f}{mark}", ratio, f"{rate:.0f}"]
        table.rows.append(row)
    table.notes += [
        "once: a connection for each message; persistent: many in each; pipelined: RFC 2920.",
        "us: CPU microseconds of the server's process tree for each message, user and system.",
        "x sink: the same in units of smtp-sink's.",
        "*: pipelined to a server that does not offer PIPELINING.",
        "+: takes no command in the segment that ends a message, so these came after its reply.",
        f"Medians of {options.rounds} interleaved rounds.",
    ]
    return table


def file_system(folder: str) -> str:
    """Name the type of the file system that a folder is on."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    path = Path(folder).resolve()
    on = [mount for mount in mounts if path.is_relative_to(mount[1])]
    return max(on, key=lambda mount: len(mount[1]))[2]


def durable(options: Options) -> Table:
    """Messages a second that are on disk when they are acknowledged."""
    servers = {name: server for name, server in options.chosen().items() if server.stored}
    loads: dict[str, Load] = {
        f"{sessions} sessions, {title}": partial(
            smtp_source, sessions=sessions, persistent=persistent
        )
        for sessions in (20, 100)
        for title, persistent in {"one per connection": False, "persistent": True}.items()
    }
    cells = in_rounds(options, servers, loads, warm_up=200)
    table = Table("Durable 4 KiB messages a second", ["server", *loads])
    for name, server in servers.items():
        rates = [median(cell.sent.rate for cell in cells[name, title]) for title in loads]
        table.rows.append([server.title, *(f"{rate:.0f}" for rate in rates)])
    table.notes += [
        f"File system: {file_system(options.folder)}. After each run the messages on disk were"
        " counted; they were those acknowledged.",
        f"Medians of {options.rounds} interleaved rounds.",
    ]
    return table


#: Messages at once and octets of each.
LARGE = {"one of 100 MiB": (1, 100 * MIB), "twenty of 10 MB": (20, 10 * MB)}


def large(options: Options) -> Table:
    """Throughput and memory with large messages."""
    servers = options.chosen()
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    growth: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(options.rounds):
        for name, server in servers.items():
            for title, (count, octets) in LARGE.items():
                # A server of its own for each, as memory once grown seldom shrinks.
                with options.run(server) as up:
                    smtp_source(up, 200, persistent=True)
                    settle(up)
                    up.reset_peak()
                    before = up.memory("VmHWM")
                    sent = smtp_source(up, count, sessions=count, octets=octets, persistent=False)
                    rates[name, title].append(count * octets / sent.seconds / MB)
                    growth[name, title].append((up.memory("VmHWM") - before) / MIB)
                    say(
                        f"round {number + 1}: {name}, {title}: {rates[name, title][-1]:.0f} MB/s,"
                        f" grew by {growth[name, title][-1]:.1f} MiB"
                    )
    table = Table(
        "Large messages",
        ["server", *(f"{title}: {unit}" for title in LARGE for unit in ("MB/s", "growth, MiB"))],
    )
    for name, server in servers.items():
        row = [server.title]
        for title in LARGE:
            row.append(f"{median(rates[name, title]):.0f}")
            row.append(f"{median(growth[name, title]):.1f}")
        table.rows.append(row)
    table.notes += [
        "growth: of the peak resident size (VmHWM) over that after 200 small messages.",
        f"Medians of {options.rounds} interleaved rounds.",
    ]
    return table


CONNECTIONS = 10000

#: Connections that are opened at once: less than any server's backlog.
BATCH = 100


def reply(connection: socket.socket) -> None:
    """Read one positive reply, of any number of lines."""
    said = b""
    while not (said.endswith(b"\r\n") and said.splitlines()[-1][3:4] != b"-"):
        data = connection.recv(4096)
        said += data
        if not data or said[:1] not in b"23":
            raise BenchmarkError(f"{said!r} instead of a positive reply")


def open_idle(port: int, count: int) -> list[socket.socket]:
    """Open connections that have said EHLO, from several addresses of the loopback."""
    opened: list[socket.socket] = []
    for start in range(0, count, BATCH):
        batch = [
            socket.create_connection(
                ("127.0.0.1", port), timeout=30, source_address=(f"127.0.0.{2 + at % 10}", 0)
            )
            for at in range(start, min(start + BATCH, count))
        ]
        for connection in batch:
            reply(connection)
            connection.sendall(b"EHLO client.example\r\n")
        for connection in batch:
            reply(connection)
        opened += batch
    return opened


def serve_one(port: int) -> float:
    """Send one message in a new connection; return the seconds until it was accepted."""
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        reply(connection)
        for line in (
            b"EHLO client.example\r\n",
            b"MAIL FROM:<sender@client.example>\r\n",
            b"RCPT TO:<recipient@mail.example>\r\n",
            b"DATA\r\n",
            b"From: <sender@client.example>\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n"
            b"\r\nNot idle.\r\n.\r\n",
        ):
            connection.sendall(line)
            reply(connection)
        took = time.perf_counter() - began
        connection.sendall(b"QUIT\r\n")
        reply(connection)
    return took


def idle(options: Options) -> Table:
    """Memory of connections that do nothing, and what they cost a new client."""
    servers = options.chosen()
    table = Table(
        f"{CONNECTIONS} idle connections after EHLO",
        ["server", "KiB each", "total, MiB", "opened/s", "alone, ms", "among them, ms"],
    )
    for name, server in servers.items():
        sizes, totals, rates, alone, among = [], [], [], [], []
        for number in range(options.rounds):
            with options.run(server) as up:
                smtp_source(up, 1000, persistent=False)
                settle(up)
                before = up.memory("VmRSS")
                alone.append(median(serve_one(up.port) for _ in range(10)) * 1000)
                began = time.perf_counter()
                connections = open_idle(up.port, CONNECTIONS)
                rates.append(CONNECTIONS / (time.perf_counter() - began))
                settle(up)
                totals.append(up.memory("VmRSS") / MIB)
                sizes.append((totals[-1] * MIB - before) / CONNECTIONS / 1024)
                among.append(median(serve_one(up.port) for _ in range(10)) * 1000)
                for connection in connections:
                    connection.sendall(b"RSET\r\n")
                for connection in connections:
                    reply(connection)  # all are still there
                    connection.close()
                del connections
                gc.collect()
                say(f"round {number + 1}: {name}: {sizes[-1]:.1f} KiB, {among[-1]:.1f} ms")
        cells = [
            f"{median(values):.{digits}f}"
            for values, digits in ((sizes, 1), (totals, 0), (rates, 0), (alone, 1), (among, 1))
        ]
        table.rows.append([server.title, *cells])
    table.notes += [
        "KiB each: growth of the resident size of the process tree, divided by the connections;"
        " the kernel's own buffers are not in it.",
        "alone, among them: from connecting to the reply that accepts one message, without and"
        " with the idle connections; the median of ten in a row.",
        f"Afterwards every idle connection got its reply to RSET. Medians of {options.rounds}"
        " rounds.",
    ]
    return table


SESSIONS = 1000
WAIT = 0.2


def waiting(options: Options) -> Table:
    """Throughput when every recipient waits, as it does for DNS."""
    chosen = {name: server for name, server in options.chosen().items() if name in WAITING}
    servers = {**chosen, **{f"{name}, waiting": WAITING[name](WAIT) for name in chosen}}
    load = {"persistent": partial(smtp_source, sessions=SESSIONS, persistent=True)}
    # So many in each session that opening it does not weigh.
    cells = in_rounds(options, servers, load, warm_up=SESSIONS, fewest=20 * SESSIONS)
    ideal = SESSIONS / WAIT
    table = Table(
        f"{SESSIONS} sessions at a time, each RCPT waits {WAIT * 1000:.0f} ms",
        [
            "server",
            "msg/s, no wait",
            "msg/s, waiting",
            "of the ideal",
            "us, no wait",
            "us, waiting",
        ],
    )
    for name, server in chosen.items():
        plain, slow = cells[name, "persistent"], cells[f"{name}, waiting", "persistent"]
        rate = median(cell.sent.rate for cell in slow)
        table.rows.append(
            [
                server.title,
                f"{median(cell.sent.rate for cell in plain):.0f}",
                f"{rate:.0f}",
                f"{rate / ideal:.0%}",
                f"{median(cell.microseconds for cell in plain):.0f}",
                f"{median(cell.microseconds for cell in slow):.0f}",
            ]
        )
    table.notes += [
        f"The ideal is {ideal:.0f} messages a second: {SESSIONS} sessions, {WAIT} s each.",
        f"us: CPU microseconds of the server for each message. Medians of {options.rounds}"
        " interleaved rounds.",
    ]
    return table

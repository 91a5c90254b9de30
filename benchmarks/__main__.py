"""The command line: ``python -m benchmarks NAME``."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from benchmarks import hooks, measurements
from benchmarks.measurements import Options
from benchmarks.processes import BenchmarkError, adopt_orphans
from benchmarks.servers import SERVERS
from benchmarks.tables import Table

Measurement = Callable[[Options], Table]

#: Each measurement, and the servers it is made with unless told otherwise.
MEASUREMENTS: dict[str, tuple[Measurement, list[str]]] = {
    "messages": (measurements.messages, list(SERVERS)),
    "durable": (measurements.durable, ["ours-maildir", "postfix"]),
    "large": (
        measurements.large,
        ["smtp-sink", "ours", "ours-maildir", "stock-twisted", "smtp-server"],
    ),
    "idle": (
        measurements.idle,
        ["smtp-sink", "ours", "stock-twisted", "aiosmtpd", "smtp-server", "haraka"],
    ),
    "waiting": (
        measurements.waiting,
        ["ours", "stock-twisted", "aiosmtpd", "smtp-server", "haraka"],
    ),
    "hooks": (hooks.hooks, []),
}

#: Open files that 10,000 connections take, on either side.
FILES = 65536


def machine() -> str:
    """Say in a line what the figures were measured on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False)
    return (
        f"{os.cpu_count()} x {cpu}, Linux {platform.release()}, Python"
        f" {platform.python_version()}, Twisted {version('Twisted')}, Node.js"
        f" {node.stdout.strip()}; load average at the start {os.getloadavg()[0]:.1f}"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*MEASUREMENTS, "all"])
    parser.add_argument("--servers", help=f"some of {','.join(SERVERS)}")
    parser.add_argument("--without", default="", help="servers to leave out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="about this long a cell")
    parser.add_argument("--server-cpus", default="0", help="as taskset takes them")
    parser.add_argument("--client-cpus", default="1", help="as taskset takes them")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="for what servers write")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    options = parser.parse_args()
    for name in [*(options.servers or "").split(","), *options.without.split(",")]:
        if name and name not in SERVERS:
            parser.error(f"no server {name}; there are {', '.join(SERVERS)}")
    return options


def allow_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else max(hard, FILES)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    options = arguments()
    on = machine()
    allow_files()
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers are stopped
    # What the runner starts as a client inherits its CPUs; a server gets its own.
    subprocess.run(
        ["taskset", "-cp", options.client_cpus, str(os.getpid())],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    written = [f"# Benchmarks\n\n{on}.\n"]
    print(f"{on}\n")
    for name in MEASUREMENTS if options.name == "all" else [options.name]:
        measure, usual = MEASUREMENTS[name]
        servers = options.servers.split(",") if options.servers else usual
        left_out = options.without.split(",")
        began = time.monotonic()
        try:
            table = measure(
                Options(
                    [server for server in SERVERS if server in servers and server not in left_out],
                    options.rounds,
                    options.seconds,
                    options.server_cpus,
                    options.folder,
                )
            )
        except BenchmarkError as failure:
            print(f"{failure}\nIs everything installed? See benchmarks/setup.", file=sys.stderr)
            return 1
        table.notes.append(f"Took {time.monotonic() - began:.0f} s.")
        print(table.text(), flush=True)
        written.append(table.markdown())
        if options.markdown:
            options.markdown.write_text("\n".join(written))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Postfix's smtp-sink: C, decides nothing; what the other rows are compared with."""

from __future__ import annotations

from pathlib import Path

from benchmarks.servers.base import Command, Server


def prepare(folder: Path, port: int) -> Command:
    # The user is named because smtp-sink refuses to stay root; -m is the bound on connections.
    return Command(
        ["/usr/sbin/smtp-sink", "-u", "nobody", "-m", "20000", f"inet:127.0.0.1:{port}", "4096"]
    )


SERVER = Server("Postfix smtp-sink", prepare)

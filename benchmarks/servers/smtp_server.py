"""nodemailer's smtp-server (Node.js), with handlers that accept and discard."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmarks.servers.base import HERE, NODE_MODULES, Command, Server


def prepare(folder: Path, port: int, *, wait: float = 0) -> Command:
    return Command(
        ["node", str(HERE / "servers" / "smtp_server.js"), str(port), str(round(wait * 1000))],
        {"NODE_PATH": str(NODE_MODULES)},
    )


SERVER = Server("nodemailer smtp-server", prepare)


def waiting(seconds: float) -> Server:
    return Server(SERVER.title, partial(prepare, wait=seconds))

"""The servers that are measured, one file for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from benchmarks.servers import (
    aiosmtpd_discard,
    haraka,
    ours,
    postfix,
    smtp_server,
    smtp_sink,
    stock_twisted,
)
from benchmarks.servers.base import Server

#: The server that every other one is compared with.
BASELINE: Final = "smtp-sink"

#: Every server, under its name on the command line, in the order of the tables.
SERVERS: Final[Mapping[str, Server]] = {
    "smtp-sink": smtp_sink.SERVER,
    "ours": ours.SERVER,
    "ours-maildir": ours.MAILDIR,
    "stock-twisted": stock_twisted.SERVER,
    "aiosmtpd": aiosmtpd_discard.SERVER,
    "smtp-server": smtp_server.SERVER,
    "haraka": haraka.SERVER,
    "postfix": postfix.SERVER,
}

#: Those that can wait at ``RCPT`` for some seconds before they accept.
WAITING: Final[Mapping[str, Callable[[float], Server]]] = {
    "ours": ours.waiting,
    "stock-twisted": stock_twisted.waiting,
    "aiosmtpd": aiosmtpd_discard.waiting,
    "smtp-server": smtp_server.waiting,
    "haraka": haraka.waiting,
}

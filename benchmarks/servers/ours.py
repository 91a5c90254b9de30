"""qpsmtpd itself: behind a chain of ten components that discards, and durable."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from benchmarks.servers.base import ROOT, Command, Server, count_files


def ours(config: Path, port: int) -> Command:
    """Return the command that starts qpsmtpd on a configuration folder.

    The one place that knows the options of the command line.
    """
    return Command(
        [
            str(Path(sys.executable).with_name("twistd")),
            "-n",
            "--pidfile=",
            "qpsmtpd",
            "--config",
            str(config),
            "--listen",
            f"tcp:{port}:interface=127.0.0.1",
        ],
        {"PYTHONPATH": str(ROOT)},
    )


#: Ten components of an ordinary site, none of which asks the network.
CHAIN = """\
hosts_allow
relay
count_unrecognized_commands 4
noop_counter
badmailfrom
badmailfromto
badrcptto
loop
headers
rcpt_ok
"""


def prepare(folder: Path, port: int, *, plugins: str) -> Command:
    config = folder / "config"
    config.mkdir()
    # The client is relayed for, as smtp-source's recipients are nobody's.
    for name, text in {
        "plugins": plugins.format(folder=folder),
        "me": "mail.example\n",
        "relayclients": "127.\n",
        "databytes": "0\n",
    }.items():
        (config / name).write_text(text)
    return ours(config, port)


def stored(folder: Path) -> int:
    return count_files(folder / "Maildir" / "new")


SERVER = Server("qpsmtpd, ten components", partial(prepare, plugins=f"{CHAIN}queue/discard\n"))
MAILDIR = Server(
    "qpsmtpd, Maildir",
    partial(prepare, plugins=f"{CHAIN}queue/maildir {{folder}}/Maildir\n"),
    stored,
)


def waiting(seconds: float) -> Server:
    plugins = f"wait_rcpt {seconds}\n{CHAIN}queue/discard\n"
    return Server(SERVER.title, partial(prepare, plugins=plugins))

"""qpsmtpd itself: behind a chain of ten components that discards, and durable."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from benchmarks.servers.base import HERE, ROOT, Command, Server, count_files


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
dnsbl
count_unrecognized_commands 4
noop_counter
badmailfrom
badmailfromto
badrcptto
loop
rcpt_ok
"""

#: Where they look the clients, senders and recipients of the loads up. Only the domain of the
#: recipients is there, in rcpthosts; a client that may relay would be spared most look-ups.
CONTROL_FILES = {
    "hosts_allow": """\
192.0.2.77 DECLINED
192.0.2.0/24 DENYSOFT Come back later
2001:db8:7::/48 DENY Go away
""",
    "relayclients": """\
198.51.100.0/24
203.0.113.25
2001:db8::/32
""",
    "norelayclients": "198.51.100.7\n",
    "badmailfrom": """\
joe@spam.example
@bulk.example No bulk mail, thank you
^promo-.*@.*\\.example$
""",
    "badmailfromto": """\
@stalker.example alice@mail.example
joe@stalker.example bob@mail.example
""",
    "badrcptto": """\
old.user@mail.example This user has left
@closed.mail.example
^test-.*@mail\\.example$
""",
    "rcpthosts": """\
mail.example
.mail.example
other.example
""",
    "me": "mail.example\n",
    "databytes": "200M\n",
    "limits": """\
connections 0
connections_per_address 0
idle_commands 0
""",
}


def configure(folder: Path, plugins: str) -> Path:
    """Write a configuration into a folder and return its path."""
    config = folder / "config"
    config.mkdir()
    files = {
        **CONTROL_FILES,
        "plugins": plugins.format(folder=folder),
        "plugin_dirs": f"{HERE / 'plugins'}\n",
        "spool_dir": f"{folder}\n",
    }
    for name, text in files.items():
        (config / name).write_text(text)
    return config


def prepare(folder: Path, port: int, *, plugins: str) -> Command:
    return ours(configure(folder, plugins), port)


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

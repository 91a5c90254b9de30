"""A server in a folder of its own, and what it holds while it runs."""

import os
import resource
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.server.processes import TWISTD, Server, until

__all__ = ["TrustTestCase", "descriptors", "memory", "raise_descriptor_limit"]

#: Waits before it decides about a recipient whose name begins with ``wait``.
WAIT = """
from twisted.internet import reactor
from twisted.internet.task import deferLater
from zope.interface import implementer

from qpsmtpd.component import PluginMaker, component
from qpsmtpd.interfaces import IRcpt


@implementer(IRcpt)
@component
class Wait:
    "Takes its time."

    async def rcpt(self, transaction, recipient):
        if recipient.local_part.startswith("wait"):
            await deferLater(reactor, 3600)


maker = PluginMaker("wait", Wait)
"""


class TrustTestCase(SynchronousTestCase):
    """Runs servers for real, which store what they take in ``Maildir``.

    :ivar folder: Where they run.
    """

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="qpsmtpd-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        for name in ("config", "more", "spool"):
            (self.folder / name).mkdir()
        (self.folder / "more" / "wait.py").write_text(WAIT)
        self.configure(
            {
                "me": "mail.example",
                "loglevel": "4",
                "rcpthosts": "example.com",
                "plugin_dirs": str(self.folder / "more"),
                "plugins": "wait\nrcpt_ok\nqueue/maildir Maildir",
                "spool_dir": str(self.folder / "spool"),
                "size_threshold": "16k",
            }
        )
        self.limit()

    def configure(self, texts: Mapping[str, str]) -> None:
        """Write control files, by their names."""
        for name, text in texts.items():
            (self.folder / "config" / name).write_text(text + "\n")

    def limit(self, **limits: object) -> None:
        """Set limits beside those that let one address do everything."""
        given = {"connections": 10_000, "connections_per_address": 10_000, **limits}
        self.configure({"limits": "\n".join(f"{name} {given[name]}" for name in given)})

    def start(self, *options: str, descriptors: int | None = None) -> Server:
        """Start a server.

        :param descriptors: How many it may have open.
        """
        command = [*TWISTD, "-n", "--pidfile=", "qpsmtpd", "--config", "config"]
        command += ["--listen", "tcp:0:interface=127.0.0.1", *options]
        if descriptors is not None:
            limit = f'ulimit -n {descriptors}; exec "$@"'
            command = ["sh", "-c", limit, "sh", *command]
        (self.folder / "server.log").unlink(missing_ok=True)  # of one that was started before
        return Server(self, command, self.folder)

    def new(self) -> list[Path]:
        """The files in the Maildir that readers may read."""
        return list((self.folder / "Maildir" / "new").glob("*"))

    def settled(self, server: Server, held: set[str]) -> None:
        """Wait until a server holds no descriptor but those that it had before, and no spool."""

        def same() -> bool:
            return descriptors(server.pid) == held and not list((self.folder / "spool").iterdir())

        until(same, lambda: f"{descriptors(server.pid)}, not {held}")


def descriptors(pid: int) -> set[str]:
    """What a process has open: the numbers and what they stand for."""
    found = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.add(f"{number} {os.readlink(f'/proc/{pid}/fd/{number}')}")
        except FileNotFoundError:
            pass  # closed meanwhile
    return found


def memory(pid: int, key: str = "VmHWM") -> int:
    """Octets of memory that a process has, or had at most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise AssertionError(key)


def raise_descriptor_limit(count: int) -> None:
    """Let this process, and those that it starts, have so many descriptors open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(hard, count)))

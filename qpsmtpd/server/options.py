"""What the command line says: plain values, which can be pickled and handed to a worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["DEFAULT_ENDPOINT", "ServerOptions"]

DEFAULT_ENDPOINT: Final = "tcp:2525:interface=127.0.0.1"


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The options of one server.

    :ivar directories: Folders with control files; empty for the search path.
    :ivar endpoints: Where to listen, in Twisted's notation.
    :ivar proxy_from: Networks whose connections begin with a PROXY header.
    :ivar workers: Processes that share the listening sockets.
    :ivar user: User to run as once the sockets are open; ``None`` to stay who we are.
    :ivar grace: Seconds that messages on their way get when the server stops.
    :ivar state: Folder for what plugins remember.
    :ivar pid_file: File with the process id, if one is wanted.
    :ivar policies: For each endpoint a folder whose control files win over those in
        ``directories``, or ``""``. May be shorter than ``endpoints``.
    :ivar connections: Connections at once, in the place of what control files say.
    :ivar connections_per_address: Connections at once from one address, likewise.
    :ivar reverse_dns: Whether clients' names are looked up whatever control files say.
    """

    directories: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = (DEFAULT_ENDPOINT,)
    proxy_from: tuple[str, ...] = ()
    workers: int = 1
    user: str | None = None
    grace: float = 30.0
    state: str = "var/state"
    pid_file: str | None = None
    policies: tuple[str, ...] = ()
    connections: int | None = None
    connections_per_address: int | None = None
    reverse_dns: bool = False

    def policy(self, number: int) -> str:
        """The folder of control files that an endpoint has for itself, or ``""``."""
        return self.policies[number] if number < len(self.policies) else ""

    def all_policies(self) -> list[str]:
        """The policies of all endpoints, each once, in their order."""
        numbers = range(len(self.endpoints))
        return list(dict.fromkeys(map(self.policy, numbers))) or [""]

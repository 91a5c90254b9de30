"""What the runner has to know about a server that it measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

#: The folder of the benchmarks, and the checkout that it stands in.
HERE: Final = Path(__file__).resolve().parent.parent
ROOT: Final = HERE.parent

#: Where ``benchmarks/setup`` puts what is not a package of the distribution.
PEERS: Final = HERE / ".peers"
NODE_MODULES: Final = PEERS / "node" / "node_modules"
PEER_PYTHON: Final = PEERS / "venv" / "bin" / "python"


@dataclass(frozen=True, slots=True)
class Command:
    """A command that runs a server in the foreground until it gets SIGTERM."""

    argv: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Server:
    """A row of the tables.

    :param prepare: Writes the server's configuration into the empty folder it
        is given and returns the command that listens on that port of 127.0.0.1.
    :param stored: Counts the messages that a server with that folder has on
        disk; ``None`` for a server that throws them away.
    :param after_data: Whether it takes commands in the same segment as the end
        of a message, as RFC 2920, 3.1 allows.
    """

    title: str
    prepare: Callable[[Path, int], Command]
    stored: Callable[[Path], int] | None = None
    after_data: bool = True


def count_files(folder: Path) -> int:
    """Count the files below a folder."""
    return sum(1 for path in folder.rglob("*") if path.is_file())

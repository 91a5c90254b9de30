"""The file that says which process serves."""

from __future__ import annotations

import os

from qpsmtpd.configuration.errors import ConfigurationError

__all__ = ["write_pid"]


def write_pid(name: str) -> None:
    """Write our process id to a file, unless a living process stands there.

    :raises ConfigurationError: If one does.
    """
    old = _pid(name)
    if old is not None and old != os.getpid() and _lives(old):
        raise ConfigurationError(name, f"no server that runs already, not one with pid {old}")
    with open(name, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")


def _pid(name: str) -> int | None:
    try:
        with open(name, encoding="ascii", errors="replace") as file:
            text = file.read().strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isdigit() else None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True

# -*- test-case-name: tests.server.test_pidfile -*-
"""The file that says which process serves."""

from __future__ import annotations

import os

from qpsmtpd.configuration.errors import ConfigurationError

__all__ = ["remove_pid", "write_pid"]


def write_pid(name: str | None) -> None:
    """Write our process id to a file, unless a living process stands there.

    :param name: The file; ``None`` if none is wanted.

    :raises ConfigurationError: If one does, or the file cannot be written.
    """
    if name is None:
        return
    try:
        old = _pid(name)
        if old is not None and old != os.getpid() and _lives(old):
            raise ConfigurationError(name, f"no server that runs already, not one with pid {old}")
        with open(name, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as error:
        raise ConfigurationError(
            name, f"a file for the process id that can be written: {error.strerror}"
        ) from error


def remove_pid(name: str | None) -> None:
    """Remove the file, if it is ours.

    It stays where privileges were dropped and the folder is not ours; its process lives no
    longer, so nobody minds.
    """
    try:
        if name is not None and _pid(name) == os.getpid():
            os.unlink(name)
    except OSError:
        pass


def _pid(name: str) -> int | None:
    try:
        with open(name, encoding="ascii", errors="replace") as file:
            text = file.read(100).strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isdecimal() else None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return pid > 0

# -*- test-case-name: tests.server.test_privileges -*-
"""From root to the user who serves, and the folders that this user needs."""

from __future__ import annotations

import os
import pwd

from qpsmtpd.configuration.errors import ConfigurationError

__all__ = ["check_user", "drop_privileges", "make_folder"]


def check_user(user: str | None) -> None:
    """See that :func:`drop_privileges` will do.

    :raises ConfigurationError: If there is no such user, or we may not become it.
    """
    if user is None:
        return
    if os.geteuid() not in (0, _entry(user).pw_uid):
        raise ConfigurationError(user, "a start as root, to become this user")


def drop_privileges(user: str | None) -> None:
    """Become another user, with its groups, for good.

    :raises ConfigurationError: As :func:`check_user`.
    """
    check_user(user)
    if user is None:
        return
    entry = _entry(user)
    if os.getuid() == entry.pw_uid:
        return
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def make_folder(name: str, user: str | None, mode: int = 0o700) -> None:
    """Make a folder, and those on the way to it, that nobody but the user can enter.

    :param user: Whom it is for, while we are root still.
    :param mode: Who may do what in it; those on the way are the user's alone.

    :raises OSError: If it cannot be made.
    """
    name = os.path.abspath(name)
    if os.path.isdir(name):
        return
    make_folder(os.path.dirname(name), user)
    os.mkdir(name, 0o700)
    if mode != 0o700:
        os.chmod(name, mode)
    if user is not None and os.geteuid() == 0:
        entry = _entry(user)
        os.chown(name, entry.pw_uid, entry.pw_gid)


def _entry(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise ConfigurationError(user, "the name of a user") from None

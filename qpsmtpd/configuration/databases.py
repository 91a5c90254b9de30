# -*- test-case-name: tests.configuration.test_databases -*-
"""Constant databases, ``NAME.cdb``: what qmail-newmrh and its like make of long lists.

They are read through ``cdbx``: nothing but the records that look-ups touch is ever read, however
long the list. A program that makes a new database moves it over the old one, so whoever has the
old one open keeps it, whole, until the next reload.

The file is not mapped into memory. A look-up would take a thirtieth of its 5 us, but whoever
copies a new database over the old one in its place would end the process (SIGBUS).
"""

import os
import stat
import struct
from collections.abc import Container
from typing import Final

from qpsmtpd.configuration.errors import ConfigurationError

__all__ = ["open_database"]


def open_database(path: str) -> Container[bytes]:
    """Open a database, to ask whether it has a key.

    :raises ConfigurationError: It cannot be read, is no database, or ``cdbx`` is not installed.
    """
    try:
        import cdbx
    except ImportError:
        raise ConfigurationError(
            "", "the Python package cdbx, which reads it: pip install 'qpsmtpd[cdb]'", file=path
        ) from None
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a FIFO waits for who writes to it
            raise ConfigurationError("", "a regular file", file=path)
        with open(path, "rb") as file:
            if not _is_whole(file.read(_HEADER.size), os.fstat(file.fileno()).st_size):
                raise ConfigurationError("", "a constant database, in the format of cdb", file=path)
            found: Container[bytes] = cdbx.CDB(os.dup(file.fileno()), close=True, mmap=False)
    except OSError as error:
        raise ConfigurationError("", f"something readable: {error.strerror}", file=path) from error
    return found


#: A database begins with where each of its 256 tables lies, and how many slots of 8 octets it has.
_HEADER: Final = struct.Struct("<512L")


def _is_whole(header: bytes, size: int) -> bool:
    """Whether all tables lie in the file; the library looks only when a key is asked for."""
    if len(header) < _HEADER.size:
        return False
    numbers = _HEADER.unpack(header)
    return all(
        _HEADER.size <= place and place + 8 * slots <= size
        for place, slots in zip(numbers[::2], numbers[1::2], strict=True)
        if slots
    )

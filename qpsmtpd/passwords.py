# -*- test-case-name: tests.test_passwords -*-
"""Stored passwords: how they are written, and whether what a client offers is one of them.

A stored password is text in one of these forms:

==================================  ==========================================================
``secret word``                     the password itself, in clear; needed for CRAM-MD5
``{PLAIN}secret word``              the same, for a password that looks like another form
``$scrypt$ln=15,r=8,p=3$...``       scrypt (RFC 7914); what :func:`hash_password` writes
``$pbkdf2-sha256$600000$...``       PBKDF2 (RFC 8018) with HMAC-SHA-256, or ``-sha512``
``$argon2id$v=19$m=...``            Argon2 (RFC 9106), also ``$argon2i$`` and ``$argon2d$``
``$y$``, ``$2b$``, ``$6$``, ...     what crypt(3) verifies: yescrypt, bcrypt, SHA-512, SHA-256,
                                    MD5, and what else the system's libcrypt knows
==================================  ==========================================================

In front of a hash may stand what Dovecot puts there: ``{CRYPT}``, ``{SHA512-CRYPT}``,
``{BLF-CRYPT}``, ``{ARGON2ID}``, ... Argon2 is verified by the package ``cryptography``, and
crypt(3) by libxcrypt, which Linux distributions bring; no other package is needed.

:func:`verify` takes its time by design. It is for a thread, and lets others run meanwhile.
"""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import os
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable
from functools import cache
from typing import Any, Final

__all__ = ["check", "clear_text", "hash_password", "verify"]

#: Cost of new hashes: 32 MiB of memory, and three times the work of the customary parameters.
_LN, _R, _P = 15, 8, 3

#: Memory that verifying one scrypt hash may take; one that wants more is an operator's slip.
_SCRYPT_MEMORY: Final = 1 << 30

_BRACES: Final = re.compile(r"\{([A-Za-z0-9.-]+)\}")
_KIND: Final = re.compile(r"\$([a-z0-9-]+)\$", re.IGNORECASE)
_SCRYPT: Final = re.compile(
    r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,3}),p=([0-9]{1,3})\$([A-Za-z0-9+/.]+)\$([A-Za-z0-9+/.]+)"
)
_PBKDF2: Final = re.compile(
    r"\$pbkdf2-(sha256|sha512)\$([0-9]{1,9})\$([A-Za-z0-9+/.]+)\$([A-Za-z0-9+/.]+)"
)
_ARGON2: Final = re.compile(r"\$(argon2(?:id|i|d))\$v=19\$m=[0-9,tp=]+\$[^$]+\$[^$]+")

#: What a crypt(3) hash ends with; all have more of it.
_CRYPT_END: Final = re.compile(r"[A-Za-z0-9./]{22}\Z")

_CLEAR_WORDS: Final = frozenset({"PLAIN", "CLEAR", "CLEARTEXT"})

#: Words before hashes of which each says itself what it is. Others, such as ``{PBKDF2}``, have
#: forms of their own.
_HASH_WORDS: Final = frozenset(
    {
        "CRYPT",
        "MD5-CRYPT",
        "SHA256-CRYPT",
        "SHA512-CRYPT",
        "BLF-CRYPT",
        "SCRYPT",
        "ARGON2I",
        "ARGON2ID",
    }
)


def hash_password(password: bytes) -> str:
    """Make of a password what can be stored in its place. It takes a while.

    :param password: In UTF-8, as nearly all clients send it.
    """
    salt = os.urandom(16)
    digest = _scrypt(password, salt, _LN, _R, _P, 32)
    return f"$scrypt$ln={_LN},r={_R},p={_P}${_encoded(salt)}${_encoded(digest)}"


def clear_text(stored: str) -> bytes | None:
    """The password itself where it is stored in clear; ``None`` for a hash."""
    braces = _BRACES.match(stored)
    if braces is None:
        return None if _KIND.match(stored) else stored.encode("utf-8")
    if braces[1].upper() in _CLEAR_WORDS:
        return stored[braces.end() :].encode("utf-8")
    return None


def check(stored: str) -> None:
    """Make sure that a stored password can be verified here.

    :raises ValueError: Saying what was expected, without any part of a secret.
    """
    if not stored:
        raise ValueError("expected a password that is not empty")
    if clear_text(stored) is None:
        _verifier(_hash(stored))


def verify(password: bytes, stored: str) -> bool:
    """Whether a password is the stored one.

    The empty password never is.

    :raises ValueError: As :func:`check`.
    """
    clear = clear_text(stored)
    if clear is not None:
        return bool(clear) and hmac.compare_digest(password, clear)
    wanted = _hash(stored)
    return _verifier(wanted)(password, wanted) and bool(password)


def _hash(stored: str) -> str:
    """A hash without the word in braces before it."""
    braces = _BRACES.match(stored)
    if braces is None:
        return stored
    if braces[1].upper() not in _HASH_WORDS:
        raise ValueError(
            f"expected a scheme that is known, not {{{braces[1]}}}; "
            "a password in clear that looks like one has {PLAIN} in front"
        )
    return stored[braces.end() :]


def _verifier(wanted: str) -> Callable[[bytes, str], bool]:
    kind = _KIND.match(wanted)
    name = kind[1].lower() if kind is not None else ""
    if name == "scrypt":
        return _checked(_SCRYPT, wanted, _verify_scrypt)
    if name.startswith("pbkdf2-"):
        return _checked(_PBKDF2, wanted, _verify_pbkdf2)
    if name.startswith("argon2"):
        _argon2(name)
        return _checked(_ARGON2, wanted, _verify_argon2)
    if not name:
        raise ValueError("expected {PLAIN} or a hash that begins with $ behind a word in braces")
    if not _libcrypt().knows(wanted):
        raise ValueError(
            f"expected a hash that this system knows, not ${name}$; "
            "a password in clear that looks like one has {PLAIN} in front"
        )
    if _CRYPT_END.search(wanted) is None:
        raise _damaged()
    return _verify_crypt


def _checked(
    pattern: re.Pattern[str], wanted: str, verifier: Callable[[bytes, str], bool]
) -> Callable[[bytes, str], bool]:
    if pattern.fullmatch(wanted) is None:
        raise _damaged()
    return verifier


def _damaged() -> ValueError:
    return ValueError("expected a whole hash; this one is cut or changed")


# The standard library's.


def _verify_scrypt(password: bytes, wanted: str) -> bool:
    match = _SCRYPT.fullmatch(wanted)
    assert match is not None
    ln, r, p = int(match[1]), int(match[2]), int(match[3])
    digest = _decoded(match[5])
    found = _scrypt(password, _decoded(match[4]), ln, r, p, len(digest))
    return hmac.compare_digest(found, digest)


def _scrypt(password: bytes, salt: bytes, ln: int, r: int, p: int, size: int) -> bytes:
    n = 1 << ln
    memory = 128 * r * (n + p + 2)
    if memory > _SCRYPT_MEMORY:
        raise ValueError(f"expected an scrypt hash that needs less than {_SCRYPT_MEMORY} octets")
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=size)


def _verify_pbkdf2(password: bytes, wanted: str) -> bool:
    match = _PBKDF2.fullmatch(wanted)
    assert match is not None
    digest = _decoded(match[4])
    salt, rounds = _decoded(match[3]), int(match[2])
    found = hashlib.pbkdf2_hmac(match[1], password, salt, rounds, len(digest))
    return hmac.compare_digest(found, digest)


def _encoded(octets: bytes) -> str:
    return b64encode(octets).decode("ascii").rstrip("=")


def _decoded(text: str) -> bytes:
    """Read base64 without padding; some write ``.`` for ``+``."""
    try:
        return b64decode(text.replace(".", "+") + "=" * (-len(text) % 4), validate=True)
    except Base64Error:
        raise _damaged() from None


# Argon2, by the package cryptography.


@cache
def _argon2(name: str) -> Any:
    try:
        from cryptography.hazmat.primitives.kdf import argon2
    except ImportError:
        argon2 = None  # type: ignore[assignment]
    found = getattr(argon2, f"Argon2{name.removeprefix('argon2')}", None)
    if not hasattr(found, "verify_phc_encoded"):
        raise ValueError(
            f"expected another hash: ${name}$ needs the package cryptography 45 or newer"
        )
    return found


def _verify_argon2(password: bytes, wanted: str) -> bool:
    from cryptography.exceptions import InvalidKey

    name = wanted.split("$")[1].lower()
    try:
        _argon2(name).verify_phc_encoded(password, wanted)
    except InvalidKey:
        return False
    return True


# crypt(3), by libxcrypt. A call through ctypes lets other threads run.


class _Libcrypt:
    """The two functions of libxcrypt that are used."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._free = ctypes.CDLL(None).free
        self._free.argtypes = [ctypes.c_void_p]
        self._free.restype = None
        self._crypt = library.crypt_ra
        self._crypt.argtypes = [
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.POINTER(ctypes.c_void_p),
            ctypes.POINTER(ctypes.c_int),
        ]
        self._crypt.restype = ctypes.c_char_p
        self._check = library.crypt_checksalt
        self._check.argtypes = [ctypes.c_char_p]
        self._check.restype = ctypes.c_int

    def knows(self, wanted: str) -> bool:
        """Whether the library can verify a hash, be it old-fashioned."""
        return self._check(wanted.encode("utf-8")) not in (1, 2)  # invalid, disabled

    def crypt(self, password: bytes, wanted: bytes) -> bytes | None:
        """Hash a password with the salt of a hash; ``None`` for what the library refuses."""
        data = ctypes.c_void_p()
        size = ctypes.c_int()
        try:
            found: bytes | None = self._crypt(
                password, wanted, ctypes.byref(data), ctypes.byref(size)
            )
        finally:
            if data.value:
                ctypes.memset(data, 0, size.value)
                self._free(data)
        return found


@cache
def _libcrypt() -> _Libcrypt:
    for name in ("libcrypt.so.2", "libcrypt.so.1"):
        try:
            return _Libcrypt(ctypes.CDLL(name))
        except (OSError, AttributeError):
            continue
    raise ValueError("expected another hash: crypt(3) hashes need libxcrypt, which is not here")


def _verify_crypt(password: bytes, wanted: str) -> bool:
    octets = wanted.encode("utf-8")
    found = _libcrypt().crypt(password, octets)
    # C would end the password at a NUL.
    return found is not None and hmac.compare_digest(found, octets) and b"\0" not in password

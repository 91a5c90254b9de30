# -*- test-case-name: tests.smtp.test_sasl -*-
"""Authentication exchanges without I/O: challenges out, responses in, credentials at the end.

PLAIN (RFC 4616), LOGIN (draft-murchison-sasl-login) and CRAM-MD5 (RFC 2195), as SMTP
carries them (RFC 4954, 4). Whether credentials are right is not decided here.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import secrets
import time
from base64 import b64encode
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = [
    "MECHANISMS",
    "Credentials",
    "CredentialsError",
    "Exchange",
    "SASLError",
    "challenge_text",
    "decode",
]


class SASLError(ValueError):
    """A response that its mechanism does not allow."""


class CredentialsError(SASLError):
    """A response that is well-formed and cannot be right, whoever is asked.

    :ivar mechanism: The mechanism, in upper case.
    :ivar user: Who the client says it is; empty where it did not say.
    """

    def __init__(self, mechanism: str, user: bytes, reason: str) -> None:
        super().__init__(reason)
        self.mechanism = mechanism
        self.user = _user(user)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client proved, or claims to prove.

    :ivar mechanism: ``PLAIN``, ``LOGIN`` or ``CRAM-MD5``.
    :ivar user: Who it says it is.
    :ivar password: The password in clear; ``None`` with CRAM-MD5.
    :ivar digest: The digest in hex; ``None`` without CRAM-MD5.
    :ivar challenge: What the digest is of; empty without CRAM-MD5.
    """

    mechanism: str
    user: str
    password: bytes | None = None
    digest: str | None = None
    challenge: bytes = b""

    def __repr__(self) -> str:
        return f"<Credentials {self.mechanism} {self.user!r}>"  # no secret reaches a log

    def matches(self, password: bytes) -> bool:
        """Whether they prove knowledge of a password; takes the same time for all answers."""
        if self.digest is None:
            return bool(password) and hmac.compare_digest(self.password or b"", password)
        wanted = hmac.new(password, self.challenge, hashlib.md5).hexdigest()
        return hmac.compare_digest(self.digest.lower().encode("utf-8"), wanted.encode("ascii"))


#: Gives challenges, takes responses, returns credentials. The first response is ``None``
#: where the client sent none with AUTH.
Exchange: TypeAlias = Generator[bytes, bytes, Credentials]


def decode(line: bytes) -> bytes:
    """Read a response in base64; ``=`` is an empty one (RFC 4954, 4).

    :raises SASLError: If it is no base64.
    """
    if line == b"=":
        return b""
    try:
        return binascii.a2b_base64(line, strict_mode=True) if line else b""
    except binascii.Error:
        raise SASLError("the response is not base64") from None


def challenge_text(challenge: bytes) -> str:
    """A challenge as it stands behind 334."""
    return b64encode(challenge).decode("ascii")


def _user(octets: bytes) -> str:
    """A user's name. It goes into replies, logs and header fields, so it is printable."""
    try:
        name = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise SASLError("a user name is UTF-8") from None
    if not name.isprintable():
        raise SASLError("a user name has no control characters")
    return name


def plain(name: str, initial: bytes | None) -> Exchange:
    """RFC 4616: authorization identity, user and password between NULs."""
    response = initial if initial is not None else (yield b"")
    fields = response.split(b"\0")
    if len(fields) != 3:
        raise SASLError("PLAIN wants an identity, a user and a password")
    identity, user, password = fields
    if not user or not password:
        raise CredentialsError("PLAIN", user, "no user or no password")
    if identity and identity != user:
        raise CredentialsError("PLAIN", user, "nobody may act for somebody else here")
    return Credentials("PLAIN", _user(user), password)


def login(name: str, initial: bytes | None) -> Exchange:
    """LOGIN: the user, then the password."""
    user = initial if initial is not None else (yield b"Username:")
    password = yield b"Password:"
    if not user or not password or b"\0" in password:
        raise CredentialsError("LOGIN", user, "no user or no password")
    return Credentials("LOGIN", _user(user), password)


def cram_md5(name: str, initial: bytes | None) -> Exchange:
    """RFC 2195: the user and a keyed digest of a challenge."""
    if initial is not None:
        raise SASLError("CRAM-MD5 takes no initial response")
    challenge = f"<{secrets.token_hex(8)}.{int(time.time()):x}@{name}>".encode("ascii", "replace")
    response = yield challenge
    user, space, digest = response.rpartition(b" ")
    if not space or not user:
        raise SASLError("CRAM-MD5 wants a user and a digest")
    return Credentials(
        "CRAM-MD5", _user(user), digest=digest.decode("ascii", "replace"), challenge=challenge
    )


#: The mechanisms that are spoken, by name, in the order they are offered.
MECHANISMS: Final[dict[str, Callable[[str, bytes | None], Exchange]]] = {
    "PLAIN": plain,
    "LOGIN": login,
    "CRAM-MD5": cram_md5,
}

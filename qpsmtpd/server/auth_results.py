# -*- test-case-name: tests.server.test_auth_results -*-
"""The Authentication-Results field (RFC 8601): this server's own, and what comes with a message.

::

    Authentication-Results: mail.example;
     auth=pass (plain) smtp.auth=anna@example.org;
     spf=pass smtp.mailfrom=example.org

What claims to be this server's own is removed from a message, always: readers believe it
(RFC 8601, 5). What names another server becomes ``Original-Authentication-Results``, as in the
Perl qpsmtpd; it stays as it is where a DKIM signature of the message covers it, which would break.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from qpsmtpd.message import HeaderSection, Message
from qpsmtpd.policy import AUTH_RESULTS
from qpsmtpd.session import Session, Transaction

__all__ = ["add_own", "clean", "server_of"]

_NAME: Final = "Authentication-Results"
_RENAMED: Final = "Original-Authentication-Results"

#: What a value may be without quotes: a token (RFC 2045, 5.1), or one at a domain.
_PLAIN: Final = re.compile(r"[!#$%&'*+.^_`{|}~0-9A-Za-z-]+(@[0-9A-Za-z.-]+)?")
_UNSAFE: Final = re.compile(r"[^ -~]")

#: The server's name at the beginning of a value, when comments are gone.
_SERVER: Final = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"(]+))')


def clean(message: Message, own: str) -> None:
    """Remove from a message what claims to be this server's, and mark what is another's.

    :param own: This server's name in such fields.
    """
    if not message.may_have(_NAME):
        return
    ours = own.rstrip(".").lower()

    def claims_to_be_ours(value: str) -> bool:
        server = server_of(value)
        return server is None or server.rstrip(".").lower() == ours

    headers = message.headers
    headers.delete_where(_NAME, claims_to_be_ours)
    if not _signed(headers):
        headers.rename(_NAME, _RENAMED)


def add_own(transaction: Transaction, own: str) -> None:
    """Put this server's field at the top of a message."""
    session = transaction.session
    message = transaction.message
    assert message is not None
    noted = session.note(AUTH_RESULTS) or transaction.note(AUTH_RESULTS)
    if not noted and session.auth_user is None and session.auth_failed is None:
        message.prepend_field(_nothing_known(own))
        return
    results = [_value(own), _auth(session)]
    for scope in (session, transaction):
        noted = scope.note(AUTH_RESULTS)
        if isinstance(noted, list):
            results += noted
    message.prepend(_NAME, ";\r\n ".join(results))


@lru_cache(maxsize=16)
def _nothing_known(own: str) -> bytes:
    """The field of most messages, which costs a fifth of one that is made anew."""
    return f"{_NAME}: {_value(own)}; auth=none".encode("ascii")


def server_of(value: str) -> str | None:
    """The name of the server that a field claims to be of; ``None`` where it cannot be told."""
    match = _SERVER.match(_without_comments(value))
    if match is None:
        return None
    quoted, plain = match.groups()
    return plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)


def _without_comments(value: str) -> str:
    """A value's beginning, up to what is no comment (RFC 5322, 3.2.2)."""
    depth = 0
    escaped = False
    for place, character in enumerate(value):
        if escaped:
            escaped = False
        elif depth and character == "\\":
            escaped = True
        elif character == "(":
            depth += 1
        elif depth and character == ")":
            depth -= 1
        elif not depth and not character.isspace():
            return value[place:]
    return ""


def _signed(headers: HeaderSection) -> bool:
    """Whether a DKIM signature covers such fields, right or not (RFC 6376, 3.5)."""
    for value in headers.get_all("DKIM-Signature"):
        for tag in value.split(";"):
            name, _, names = tag.partition("=")
            covered = [each.strip().lower() for each in names.split(":")]
            if name.strip() == "h" and _NAME.lower() in covered:
                return True
    return False


def _auth(session: Session) -> str:
    """What became of AUTH (RFC 8601, 2.7.4)."""
    if session.auth_user is not None:
        return _auth_result("pass", session.auth_mechanism or "", session.auth_user)
    if session.auth_failed is not None:
        return _auth_result("fail", *session.auth_failed)
    return "auth=none"


def _auth_result(result: str, mechanism: str, user: str) -> str:
    return f"auth={result} ({mechanism.lower()}) smtp.auth={_value(user)}"


def _value(text: str) -> str:
    """A value as it may stand in the field."""
    if _PLAIN.fullmatch(text):
        return text
    quoted = _UNSAFE.sub("?", text[:255]).replace("\\", r"\\").replace('"', r"\"")
    return f'"{quoted}"'

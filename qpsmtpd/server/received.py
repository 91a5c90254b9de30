# -*- test-case-name: tests.server.test_received -*-
"""The Received field (RFC 5321, 4.4), in the form of the Perl qpsmtpd.

::

    Received: from client.example (HELO client.example) (192.0.2.1)
     by mail.example (qpsmtpd/2.0.0) with ESMTPS id 6742c0de-1f-3.1
     (TLS_AES_256_GCM_SHA384 encrypted); Mon, 23 Nov 2026 11:15:31 +0000

What a client says about itself is hostile: what could end a line, a comment or
the field becomes ``?``, as in qmail-smtpd.
"""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from typing import Final

from qpsmtpd import __version__
from qpsmtpd.session import Session, Transaction

__all__ = ["auth_comment", "protocol_name", "received", "tls_comment"]

_UNSAFE: Final = re.compile(r"[^!#-&*-:=?-\[\]-~]")

#: The date of the last second that mail came in; there are many messages in a second.
_last_date: list[tuple[int, str]] = [(0, "")]


def received(transaction: Transaction, me: str) -> bytes:
    """The field for a transaction, folded, without its last CR LF.

    :param me: The server's name.
    """
    session = transaction.session
    host = session.remote_host or "Unknown"
    if session.remote_info:
        host = f"{session.remote_info}@{host}"
    hello = session.hello_host
    tls = f"\r\n {tls_comment(session)}" if session.tls is not None else ""
    return (
        f"Received: from {_safe(host)} (HELO {_safe(hello)}) ({_safe(session.remote_ip)})\r\n"
        f" by {me} (qpsmtpd/{__version__}) with {protocol_name(transaction)}"
        f" id {transaction.id}{tls}; {_date()}"
    ).encode("ascii", "replace")


def protocol_name(transaction: Transaction) -> str:
    """The word behind ``with`` (RFC 3848; RFC 6531, 4.3)."""
    session = transaction.session
    if session.hello != "ehlo":
        return "SMTP"
    name = "UTF8SMTP" if "SMTPUTF8" in transaction.parameters else "ESMTP"
    if session.tls is not None:
        name += "S"
    if session.auth_user is not None:
        name += "A"
    return name


def tls_comment(session: Session) -> str:
    """``(CIPHER encrypted)``, or nothing for a session in clear."""
    return f"({session.tls.cipher} encrypted)" if session.tls is not None else ""


def auth_comment(session: Session) -> str:
    """``(smtp-auth username U, mechanism M)``, or nothing for a stranger."""
    if session.auth_user is None:
        return ""
    mechanism = (session.auth_mechanism or "").lower()
    return f"(smtp-auth username {_safe(session.auth_user)}, mechanism {mechanism})"


def _safe(text: str) -> str:
    return _UNSAFE.sub("?", text)


def _date() -> str:
    now = int(time.time())
    second, text = _last_date[0]
    if second != now:
        text = formatdate(now, localtime=True)
        _last_date[0] = (now, text)
    return text

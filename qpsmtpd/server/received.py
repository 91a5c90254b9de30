# -*- test-case-name: tests.server.test_received -*-
"""The Received field (RFC 5321, 4.4), in the form of the Perl qpsmtpd.

::

    Received: from client.example (HELO client.example) (192.0.2.1)
     by mail.example (qpsmtpd/2.0.0) with ESMTPS id 6742c0de-1f-3.1
     (TLSv1.3 TLS_AES_256_GCM_SHA384 encrypted) for <b@mail.example>;
     Mon, 23 Nov 2026 11:15:31 +0000

``for`` is told where there is one recipient: more would tell each of the others (RFC 5321, 7.2).

What a client says about itself is hostile: what could end a line, a comment or
the field becomes ``?``, as in qmail-smtpd.
"""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from qpsmtpd import __version__
from qpsmtpd.session import Session, Transaction

__all__ = ["auth_comment", "protocol_name", "received", "tls_comment"]

#: A line that is longer is folded where it can be (RFC 5322, 2.1.1).
_LINE: Final = 78

#: Characters of what a client says about itself that are told: as many as a domain may have
#: (RFC 5321, 4.5.3.1.2).
_TOLD: Final = 255

_UNSAFE: Final = re.compile(r"[^!#-&*-:=?-\[\]-~]")


def received(transaction: Transaction, me: str) -> bytes:
    """The field for a transaction, folded, without its last CR LF.

    :param me: The server's name.
    """
    session = transaction.session
    came = _came(session.remote_name, session.hello_host, session.remote_ip)
    by = f"{_by(me, protocol_name(transaction))}{transaction.id}"
    if len(by) > _LINE:
        by = by.replace(" with ", "\r\n with ").replace(" id ", "\r\n id ")
    return f"{came}\r\n{by}{_comments(transaction)};\r\n {_date(int(time.time()))}".encode()


# Most mail comes from few clients. Without these caches a field takes twice as long.


@lru_cache(maxsize=256)
def _came(name: str, hello: str, ip: str) -> str:
    came = f"Received: from {_safe(name)} (HELO {_safe(hello)}) ({_safe(ip)})"
    return came.replace(" (", "\r\n (") if len(came) > _LINE else came


@lru_cache(maxsize=16)
def _by(me: str, protocol: str) -> str:
    return f" by {me} (qpsmtpd/{__version__}) with {protocol} id "


def _comments(transaction: Transaction) -> str:
    """How the message was encrypted and whom it is for, each where it is to be told."""
    tls = tls_comment(transaction.session)
    recipients = transaction.recipients
    path = str(recipients[0]) if len(recipients) == 1 else ""
    if not path or not (path.isascii() or "SMTPUTF8" in transaction.parameters):
        return f"\r\n {tls}" if tls else ""
    if not tls:
        return f"\r\n for {path}"
    fold = "\r\n " if len(tls) + len(path) + 7 > _LINE else " "
    return f"\r\n {tls}{fold}for {path}"


def protocol_name(transaction: Transaction) -> str:
    """The word behind ``with`` (RFC 3848; RFC 6531, 4.3).

    A session that was greeted with LHLO is one of LMTP (RFC 2033).
    """
    session = transaction.session
    hello = session.hello
    if hello == "helo":
        return "SMTP"
    plain, utf8 = ("LMTP", "UTF8LMTP") if hello == "lhlo" else ("ESMTP", "UTF8SMTP")
    name = utf8 if "SMTPUTF8" in transaction.parameters else plain
    if session.tls is not None:
        name += "S"
    if session.auth_user is not None:
        name += "A"
    return name


def tls_comment(session: Session) -> str:
    """``(VERSION CIPHER encrypted)``, or nothing for a session in clear."""
    tls = session.tls
    return f"({tls.version} {tls.cipher} encrypted)" if tls is not None else ""


def auth_comment(session: Session) -> str:
    """``(smtp-auth username U, mechanism M)``, or nothing for a stranger."""
    if session.auth_user is None:
        return ""
    mechanism = (session.auth_mechanism or "").lower()
    return f"(smtp-auth username {_safe(session.auth_user)}, mechanism {mechanism})"


def _safe(text: str) -> str:
    return _UNSAFE.sub("?", text[:_TOLD])


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    # There are many messages in a second.
    return formatdate(second, localtime=True)

# -*- test-case-name: tests.plugins.test_tls -*-
"""Offer STARTTLS (RFC 3207), and speak TLS from the start on port 465 (RFC 8314, 3.3).

::

    tls
    tls /etc/ssl/mail.crt /etc/ssl/mail.key
    tls ssl/mail.crt ssl/mail.key ssl/chain.crt required

============  ===========================================================================
certificate   a file in PEM, which may hold the chain behind the certificate
key           its private key, without a passphrase
CA            certificates of the chain, if they are not in the first file
DH            parameters for DHE ciphers; without, key agreement is by elliptic curves
``by_name``   a folder of other certificates and keys, ``NAME.crt`` and ``NAME.key``, for
              clients that ask for a server of that name (RFC 6066, 3)
``required``  mail needs TLS: without it MAIL gets 530 (RFC 3207, 4). For port 587, not for
              a server that mail from anywhere comes to
============  ===========================================================================

Files that are not named are ``qpsmtpd-server.crt``, ``qpsmtpd-server.key`` and, where they exist,
``qpsmtpd-ca.crt`` and ``qpsmtpd-dhparam.pem``, in the folder ``ssl`` if there is one and else in
``config/ssl``. A certificate or key that cannot be read, or that do not belong together, stop the
start. All are read when the server starts and at each reload; sessions go on with what they
began with.

Control files:

=====================  ==================================================================
``tls_ciphers``        OpenSSL's cipher list for TLS 1.2; TLS 1.3 has ciphers of its own
``tls_protocols``      versions between colons, such as ``SSLv23:!TLSv1_2``: a first word
                       that stands for all, or names of those wanted, and ``!`` before those
                       that are not. Before TLS 1.2 there is none, whatever it says
``tls_before_auth``    (the server's own) AUTH is for encrypted sessions only
=====================  ==================================================================

The plugin stands before those that talk to or listen to a client at ``connect``. A client whose
handshake fails is disconnected. What it said before STARTTLS is forgotten, and so is an
authentication.
"""

from __future__ import annotations

import os
from typing import Any, Final

from zope.interface import alsoProvides, implementer

from qpsmtpd.component import PluginMaker, argument, component, control_file, state
from qpsmtpd.configuration.values import converter, path, text
from qpsmtpd.interfaces import IConnect, IMail, IPreConnection
from qpsmtpd.policy import report
from qpsmtpd.services.tls import server_context
from qpsmtpd.session import Session, Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.verdicts import Verdict, deny

NAME: Final = "tls"

#: The port of submission over implicit TLS.
SUBMISSIONS: Final = 465

_VERSIONS: Final = ("SSLv2", "SSLv3", "TLSv1", "TLSv1_1", "TLSv1_2", "TLSv1_3")
_SPOKEN: Final = {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}
_ALL: Final = ("SSLv23", "SSLv2/3", "TLS", "ALL")
_SPELT: Final = {name.lower(): name for name in (*_VERSIONS, *_ALL)} | {
    "tlsv11": "TLSv1_1",
    "tlsv12": "TLSv1_2",
    "tlsv13": "TLSv1_3",
}


@converter("versions as in SSLv23:!TLSv1_2, of which TLSv1_2 or TLSv1_3 is left")
def protocols(given: str) -> frozenset[str]:
    """Take which versions of TLS are spoken, as the Perl qpsmtpd's SSL library has them."""
    wanted: set[str] = set()
    unwanted: set[str] = set()
    for word in given.replace(" ", ":").split(":"):
        name = word.removeprefix("!").lower().replace(".", "_")
        if not name:
            continue
        if name not in _SPELT:
            raise ValueError(word)
        names = set(_VERSIONS) if _SPELT[name] in _ALL else {_SPELT[name]}
        (unwanted if word.startswith("!") else wanted).update(names)
    left = ((wanted or set(_VERSIONS)) - unwanted) & _SPOKEN.keys()
    if not left:
        raise ValueError(given)
    return frozenset(_SPOKEN[name] for name in left)


@implementer(IPreConnection, IConnect)
@component
class TLS:
    """Gives each session what its handshake needs."""

    certificate: str = argument(path, default="", positional=True, help="certificate, in PEM")
    key: str = argument(path, default="", positional=True, help="its private key, in PEM")
    ca: str = argument(path, default="", positional=True, help="the rest of the chain, in PEM")
    dh: str = argument(path, default="", positional=True, help="parameters for DHE, in PEM")
    by_name: str | None = argument(path, default=None, help="folder of other certificates")
    required: bool = argument(
        text, flag=True, default=False, help="refuse mail that comes without TLS"
    )
    ciphers: str = control_file(
        "tls_ciphers", text, first=True, default="", example="HIGH:!aNULL", help="for TLS 1.2"
    )
    protocols: frozenset[str] = control_file(
        "tls_protocols",
        protocols,
        first=True,
        default=frozenset(_SPOKEN.values()),
        example="TLSv1_2:TLSv1_3",
        help="versions of TLS",
    )
    _context: Any = state(lambda: None)

    def __post_init__(self) -> None:
        folder = "ssl" if os.path.isdir("ssl") else os.path.join("config", "ssl")
        self._context = server_context(
            self.certificate or os.path.join(folder, "qpsmtpd-server.crt"),
            self.key or os.path.join(folder, "qpsmtpd-server.key"),
            ca=self.ca or _existing(os.path.join(folder, "qpsmtpd-ca.crt")),
            ciphers=self.ciphers or None,
            minimum=min(self.protocols),
            maximum=max(self.protocols),
            dh=self.dh or _existing(os.path.join(folder, "qpsmtpd-dhparam.pem")),
            by_name=self.by_name,
        )
        if self.required:
            alsoProvides(self, IMail)

    def pre_connection(self, session: Session) -> None:
        session.tls_context = self._context
        session.tls_implicit = session.local_port == SUBMISSIONS

    def connect(self, session: Session) -> None:
        # Another component may have ended the asking at pre_connection.
        session.tls_context = self._context

    def mail(self, transaction: Transaction, reverse_path: Address) -> Verdict | None:
        if transaction.session.tls is not None:
            return None
        report(transaction, NAME, "fail, TLS is required")
        return deny("Must issue a STARTTLS command first", "5.7.0", code=530)


def _existing(file: str) -> str | None:
    """A file that need not be there; an empty one counts as none."""
    try:
        return file if os.path.getsize(file) else None
    except FileNotFoundError:
        return None


maker = PluginMaker(NAME, TLS)

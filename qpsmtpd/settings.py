"""The settings of the engine itself."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from qpsmtpd.smtp.extensions import Extensions
from qpsmtpd.smtp.limits import Limits

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the engine needs to know beside its chain. The control file is named with each.

    :ivar me: The server's name (``me``).
    :ivar authserv_id: The server's name in Authentication-Results (``me-auth-results``); ``None``
        leaves these fields alone and adds none.
    :ivar greeting: Text of the banner in place of the default one (``smtpgreeting``).
    :ivar limits: Numbers (``databytes``, ``timeoutsmtpd``, ``limits``).
    :ivar extensions: What EHLO offers (``extensions``); SIZE, STARTTLS and AUTH are filled in.
    :ivar localiphost: The domain of recipients at the address that the client connected to
        (``localiphost``); ``None`` is ``me``.
    :ivar spool_dir: Where large messages lie while they are received (``spool_dir``); ``None``
        is the system's folder for temporary files.
    :ivar spool_perms: The mode of that folder (``spool_perms``).
    :ivar size_threshold: Octets of a message that are kept in memory (``size_threshold``).
    :ivar tls_before_auth: Offer AUTH only under TLS (``tls_before_auth``).
    :ivar connections: Connections at once, in all; 0 is no limit.
    :ivar connections_per_address: Connections at once from one address; 0 is no limit.
    :ivar reverse_dns: Whether a client's name is looked up before it is greeted (``reverse_dns``);
        not for clients on this machine.
    """

    me: str = field(default_factory=socket.gethostname)
    authserv_id: str | None = None
    greeting: str | None = None
    limits: Limits = field(default_factory=Limits)
    extensions: Extensions = field(default_factory=Extensions)
    localiphost: str | None = None
    spool_dir: str | None = None
    spool_perms: int = 0o700
    size_threshold: int = 262_144
    tls_before_auth: bool = False
    connections: int = 1000
    connections_per_address: int = 100
    reverse_dns: bool = False

# -*- test-case-name: tests.services.test_tls -*-
"""Make what a server's TLS handshake needs from files, checked before anybody connects.

A context never changes. When files do, a reload makes a new one, and sessions go on
with theirs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLContextFactory, IOpenSSLServerConnectionCreator
from zope.interface import implementer

from qpsmtpd.configuration.errors import ConfigurationError

__all__ = [
    "CIPHERS",
    "ServerContext",
    "TLSConfigurationError",
    "cipher_name",
    "make_self_signed",
    "server_context",
]

_T = TypeVar("_T")

#: Ciphers of TLS 1.2: with forward secrecy, authenticated ones first (RFC 9325, 4.2). Those with
#: CBC stay at the end; who speaks nothing better would otherwise send the mail in clear text.
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:ECDHE+AES:!aNULL:!PSK:!SRP"

_VERSIONS: Final[Mapping[str, int]] = {
    "TLSv1.2": SSL.TLS1_2_VERSION,
    "TLSv1.3": SSL.TLS1_3_VERSION,
}

_VERIFY: Final[Mapping[str, int]] = {
    "none": SSL.VERIFY_NONE,
    "optional": SSL.VERIFY_PEER,
    "required": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
}

#: The server chooses the cipher; CRIME needs compression, and renegotiation costs
#: the server more than the client (OpenSSL 3 refuses it unasked). TLS 1.3 has neither.
_OPTIONS: Final = (
    SSL.OP_NO_COMPRESSION
    | SSL.OP_NO_RENEGOTIATION
    | SSL.OP_CIPHER_SERVER_PREFERENCE
    | SSL.OP_SINGLE_DH_USE
    | SSL.OP_SINGLE_ECDH_USE
)


class TLSConfigurationError(ConfigurationError):
    """A file or setting that TLS cannot be begun with; the text names it."""


@implementer(IOpenSSLContextFactory, IOpenSSLServerConnectionCreator)
class ServerContext:
    """What ``transport.startTLS`` and ``TLSMemoryBIOFactory`` take; see :func:`server_context`."""

    def __init__(self, context: SSL.Context) -> None:
        """Hand out one context."""
        self._context = context

    def getContext(self) -> SSL.Context:  # noqa: N802 - Twisted calls it
        return self._context

    def serverConnectionForTLS(self, protocol: object) -> SSL.Connection:  # noqa: N802
        return SSL.Connection(self._context, None)


def server_context(
    certificate: str,
    key: str,
    *,
    ca: str | None = None,
    ciphers: str | None = None,
    minimum: str = "TLSv1.2",
    maximum: str | None = None,
    dh: str | None = None,
    client_certificates: Literal["none", "optional", "required"] = "none",
    by_name: str | None = None,
) -> ServerContext:
    """Return a context for the server's side of TLS.

    :param certificate: A file with the server's certificate in PEM, and after it
        the chain that leads to a root.
    :param key: A file with its private key in PEM, without a passphrase.
    :param ca: A file with certificates in PEM: those of the chain when they are
        not in the first file, and those that client certificates lead to.
    :param ciphers: OpenSSL's list of ciphers for TLS 1.2 instead of :data:`CIPHERS`.
    :param minimum: ``TLSv1.2`` or ``TLSv1.3``.
    :param maximum: The same, or ``None`` for the newest there is.
    :param dh: A file with parameters for DHE ciphers instead of OpenSSL's own.
    :param client_certificates: Whether clients are asked for a certificate. With
        ``optional`` one may have none, and with ``required`` not. One that does
        not lead to ``ca`` ends the handshake.
    :param by_name: A folder of other certificates and keys, ``NAME.crt`` and
        ``NAME.key``, for clients that ask for a server of that name (RFC 6066, 3).
    :raises TLSConfigurationError: for a file or value that cannot be used.
    """
    if client_certificates != "none" and ca is None:
        raise TLSConfigurationError(
            client_certificates,
            "a file of CA certificates, which client certificates are checked by",
        )

    def make(certificate: str, key: str) -> SSL.Context:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_options(_OPTIONS)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_min_proto_version(_chosen(_VERSIONS, minimum))
        context.set_max_proto_version(_chosen(_VERSIONS, maximum) if maximum else 0)
        # Without a name for its sessions, OpenSSL fails to resume one with a client certificate.
        context.set_session_id(b"qpsmtpd")
        context.set_verify(_chosen(_VERIFY, client_certificates))
        _load_pair(context, certificate, key)
        if ca is not None:
            _read(ca, x509.load_pem_x509_certificates, "certificates in PEM")
            context.load_verify_locations(ca)
            if client_certificates != "none":
                context.load_client_ca(os.fsencode(ca))
        if dh is not None:
            # Not parsed here first, as the others are: cryptography is about to forget how.
            _read(dh, bytes, "")
            with _refusing(file=dh, expected="DH parameters in PEM"):
                context.load_tmp_dh(dh)
        with _refusing(found=ciphers or "", expected="OpenSSL's list of ciphers"):
            context.set_cipher_list((ciphers or CIPHERS).encode("ascii"))
        return context

    context = make(certificate, key)
    if by_name is not None:
        others = {name: make(*pair) for name, pair in _pairs(by_name)}
        context.set_tlsext_servername_callback(lambda connection: _switch(connection, others))
    return ServerContext(context)


def cipher_name(transport: Any) -> tuple[str, str]:
    """Return version and cipher of a transport, such as ``TLSv1.3`` and its suite.

    Both are empty when the transport is not encrypted, or not yet.
    """
    handle = transport.getHandle() if hasattr(transport, "getHandle") else None
    if not isinstance(handle, SSL.Connection):
        return "", ""
    cipher = handle.get_cipher_name()
    return (handle.get_protocol_version_name(), cipher) if cipher else ("", "")


def make_self_signed(name: str, directory: str) -> tuple[str, str]:
    """Write a key and a certificate that nobody vouches for, for a first run and for tests.

    Encryption without proof of who the server is suffices for mail from other
    servers, which seldom ask for more (RFC 7435).

    :param name: The server's name; the files are ``NAME.crt`` and ``NAME.key``.
    :returns: The paths of certificate and key.
    :raises FileExistsError: when there is a key or certificate already.
    """
    certificate_path = os.path.join(directory, f"{name}.crt")
    key_path = os.path.join(directory, f"{name}.key")
    key = ec.generate_private_key(ec.SECP256R1())
    _create(
        key_path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        0o600,
    )
    certificate = _self_signed(name, key)
    _create(certificate_path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return certificate_path, key_path


def _self_signed(name: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    # A common name holds 64 characters (RFC 5280, A.1); clients look at the alternative name.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )


def _create(path: str, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _chosen(choices: Mapping[str, int], name: str) -> int:
    if name not in choices:
        raise TLSConfigurationError(name, " or ".join(choices))
    return choices[name]


def _load_pair(context: SSL.Context, certificate: str, key: str) -> None:
    own = _read(certificate, x509.load_pem_x509_certificates, "a certificate in PEM")[0]
    # Read here first, since OpenSSL would ask for a passphrase at the terminal.
    secret = _read(
        key,
        lambda octets: serialization.load_pem_private_key(octets, None),
        "a private key in PEM without a passphrase",
    )
    if own.public_key() != secret.public_key():
        raise TLSConfigurationError("", f"the key of the certificate {certificate}", file=key)
    with _refusing(file=certificate, expected="a certificate that OpenSSL takes"):
        context.use_certificate_chain_file(certificate)
        context.use_privatekey_file(key)


def _read(path: str, load: Callable[[bytes], _T], expected: str) -> _T:
    try:
        with open(path, "rb") as file:
            octets = file.read()
    except OSError as problem:
        raise TLSConfigurationError(
            "", f"a file that can be read ({problem.strerror})", file=path
        ) from problem
    try:
        return load(octets)
    except (ValueError, TypeError, UnsupportedAlgorithm) as problem:  # TypeError: a passphrase
        raise TLSConfigurationError("", expected, file=path) from problem


@contextmanager
def _refusing(*, expected: str, found: str = "", file: str | None = None) -> Iterator[None]:
    """Turn what OpenSSL refuses into an error that an operator can use."""
    try:
        yield
    except (SSL.Error, ValueError) as problem:
        reasons = problem.args[0] if problem.args and isinstance(problem.args[0], list) else []
        why = f" ({reasons[0][-1]})" if reasons else ""
        raise TLSConfigurationError(found, expected + why, file=file) from problem


def _pairs(directory: str) -> Iterator[tuple[str, tuple[str, str]]]:
    try:
        names = sorted(os.listdir(directory))
    except OSError as problem:
        raise TLSConfigurationError(
            "", f"a folder that can be read ({problem.strerror})", file=directory
        ) from problem
    for name in names:
        if name.endswith(".crt"):
            path = os.path.join(directory, name)
            yield name.removesuffix(".crt").lower(), (path, path.removesuffix(".crt") + ".key")


def _switch(connection: SSL.Connection, others: Mapping[str, SSL.Context]) -> None:
    asked = (connection.get_servername() or b"").decode("ascii", "replace").lower()
    if asked in others:
        connection.set_context(others[asked])

"""Tests for :mod:`qpsmtpd.services.tls`; the handshakes are real, and in memory."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL
from twisted.internet import ssl, task
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLContextFactory,
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from qpsmtpd.configuration.errors import ConfigurationError
from qpsmtpd.services.tls import (
    ServerContext,
    TLSConfigurationError,
    cipher_name,
    make_self_signed,
    server_context,
)


class Side(Protocol):
    """One side of a conversation; what it got, and how it ended."""

    def __init__(self) -> None:
        self.got = b""
        self.ended: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended = reason.value


class Handshake:
    """Both sides of TLS, connected in memory."""

    def __init__(self, server: ServerContext, client: Any) -> None:
        self.clock = task.Clock()
        self.server, outer_server = self._side(server, False)
        self.client, outer_client = self._side(client, True)
        transports = FakeTransport(outer_server, True), FakeTransport(outer_client, False)
        self.pump = IOPump(outer_client, outer_server, transports[1], transports[0], False)
        outer_server.makeConnection(transports[0])
        self.before = cipher_name(outer_server)
        outer_client.makeConnection(transports[1])
        self.pump.flush()
        self.transport: Any = outer_server
        self.connection: Any = outer_client.getHandle()

    def _side(self, context: Any, is_client: bool) -> tuple[Side, Any]:
        factory = Factory.forProtocol(Side)
        factory.noisy = False
        wrapped = TLSMemoryBIOFactory(context, is_client, factory, self.clock)
        wrapped.noisy = False
        outer: Any = wrapped.buildProtocol(None)
        return outer.wrappedProtocol, outer

    def exchange(self) -> bool:
        """Say something both ways and return whether it arrived."""
        self.server.transport.write(b"220 ready")  # type: ignore[union-attr]
        self.client.transport.write(b"EHLO")  # type: ignore[union-attr]
        self.clock.advance(0)  # small writes are collected until then
        self.pump.flush()
        return (self.server.got, self.client.got) == (b"EHLO", b"220 ready")

    @property
    def name(self) -> str:
        """The common name that the server showed."""
        return common_name(self.connection.get_peer_certificate(as_cryptography=True))


def common_name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string().removeprefix("CN=")


class Client:
    """A client's side without opinions, unlike Twisted's."""

    def __init__(
        self,
        *,
        versions: tuple[int, int] = (0, 0),
        ciphers: str = "",
        pair: tuple[str, str] | None = None,
        name: str = "",
    ) -> None:
        self.context = SSL.Context(SSL.TLS_METHOD)
        self.context.set_min_proto_version(versions[0])
        self.context.set_max_proto_version(versions[1])
        if pair is not None:
            self.context.use_certificate_file(pair[0])
            self.context.use_privatekey_file(pair[1])
        if ciphers:
            self.context.set_cipher_list(ciphers.encode())
        self.name = name

    def handshake(self, server: ServerContext) -> Handshake:
        return Handshake(server, ClientCreator(self))


@implementer(IOpenSSLClientConnectionCreator)
class ClientCreator:
    def __init__(self, client: Client) -> None:
        self.client = client

    def clientConnectionForTLS(self, protocol: object) -> SSL.Connection:
        connection = SSL.Connection(self.client.context, None)
        if self.client.name:
            connection.set_tlsext_host_name(self.client.name.encode())
        return connection


class TLSCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.pair = make_self_signed("mail.example", self.folder)

    def write(self, name: str, content: bytes | str) -> str:
        path = f"{self.folder}/{name}"
        Path(path).write_bytes(content.encode() if isinstance(content, str) else content)
        return path


class SelfSignedTests(TLSCase):
    def test_key_is_private(self) -> None:
        """Nobody else on the machine can read the key."""
        certificate, key = self.pair
        self.assertEqual(
            (certificate, key),
            (f"{self.folder}/mail.example.crt", f"{self.folder}/mail.example.key"),
        )
        self.assertEqual(stat.S_IMODE(os.stat(key).st_mode), 0o600)

    def test_nothing_is_overwritten(self) -> None:
        """A key that is there stays."""
        before = Path(self.pair[1]).read_bytes()
        with self.assertRaises(FileExistsError):
            make_self_signed("mail.example", self.folder)
        self.assertEqual(Path(self.pair[1]).read_bytes(), before)

    def test_client_that_trusts_it(self) -> None:
        """A client that was given the certificate finds the name in it."""
        trusted = ssl.Certificate.loadPEM(Path(self.pair[0]).read_bytes())
        for name, arrives in (("mail.example", True), ("other.example", False)):
            client = ssl.optionsForClientTLS(name, trustRoot=trusted)
            self.assertIs(Handshake(server_context(*self.pair), client).exchange(), arrives, name)


class ServerContextTests(TLSCase):
    def test_interfaces(self) -> None:
        """It is what Twisted takes, now and before."""
        context = server_context(*self.pair)
        verifyObject(IOpenSSLContextFactory, context)
        verifyObject(IOpenSSLServerConnectionCreator, context)

    def test_versions(self) -> None:
        """TLS 1.2 and 1.3 are spoken, within the configured limits, and nothing older."""
        one, two, three = SSL.TLS1_1_VERSION, SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION
        for limits, spoken in (
            ({}, {two, three}),
            ({"minimum": "TLSv1.3"}, {three}),
            ({"maximum": "TLSv1.2"}, {two}),
        ):
            for version in (one, two, three):
                # Without a security level, so that the client itself would speak TLS 1.1.
                client = Client(versions=(version, version), ciphers="ALL:@SECLEVEL=0")
                context = server_context(*self.pair, **limits)  # type: ignore[arg-type]
                arrived = client.handshake(context).exchange()
                self.assertIs(arrived, version in spoken, (limits, version))

    def test_cipher_name(self) -> None:
        """Version and cipher are told once the handshake is over, and only then."""
        client = Client(versions=(SSL.TLS1_2_VERSION,) * 2, ciphers="ECDHE-ECDSA-AES128-SHA256")
        talk = client.handshake(server_context(*self.pair))
        self.assertEqual(talk.before, ("", ""))
        self.assertEqual(cipher_name(talk.transport), ("TLSv1.2", "ECDHE-ECDSA-AES128-SHA256"))
        self.assertEqual(cipher_name(talk.server.transport)[0], "TLSv1.2")
        modern = Client().handshake(server_context(*self.pair))
        self.assertEqual(cipher_name(modern.transport)[0], "TLSv1.3")
        self.assertEqual(cipher_name(FakeTransport(Side(), True)), ("", ""))

    def test_server_chooses_the_cipher(self) -> None:
        """The server's order counts, and only what it lists."""
        two = (SSL.TLS1_2_VERSION,) * 2
        weak, strong = "ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"
        talk = Client(versions=two, ciphers=f"{weak}:{strong}").handshake(
            server_context(*self.pair)
        )
        self.assertTrue(talk.exchange())
        self.assertEqual(cipher_name(talk.transport)[1], strong)
        narrow = server_context(*self.pair, ciphers=strong)
        self.assertFalse(Client(versions=two, ciphers=weak).handshake(narrow).exchange())

    def test_no_renegotiation(self) -> None:
        """A client cannot make the server begin again."""
        talk = Client(versions=(SSL.TLS1_2_VERSION,) * 2).handshake(server_context(*self.pair))
        self.assertTrue(talk.exchange())
        talk.connection.renegotiate()
        with self.assertRaises(SSL.WantReadError):
            talk.connection.do_handshake()
        talk.client.transport._flushSendBIO()  # type: ignore[union-attr]
        talk.pump.flush()
        self.assertIn("no renegotiation", str(talk.client.ended))

    def test_chain(self) -> None:
        """What stands behind the certificate in its file is sent with it."""
        other = make_self_signed("ca.example", self.folder)
        both = Path(self.pair[0]).read_bytes() + Path(other[0]).read_bytes()
        talk = Client().handshake(server_context(self.write("both.crt", both), self.pair[1]))
        self.assertTrue(talk.exchange())
        chain = talk.connection.get_peer_cert_chain(as_cryptography=True)
        self.assertEqual([common_name(each) for each in chain], ["mail.example", "ca.example"])

    def test_one_file(self) -> None:
        """Certificate and key may stand in one file."""
        content = b"".join(Path(path).read_bytes() for path in self.pair)
        one = self.write("one.pem", content)
        self.assertTrue(Client().handshake(server_context(one, one)).exchange())

    def test_client_certificates(self) -> None:
        """Clients are asked for a certificate, which must be one that the CA file leads to."""
        known = make_self_signed("known.example", self.folder)
        stranger = make_self_signed("stranger.example", self.folder)
        for policy, expected in (
            ("none", (True, True, True)),
            ("optional", (True, True, False)),
            ("required", (False, True, False)),
        ):
            context = server_context(
                *self.pair,
                ca=known[0],
                client_certificates=policy,  # type: ignore[arg-type]
            )
            for pair, arrives in zip((None, known, stranger), expected, strict=True):
                talk = Client(pair=pair).handshake(context)
                talk.exchange()
                arrived = talk.server.got == b"EHLO"
                self.assertIs(arrived, arrives, (policy, pair))

    def test_server_by_name(self) -> None:
        """A client that asks for another name sees the certificate of that name."""
        os.mkdir(f"{self.folder}/names")
        for name in ("one.example", "two.example"):
            make_self_signed(name, f"{self.folder}/names")
        context = server_context(*self.pair, by_name=f"{self.folder}/names")
        for asked, shown in (
            ("one.example", "one.example"),
            ("TWO.example", "two.example"),
            ("three.example", "mail.example"),
            ("", "mail.example"),
        ):
            talk = Client(name=asked).handshake(context)
            self.assertTrue(talk.exchange())
            self.assertEqual(talk.name, shown)

    def test_dhe(self) -> None:
        """Clients that know nothing newer than DHE are served, with or without parameters."""
        key = rsa.generate_private_key(65537, 2048)
        key_path = self.write(
            "rsa.key",
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            ),
        )
        own = x509.load_pem_x509_certificate(Path(self.pair[0]).read_bytes())
        certificate = (
            x509.CertificateBuilder(own.subject, own.subject, key.public_key(), 1)
            .not_valid_before(own.not_valid_before_utc)
            .not_valid_after(own.not_valid_after_utc)
            .sign(key, hashes.SHA256())
        )
        path = self.write("rsa.crt", certificate.public_bytes(serialization.Encoding.PEM))
        for given in (None, self.write("dh.pem", dh_parameters(MODP_2048, 2))):
            client = Client(versions=(SSL.TLS1_2_VERSION,) * 2, ciphers="DHE+AESGCM")
            self.assertTrue(client.handshake(server_context(path, key_path, dh=given)).exchange())


#: The group of RFC 3526, 3: making one takes minutes.
MODP_2048 = """
    FFFFFFFF FFFFFFFF C90FDAA2 2168C234 C4C6628B 80DC1CD1 29024E08 8A67CC74 020BBEA6 3B139B22
    514A0879 8E3404DD EF9519B3 CD3A431B 302B0A6D F25F1437 4FE1356D 6D51C245 E485B576 625E7EC6
    F44C42E9 A637ED6B 0BFF5CB6 F406B7ED EE386BFB 5A899FA5 AE9F2411 7C4B1FE6 49286651 ECE45B3D
    C2007CB8 A163BF05 98DA4836 1C55D39A 69163FA8 FD24CF5F 83655D23 DCA3AD96 1C62F356 208552BB
    9ED52907 7096966D 670C354E 4ABC9804 F1746C08 CA18217C 32905E46 2E36CE3B E39E772C 180E8603
    9B2783A2 EC07A28F B5C55DF0 6F4C52C9 DE2BCBF6 95581718 3995497C EA956AE5 15D22618 98FA0510
    15728E5A 8AACAA68 FFFFFFFF FFFFFFFF
"""


def dh_parameters(prime: str, generator: int) -> bytes:
    """PKCS #3 in PEM: a sequence of two integers."""
    number = b"\0" + bytes.fromhex(prime)
    integers = b"\x02\x82" + len(number).to_bytes(2, "big") + number + bytes([2, 1, generator])
    der = b"\x30\x82" + len(integers).to_bytes(2, "big") + integers
    text = base64.encodebytes(der)
    return b"-----BEGIN DH PARAMETERS-----\n" + text + b"-----END DH PARAMETERS-----\n"


class ErrorsTests(TLSCase):
    """An operator who gives what cannot be used is told which file it is."""

    def refused(self, *args: Any, **options: Any) -> str:
        with self.assertRaises(TLSConfigurationError) as caught:
            server_context(*args, **options)
        self.assertIsInstance(caught.exception, ConfigurationError)
        return str(caught.exception).replace(self.folder, "DIR")

    def test_absent(self) -> None:
        """A file that is not there is named."""
        absent = f"{self.folder}/absent"
        said = "DIR/absent: expected a file that can be read (No such file or directory)"
        self.assertEqual(self.refused(absent, self.pair[1]), said)
        self.assertEqual(self.refused(self.pair[0], absent), said)
        self.assertEqual(self.refused(*self.pair, ca=absent), said)
        self.assertEqual(self.refused(*self.pair, dh=absent), said)
        self.assertIn("DIR/absent: expected a folder", self.refused(*self.pair, by_name=absent))

    def test_something_else(self) -> None:
        """A file that holds something else is named with what it should hold."""
        other = self.write(
            "other", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        )
        self.assertEqual(
            self.refused(other, self.pair[1]), "DIR/other: expected a certificate in PEM"
        )
        for empty in (other, self.write("empty", b"")):
            self.assertIn("expected a private key in PEM", self.refused(self.pair[0], empty))
            self.assertIn("expected certificates in PEM", self.refused(*self.pair, ca=empty))
            self.assertIn("expected DH parameters in PEM", self.refused(*self.pair, dh=empty))

    def test_swapped(self) -> None:
        """The key in the place of the certificate is the most frequent mistake."""
        self.assertEqual(
            self.refused(*reversed(self.pair)),
            "DIR/mail.example.key: expected a certificate in PEM",
        )

    def test_not_a_pair(self) -> None:
        """A key of another certificate is refused with both names."""
        other = make_self_signed("other.example", self.folder)
        self.assertEqual(
            self.refused(self.pair[0], other[1]),
            "DIR/other.example.key: expected the key of the certificate DIR/mail.example.crt",
        )

    def test_passphrase(self) -> None:
        """A key with a passphrase is refused, and nobody is asked for it at a terminal."""
        key: Any = serialization.load_pem_private_key(Path(self.pair[1]).read_bytes(), None)
        locked = self.write(
            "locked.key",
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            ),
        )
        self.assertEqual(
            self.refused(self.pair[0], locked),
            "DIR/locked.key: expected a private key in PEM without a passphrase",
        )

    def test_name_without_key(self) -> None:
        """A certificate in the folder of names needs its key."""
        os.unlink(self.pair[1])
        pair = make_self_signed("default.example", self.mktemp_folder())
        said = self.refused(*pair, by_name=self.folder)
        self.assertIn("DIR/mail.example.key: expected a file that can be read", said)

    def mktemp_folder(self) -> str:
        os.mkdir(f"{self.folder}/default")
        return f"{self.folder}/default"

    def test_values(self) -> None:
        """Unknown versions, ciphers and policies are refused with what there is."""
        for option, value, expected in (
            ("minimum", "TLSv1", '"TLSv1": expected TLSv1.2 or TLSv1.3'),
            ("maximum", "SSLv3", '"SSLv3": expected TLSv1.2 or TLSv1.3'),
            ("client_certificates", "maybe", '"maybe": expected none or optional or required'),
        ):
            said = self.refused(*self.pair, ca=self.pair[0], **{option: value})
            self.assertEqual(said, expected)
        for ciphers in ("NONSENSE", "\xe9"):
            said = self.refused(*self.pair, ciphers=ciphers)
            self.assertIn(f'"{ciphers}": expected OpenSSL\'s list of ciphers', said)

    def test_client_certificates_without_ca(self) -> None:
        """Client certificates cannot be checked by nothing."""
        for policy in ("optional", "required"):
            self.assertIn("CA certificates", self.refused(*self.pair, client_certificates=policy))

"""Tests of tls: real handshakes over loopback sockets."""

import os
import smtplib
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from qpsmtpd import logs
from qpsmtpd.configuration.errors import ConfigurationError
from qpsmtpd.interfaces import IConnect, IEhlo, IPreConnection
from qpsmtpd.plugins import tls
from qpsmtpd.plugins.auth.auth_flat_file import AuthFlatFile, user
from qpsmtpd.plugins.tls import TLS, maker, protocols
from qpsmtpd.services.tls import make_self_signed
from qpsmtpd.session import Session
from qpsmtpd.testing.cases import ComponentTestCase
from tests.server.test_starttls_auth import MESSAGE, PASSWORD, USER, RawClient, SocketCase, token
from tests.services.binaries import find


class TLSCase(SocketCase):
    """Has a certificate."""

    def setUp(self) -> None:
        folder = self.mktemp()
        os.mkdir(folder)
        self.certificate, self.key = make_self_signed("localhost", folder)

    def events(self) -> list[LogEvent]:
        """What is logged from now on."""
        found: list[LogEvent] = []

        @implementer(ILogObserver)
        def observer(event: LogEvent) -> None:
            found.append(event)

        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        return found

    def tls(self, **settings: Any) -> TLS:
        return TLS(certificate=self.certificate, key=self.key, **settings)

    def client_context(self, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.certificate)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context


class StartTLSTests(TLSCase):
    async def test_message(self) -> None:
        """A message that comes after STARTTLS says so in its Received field."""
        port = self.serve(self.tls())
        self.patch(logs.threshold, "level", 6)
        events = self.events()

        def talk() -> tuple[bool, bool, str]:
            with smtplib.SMTP("localhost", port, timeout=30) as client:
                client.ehlo()
                before = client.has_extn("starttls")
                client.starttls(context=self.client_context())
                client.ehlo()
                after = client.has_extn("starttls")
                client.sendmail(USER, ["bert@example.net"], MESSAGE)
                assert isinstance(client.sock, ssl.SSLSocket)
                cipher = client.sock.cipher()
                assert cipher is not None
                return before, after, cipher[0]

        before, after, cipher = await self.client(talk)
        self.assertTrue(before)
        self.assertFalse(after)
        received = self.queue.messages[0].octets.partition(b"Subject:")[0]
        self.assertIn(b" with ESMTPS ", received)
        self.assertIn(f" {cipher} encrypted)".encode(), received)
        state = self.sessions[0].tls
        assert state is not None
        self.assertEqual(state.cipher, cipher)
        [event] = [event for event in events if event.get("plugin") == "tls"]
        self.assertEqual(event["text"], "TLS setup returning")
        self.assertEqual(event["session"], self.sessions[0].id)

    async def test_openssl(self) -> None:
        """OpenSSL's own client finds STARTTLS and a certificate that it can verify."""
        port = self.serve(self.tls())
        command = [
            find("openssl"),
            "s_client",
            "-starttls",
            "smtp",
            "-connect",
            f"localhost:{port}",
        ]
        command += ["-CAfile", self.certificate, "-verify_return_error", "-verify_hostname"]
        command += ["localhost", "-quiet", "-crlf"]

        def talk() -> tuple[int, str, str]:
            said = "EHLO client.example\nQUIT\n"
            ran = subprocess.run(command, input=said, capture_output=True, text=True, timeout=60)
            return ran.returncode, ran.stdout, ran.stderr

        status, output, errors = await self.client(talk)
        self.assertEqual(status, 0, errors)
        self.assertIn("221 2.0.0", output)
        self.assertIsNotNone(self.sessions[0].tls)

    def secured(self, client: RawClient) -> RawClient:
        """Begin TLS, the 220 having been said."""
        raw = client._socket
        wrapped = self.client_context().wrap_socket(raw, server_hostname="localhost")
        client._file.close()
        client._socket, client._file = wrapped, wrapped.makefile("rb")
        return client

    async def test_injected(self) -> None:
        """What a client, or somebody on the way, sends behind STARTTLS in clear is thrown away."""
        port = self.serve(self.tls())

        def talk() -> list[str]:
            with RawClient(port) as client:
                client.say("EHLO client.example")
                client.send(b"STARTTLS\r\nEHLO evil.example\r\nMAIL FROM:<evil@evil.example>\r\n")
                replies = [client.reply()]
                self.secured(client)
                return [*replies, client.say("MAIL FROM:<a@b.example>"), client.say("NOOP")]

        ready, mail, noop = await self.client(talk)
        self.assertEqual(ready, "220 2.0.0 Go ahead with TLS")
        self.assertEqual(mail, "503 5.5.1 Say EHLO or HELO first")
        self.assertEqual(noop, "250 2.0.0 OK")
        self.assertEqual(self.sessions[0].hello_host, "")

    async def test_forgotten(self) -> None:
        """After STARTTLS the client greets again, and has to authenticate again."""
        users = (user(f"{USER}:{PASSWORD}"),)
        port = self.serve(self.tls(), AuthFlatFile(users=users, reactor=reactor))

        def talk() -> list[str]:
            with RawClient(port) as client:
                client.say("EHLO client.example")
                client.say("AUTH PLAIN " + token("", USER, PASSWORD))
                before = self.sessions[0].auth_user, self.sessions[0].relay_client
                self.assertEqual(before, (USER, True))
                client.say("STARTTLS")
                self.secured(client)
                seen = self.sessions[0]
                self.assertEqual((seen.auth_user, seen.auth_mechanism), (None, None))
                self.assertFalse(seen.relay_client)
                early = client.say("MAIL FROM:<a@b.example>")
                client.say("EHLO client.example")
                again = client.say("AUTH PLAIN " + token("", USER, PASSWORD))
                return [early, again]

        early, again = await self.client(talk)
        self.assertEqual(early[:3], "503")
        self.assertEqual(again[:3], "235")
        self.assertTrue(self.sessions[0].relay_client)

    async def test_relay_by_address(self) -> None:
        """A client that may relay for another reason may do so after STARTTLS."""

        def talk() -> None:
            with RawClient(port) as client:
                self.sessions[0].relay_client = True
                client.say("EHLO client.example")
                client.say("AUTH PLAIN " + token("", USER, PASSWORD))
                client.say("STARTTLS")
                self.secured(client)
                client.say("NOOP")

        users = (user(f"{USER}:{PASSWORD}"),)
        port = self.serve(self.tls(), AuthFlatFile(users=users, reactor=reactor))
        await self.client(talk)
        self.assertTrue(self.sessions[0].relay_client)
        self.assertIsNone(self.sessions[0].auth_user)

    async def test_any_time(self) -> None:
        """STARTTLS is taken after RSET, after another EHLO, and in a transaction, which it ends."""
        port = self.serve(self.tls())

        def talk(*lines: str) -> list[str]:
            with RawClient(port) as client:
                client.say("EHLO client.example")
                for line in lines:
                    self.assertEqual(client.say(line)[:3], "250")
                ready = client.say("STARTTLS")
                self.secured(client)
                client.say("EHLO client.example")
                return [ready[:3], client.say("RCPT TO:<a@b.example>")[:3], client.say("STARTTLS")]

        for lines in (["RSET"], ["MAIL FROM:<a@b.example>"], ["EHLO again.example"]):
            ready, rcpt, again = await self.client(talk, *lines)
            self.assertEqual((ready, rcpt), ("220", "503"))
            self.assertEqual(again[:1], "5")

    async def test_argument(self) -> None:
        """STARTTLS takes no argument (RFC 3207, 4)."""
        port = self.serve(self.tls())

        def talk() -> str:
            with RawClient(port) as client:
                client.say("EHLO client.example")
                return client.say("STARTTLS now")

        self.assertEqual((await self.client(talk))[:4], "501 ")

    async def test_handshake_fails(self) -> None:
        """A client whose handshake fails is disconnected, and the log says why."""
        port = self.serve(self.tls())
        events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(events.append)  # type: ignore[arg-type]
        self.addCleanup(globalLogPublisher.removeObserver, events.append)  # type: ignore[arg-type]
        self.patch(logs.threshold, "level", 6)

        def talk() -> bool:
            with RawClient(port) as client:
                client.say("EHLO client.example")
                client.say("STARTTLS")
                client.send(b"MAIL FROM:<a@b.example>\r\n")
                return b"250" not in client._file.read()

        self.assertTrue(await self.client(talk))
        self.assertIsNone(self.sessions[0].tls)
        formats = [str(event.get("log_format")) for event in events]
        self.assertTrue(any("handshake" in each for each in formats), formats)

    async def test_required(self) -> None:
        """With ``required`` a session in clear may do anything but send mail."""
        port = self.serve(self.tls(required=True))

        def talk() -> list[str]:
            with RawClient(port) as client:
                client.say("EHLO client.example")
                replies = [client.say("MAIL FROM:<a@b.example>"), client.say("STARTTLS")]
                self.secured(client)
                client.say("EHLO client.example")
                return [*replies, client.say("MAIL FROM:<a@b.example>")]

        clear, ready, secured = await self.client(talk)
        self.assertEqual(clear, "530 5.7.0 Must issue a STARTTLS command first")
        self.assertEqual(ready[:3], "220")
        self.assertEqual(secured[:3], "250")


@implementer(IEhlo)
class WaitsAtEhlo:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.answer: Deferred[None] = Deferred()

    def ehlo(self, session: Session, host: str) -> Deferred[None]:
        return self.answer


class FloodTests(ComponentTestCase):
    def test_flood(self) -> None:
        """So much behind STARTTLS that the server ceases to read does not stop the session."""
        folder = self.mktemp()
        os.mkdir(folder)
        files = make_self_signed("localhost", folder)
        waits = WaitsAtEhlo()
        conversation = self.open(TLS(certificate=files[0], key=files[1]), waits)
        flood = b"NOOP\r\n" * 12_000
        conversation.send_octets(b"EHLO client.example\r\nSTARTTLS\r\n" + flood, len(flood) + 100)
        self.assertTrue(conversation.paused)
        waits.answer.callback(None)
        self.clock.advance(0)
        self.assertFalse(conversation.paused)
        self.assertIsNotNone(conversation.session.tls)
        self.assertEqual(conversation.replies[-1].code, 220)


class VersionTests(TLSCase):
    async def handshake(self, version: ssl.TLSVersion, **settings: Any) -> str | None:
        """Which version comes out of a handshake; ``None`` when it fails."""
        port = self.serve(self.tls(**settings))

        def talk() -> str | None:
            with smtplib.SMTP("localhost", port, timeout=30) as client:
                try:
                    client.starttls(context=self.client_context(version))
                except (ssl.SSLError, ConnectionError):
                    return None
                assert isinstance(client.sock, ssl.SSLSocket)
                return client.sock.version()

        return await self.client(talk)

    async def test_default(self) -> None:
        """TLS 1.2 and 1.3 are spoken."""
        self.assertEqual(await self.handshake(ssl.TLSVersion.TLSv1_2), "TLSv1.2")
        self.assertEqual(await self.handshake(ssl.TLSVersion.TLSv1_3), "TLSv1.3")

    async def test_excluded(self) -> None:
        """A version that ``tls_protocols`` leaves out is not spoken."""
        only = {"protocols": protocols("SSLv23:!TLSv1_2")}
        self.assertIsNone(await self.handshake(ssl.TLSVersion.TLSv1_2, **only))
        self.assertEqual(await self.handshake(ssl.TLSVersion.TLSv1_3, **only), "TLSv1.3")
        only = {"protocols": protocols("TLSv1_2")}
        self.assertIsNone(await self.handshake(ssl.TLSVersion.TLSv1_3, **only))

    async def test_by_name(self) -> None:
        """A client that asks for another name of the server gets that name's certificate."""
        folder = self.mktemp()
        os.mkdir(folder)
        other, _ = make_self_signed("mx.example", folder)
        port = self.serve(self.tls(by_name=folder))

        def talk() -> bytes | None:
            with RawClient(port) as client:
                client.say("EHLO client.example")
                client.say("STARTTLS")
                context = ssl.create_default_context(cafile=other)
                with context.wrap_socket(client._socket, server_hostname="mx.example") as wrapped:
                    return wrapped.getpeercert(binary_form=True)

        expected = ssl.PEM_cert_to_DER_cert(Path(other).read_text())
        self.assertEqual(await self.client(talk), expected)

    async def test_ciphers(self) -> None:
        """``tls_ciphers`` says which ciphers there are for TLS 1.2."""
        port = self.serve(self.tls(ciphers="ECDHE-ECDSA-AES256-GCM-SHA384"))

        def talk() -> None:
            with smtplib.SMTP("localhost", port, timeout=30) as client:
                client.starttls(context=self.client_context(ssl.TLSVersion.TLSv1_2))
                client.noop()

        await self.client(talk)
        state = self.sessions[0].tls
        assert state is not None
        self.assertEqual(state.cipher, "ECDHE-ECDSA-AES256-GCM-SHA384")


class ImplicitTests(TLSCase):
    def listen(self, *components: Any) -> int:
        """A server whose port counts as 465."""
        port = self.serve(*components)
        self.patch(tls, "SUBMISSIONS", port)
        return port

    async def test_message(self) -> None:
        """On port 465 TLS comes before the greeting, and STARTTLS is not offered."""
        port = self.listen(self.tls())

        def talk() -> bool:
            context = self.client_context()
            with smtplib.SMTP_SSL("localhost", port, timeout=30, context=context) as client:
                client.ehlo()
                client.sendmail(USER, ["bert@example.net"], MESSAGE)
                return client.has_extn("starttls")

        self.assertFalse(await self.client(talk))
        self.assertIn(b" with ESMTPS ", self.queue.messages[0].octets)

    async def test_seen_at_connect(self) -> None:
        """Components at ``connect`` see an encrypted session, wherever they stand."""
        seen: list[bool] = []

        @implementer(IConnect)
        class Watcher:
            def connect(self, session: Session) -> None:
                seen.append(session.tls is not None)

        port = self.listen(Watcher(), self.tls(), Watcher())

        def talk() -> None:
            context = self.client_context()
            with smtplib.SMTP_SSL("localhost", port, timeout=30, context=context) as client:
                client.noop()

        await self.client(talk)
        self.assertEqual(seen, [True, True])

    async def test_slow_component(self) -> None:
        """A client that begins its handshake while a component waits loses nothing."""

        @implementer(IPreConnection)
        class Slow:
            async def pre_connection(self, session: Session) -> None:
                await deferLater(reactor, 0.05)

        port = self.listen(self.tls(), Slow())

        def talk() -> int:
            context = self.client_context()
            with smtplib.SMTP_SSL("localhost", port, timeout=30, context=context) as client:
                return client.noop()[0]

        self.assertEqual(await self.client(talk), 250)

    async def test_no_handshake(self) -> None:
        """A client that speaks SMTP in clear on port 465 hears none of it."""
        port = self.listen(self.tls())

        def talk() -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(b"EHLO client.example\r\n")
                heard = b""
                while octets := client.recv(4096):
                    heard += octets
                return heard

        self.assertNotIn(b"220", await self.client(talk))
        self.assertEqual(self.sessions[0].hello, "")


class ConfigurationTests(ComponentTestCase):
    def setUp(self) -> None:
        self.folder = self.mktemp()
        os.mkdir(self.folder)
        self.certificate, self.key = make_self_signed("localhost", self.folder)

    def test_missing(self) -> None:
        """A certificate or key that is not there stops the start and is named."""
        for wrong in ("certificate", "key", "ca"):
            files: dict[str, Any] = {"certificate": self.certificate, "key": self.key}
            files[wrong] = f"{self.folder}/none.pem"
            with self.assertRaises(ConfigurationError) as caught:
                TLS(**files)
            self.assertIn("none.pem", str(caught.exception))

    def test_no_certificate(self) -> None:
        """A file that is no certificate, or no key, stops the start."""
        for wrong in ("certificate", "key"):
            files: dict[str, Any] = {"certificate": self.certificate, "key": self.key}
            files[wrong] = f"{self.folder}/words.pem"
            Path(files[wrong]).write_text("Some words.\n")
            with self.assertRaises(ConfigurationError) as caught:
                TLS(**files)
            self.assertIn("words.pem", str(caught.exception))

    def test_not_together(self) -> None:
        """A key of another certificate stops the start."""
        _, other = make_self_signed("other.example", self.folder)
        with self.assertRaises(ConfigurationError):
            TLS(certificate=self.certificate, key=other)

    def test_wrong_ciphers(self) -> None:
        """A cipher list without a cipher stops the start."""
        with self.assertRaises((ConfigurationError, ValueError)):
            TLS(certificate=self.certificate, key=self.key, ciphers="NOSUCHCIPHER")

    def test_default_files(self) -> None:
        """Files that are not named are upstream's, in ``ssl`` or in ``config/ssl``."""
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        top = os.path.abspath(self.mktemp())
        for sub in ("config/ssl", "ssl"):
            os.makedirs(f"{top}/{sub}")
            os.chdir(top)
            with self.assertRaises(ConfigurationError) as caught:
                TLS()
            self.assertIn(f"{sub}/qpsmtpd-server.crt", str(caught.exception))
            made = make_self_signed("localhost", f"{top}/{sub}")
            os.rename(made[0], f"{top}/{sub}/qpsmtpd-server.crt")
            os.rename(made[1], f"{top}/{sub}/qpsmtpd-server.key")
            self.assertIsNotNone(self.open(TLS()).session.tls_context)

    def test_protocols(self) -> None:
        """``tls_protocols`` has upstream's words; what is too old is left out."""
        both = frozenset({"TLSv1.2", "TLSv1.3"})
        for given, left in (
            ("SSLv23:!SSLv2:!SSLv3", both),
            ("SSLv23:!SSLv3:!TLSv1:!TLSv1_1:!TLSv1_2", {"TLSv1.3"}),
            ("TLSv1_2", {"TLSv1.2"}),
            ("!TLSv1.3", {"TLSv1.2"}),
            ("TLSv12:TLSv13", both),
        ):
            self.assertEqual(protocols(given), left)
        for wrong in ("TLSv1", "SSLv23:!TLSv1_2:!TLSv1_3", "TLSv9"):
            with self.assertRaises(ValueError):
                protocols(wrong)

    def test_arguments(self) -> None:
        """Certificate, key, CA and DH parameters go by position, as upstream's."""
        positional = [each.name for each in maker.arguments() if each.positional]
        self.assertEqual(positional, ["certificate", "key", "ca", "dh"])

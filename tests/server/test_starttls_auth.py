"""Tests of AUTH as real clients speak it: over sockets, with smtplib, swaks and by hand."""

import smtplib
import socket
import subprocess
from base64 import b64encode
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTCP
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from qpsmtpd.plugins.auth.auth_flat_file import AuthFlatFile, user
from qpsmtpd.server.factory import SMTPFactory
from qpsmtpd.session import Session
from qpsmtpd.settings import Settings
from qpsmtpd.smtp.limits import Limits
from qpsmtpd.testing.cases import AcceptRecipients, MemoryQueue
from tests.services.binaries import find

T = TypeVar("T")

USER, PASSWORD = "anna@example.org", "correct horse"

MESSAGE = "Subject: a test\r\n\r\nSome words.\r\n"


def token(*fields: str) -> str:
    """Fields between NULs, in base64."""
    return b64encode("\0".join(fields).encode()).decode()


class RawClient:
    """A client that says what it is told to."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._file = self._socket.makefile("rb")
        self.greeting = self.reply()

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def reply(self) -> str:
        """Read one reply; of several lines, the last."""
        while True:
            line = self._file.readline()
            if line[3:4] != b"-":
                return line.decode().rstrip("\r\n")

    def say(self, line: str) -> str:
        self._socket.sendall(line.encode() + b"\r\n")
        return self.reply()

    def send(self, octets: bytes) -> None:
        self._socket.sendall(octets)

    def ended(self) -> bool:
        """Whether the server has closed the connection, with nothing left unread."""
        return self._file.read() == b""


class SocketCase(TestCase):
    """Runs a server on a loopback socket, and clients in threads."""

    timeout = 60

    def serve(self, *components: Any, **settings: Any) -> int:
        """Start a server; gives its port."""
        self.queue = MemoryQueue()
        self.sessions: list[Session] = []
        settings.setdefault("me", "mail.example")
        chain = [*components, AcceptRecipients(), self.queue]
        factory = SMTPFactory(chain, Settings(**settings))
        build = factory.buildProtocol

        def watched(addr: Any) -> Any:
            protocol = build(addr)
            self.sessions.append(protocol.session)
            return protocol

        self.patch(factory, "buildProtocol", watched)
        port: Any = IReactorTCP(reactor).listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[arg-type]
        self.successResultOf(Deferred.fromCoroutine(factory.start()))

        async def stop() -> None:
            await port.stopListening()
            await factory.stop()

        self.addCleanup(lambda: Deferred.fromCoroutine(stop()))
        number: int = port.getHost().port
        return number

    async def client(self, talk: Callable[..., T], *arguments: Any) -> T:
        """Run what blocks in a thread."""
        result: T = await deferToThread(talk, *arguments)
        return result


def flat(**settings: Any) -> AuthFlatFile:
    return AuthFlatFile(users=(user(f"{USER}:{PASSWORD}"),), reactor=reactor, **settings)


class DialogueTests(SocketCase):
    async def talk(self, *lines: str, **settings: Any) -> list[str]:
        """Greet, say lines, and give the replies to them."""

        def talk() -> list[str]:
            with RawClient(port) as client:
                client.say("EHLO client.example")
                return [client.say(line) for line in lines]

        port = self.serve(flat(), **settings)
        return await self.client(talk)

    async def test_plain(self) -> None:
        """PLAIN is done in one step or in two (RFC 4954, 4)."""
        right = token("", USER, PASSWORD)
        said = f"235 2.7.0 PLAIN authentication successful for {USER} - auth_flat_file"
        self.assertEqual(await self.talk(f"AUTH PLAIN {right}"), [said])
        self.assertEqual(await self.talk("auth plain", right), ["334 ", said])

    async def test_login(self) -> None:
        """LOGIN asks for the user, unless she came with the command, and for the password."""
        replies = await self.talk("AUTH LOGIN", token(USER), token(PASSWORD))
        self.assertEqual(replies[:2], ["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6"])
        self.assertEqual(replies[2][:9], "235 2.7.0")
        replies = await self.talk(f"AUTH LOGIN {token(USER)}", token(PASSWORD))
        self.assertEqual([reply[:3] for reply in replies], ["334", "235"])

    async def test_cancel(self) -> None:
        """An asterisk ends every exchange at every step with 501, and the session goes on."""
        for lines in (
            ["AUTH PLAIN", "*"],
            ["AUTH LOGIN", "*"],
            ["AUTH LOGIN", token(USER), "*"],
            ["AUTH CRAM-MD5", "*"],
        ):
            replies = await self.talk(*lines, "NOOP")
            self.assertEqual(replies[-2:], ["501 5.7.0 Authentication cancelled", "250 2.0.0 OK"])

    async def test_bad_base64(self) -> None:
        """What is no base64 ends the exchange with 501, and is no command."""
        for lines in (
            ["AUTH PLAIN !!!!"],
            ["AUTH PLAIN AAA"],
            ["AUTH PLAIN", "MAIL FROM:<>"],
            ["AUTH LOGIN", "QUIT!"],
            ["AUTH LOGIN", token(USER), "=" * 3],
            ["AUTH CRAM-MD5", "YW5u YQ=="],
        ):
            replies = await self.talk(*lines, "NOOP")
            self.assertEqual(replies[-2][:4], "501 ", lines)
            self.assertEqual(replies[-1], "250 2.0.0 OK")

    async def test_empty(self) -> None:
        """An empty user or password has a reply, and it is negative."""
        for lines in (
            ["AUTH PLAIN ="],
            ["AUTH PLAIN " + token("", USER, "")],
            ["AUTH PLAIN " + token("", "", PASSWORD)],
            ["AUTH PLAIN", ""],
            ["AUTH LOGIN", "", token(PASSWORD)],
            ["AUTH LOGIN", token(USER), ""],
            ["AUTH CRAM-MD5", ""],
            ["AUTH CRAM-MD5", token("anna")],
        ):
            replies = await self.talk(*lines, "NOOP")
            self.assertRegex(replies[-2], r"\A5(01|35) 5\.", lines)
            self.assertEqual(replies[-1], "250 2.0.0 OK")

    async def test_too_long(self) -> None:
        """A line over the limit ends the exchange, and none of it is taken for a command."""
        port = self.serve(flat(), limits=Limits(auth_line=1000))

        def talk() -> list[str]:
            with RawClient(port) as client:
                client.say("EHLO client.example")
                client.say("AUTH PLAIN")
                replies = [client.say("A" * 200_000)]
                client.say("AUTH PLAIN")
                replies.append(client.say("A" * 998))
                return [*replies, client.say("NOOP")]

        long, just, after = await self.client(talk)
        self.assertEqual(long, "500 5.5.6 Authentication exchange line too long")
        self.assertEqual(just[:4], "501 ")
        self.assertEqual(after, "250 2.0.0 OK")

    async def test_bare_newline(self) -> None:
        """A line of the exchange ends with CR LF, nothing else."""
        port = self.serve(flat())

        def talk() -> str:
            with RawClient(port) as client:
                client.say("EHLO client.example")
                client.say("AUTH PLAIN")
                client.send(token("", USER, PASSWORD).encode() + b"\n")
                return client.reply()

        self.assertEqual((await self.client(talk))[:1], "5")

    async def test_identity(self) -> None:
        """Nobody acts for somebody else."""
        replies = await self.talk("AUTH PLAIN " + token("bert", USER, PASSWORD))
        self.assertEqual(replies[0][:1], "5")
        replies = await self.talk("AUTH PLAIN " + token(USER, USER, PASSWORD))
        self.assertEqual(replies[0][:3], "235")

    async def test_mechanism(self) -> None:
        """A mechanism that is not offered has 504; a malformed command 501."""
        replies = await self.talk("AUTH GSSAPI", "AUTH", "AUTH PLAIN a b")
        self.assertEqual([reply[:9] for reply in replies], ["504 5.5.4", "501 5.5.4", "501 5.5.4"])

    async def test_sequence(self) -> None:
        """AUTH comes once, not in a transaction, and not after HELO."""
        right = token("", USER, PASSWORD)
        replies = await self.talk(f"AUTH PLAIN {right}", f"AUTH PLAIN {right}")
        self.assertEqual([reply[:3] for reply in replies], ["235", "503"])
        replies = await self.talk("MAIL FROM:<a@b.example>", f"AUTH PLAIN {right}")
        self.assertEqual([reply[:3] for reply in replies], ["250", "503"])
        replies = await self.talk("HELO client.example", f"AUTH PLAIN {right}")
        self.assertEqual([reply[:3] for reply in replies], ["250", "503"])

    async def test_failures_are_counted(self) -> None:
        """Whoever guesses has a limited number of guesses in one session."""
        wrong = "AUTH PLAIN " + token("", USER, "wrong")
        port = self.serve(flat(), limits=Limits(errors=3, auth_delay=0))

        def talk() -> list[str]:
            with RawClient(port) as client:
                client.say("EHLO client.example")
                replies = [client.say(wrong) for _ in range(4)]
                self.assertTrue(client.ended())
                return replies

        replies = await self.client(talk)
        said = f"PLAIN authentication failed for {USER} from 127.0.0.1"
        self.assertEqual(replies[:3], [f"535 5.7.8 {said}"] * 3)
        self.assertEqual(replies[3][:3], "421")

    async def test_tls_first(self) -> None:
        """With ``tls_before_auth`` a session in clear is offered no AUTH and gets none."""
        port = self.serve(flat(), tls_before_auth=True)

        def talk() -> tuple[bool, str]:
            with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
                client.ehlo()
                code, _ = client.docmd("AUTH", "PLAIN " + token("", USER, PASSWORD))
                return client.has_extn("auth"), str(code)

        offered, code = await self.client(talk)
        self.assertFalse(offered)
        self.assertEqual(code, "538")


class ClientTests(SocketCase):
    """Clients that others wrote."""

    async def test_smtplib(self) -> None:
        """Python's smtplib authenticates with each mechanism, and its mail is taken."""
        port = self.serve(flat())

        def talk(mechanism: str) -> None:
            with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
                client.ehlo()
                client.user, client.password = USER, PASSWORD
                authobject = getattr(client, "auth_" + mechanism.lower().replace("-", "_"))
                client.auth(mechanism, authobject)
                client.sendmail(USER, ["bert@example.net"], MESSAGE)

        for mechanism in ("PLAIN", "LOGIN", "CRAM-MD5"):
            await self.client(talk, mechanism)
            session = self.sessions[-1]
            self.assertEqual((session.auth_user, session.auth_mechanism), (USER, mechanism))
            self.assertTrue(session.relay_client)
            self.assertIn(b" with ESMTPA ", self.queue.messages[-1].octets)
        self.assertEqual(len(self.queue.messages), 3)

    async def test_smtplib_wrong(self) -> None:
        """A wrong password is an authentication error to smtplib, with each mechanism."""
        port = self.serve(flat())

        def talk(mechanism: str) -> int:
            with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
                client.ehlo()
                client.user, client.password = USER, "wrong"
                authobject = getattr(client, "auth_" + mechanism.lower().replace("-", "_"))
                with self.assertRaises(smtplib.SMTPAuthenticationError) as caught:
                    client.auth(mechanism, authobject)
                return int(caught.exception.smtp_code)

        for mechanism in ("PLAIN", "LOGIN", "CRAM-MD5"):
            self.assertEqual(await self.client(talk, mechanism), 535)
            self.assertIsNone(self.sessions[-1].auth_user)
            self.assertFalse(self.sessions[-1].relay_client)

    async def test_swaks(self) -> None:
        """swaks authenticates with each mechanism, and is refused with a wrong password."""
        port = self.serve(flat())
        swaks = find("swaks")

        def talk(mechanism: str, password: str) -> tuple[int, str]:
            command = [swaks, "--server", "127.0.0.1", "--port", str(port)]
            command += ["--helo", "client.example", "--from", USER, "--to", "bert@example.net"]
            command += ["--auth", mechanism, "--auth-user", USER, "--auth-password", password]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            return ran.returncode, ran.stdout

        for mechanism in ("PLAIN", "LOGIN", "CRAM-MD5"):
            status, output = await self.client(talk, mechanism, PASSWORD)
            self.assertEqual(status, 0, output)
            self.assertEqual(self.sessions[-1].auth_mechanism, mechanism)
            status, output = await self.client(talk, mechanism, "wrong")
            self.assertEqual(status, 28, output)  # swaks: no authentication
            self.assertIn("535 5.7.8", output)
        self.assertEqual(len(self.queue.messages), 3)

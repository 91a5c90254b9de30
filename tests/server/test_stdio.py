"""One session on standard input and output, in a process of its own."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.server.stdio import describe_client
from qpsmtpd.session import Session, TLSState
from tests.server.certificates import write_certificate
from tests.server.processes import LIMIT, PYTHON, until

#: What tcpserver says of a client.
UCSPI = {
    "PROTO": "TCP",
    "TCPREMOTEIP": "192.0.2.9",
    "TCPREMOTEPORT": "4321",
    "TCPREMOTEHOST": "client.example",
    "TCPREMOTEINFO": "joe",
    "TCPLOCALIP": "192.0.2.1",
    "TCPLOCALPORT": "25",
}


class ClientTests(SynchronousTestCase):
    def described(self, environ: Mapping[str, str]) -> Session:
        session = Session("127.0.0.1", 99)
        describe_client(session, environ)
        return session

    def test_ucspi(self) -> None:
        """Addresses and names are those of the environment."""
        session = self.described(UCSPI)
        self.assertEqual((session.remote_ip, session.remote_port), ("192.0.2.9", 4321))
        self.assertEqual((session.local_ip, session.local_port), ("192.0.2.1", 25))
        self.assertEqual((session.remote_host, session.remote_info), ("client.example", "joe"))
        self.assertIsNone(session.tls)

    def test_environment(self) -> None:
        """Components find what else was set for the client, as it was when it came."""
        environ = {**UCSPI, "WHITELISTCLIENT": ""}
        session = self.described(environ)
        environ.clear()
        self.assertEqual(session.environment["WHITELISTCLIENT"], "")
        self.assertEqual(dict(Session().environment), {})

    def test_nothing_known(self) -> None:
        """Without TCPREMOTEIP the socket's own addresses stay."""
        session = self.described({"TCPREMOTEHOST": "liar.example"})
        self.assertEqual((session.remote_ip, session.remote_port), ("127.0.0.1", 99))
        self.assertIsNone(session.remote_host)

    def test_strange_values(self) -> None:
        """Names keep what names are made of; mapped addresses and bad ports are understood."""
        session = self.described(
            {
                "TCPREMOTEIP": "::ffff:192.0.2.9",
                "TCPREMOTEHOST": "a\r\nb_c.example",
                "TCPREMOTEINFO": "a\r\n250 b\udcff\x1b[1m@c",
                "TCPREMOTEPORT": "²",
                "TCPLOCALPORT": "",
            }
        )
        self.assertEqual(session.remote_ip, "192.0.2.9")
        self.assertEqual(session.remote_host, "abc.example")
        self.assertEqual(session.remote_info, "a??250?b??[1m@c")
        self.assertEqual((session.remote_port, session.local_port), (0, 0))

    def test_tls_by_super_server(self) -> None:
        """Behind a super-server that speaks TLS, the session is encrypted."""
        session = self.described(
            {**UCSPI, "PROTO": "SSL", "SSL_PROTOCOL": "TLSv1.3", "SSL_CIPHER": "AES"}
        )
        self.assertEqual(session.tls, TLSState("TLSv1.3", "AES"))


class ProcessTestCase(SynchronousTestCase):
    """Starts processes as a super-server does."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="qpsmtpd-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.configure("me", "mail.example")
        self.configure("rcpthosts", "example.com")
        self.configure("plugins", "rcpt_ok\nqueue/maildir Maildir")

    def configure(self, name: str, text: str) -> None:
        (self.folder / "config").mkdir(exist_ok=True)
        (self.folder / "config" / name).write_text(text + "\n")

    def start(
        self, source: int, sink: int, errors: int | None = None, environ: Mapping[str, str] = {}
    ) -> "subprocess.Popen[bytes]":
        """Start a process on descriptors; what goes to standard error is in ``errors``."""
        with (self.folder / "errors").open("ab") as log:
            process = subprocess.Popen(
                [*PYTHON, "-m", "qpsmtpd"],
                cwd=self.folder,
                env={**os.environ, "QMAIL": "/nowhere", "QPSMTPD_CONFIG": "", **environ},
                stdin=source,
                stdout=sink,
                stderr=log if errors is None else errors,
            )
        self.addCleanup(self._kill, process)
        return process

    def _kill(self, process: "subprocess.Popen[bytes]") -> None:
        process.kill()
        process.wait()

    def errors(self) -> str:
        return (self.folder / "errors").read_text()

    def message(self) -> str:
        [found] = (self.folder / "Maildir" / "new").iterdir()
        return found.read_text()

    def through_pipes(
        self, text: str, environ: Mapping[str, str] = {}, status: int = 0, stay: bool = True
    ) -> list[str]:
        """Say something on a pipe, and read all that is answered on another.

        :param stay: Keep the first one open until the other is closed.
        """
        source, ours = os.pipe()
        answers, sink = os.pipe()
        process = self.start(source, sink, environ=environ)
        for descriptor in (source, sink):
            os.close(descriptor)
        with open(ours, "wb") as to, open(answers, "rb") as replies:
            to.write(text.replace("\n", "\r\n").encode())
            to.flush()
            if not stay:
                to.close()
            said = replies.read().decode().splitlines()
        self.assertEqual(process.wait(LIMIT), status, self.errors())
        return said

    def accepted(
        self,
        family: socket.AddressFamily = socket.AF_INET,
        environ: Mapping[str, str] = {},
        log_to_client: bool = False,
    ) -> "tuple[socket.socket, subprocess.Popen[bytes]]":
        """Connect to a process that has the accepted socket on descriptors 0 and 1."""
        host = "127.0.0.1" if family == socket.AF_INET else "::1"
        with socket.create_server((host, 0), family=family) as listening:
            client = socket.create_connection(listening.getsockname()[:2], LIMIT)
            self.addCleanup(client.close)
            server, _ = listening.accept()
        with server:
            number = server.fileno()
            process = self.start(number, number, number if log_to_client else None, environ)
        return client, process


#: A plugin that says what it is told to a file; one that fails does not start.
LIFE = """
import os

from zope.interface import implementer

from qpsmtpd.component import PluginMaker, argument, component
from qpsmtpd.configuration.values import text
from qpsmtpd.interfaces import IDisconnect, ILifecycle


@implementer(IDisconnect, ILifecycle)
@component
class Life:
    "Tells of its life."

    fails: bool = argument(text, flag=True, default=False, help="does not start")

    def tell(self, what):
        with open("life", "a") as file:
            file.write(what + " ")

    def start(self):
        if self.fails:
            raise RuntimeError("it does not start")
        self.tell("start")

    def disconnect(self, session):
        self.tell("disconnect " + session.environment.get("FLAVOUR", ""))

    def stop(self):
        self.tell("stop")


maker = PluginMaker("life", Life)
"""

LETTER = """\
EHLO client.example
MAIL FROM:<a@example.org>
RCPT TO:<b@example.com>
DATA
Subject: x

x
.
QUIT
"""


class PipeTests(ProcessTestCase):
    def test_message(self) -> None:
        """A message that comes through a pipe is taken, and the process ends."""
        said = self.through_pipes(LETTER, UCSPI)
        self.assertEqual(said[0][:4], "220 ")
        self.assertEqual(said[1], "250-mail.example Hi joe@client.example [192.0.2.9]")
        self.assertEqual([line[:3] for line in said[-5:]], ["250", "250", "354", "250", "221"])
        self.assertIn("client.example", self.message())
        self.assertIn("192.0.2.9", self.message())

    def test_long_message(self) -> None:
        """More than a pipe holds comes through whole."""
        line = "x" * 70 + "\n"
        self.through_pipes(LETTER.replace("x\n.", line * 5000 + "."), UCSPI)
        self.assertEqual(self.message().count(line), 5000)

    def test_end_of_input(self) -> None:
        """All that a pipe said before its end is answered, and its message is taken."""
        said = self.through_pipes(LETTER, UCSPI, stay=False)
        self.assertEqual([line[:3] for line in said[-5:]], ["250", "250", "354", "250", "221"])
        self.assertIn("client.example", self.message())

    def test_end_without_quit(self) -> None:
        """The process ends with its input, also where nobody said QUIT."""
        said = self.through_pipes(LETTER.replace("QUIT\n", ""), UCSPI, stay=False)
        self.assertEqual(said[-1][:3], "250")
        self.assertIn("client.example", self.message())

    def test_client_goes(self) -> None:
        """A client that goes in the middle leaves nothing behind, and the process ends."""
        said = self.through_pipes(LETTER.partition(".\nQ")[0], UCSPI, stay=False)
        self.assertEqual(said[-1][:3], "354")
        self.assertFalse(list((self.folder / "Maildir").glob("*/*")))

    def test_environment(self) -> None:
        """RELAYCLIENT and DATABYTES count for the one client."""
        relayed = LETTER.replace("b@example.com", "b@elsewhere.example")
        self.assertIn("550", [line[:3] for line in self.through_pipes(relayed, UCSPI)])
        self.configure("plugins", "relay\nrcpt_ok\nqueue/maildir Maildir")
        environ = {**UCSPI, "RELAYCLIENT": "", "DATABYTES": "4321"}
        said = self.through_pipes(relayed, environ)
        self.assertIn("250-SIZE 4321", said)
        self.assertIn("elsewhere.example", said[-4])
        self.assertEqual(said[-2][:3], "250")

    def lively(self, line: str) -> None:
        (self.folder / "more").mkdir()
        (self.folder / "more" / "life.py").write_text(LIFE)
        self.configure("plugin_dirs", str(self.folder / "more"))
        self.configure("plugins", line)

    def test_components(self) -> None:
        """Components start, are told of the end, and stop; they see what was set for the client."""
        self.lively("life")
        self.through_pipes("QUIT\n", {**UCSPI, "FLAVOUR": "mint"})
        self.assertEqual((self.folder / "life").read_text(), "start disconnect mint stop ")

    def test_component_fails(self) -> None:
        """Where a component does not start, the client may try again later, too."""
        self.lively("life fails")
        said = self.through_pipes("", UCSPI, status=1)
        self.assertEqual(said, ["421 4.3.0 unable to read controls"])
        self.assertIn("it does not start", self.errors())

    def test_unusable(self) -> None:
        """With a configuration that cannot be used, the client may try again later."""
        self.configure("plugins", "no_such_plugin")
        self.assertEqual(
            self.through_pipes("", UCSPI, status=1), ["421 4.3.0 unable to read controls"]
        )
        self.assertIn("config/plugins:1", self.errors())
        self.assertIn("no_such_plugin", self.errors())


class SocketTests(ProcessTestCase):
    def test_inetd(self) -> None:
        """Without an environment, the client is the peer of the socket."""
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            client, process = self.accepted(family)
            with client.makefile("rwb") as stream:
                stream.write(b"EHLO client.example\r\nQUIT\r\n")
                stream.flush()
                said = stream.read().decode().splitlines()
            self.assertEqual(said[1], f"250-mail.example Hi Unknown [{address}]")
            self.assertEqual(process.wait(LIMIT), 0)

    def test_log_is_not_for_the_client(self) -> None:
        """Where standard error is the client's socket, as inetd has it, no log goes there."""
        self.configure("loglevel", "LOGDEBUG")
        client, process = self.accepted(log_to_client=True)
        with client.makefile("rwb") as stream:
            stream.write(LETTER.replace("\n", "\r\n").encode())
            stream.flush()
            said = stream.read().decode().splitlines()
        self.assertEqual(process.wait(LIMIT), 0)
        self.assertTrue(all(line[:3].isdigit() and line[3] in " -" for line in said), said)

    def test_log(self) -> None:
        """Otherwise the log goes to standard error."""
        self.configure("loglevel", "LOGDEBUG")
        self.through_pipes(LETTER, UCSPI)
        self.assertIn("rcpt_ok", self.errors())

    def test_starttls(self) -> None:
        """STARTTLS works, on a socket and through pipes."""
        certificate, key = write_certificate(str(self.folder), "mail.example")
        self.configure("plugins", f"tls {certificate} {key}\nrcpt_ok\nqueue/maildir Maildir")
        client, process = self.accepted(environ=UCSPI)
        self.talk_tls(client)
        self.assertEqual(process.wait(LIMIT), 0)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            # One end of a socket pair for each direction is no pair of one socket.
            back, forth = socket.socketpair()
            with back, forth:
                process = self.start(theirs.fileno(), forth.fileno(), environ=UCSPI)
                theirs.close()
                forth.close()
                self.joined(ours, back)
                self.assertEqual(process.wait(LIMIT), 0)

    def test_port_465(self) -> None:
        """A client that tcpserver has from port 465 begins with TLS."""
        certificate, key = write_certificate(str(self.folder), "mail.example")
        self.configure("plugins", f"tls {certificate} {key}\nrcpt_ok\nqueue/maildir Maildir")
        client, process = self.accepted(environ={**UCSPI, "TCPLOCALPORT": "465"})
        self.send_letter(client)
        self.assertEqual(process.wait(LIMIT), 0)

    def talk_tls(self, client: socket.socket) -> None:
        with client.makefile("rwb", buffering=0) as stream:
            stream.readline()
            stream.write(b"EHLO client.example\r\n")
            while (line := stream.readline())[3:4] != b" ":
                self.assertEqual(line[:3], b"250")
            stream.write(b"STARTTLS\r\n")
            self.assertEqual(stream.readline()[:3], b"220")
        self.send_letter(client)

    def send_letter(self, client: socket.socket) -> None:
        """Begin TLS, and send a message."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with (
            context.wrap_socket(client) as secured,
            secured.makefile("rwb") as stream,
        ):
            stream.write(LETTER.replace("\n", "\r\n").encode())
            stream.flush()
            self.assertEqual(stream.read().splitlines()[-1][:3], b"221")
        self.assertIn("ESMTPS", self.message())

    def joined(self, source: socket.socket, sink: socket.socket) -> None:
        """Say EHLO and STARTTLS on one descriptor, read replies and a handshake on another."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        source.sendall(b"EHLO client.example\r\n")
        said = b""
        while b"\r\n250 " not in said:
            said += sink.recv(4096)
        source.sendall(b"STARTTLS\r\n")
        self.assertEqual(sink.recv(4096)[:3], b"220")
        tls = context.wrap_bio(incoming, outgoing)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                source.sendall(outgoing.read())
                incoming.write(sink.recv(65536))
            else:
                break
        tls.write(b"QUIT\r\n")
        source.sendall(outgoing.read())
        while True:
            try:
                self.assertEqual(tls.read(3), b"221")
            except ssl.SSLWantReadError:
                incoming.write(sink.recv(65536))
            else:
                break
        source.shutdown(socket.SHUT_WR)

    def test_terminated(self) -> None:
        """SIGTERM tells an idle client that the service ends, and ends the process."""
        client, process = self.accepted()
        with client.makefile("rb") as stream:
            self.assertEqual(stream.readline()[:3], b"220")
            process.send_signal(signal.SIGHUP)  # means nothing to a process with one session
            process.send_signal(signal.SIGTERM)
            self.assertEqual(stream.readline()[:3], b"421")
            self.assertEqual(stream.read(), b"")
        until(lambda: process.poll() is not None, self.errors)

    def test_command_time(self) -> None:
        """A client that says nothing is told so, and the process ends by itself."""
        self.configure("timeoutsmtpd", "1")
        client, process = self.accepted()
        with client.makefile("rb") as stream:
            self.assertEqual([line[:3] for line in stream], [b"220", b"421"])
        self.assertEqual(process.wait(LIMIT), 0)

"""Listening sockets: opened from a description, taken over, and given by systemd."""

import errno
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorFDSet, IReactorTime
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from qpsmtpd.configuration.errors import ConfigurationError
from qpsmtpd.server import sockets
from qpsmtpd.server.factory import SMTPFactory
from qpsmtpd.settings import Settings
from tests.server.processes import TWISTD, Server, connect
from tests.services.binaries import find

#: The state of a TCP connection that stands, as Linux numbers them.
ESTABLISHED = 1

CLOSED = Failure(CONNECTION_DONE)


class ListenTests(TestCase):
    async def test_listen_and_close(self) -> None:
        """A port listens from the call on until it is closed."""
        port: Any = sockets.listen(
            reactor, "tcp:0:interface=127.0.0.1", Factory.forProtocol(Protocol)
        )
        number = port.getHost().port
        socket.create_connection(("127.0.0.1", number), 10).close()
        await sockets.close(port)
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", number), 10)

    async def test_backlog(self) -> None:
        """Hundreds may wait to be accepted, unless the endpoint says how many."""
        for backlog in ("", ":backlog=1"):
            description = f"tcp:0:interface=127.0.0.1{backlog}"
            port: Any = sockets.listen(reactor, description, Factory.forProtocol(Protocol))
            port.stopReading()
            waiting = [socket.socket() for _ in range(300)]
            for client in waiting:
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", port.getHost().port))
            # On the loopback interface a connection stands at once, or waits to try again.
            states = [
                client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] for client in waiting
            ]
            self.assertEqual(states.count(ESTABLISHED) == 300, not backlog)
            for client in waiting:
                client.close()
            await sockets.close(port)

    async def test_accepted(self) -> None:
        """A plain TCP port leaves the reading to protocols that say who reads, and to no others."""

        class Reads(Protocol):
            starts_reading = True

        for protocol, watched in ((Reads, False), (Protocol, True)):
            made: list[Any] = []

            class Making(Factory):
                hub = object()

                def buildProtocol(
                    self, addr: Any, protocol: Any = protocol, made: list[Any] = made
                ) -> Any:
                    made.append(protocol())
                    return made[0]

            port: Any = sockets.listen(reactor, "tcp:0:interface=127.0.0.1", Making())
            with socket.create_connection(("127.0.0.1", port.getHost().port), 10) as client:
                while not made or made[0].transport is None:
                    await deferLater(IReactorTime(reactor), 0.01)
                transport = made[0].transport
                self.assertIsInstance(transport, sockets.Accepted)
                self.assertEqual(transport in IReactorFDSet(reactor).getReaders(), watched)
                self.assertIn(str(client.getsockname()[0]), repr(transport))
                transport.connectionLost(Failure(CONNECTION_DONE))
                self.assertEqual(client.recv(1), b"")
            self.assertNotIn(transport, IReactorFDSet(reactor).getReaders())
            await sockets.close(port)

    async def test_addresses(self) -> None:
        """A session knows both ends of a connection, whichever protocol it is of."""
        for interface, network in (("127.0.0.1", "tcp"), ("\\:\\:1", "tcp6")):
            factory = SMTPFactory([], Settings(me="mail.example"))
            description = f"{network}:0:interface={interface}"
            port: Any = sockets.listen(reactor, description, factory)
            here = port.getHost()
            for number in range(3):
                with socket.create_connection((here.host, here.port), 10) as client:
                    while not factory.protocols:
                        await deferLater(IReactorTime(reactor), 0.01)
                    [protocol] = factory.protocols
                    session = protocol.session
                    self.assertEqual((session.local_ip, session.local_port), (here.host, here.port))
                    away = session.remote_ip, session.remote_port
                    self.assertEqual(away, client.getsockname()[:2])
                    self.assertIs(type(protocol.transport), sockets.Accepted)
                    self.assertEqual(protocol.transport.getPeer().host, away[0])
                    self.assertEqual(
                        protocol.transport.logPrefix(), f"SMTP,{number},{session.remote_ip}"
                    )
                while factory.protocols:
                    await deferLater(IReactorTime(reactor), 0.01)
            await sockets.close(port)

    async def test_mapped_addresses(self) -> None:
        """A client of IPv4 on a socket for both protocols has connected to an address of IPv4."""
        factory = SMTPFactory([], Settings(me="mail.example"))
        port: Any = sockets.listen(reactor, "tcp6:0:interface=\\:\\:", factory)
        here = port.getHost().port
        with socket.create_connection(("127.0.0.1", here), 10) as client:
            while not factory.protocols:
                await deferLater(IReactorTime(reactor), 0.01)
            [protocol] = factory.protocols
            session = protocol.session
            self.assertEqual((session.local_ip, session.local_port), ("127.0.0.1", here))
            self.assertEqual((session.remote_ip, session.remote_port), client.getsockname())
        while factory.protocols:
            await deferLater(IReactorTime(reactor), 0.01)
        await sockets.close(port)

    async def test_failures(self) -> None:
        """A connection that cannot begin is closed, and the next one is served."""
        lost: list[Failure] = []
        begun: list[Any] = []

        class Failing(Protocol):
            starts_reading = True

            def makeConnection(self, transport: Any) -> None:
                if len(begun) == 2:
                    raise ZeroDivisionError
                if len(begun) == 3:
                    raise SystemExit
                transport.getHandle().send(b"served")

            def connectionLost(self, reason: Failure = CLOSED) -> None:
                lost.append(reason)
                if len(lost) == 2:
                    raise ZeroDivisionError

        class Making(Factory):
            hub = object()

            def accepted(self, ip: str, port: int) -> Any:
                begun.append((ip, port))
                if len(begun) == 1:
                    raise ZeroDivisionError
                return Failing()

        port: Any = sockets.listen(reactor, "tcp:0:interface=127.0.0.1", Making())
        for expected in (b"", b"", b"", b"served"):
            heard = await deferToThread(_hear, port.getHost().port)
            self.assertEqual(heard, expected)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 3)
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
        self.assertEqual([reason.type for reason in lost], [ZeroDivisionError, SystemExit])
        await sockets.close(port)

    def test_errors(self) -> None:
        """What goes wrong with accepting itself is Twisted's to deal with."""

        class Listening:
            family, type, proto = socket.AF_INET, socket.SOCK_STREAM, 0

            def _accept(self) -> Any:
                raise OSError(errno.EMFILE, "Too many open files")

        port = SimpleNamespace(socket=Listening(), numberAccepts=1)
        asked: list[str] = []
        sockets._acceptor(port, None, lambda: asked.append("Twisted's"))()
        self.assertEqual(asked, ["Twisted's"])

    def test_scope(self) -> None:
        """An address that is good on one link only says on which (RFC 4007, 11)."""
        link = socket.if_nametoindex("lo")
        self.assertEqual(sockets._host(("fe80::1", 25, 0, link)), "fe80::1%lo")
        self.assertEqual(sockets._host(("2001:db8::1", 25, 0, 0)), "2001:db8::1")
        self.assertEqual(sockets._host(("192.0.2.1", 25)), "192.0.2.1")

    def test_taken(self) -> None:
        """A port that somebody has raises what the system says."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            description = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            self.assertRaises(CannotListenError, sockets.listen, reactor, description, Factory())

    def test_unusable(self) -> None:
        """A description that means nothing is an error that repeats it."""
        caught = self.assertRaises(ConfigurationError, sockets.endpoint, reactor, "tcp:x")
        self.assertTrue(str(caught).startswith('"tcp:x": expected an endpoint such as tcp:25'))

    async def test_adopted_path_stays(self) -> None:
        """One of several processes that closes a shared UNIX socket leaves its path in place."""
        path = os.path.relpath(self.mktemp())
        port: Any = sockets.listen(reactor, f"unix:{path}", Factory.forProtocol(Protocol))
        shared = os.dup(port.fileno())
        adopted = sockets.adopt(reactor, f"unix:{path}", shared, Factory.forProtocol(Protocol))
        await sockets.close(adopted)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
        await sockets.close(port)
        self.assertFalse(os.path.lexists(path))


def _hear(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        return client.recv(100)


class SystemdTests(TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        config = self.folder / "config"
        config.mkdir(parents=True)
        (config / "plugins").write_text("queue/discard\n")

    def start(self, listen: str, *options: str) -> Server:
        """Start a server by systemd's means, which does so at the first connection."""
        command = [find("systemd-socket-activate"), "--fdname", "smtp", "--listen", listen]
        for name in ("PATH", "HOME"):
            command += ["--setenv", name]
        command += [*TWISTD, "-n", "--pidfile=", "qpsmtpd", "--config", str(self.folder / "config")]
        return Server(self, [*command, *options], self.folder)

    def test_tcp(self) -> None:
        """A socket that systemd opened is served, and its first client too."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = self.start(f"127.0.0.1:{port}", "--listen", "systemd:domain=INET:name=smtp")
        server.wait_for("Listening on 127.0.0.1")
        for _ in range(2):
            with connect(port) as client:
                self.assertEqual(client.noop()[0], 250)
        server.stop()

    def test_unix(self) -> None:
        """The path of a UNIX socket is systemd's, and stays when the server stops."""
        path = self.folder / "s"
        shown = os.path.relpath(path)
        server = self.start(str(path), "--listen", "systemd:domain=UNIX:name=smtp")
        server.wait_for("Listening on ")
        with connect(shown) as client:
            self.assertEqual(client.noop()[0], 250)
        server.stop()
        self.assertTrue(path.is_socket())

    def test_workers(self) -> None:
        """Workers share a socket that systemd opened."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        endpoint = "systemd:domain=INET:name=smtp"
        server = self.start(f"127.0.0.1:{port}", "--listen", endpoint, "--workers", "2")
        server.wait_for("Listening on 127.0.0.1")
        with connect(port) as client:
            self.assertEqual(client.noop()[0], 250)
        server.stop()

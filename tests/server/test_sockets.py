"""Listening sockets: opened from a description, taken over, and given by systemd."""

import os
import socket
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorFDSet, IReactorTime
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from qpsmtpd.configuration.errors import ConfigurationError
from qpsmtpd.server import sockets
from tests.server.processes import TWISTD, Server, connect
from tests.services.binaries import find

#: The state of a TCP connection that stands, as Linux numbers them.
ESTABLISHED = 1


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

# -*- test-case-name: tests.services.test_clamd -*-
"""The clamd that tests talk to is a real one."""

import os
import socket
import struct
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from tests.services import binaries, clamd


def ask(connection: socket.socket, request: bytes) -> bytes:
    """Send one request to clamd and return its answer."""
    with connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def stream(content: bytes) -> bytes:
    """The request to scan ``content``, cut in two chunks."""
    middle = len(content) // 2
    chunks = [content[:middle], content[middle:], b""]
    return b"zINSTREAM\0" + b"".join(struct.pack(">L", len(chunk)) + chunk for chunk in chunks)


class ClamdTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clamd = clamd.shared()

    def local(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(30)
        connection.connect(self.clamd.socket_path)
        return connection

    def remote(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.clamd.tcp_port), timeout=30)

    def test_ping(self) -> None:
        """It answers on its UNIX socket and on its TCP port."""
        self.assertEqual(ask(self.local(), b"zPING\0"), b"PONG\0")
        self.assertEqual(ask(self.remote(), b"zPING\0"), b"PONG\0")

    def test_clean(self) -> None:
        """A harmless message is clean."""
        message = b"Subject: hello\r\n\r\nNothing to see here.\r\n"
        self.assertEqual(ask(self.local(), stream(message)), b"stream: OK\0")

    def test_eicar(self) -> None:
        """The EICAR test file is found, alone and inside a message."""
        found = f"stream: {clamd.SIGNATURE} FOUND\0".encode()
        message = b"Subject: hello\r\n\r\n" + clamd.EICAR + b"\r\n"
        self.assertEqual(ask(self.local(), stream(clamd.EICAR)), found)
        self.assertEqual(ask(self.remote(), stream(message)), found)

    def test_too_large(self) -> None:
        """A stream over ``StreamMaxLength`` is an error, not a clean message."""
        with self.local() as connection:
            # clamd answers at the length alone, and does not wait for the octets.
            connection.sendall(b"zINSTREAM\0" + struct.pack(">L", 2 << 20))
            answer = connection.recv(4096)
        self.assertEqual(answer, b"INSTREAM size limit exceeded. ERROR\0")

    def test_shared(self) -> None:
        """Tests of one process share one clamd."""
        self.assertIs(clamd.shared(), self.clamd)


class LifeTests(SynchronousTestCase):
    def test_stop(self) -> None:
        """A stopped clamd listens no longer, leaves nothing behind, and can start again."""
        own = clamd.Clamd()
        self.addCleanup(own.stop)
        own.start()
        folder, port = os.path.dirname(own.socket_path), own.tcp_port
        own.stop()
        self.assertFalse(os.path.exists(folder))
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=30)
        own.start()
        connection = socket.create_connection(("127.0.0.1", own.tcp_port), timeout=30)
        self.assertEqual(ask(connection, b"zPING\0"), b"PONG\0")

    def test_suspended(self) -> None:
        """A suspended clamd accepts a connection but answers only when resumed."""
        own = clamd.Clamd()
        self.addCleanup(own.stop)
        own.start()
        own.suspend()
        with socket.create_connection(("127.0.0.1", own.tcp_port), timeout=30) as connection:
            connection.sendall(b"zPING\0")
            connection.settimeout(0.2)
            with self.assertRaises(TimeoutError):
                connection.recv(16)
            own.resume()
            connection.settimeout(30)
            self.assertEqual(connection.recv(16), b"PONG\0")

    def test_cannot_start(self) -> None:
        """When clamd does not come up, the error holds what it said."""
        own = clamd.Clamd()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with mock.patch.object(clamd, "_free_port", return_value=port):
                error = self.assertRaises(clamd.ClamdError, own.start)
        self.assertIn("Address already in use", str(error))
        self.assertFalse(os.path.exists(os.path.dirname(own.socket_path)))


class FindTests(SynchronousTestCase):
    def test_found(self) -> None:
        """Programs are found where only root's PATH looks, whatever PATH says."""
        with mock.patch.dict(os.environ, {"PATH": "/usr/bin:/bin"}):
            for name in ("clamd", "nc", "openssl", "smtp-sink", "smtp-source", "swaks"):
                self.assertTrue(os.access(binaries.find(name), os.X_OK), name)

    def test_missing(self) -> None:
        """A missing program is an error that names the script to run."""
        error = self.assertRaises(binaries.ProgramMissingError, binaries.find, "no-such-program")
        self.assertIn("tests/services/install", str(error))

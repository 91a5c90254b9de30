"""What a supervisor starts: a process that serves on sockets that it was given."""

import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.server.options import ServerOptions
from qpsmtpd.server.workers import FIRST_DESCRIPTOR, command_line, read_command_line
from tests.server.certificates import write_certificate
from tests.server.processes import LIMIT, PYTHON, connect


class WorkerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="qpsmtpd-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "plugins").write_text("queue/discard\n")
        (self.folder / "loglevel").write_text("6\n")

    def start(self, *endpoints: str) -> tuple[subprocess.Popen[bytes], list[int]]:
        """Start a worker as a supervisor does.

        :returns: The process, and the ports of its sockets.
        """
        options = ServerOptions((str(self.folder),), endpoints, state=str(self.folder / "state"))
        listening = [socket.create_server(("127.0.0.1", 0)) for _ in endpoints]
        given = [each.fileno() for each in listening]
        place = (
            "import os, sys\n"
            f"copies = [os.dup2(fd, 200 + n) for n, fd in enumerate({given})]\n"
            f"for n, fd in enumerate(copies): os.dup2(fd, {FIRST_DESCRIPTOR} + n)\n"
            "os.execv(sys.argv[1], sys.argv[1:])\n"
        )
        command = [*PYTHON, "-m", "qpsmtpd", "worker", command_line(options)]
        process = subprocess.Popen(
            [*PYTHON, "-c", place, *command],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=given,
        )
        self.addCleanup(self.end, process, listening)
        assert process.stderr is not None
        said = b""
        while said.count(b"Listening on") < len(endpoints):
            line = process.stderr.readline()
            said += line
            self.assertTrue(line, said)  # it has not ended
        return process, [each.getsockname()[1] for each in listening]

    def end(self, process: "subprocess.Popen[bytes]", listening: list[socket.socket]) -> None:
        process.kill()
        process.communicate(timeout=LIMIT)
        for each in listening:
            each.close()

    def test_command_line(self) -> None:
        """The options of a server go through a command line and come back the same."""
        options = ServerOptions(("a", "b c"), ("tcp:25", "unix:'x"), ("unix",), 3, "me", 1.5, "s")
        self.assertEqual(read_command_line(command_line(options)), options)

    def test_serves(self) -> None:
        """A worker serves on each of its sockets, and ends well when it is told to stop."""
        process, ports = self.start("tcp:0", "tcp:0")
        for port in ports:
            with connect(port) as client:
                self.assertEqual(client.noop()[0], 250)
        process.send_signal(signal.SIGTERM)
        self.assertIn(process.wait(LIMIT), (0, -signal.SIGTERM))

    def test_tls(self) -> None:
        """On the socket of an ``ssl`` endpoint TLS comes first."""
        certificate, key = write_certificate(str(self.folder), "mail.example")
        _, [port] = self.start(f"ssl:0:privateKey={key}:certKey={certificate}")
        context = ssl.create_default_context(cafile=certificate)
        context.check_hostname = False
        with smtplib.SMTP_SSL("127.0.0.1", port, timeout=LIMIT, context=context) as client:
            self.assertEqual(client.noop()[0], 250)

    def test_supervisor_gone(self) -> None:
        """A worker ends when the pipe to its supervisor closes, after saying so to clients."""
        process, [port] = self.start("tcp:0")
        client = connect(port)
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        self.assertEqual(client.getreply()[0], 421)
        client.close()
        self.assertEqual(process.wait(LIMIT), 0)

    def test_interrupt(self) -> None:
        """Ctrl-C is the supervisor's business."""
        process, [port] = self.start("tcp:0")
        process.send_signal(signal.SIGINT)
        with connect(port) as client:
            self.assertEqual(client.noop()[0], 250)

    def test_cannot_start(self) -> None:
        """A worker that cannot start says why and ends with an error."""
        (self.folder / "plugins").write_text("nowhere\n")
        options = ServerOptions((str(self.folder),), ())
        done = subprocess.run(
            [*PYTHON, "-m", "qpsmtpd", "worker", command_line(options)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn('plugins:1: "nowhere"', done.stderr)

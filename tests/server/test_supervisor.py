"""Several processes that share the listening sockets, run for real."""

import os
import re
import shutil
import signal
import smtplib
import tempfile
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.server.options import ServerOptions
from qpsmtpd.server.supervisor import FIRST_DELAY, LAST_DELAY, YOUNG, Supervisor
from tests.server.processes import LIMIT, TWISTD, Server, connect, until


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be asked does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class SupervisorTestCase(SynchronousTestCase):
    """Starts a supervisor with two workers."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="qpsmtpd-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "config").mkdir()
        self.configure("me", "mail.example")
        self.configure("loglevel", "LOGINFO")
        self.configure("rcpthosts", "example.com")
        self.configure("plugins", "rcpt_ok\nqueue/maildir Maildir")

    def configure(self, name: str, text: str) -> None:
        (self.folder / "config" / name).write_text(text + "\n")

    def start(self, *options: str) -> Server:
        """Start it, and wait until both workers serve."""
        listen = ["--listen", "tcp:0:interface=127.0.0.1"]
        command = [*TWISTD, "-n", "--pidfile=", "qpsmtpd", "--config", "config", *listen]
        server = Server(self, [*command, "--workers", "2", *options], self.folder)
        self.workers(server, 2)
        return server

    def workers(self, server: Server, count: int) -> list[int]:
        """The ids of the workers that said that they serve; waits for so many to have."""
        said = server.wait_for(r"\[qpsmtpd\.server\.supervisor#info\] (\d+) Listening on", count)
        return [int(pid) for pid in said]

    def children(self, server: Server) -> set[int]:
        """The processes that the supervisor has."""
        text = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
        return {int(pid) for pid in text.split() if lives(int(pid))}

    def served_by(self, client: smtplib.SMTP) -> int:
        """Which process serves a session: the second part of the id of what it sends."""
        client.sendmail("a@example.org", ["b@example.com"], "Subject: x\r\n\r\nx\r\n")
        new = self.folder / "Maildir" / "new"
        [message] = new.iterdir()
        found = re.search(r"with ESMTPS? id [0-9a-f]+-([0-9a-f]+)-", message.read_text())
        message.unlink()
        assert found is not None
        return int(found[1], 16)


class SupervisorTests(SupervisorTestCase):
    def test_both_serve(self) -> None:
        """Sessions are served by both workers, and none by the supervisor."""
        server = self.start()
        workers = self.children(server)
        self.assertEqual(len(workers), 2)
        for pid in workers:
            [other] = workers - {pid}
            os.kill(other, signal.SIGSTOP)  # so that it takes no session
            with connect(server.port()) as client:
                self.assertEqual(self.served_by(client), pid)
            os.kill(other, signal.SIGCONT)

    def test_worker_dies(self) -> None:
        """A worker that is killed is replaced, and no client is turned away meanwhile."""
        server = self.start()
        port = server.port()
        killed, other = self.workers(server, 2)
        os.kill(killed, signal.SIGKILL)

        def replaced() -> bool:
            with connect(port) as client:
                self.assertEqual(client.noop()[0], 250)
            return len(self.children(server) - {killed}) == 2 and "nother worker" in server.said

        until(replaced, lambda: server.said)
        self.assertIn(f"Worker {killed} ended: ", server.said)
        third = self.workers(server, 3)[2]
        self.assertEqual(self.children(server), {other, third})
        for pid in (other, third):
            os.kill(pid, signal.SIGKILL)
        with connect(port) as client:  # it waits in the backlog for the next worker
            self.assertEqual(client.noop()[0], 250)

    def test_reload(self) -> None:
        """One SIGHUP to the supervisor reaches every worker; a bad configuration changes none."""
        server = self.start()
        port = server.port()
        before = self.children(server)
        old = connect(port)
        self.configure("me", "new.example")
        server.signal(signal.SIGHUP)
        said = server.wait_for(r"(\d+) The configuration was read again", 2)
        self.assertEqual({int(pid) for pid in said}, before)
        for _ in range(4):
            with connect(port) as client:
                self.assertTrue(client.ehlo()[1].startswith(b"new.example "))
        self.assertTrue(old.ehlo()[1].startswith(b"mail.example "))
        old.quit()
        self.configure("plugins", "nowhere")
        server.signal(signal.SIGHUP)
        names = server.wait_for(r'stays as it was: \S*config/plugins:1: "(\w+)"', 2)
        self.assertEqual(names, ["nowhere", "nowhere"])
        with connect(port) as client:
            self.assertTrue(client.ehlo()[1].startswith(b"new.example "))
        self.assertEqual(self.children(server), before)

    def test_stop(self) -> None:
        """SIGTERM stops all, after the messages on their way; idle clients are told 421."""
        server = self.start("--pid-file", "pid")
        port = server.port()
        workers = self.workers(server, 2)
        self.assertEqual((self.folder / "pid").read_text(), f"{server.pid}\n")
        idle, busy = connect(port), connect(port)
        busy.ehlo()
        busy.mail("a@example.org")
        busy.rcpt("b@example.com")
        self.assertEqual(busy.docmd("DATA")[0], 354)
        busy.send("Subject: half\r\n\r\n")
        server.signal(signal.SIGTERM)
        self.assertEqual(idle.getreply()[0], 421)
        busy.send("the rest\r\n.\r\n")
        self.assertEqual(busy.getreply()[0], 250)
        self.assertEqual(busy.getreply()[0], 421)
        self.assertEqual(server.wait(), -signal.SIGTERM)
        self.assertEqual([pid for pid in workers if lives(pid)], [])
        self.assertFalse((self.folder / "pid").exists())
        self.assertNotIn("Traceback", server.said)
        self.assertRaises(ConnectionRefusedError, connect, port)
        idle.close()
        busy.close()

    def test_interrupt(self) -> None:
        """Ctrl-C, which reaches the workers as well, stops all without a complaint."""
        server = self.start()
        workers = self.workers(server, 2)
        os.killpg(server.pid, signal.SIGINT)
        server.wait()
        self.assertEqual([pid for pid in workers if lives(pid)], [])
        self.assertNotIn("Traceback", server.said)

    def test_supervisor_killed(self) -> None:
        """When the supervisor is killed, its workers end by themselves."""
        server = self.start()
        workers = self.workers(server, 2)
        server.signal(signal.SIGKILL)
        server.wait()
        until(lambda: not any(map(lives, workers)), lambda: f"some of {workers} live")

    def test_limits_are_shared(self) -> None:
        """All workers together keep the limit on connections."""
        self.configure("limits", "connections 2")
        server = self.start()
        port = server.port()
        clients = [smtplib.SMTP(timeout=LIMIT) for _ in range(10)]
        codes = [client.connect("127.0.0.1", port)[0] for client in clients]
        self.assertLessEqual(codes.count(220), 2)
        self.assertGreaterEqual(codes.count(220), 1)
        self.assertEqual(codes.count(220) + codes.count(421), 10)
        for client in clients:
            client.close()

    def test_unix_socket(self) -> None:
        """Workers share a UNIX socket; one that ends leaves it to the others."""
        server = self.start("--listen", "unix:s")
        path = os.path.relpath(self.folder / "s")
        first, _, *_ = self.workers(server, 4)  # each says it of both endpoints
        os.kill(first, signal.SIGTERM)
        server.wait_for(f"Worker {first} ended: ")
        with connect(path) as client:
            self.assertEqual(client.noop()[0], 250)
        server.stop()
        self.assertFalse((self.folder / "s").exists())

    def test_cannot_start(self) -> None:
        """What keeps the sockets from being opened ends the supervisor, with no worker left."""
        self.configure("plugins", "nowhere")
        command = [*TWISTD, "-n", "--pidfile=", "qpsmtpd", "--config", "config", "--workers", "2"]
        server = Server(self, command, self.folder)
        self.assertEqual(server.wait(), 1)
        self.assertIn('config/plugins:1: "nowhere"', server.said)


class FakeProcess:
    """A worker's process, as the reactor hands it out."""

    pid = 4711

    def __init__(self) -> None:
        self.signals: list[str] = []

    def signalProcess(self, name: str) -> None:
        self.signals.append(name)


class FakeReactor(Clock):
    """Starts processes that are none, or fails to."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[FakeProcess] = []
        self.protocols: list[object] = []
        self.broken = False

    def spawnProcess(self, protocol: object, *arguments: object, **rest: object) -> None:
        if self.broken:
            raise OSError("no more processes")
        self.processes.append(FakeProcess())
        self.protocols.append(protocol)
        protocol.makeConnection(self.processes[-1])  # type: ignore[attr-defined]


class DelayTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.patch(Supervisor, "_reactor", self.reactor)
        before = signal.getsignal(signal.SIGHUP)
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        self.supervisor = Supervisor(ServerOptions(endpoints=(), workers=1, grace=7))
        self.patch(Supervisor, "privilegedStartService", lambda supervisor: None)
        self.supervisor.startService()

    def end_worker(self) -> None:
        from twisted.internet.error import ProcessTerminated
        from twisted.python.failure import Failure

        self.supervisor.workers[0].processEnded(Failure(ProcessTerminated(1)))

    def started_after(self) -> float:
        """End the worker; how long until there is another."""
        self.end_worker()
        self.assertEqual(self.supervisor.workers, [])
        [call] = self.reactor.getDelayedCalls()
        delay = call.getTime() - self.reactor.seconds()
        self.reactor.advance(delay)
        self.assertEqual(len(self.supervisor.workers), 1)
        return delay

    def test_young(self) -> None:
        """While workers die young, the next one starts later and later, up to a limit."""
        delays = [round(self.started_after(), 6) for _ in range(12)]
        self.assertEqual(delays[:4], [FIRST_DELAY * factor for factor in (1, 2, 4, 8)])
        self.assertEqual(delays[-1], LAST_DELAY)

    def test_old(self) -> None:
        """A worker that has lived for a while is replaced at once."""
        self.started_after()
        self.started_after()
        self.reactor.advance(YOUNG + 1)
        self.assertAlmostEqual(self.started_after(), FIRST_DELAY)

    def test_cannot_spawn(self) -> None:
        """A worker that cannot be started is tried again."""
        self.reactor.broken = True
        self.end_worker()
        for _ in range(5):
            self.reactor.advance(LAST_DELAY)
        self.assertEqual(self.supervisor.workers, [])
        self.reactor.broken = False
        self.reactor.advance(LAST_DELAY)
        self.assertEqual(len(self.supervisor.workers), 1)

    def test_does_not_stop(self) -> None:
        """A worker that does not stop within its grace, and some seconds, is killed."""
        [process] = self.reactor.processes
        stopping = self.supervisor.stopService()
        assert stopping is not None
        self.reactor.advance(7)
        self.assertEqual(process.signals, ["TERM"])
        self.reactor.advance(60)
        self.assertEqual(process.signals, ["TERM", "KILL"])
        self.assertNoResult(stopping)
        self.end_worker()
        self.successResultOf(stopping)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stop_while_none_lives(self) -> None:
        """A stop while the next worker is awaited ends at once, and starts none."""
        self.end_worker()
        self.assertIsNone(self.supervisor.stopService())
        self.reactor.advance(LAST_DELAY)
        self.assertEqual(self.supervisor.workers, [])

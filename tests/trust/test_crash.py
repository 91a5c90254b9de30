"""A server is killed under load, stopped under load, and configured anew under load."""

import os
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path

from tests.server.processes import Server, until
from tests.trust.load import Client, Load, message, stored
from tests.trust.servers import TrustTestCase

#: Chooses the instants; with another number the tests find other ones.
SEED = int(os.environ.get("QPSMTPD_TEST_SEED") or time.time_ns() % 1_000_000)

ROUNDS = 3


def children(server: Server) -> list[int]:
    """The processes that a process has."""
    text = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


class CrashTestCase(TrustTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.promised: set[str] = set()
        self.chance = random.Random(SEED)

    def load(self, server: Server, name: object) -> Load:
        load = Load(server.port(), f"{SEED}.{name}")
        self.addCleanup(load.stop)
        return load

    def serves(self, server: Server, name: str) -> None:
        """A server takes a message."""
        with Client(server.port()) as client:
            self.assertEqual(client.mail(message(name, 100))[0], 250)
            client.quit()
        self.promised.add(name)

    def check(self) -> None:
        """All that was promised is there, once and whole; and nothing that is not whole."""
        found = Counter(stored(self.folder / "Maildir"))
        lost = self.promised - set(found)
        self.assertEqual(lost, set(), f"lost, seed {SEED}")
        twice = [name for name in found if found[name] > 1]
        self.assertEqual(twice, [], f"twice, seed {SEED}")

    def kill_and_start_again(self, *options: str) -> None:
        for number in range(ROUNDS):
            server = self.start(*options)
            load = self.load(server, number)
            load.wait_for(20)
            time.sleep(self.chance.random() * 0.5)
            self.kill(server)
            load.stop()
            self.promised |= load.accepted
            self.check()
        server = self.start(*options)
        self.serves(server, "last")
        self.check()
        self.assertEqual(list((self.folder / "spool").iterdir()), [])

    def kill(self, server: Server) -> None:
        os.killpg(server.pid, signal.SIGKILL)
        self.assertEqual(server.wait(), -signal.SIGKILL)


class KillTests(CrashTestCase):
    def test_process(self) -> None:
        """When the server is killed, no message that it accepted is lost, doubled or cut."""
        self.kill_and_start_again()

    def test_processes(self) -> None:
        """The same holds when a supervisor and all its workers are killed."""
        self.kill_and_start_again("--workers", "2")

    def test_worker(self) -> None:
        """When workers are killed one by one, the others go on, and nothing is lost."""
        server = self.start("--workers", "2")
        load = self.load(server, "worker")
        for number in range(ROUNDS):
            load.wait_for(len(load.accepted) + 20)
            time.sleep(self.chance.random() * 0.3)
            os.kill(self.chance.choice(children(server)), signal.SIGKILL)
            server.wait_for(r"Worker \d+ ended", number + 1)
        load.wait_for(len(load.accepted) + 20)
        load.stop()
        self.assertEqual(load.refused, {})
        self.promised = load.accepted
        self.check()
        self.assertEqual(server.stop(), -signal.SIGTERM)

    def test_supervisor(self) -> None:
        """Workers whose supervisor was killed end their messages, and then themselves."""
        server = self.start("--workers", "2")
        load = self.load(server, "supervisor")
        load.wait_for(20)
        server.signal(signal.SIGKILL)
        server.wait()

        def gone() -> bool:
            try:
                os.killpg(server.pid, 0)
            except ProcessLookupError:
                return True
            return False

        until(gone, lambda: server.said)
        load.stop()
        self.promised = load.accepted
        self.check()


class StopTests(CrashTestCase):
    def stop_under_load(self, *options: str) -> None:
        server = self.start("--grace", "1000", *options)
        load = self.load(server, "stop")
        load.wait_for(50)
        self.assertEqual(server.stop(), -signal.SIGTERM)  # long before its grace is over
        load.stop()
        self.assertEqual(load.refused, {})
        self.promised = load.accepted
        self.check()
        self.assertEqual(list((self.folder / "spool").iterdir()), [])

    def test_process(self) -> None:
        """A server that is asked to stop does so however busy its clients are; nothing is lost."""
        self.stop_under_load()

    def test_processes(self) -> None:
        """The same holds for several processes."""
        self.stop_under_load("--workers", "2")

    def test_message_on_its_way(self) -> None:
        """A message whose content is on its way when the server is asked to stop is taken."""
        server = self.start()
        with Client(server.port()) as client, Client(server.port()) as idle:
            client.begin()
            content = message("late", 100_000)
            client.send(content[:50_000])
            server.signal(signal.SIGTERM)
            idle.expect(421)
            self.assertEqual(client.content(content[50_000:])[0], 250)
            client.expect(421)
        self.assertEqual(server.wait(), -signal.SIGTERM)
        self.promised.add("late")
        self.check()


class ReloadTests(CrashTestCase):
    def reload_under_load(self, workers: int) -> None:
        server = self.start("--workers", str(workers))
        load = self.load(server, "reload")
        for number in range(1, 6):
            load.wait_for(len(load.accepted) + 30)
            server.signal(signal.SIGHUP)
            server.wait_for("configuration was read again", number * workers)
        load.wait_for(len(load.accepted) + 30)
        load.stop()
        self.assertEqual(load.refused, {})
        self.promised = load.accepted
        self.check()
        self.assertEqual(server.stop(), -signal.SIGTERM)

    def test_process(self) -> None:
        """When the configuration is read again under load, no message is lost or refused."""
        self.reload_under_load(1)

    def test_processes(self) -> None:
        """The same holds for several processes."""
        self.reload_under_load(2)

    def test_worker_that_starts(self) -> None:
        """A worker that is told to do so while it starts does not die of it."""
        server = self.start("--workers", "2")
        until(lambda: len(children(server)) == 2, lambda: server.said)

        def started() -> bool:
            server.signal(signal.SIGHUP)
            return len(set(re.findall(r"(\d+) The configuration was read", server.said))) == 2

        until(started, lambda: server.said)
        self.serves(server, "mail")
        self.assertNotIn("ended", server.said)

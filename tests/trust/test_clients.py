"""Clients that vanish, that are many, and that mean harm; and others, who are served meanwhile."""

import resource
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from tests.server.processes import Server, until
from tests.trust.load import Client, message, stored
from tests.trust.servers import (
    TrustTestCase,
    descriptors,
    memory,
    raise_descriptor_limit,
)

MIB = 1 << 20


class ResetTests(TrustTestCase):
    """Many clients vanish at the same place. What they had must go with them."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.start()
        self.port = self.server.port()
        self.other = Client(self.port)
        self.addCleanup(self.other.close)
        self.assertEqual(self.other.mail(message("before", 100))[0], 250)

    def vanish(self, said: bytes) -> None:
        """Thirty clients say something, each vanishes; nothing is left of them."""
        held = descriptors(self.server.pid)
        clients = [Client(self.port) for _ in range(30)]
        for client in clients:
            client.send(said)
        self.other.command("NOOP", 250)
        for client in clients:
            client.reset()
        self.settled(self.server, held)
        self.assertEqual(self.other.mail(message("after", 100))[0], 250)
        self.assertEqual(sorted(stored(self.folder / "Maildir")), ["after", "before"])
        self.assertNotIn("Traceback", self.server.said)

    def test_command(self) -> None:
        """Clients that vanish in the middle of a command leave nothing behind."""
        self.vanish(b"MAIL FROM:<a@exam")

    def test_envelope(self) -> None:
        """Clients that vanish in the middle of an envelope leave nothing behind."""
        self.vanish(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n")

    def test_content(self) -> None:
        """Clients that vanish in the middle of content leave no spool file behind."""
        start = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
        self.vanish(start + message("cut", 100_000))

    def test_chunk(self) -> None:
        """Clients that vanish in the middle of a chunk leave no spool file behind."""
        start = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nBDAT 200000 LAST\r\n"
        self.vanish(start + message("cut", 100_000))

    def test_waiting_hook(self) -> None:
        """Clients that vanish while a component makes them wait leave nothing behind."""
        self.vanish(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<wait@example.com>\r\n")

    def test_waiting_hook_and_full_buffers(self) -> None:
        """The same holds when so much waits behind the component that nothing more is read."""
        start = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<wait@example.com>\r\n"
        self.vanish(start + b"NOOP\r\n" * 40_000)


class ManyTests(TrustTestCase):
    COUNT = 2000

    def test_connections(self) -> None:
        """Two thousand clients at once are all served."""
        raise_descriptor_limit(2 * self.COUNT)
        server = self.start()
        port = server.port()
        before = memory(server.pid, "VmRSS")
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(port, False)) for _ in range(self.COUNT)]
            for client in clients:
                client.expect(220)
            for client in clients:
                client.send(b"EHLO client.example\r\n")
            for client in clients:
                client.expect(250)
            each = (memory(server.pid, "VmRSS") - before) // self.COUNT
            for number, client in enumerate(clients[:: self.COUNT // 100]):
                self.assertEqual(client.mail(message(f"{number}", 100))[0], 250)
            for client in clients:
                client.send(b"QUIT\r\n")
            for client in clients:
                client.expect(221)
        self.assertEqual(len(stored(self.folder / "Maildir")), 100)
        self.assertLess(each, 16_384)

    def test_too_many(self) -> None:
        """Of more clients than the limit allows, those beyond are told 421."""
        raise_descriptor_limit(2 * self.COUNT)
        self.limit(connections=100)
        server = self.start()
        port = server.port()
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(port, False)) for _ in range(500)]
            codes = [client.reply()[0] for client in clients]
        self.assertEqual((codes.count(220), codes.count(421)), (100, 400))

        def served() -> bool:
            with Client(port, False) as client:
                return client.reply()[0] == 220

        until(served, lambda: server.said)


class DescriptorTests(TrustTestCase):
    def test_few(self) -> None:
        """Of clients beyond what descriptors allow for, all are told 421; the others send mail."""
        server = self.start(descriptors=64)
        port = server.port()
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(port, False)) for _ in range(200)]
            codes = [client.reply()[0] for client in clients]
            self.assertEqual((codes.count(220), codes.count(421)), (16, 184))
            served = [client for client, code in zip(clients, codes, strict=True) if code == 220]
            for client in served:
                client.command("EHLO client.example", 250)
                client.begin()
            content = message("mail", 100_000).replace(b"\r\n.", b"\r\n..")
            for client in served:
                client.send(content)
            for client in served:
                client.send(b".\r\n")
            self.assertEqual([client.reply()[0] for client in served], [250] * 16)
        self.assertEqual(stored(self.folder / "Maildir"), ["mail"] * 16)
        self.assertIn("16 connections at once are all that 64 descriptors allow", server.said)

    def test_none_left(self) -> None:
        """A server without descriptors does not spin, serves whom it has, and recovers."""
        server = self.start()
        port = server.port()
        with Client(port) as first, Client(port) as second:
            self.assertEqual(first.mail(message("before", 100_000))[0], 250)
            second.begin()
            content = message("second", 100_000)
            second.send(content[:50_000])
            until(lambda: list((self.folder / "spool").iterdir()), lambda: server.said)
            soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
            numbers = [int(each.split()[0]) for each in descriptors(server.pid)]
            none = (max(numbers) + 1, hard)
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, none)
            with ExitStack() as stack:
                clients = [stack.enter_context(Client(port, False)) for _ in range(20)]
                first.command("NOOP", 250)
                before = self.ticks(server)
                time.sleep(1)
                self.assertLess(self.ticks(server) - before, 50, "hundredths of a second")
                code, text = first.mail(message("refused", 100_000))
                self.assertEqual((code, text[:5]), (451, "4.3.0"))
                code, text = first.mail(message("refused", 100))
                self.assertEqual((code, text[:5]), (451, "4.3.0"))
                resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))
                self.assertEqual(second.content(content[50_000:])[0], 250)
                self.assertEqual(first.mail(message("after", 100_000))[0], 250)
                # Those who waited were accepted by now, or sent away.
                self.assertLessEqual({self.answer(client) for client in clients}, {220, 0})
            with Client(port) as client:
                self.assertEqual(client.mail(message("last", 100))[0], 250)
        names = stored(self.folder / "Maildir")
        self.assertEqual(sorted(names), ["after", "before", "last", "second"])
        self.assertNotIn("Traceback", server.said)

    def answer(self, client: Client) -> int:
        """What a client is told first; 0 if it is nothing."""
        try:
            return client.reply()[0]
        except ConnectionError:
            return 0

    def ticks(self, server: Server) -> int:
        """Hundredths of a second of CPU time that a process has had."""
        fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])


class HostileTests(TrustTestCase):
    """Each test has another client, which sends mail all the time and gets its replies.

    :ivar growth: Octets by which the server's memory may grow.
    """

    growth = 8 * MIB

    def setUp(self) -> None:
        super().setUp()
        self.served = 0
        self._stopping = threading.Event()
        self._errors: list[Exception] = []

    def serve(self, **limits: object) -> int:
        """Start a server and the other client.

        :returns: The server's port.
        """
        self.limit(**limits)
        self.server = self.start()
        self.port = self.server.port()
        with Client(self.port) as client:
            for number in range(20):  # a server that has warmed up
                self.assertEqual(client.mail(message(f"{number}", 20_000))[0], 250)
        self._before = memory(self.server.pid)
        self._other = threading.Thread(target=self._send)
        self.addCleanup(self._stop)
        self._other.start()
        return self.port

    def _send(self) -> None:
        try:
            with Client(self.port) as client:
                while not self._stopping.is_set():
                    code, text = client.mail(message(f"other.{self.served}", 1000))
                    if code != 250:
                        raise AssertionError(f"{code} {text}")
                    self.served += 1
                    self._stopping.wait(0.01)
        except Exception as error:
            self._errors.append(error)

    def _stop(self) -> None:
        self._stopping.set()
        self._other.join()

    def others_are_served(self) -> None:
        """Wait until the other client has been served some more."""
        enough = self.served + 3
        until(lambda: self.served >= enough or self._errors, lambda: self.server.said)
        if self._errors:
            raise self._errors[0]

    def unharmed(self) -> None:
        """The other client is served, and memory has not grown."""
        self.others_are_served()
        self._stop()
        names = [name for name in stored(self.folder / "Maildir") if name.startswith("other")]
        self.assertEqual(len(names), self.served)
        self.assertLess(memory(self.server.pid) - self._before, self.growth)
        self.assertNotIn("Traceback", self.server.said)

    def test_command_without_end(self) -> None:
        """Megabytes without a newline are no command; one reply is all that they get."""
        with Client(self.serve()) as client:
            client.send(b"A" * 8 * MIB)
            self.assertIn("Line too long", client.expect(500))
            self.others_are_served()
            client.send(b"\r\n")
            client.command("NOOP", 250)
        self.unharmed()

    def test_authentication_without_end(self) -> None:
        """Neither are they the answer to a challenge."""
        self.configure({"flat_auth_pw": "user@example.com:secret"})
        self.configure({"plugins": "auth/auth_flat_file\nwait\nrcpt_ok\nqueue/maildir Maildir"})
        with Client(self.serve()) as client:
            client.command("AUTH LOGIN", 334)
            client.send(b"A" * 8 * MIB + b"\r\n")
            client.expect(500)
            client.command("NOOP", 250)
        self.unharmed()

    def test_content_without_newline(self) -> None:
        """A line of megabytes is refused, and the session goes on."""
        with Client(self.serve()) as client:
            client.begin()
            client.send(b"Subject: x\r\n\r\n" + b"A" * 16 * MIB)
            self.assertEqual(client.content(b"\r\n")[0], 550)
            client.command("NOOP", 250)
        self.unharmed()

    def test_large_message(self) -> None:
        """A message of 64 MiB lies on the disk, not in memory, and is taken."""
        with Client(self.serve()) as client:
            client.begin()
            client.send(b"Subject: x\r\n\r\n")
            line = b"B" * 998 + b"\r\n"
            for _ in range(64):
                client.send(line * 1049)
            self.assertEqual(client.content(b"\r\n")[0], 250)
        for path in self.new():
            if path.stat().st_size > MIB:
                path.unlink()
        self.unharmed()

    def test_header_without_end(self) -> None:
        """A header section of ten megabytes is refused, and the session goes on."""
        with Client(self.serve()) as client:
            client.begin()
            self.assertEqual(client.content(b"X-Field: value\r\n" * 700_000)[0], 552)
            client.command("NOOP", 250)
        self.unharmed()

    def test_resets_without_end(self) -> None:
        """A hundred thousand commands at once get a reply each, where no limit is set."""
        with Client(self.serve(idle_commands=0)) as client:
            sender = threading.Thread(target=client.send, args=(b"RSET\r\n" * 100_000,))
            sender.start()
            for _ in range(100_000):
                client.expect(250)
            sender.join()
            self.others_are_served()
        self.unharmed()

    def test_resets_and_a_limit(self) -> None:
        """As it comes, the server ends a session with commands that move no mail."""
        with Client(self.serve()) as client:
            try:
                client.send(b"RSET\r\n" * 100_000)
                codes = [client.reply()[0] for _ in range(1000)]
            except ConnectionError:
                codes = []
            self.assertNotEqual(codes[100:], [250] * 900)
        self.unharmed()

    def test_recipients_without_end(self) -> None:
        """Ten thousand recipients: those above the limit get 452, the others their mail."""
        with Client(self.serve()) as client:
            client.command("MAIL FROM:<a@example.org>", 250)
            octets = b"".join(b"RCPT TO:<b%d@example.com>\r\n" % each for each in range(10_000))
            sender = threading.Thread(target=client.send, args=(octets,))
            sender.start()
            codes = [client.reply()[0] for _ in range(10_000)]
            sender.join()
            self.assertEqual(codes, [250] * 1000 + [452] * 9000)
            client.command("DATA", 354)
            self.assertEqual(client.content(message("many", 1000))[0], 250)
        self.unharmed()

    def test_nothing_is_read(self) -> None:
        """Of a client that reads no reply no more is read, and its time comes."""
        with Client(self.serve(idle_commands=0, command_time=2)) as client:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.socket.settimeout(1)
            sent = 0
            try:
                while sent < 64 * MIB:
                    sent += client.socket.send(b"HELP\r\n" * 10_000)
            except (TimeoutError, ConnectionError):
                pass
            self.assertLess(sent, 64 * MIB)
            self.others_are_served()
        self.unharmed()

    def test_much_behind_a_waiting_component(self) -> None:
        """Of what comes while a component takes its time, little is read before it answers."""
        with Client(self.serve()) as client:
            client.send(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<wait@example.com>\r\n")
            client.expect(250)
            client.socket.settimeout(1)
            sent = 0
            try:
                while sent < 64 * MIB:
                    sent += client.socket.send(b"RSET\r\n" * 10_000)
            except TimeoutError:
                pass
            self.assertLess(sent, 64 * MIB)
            self.others_are_served()
        self.unharmed()

    def test_slow_senders(self) -> None:
        """Clients that send an octet now and then are sent away when their time is over."""
        self.serve(command_time=2, content_time=2, message_time=3, session_time=5)
        self._stop()  # its session would be over, too
        with Client(self.port) as silent, Client(self.port) as slow, Client(self.port) as content:
            content.begin()
            told: dict[Client, int] = {}
            deadline = time.monotonic() + 30
            for client in (silent, slow, content):
                client.socket.settimeout(0.25)
            while len(told) < 3:
                self.assertLess(time.monotonic(), deadline)
                for client in (silent, slow, content):
                    if client in told:
                        continue
                    if client is not silent:
                        client.send(b"x")
                    try:
                        line = client.socket.recv(100)
                    except TimeoutError:
                        continue
                    told[client] = int(line[:3])
        self.assertEqual(set(told.values()), {421})
        with Client(self.port) as client:
            self.assertEqual(client.mail(message("after", 100))[0], 250)

    def test_half_closed(self) -> None:
        """Clients that have no more to say leave nothing behind."""
        port = self.serve()
        for said in (b"", b"MAIL FROM:<a@exam", b"MAIL FROM:<a@example.org>\r\n"):
            with Client(port) as client:
                client.send(said)
                client.socket.shutdown(socket.SHUT_WR)
                try:
                    while True:
                        client.reply()
                except ConnectionError:
                    pass
        self.unharmed()

    def test_nuls(self) -> None:
        """NUL octets are no command, and in content they are octets like others."""
        with Client(self.serve()) as client:
            client.send(b"\0" * 1000 + b"\r\n")
            self.assertEqual(client.reply()[0] // 100, 5)
            client.command("MAIL FROM:<a\0@example.org>", 501)
            client.begin()
            self.assertEqual(client.content(b"Subject: \0\r\n\r\n\0\r\n")[0], 250)
        self.assertEqual(sum(b"\n\n\0\n" in path.read_bytes() for path in self.new()), 1)
        for path in self.new():
            if b"\n\n\0\n" in path.read_bytes():
                path.unlink()
        self.unharmed()

    def test_tls(self) -> None:
        """TLS on a port for SMTP is answered in SMTP, and ends."""
        import ssl

        port = self.serve(command_time=2)
        context = ssl.create_default_context()
        with socket.create_connection(("127.0.0.1", port)) as connection:
            self.assertRaises(
                ssl.SSLError, context.wrap_socket, connection, server_hostname="mail.example"
            )
        self.unharmed()

    def test_http(self) -> None:
        """A browser that was told to post mail is sent away before it does."""
        request = b"POST / HTTP/1.1\r\n" + b"X-Header: value\r\n" * 12 + b"\r\n"
        body = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
        with Client(self.serve(), False) as client:
            client.send(request + body + message("posted", 100) + b".\r\n")
            codes = []
            try:
                while True:
                    codes.append(client.reply()[0])
            except ConnectionError:
                pass
            self.assertEqual(codes[-1], 421)
        self.assertNotIn("posted", stored(self.folder / "Maildir"))
        self.unharmed()

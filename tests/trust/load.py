"""Clients that send without pause, and know what the server has promised them."""

import hashlib
import random
import socket
import threading
from pathlib import Path

from tests.server.processes import LIMIT, until

__all__ = ["Client", "Load", "check", "message", "stored"]


class Client:
    """A client that writes and reads octets, and is in no hurry to be polite."""

    def __init__(self, port: int, greeted: bool = True) -> None:
        """Connect.

        :param greeted: Whether to read the greeting, and say EHLO.
        """
        self.socket = socket.create_connection(("127.0.0.1", port), LIMIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self.socket.makefile("rb")
        if greeted:
            self.expect(220)
            self.command("EHLO client.example", 250)

    def send(self, octets: bytes) -> None:
        self.socket.sendall(octets)

    def reply(self) -> tuple[int, str]:
        """Read a reply.

        :raises ConnectionError: There is none.
        """
        lines = []
        while True:
            line = self._reader.readline()
            if not line.endswith(b"\n"):
                raise ConnectionResetError("no reply")
            lines.append(line[4:].decode().rstrip())
            if line[3:4] != b"-":
                return int(line[:3]), "\n".join(lines)

    def expect(self, code: int) -> str:
        """Read a reply with this code."""
        found, text = self.reply()
        if found != code:
            raise AssertionError(f"{found} {text}, not {code}")
        return text

    def command(self, line: str, code: int) -> str:
        """Send a command, and read its reply."""
        self.send(line.encode() + b"\r\n")
        return self.expect(code)

    def begin(self) -> None:
        """Begin a message, up to its content."""
        self.command("MAIL FROM:<a@example.org>", 250)
        self.command("RCPT TO:<b@example.com>", 250)
        self.command("DATA", 354)

    def content(self, octets: bytes) -> tuple[int, str]:
        """Send the content of a message to its end, and read what is said about it."""
        self.send(octets.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        return self.reply()

    def mail(self, octets: bytes) -> tuple[int, str]:
        """Send a message."""
        self.begin()
        return self.content(octets)

    def quit(self) -> None:
        self.command("QUIT", 221)
        self.close()

    def close(self) -> None:
        self._reader.close()
        self.socket.close()

    def reset(self) -> None:
        """Close without a word to the server: it gets a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def message(name: str, size: int) -> bytes:
    """A message that tells whether it is whole: its body stands against a checksum."""
    body = (f"{name} ".encode() * (size // (len(name) + 1) + 1))[:size]
    body = b"".join(body[at : at + 76] + b"\r\n" for at in range(0, len(body), 76))
    digest = hashlib.sha256(body.replace(b"\r\n", b"\n")).hexdigest()
    return f"Subject: load\r\nX-Name: {name}\r\nX-Digest: {digest}\r\n\r\n".encode() + body


def check(octets: bytes) -> str:
    """Hold a stored message against its checksum.

    :returns: Its name.
    """
    head, _, body = octets.partition(b"\n\n")
    fields = dict(
        line.split(b": ", 1) for line in head.split(b"\n") if line[:1] not in b" \t" and line
    )
    if fields.get(b"X-Digest") != hashlib.sha256(body).hexdigest().encode():
        raise AssertionError(f"a message is not whole: {octets[:300]!r}")
    return fields[b"X-Name"].decode()


def stored(maildir: Path) -> list[str]:
    """The names of the messages that a Maildir has, all of which are whole."""
    return [check(path.read_bytes()) for path in (maildir / "new").glob("*")]


class Load:
    """Several clients at once. Each sends messages over and over, small and large ones.

    What it sends has a name; none is sent twice.

    :ivar accepted: The names of the messages that were answered with 250.
    :ivar refused: Every other reply to a message, by the message's name.
    """

    def __init__(self, port: int, seed: object, clients: int = 6, largest: int = 60_000) -> None:
        self.accepted: set[str] = set()
        self.refused: dict[str, str] = {}
        self.errors: list[Exception] = []
        self._stopping = threading.Event()
        self._largest = largest
        self._threads = [
            threading.Thread(target=self._run, args=(port, f"{seed}.{number}"))
            for number in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, port: int, name: str) -> None:
        chance = random.Random(name)
        count = 0
        while not self._stopping.is_set():
            try:
                client = Client(port)
            except OSError:
                self._stopping.wait(0.01)
                continue
            with client:
                try:
                    for _ in range(chance.randrange(1, 30)):
                        count += 1
                        self._send(client, f"{name}.{count}", chance)
                        if self._stopping.is_set():
                            break
                    client.quit()
                except OSError:
                    pass  # what was not answered is nobody's promise
                except Exception as error:
                    if not str(error).startswith("421 "):
                        self.errors.append(error)

    def _send(self, client: Client, name: str, chance: random.Random) -> None:
        size = chance.choice([10, 2000, 2000, 2000, 10_000, chance.randrange(self._largest)])
        code, text = client.mail(message(name, size))
        if code == 250:
            self.accepted.add(name)
        else:
            self.refused[name] = f"{code} {text}"

    def wait_for(self, count: int) -> None:
        """Wait until so many messages were accepted."""
        until(lambda: len(self.accepted) >= count, lambda: f"{self.accepted} {self.errors}")

    def wait_for_refused(self, count: int) -> None:
        """Wait until so many messages were refused."""
        until(lambda: len(self.refused) >= count, lambda: f"{self.refused} {self.errors}")

    def stop(self) -> None:
        """Let every client come to its end."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(LIMIT)
        if self.errors:
            raise self.errors[0]

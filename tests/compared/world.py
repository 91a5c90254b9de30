# -*- test-case-name: tests.compared.test_compared -*-
"""Both servers and their client, alone in a network that has nothing but loopback.

The Perl qpsmtpd looks up every client in the DNS, whatever its options say. So this runs as a
process of its own, without any way out: ``python -m tests.compared.world FOLDER`` in a network
namespace, started by :mod:`tests.compared.test_compared`. It plays all sessions with both servers
and prints what came back, in JSON.
"""

from __future__ import annotations

import base64
import json
import os
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.compared.sessions import FILE, Session, Step, octets, read
from tests.server.certificates import write_certificate
from tests.server.processes import LIMIT, TWISTD
from tests.services.binaries import find

__all__ = ["PORTS", "main", "names", "server"]

PORTS: Final = {"perl": 2525, "ours": 2526}

#: Seconds of waiting for a reply that a server may not give at all. Then the next command is sent,
#: as it is by a client that pipelines.
PATIENCE: Final = 2.0

#: The same, where the reply may ask for something else than a command.
LONG_PATIENCE: Final = 15.0

#: Sessions at once with each server.
AT_ONCE: Final = 12

#: By its path: this project has a program of that name, too.
_PERL: Final = "/usr/bin/qpsmtpd-forkserver"

_PROBES: Final = Path(__file__).with_name("probes")

#: One set of control files for both.
_CONFIGURATION: Final = {
    "me": "mail.example",
    "databytes": "20000",
    "loglevel": "6",
    "rcpthosts": "example.com\n.sub.example.com\nlocalhost",
    "relayclients": "127.0.1.",
    "badmailfrom": "spammer@bad.example\n@worse.example",
    "badrcptto": "trap@example.com\n@closed.example.com",
    "badmailfromto": "one@pair.example\ttwo@example.com",
    "flat_auth_pw": "anna@example.com:secret\nbert@example.com:other",
}


_STATUS: Final = re.compile(
    r"^([245]\.\d{1,3}\.\d{1,3}) |\(#?([245]\.\d{1,3}\.\d{1,3})\)"  # ours; the Perl one's
)


class _GoneError(Exception):
    """The server has closed the connection."""


class Client:
    """The client of one session."""

    def __init__(self, port: int, address: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), LIMIT, (address, 0))
        self._unread = b""
        self._marks = 0
        self._greeted = False
        self._begun = ""
        #: The code of the last reply.
        self.code = ""
        self.challenge = b""

    def play(self, session: Session) -> list[list[str]]:
        """Play a session.

        :returns: For the greeting and for each step the replies, or what happened in their place.
        """
        with self._socket:
            said = [self._replies(1, LIMIT)]
            self._greeted = True
            for step in session.steps:
                if said[-1][-1:] in (["closed"], ["gone"]):
                    said.append(["gone"])
                else:
                    said.append(self._do(step))
            return said

    def _do(self, step: Step) -> list[str]:
        wanted = {"A": "334", "D": "354", "TLS": "220"}.get(step.kind)
        if wanted is not None and self.code != wanted:
            return ["not sent"]
        if step.kind == "TLS":
            return self._handshake()
        if step.kind == "END":
            self._socket.shutdown(socket.SHUT_WR)
            return self._replies(99, LIMIT)
        self._send(b"".join(octets(line, self.challenge) for line in step.lines))
        asks = step.kind == "A" or re.match("(?i)auth|data|starttls", step.lines[-1])
        return self._replies(step.replies, LONG_PATIENCE if asks else PATIENCE)

    def _handshake(self) -> list[str]:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.code = ""
        try:
            self._socket = context.wrap_socket(self._socket)
        except OSError:
            return ["no TLS"]
        return ["TLS"]

    def _replies(self, count: int, patience: float) -> list[str]:
        """Read so many replies, and then all that came beside them.

        A mark, which is a command with a reply of its own, shows that there are no others. Where
        the server waits for something else than a command, there is none.
        """
        said: list[str] = []
        try:
            try:
                while len(said) < count:
                    said.append(self._reply(patience))
            except TimeoutError:
                pass  # the mark shows what is missing
            if not self._expects_no_command():
                self._marks += 1
                mark = f"mark {self._marks}"
                self._send(f"HELP {mark}\r\n".encode("ascii"))
                while (reply := self._reply(LIMIT, mark)) != mark:
                    said.append(reply)
                if self._begun:
                    said.append(f"{self._begun}-")  # a reply without an end
                    self._begun = ""
        except (_GoneError, ConnectionError):
            said += [f"{self._begun}-", "closed"] if self._begun else ["closed"]
        return said or ["nothing"]

    def _expects_no_command(self) -> bool:
        """Whether the server waits for an answer, for content or for a handshake."""
        return self.code in ("334", "354") or (self.code == "220" and self._greeted)

    def _reply(self, patience: float, mark: str = "") -> str:
        """Read a reply: its code, and the enhanced status code if it has one.

        :raises TimeoutError: Nothing came in so many seconds.
        """
        status = ""
        while True:
            line = self._line(patience)
            if mark and line in (f"214 {mark}", f"214 2.0.0 {mark}"):
                return mark
            self.code, text = line[:3], line[4:]
            if found := _STATUS.search(text):
                status = f" {found[1] or found[2]}"
            if self.code == "334":
                self.challenge = base64.b64decode(text)
            if line[3:4] != "-":
                self._begun = ""
                return self.code + status
            self._begun = self.code

    def _line(self, patience: float) -> str:
        while b"\n" not in self._unread:
            if not self._wait(patience):
                raise TimeoutError
            octets = self._socket.recv(65536)
            if not octets:
                raise _GoneError
            self._unread += octets
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode("latin-1").rstrip("\r")

    def _wait(self, patience: float) -> bool:
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        return bool(select.select([self._socket], [], [], patience)[0])

    def _send(self, octets: bytes) -> None:
        self._socket.sendall(octets)


def main(folder: Path) -> None:
    """Start both servers in a folder, play all sessions with both, and print what came back."""
    sessions = read(FILE.read_text("utf-8"))
    write_certificate(str(folder), "mail.example")
    said: dict[str, dict[str, list[list[str]]]] = {session.name: {} for session in sessions}

    def play(server: str, session: Session) -> None:
        said[session.name][server] = Client(PORTS[server], session.address).play(session)

    with (
        names(),
        server("perl", folder),
        server("ours", folder),
        ThreadPoolExecutor(2 * AT_ONCE) as pool,
    ):
        played = [pool.submit(play, server, session) for session in sessions for server in PORTS]
        for each in played:
            each.result()
    json.dump(said, sys.stdout)


@contextmanager
def names() -> Iterator[None]:
    """Be the DNS, in which there is no name. The Perl qpsmtpd waits long for one that is silent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))

        def answer() -> None:
            while True:
                query, client = server.recvfrom(4096)
                # RFC 1035, 4.1.1: an answer to the same question, RA and RCODE 3, no records.
                server.sendto(query[:2] + b"\x81\x83" + query[4:], client)

        threading.Thread(target=answer, daemon=True).start()
        yield


@contextmanager
def server(name: str, folder: Path) -> Iterator[None]:
    """Run a server for as long as it is needed."""
    config = folder / name
    plugins = folder / f"{name}-plugins"
    spool = folder / f"{name}-spool"
    for each in (config, plugins, spool):
        each.mkdir(mode=0o700)
    command, environ = (_perl if name == "perl" else _ours)(folder, config, plugins)
    for file, text in {**_CONFIGURATION, "spool_dir": str(spool)}.items():
        (config / file).write_text(text + "\n")
    certificate = f"{folder}/cert.pem {folder}/key.pem {folder}/cert.pem"
    (config / "plugins").write_text(
        f"tls {certificate}\nauth/auth_flat_file\nrelay\nbadmailfrom\nbadmailfromto\n"
        f"badrcptto\ncount_unrecognized_commands 4\nnoop_counter 3\nloop 5\nprobe\nrcpt_ok\n"
        f"queue/maildir {folder}/{name}-mail\n"
    )
    log = folder / f"{name}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        _greets(PORTS[name], process, log)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _perl(folder: Path, config: Path, plugins: Path) -> tuple[list[str], Mapping[str, str]]:
    """The command and environment of the Perl qpsmtpd."""
    shutil.copy(_PROBES / "perl", plugins / "probe")
    (config / "plugin_dirs").write_text(f"{plugins}\n/usr/share/qpsmtpd/plugins\n")
    options = ["--listen-address", "127.0.0.1", "--port", str(PORTS["perl"]), "--user", "root"]
    options += ["--limit-connections", "200", "--max-from-ip", "200"]
    return [find(_PERL), *options], {"QPSMTPD_CONFIG": str(config)}


def _ours(folder: Path, config: Path, plugins: Path) -> tuple[list[str], Mapping[str, str]]:
    """The command and environment of this project's server."""
    shutil.copy(_PROBES / "probe.py", plugins / "probe.py")
    (config / "plugin_dirs").write_text(f"{plugins}\n")
    listen = f"tcp:{PORTS['ours']}:interface=127.0.0.1"
    options = ["-n", "--pidfile=", "qpsmtpd", "--config", str(config), "--listen", listen]
    return [*TWISTD, *options], {"PYTHONPATH": os.pathsep.join(sys.path)}


def _greets(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server greets. The Perl one listens before it has read its plugins."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), LIMIT) as connection:
                if connection.recv(3) == b"220":
                    return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"it does not serve:\n{log.read_text()}")
        time.sleep(0.05)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""An SMTP client that pipelines as far as RFC 2920, 3.1 lets it, and checks every reply.

It sends ``MAIL``, ``RCPT`` and ``DATA`` in one segment, then the content, its end
and the next message's three commands in one more. It prints how many seconds
that took once every session had said ``EHLO``, and whether the server offered
``PIPELINING``, which it uses in any case::

    python benchmarks/pipelining_client.py PORT SESSIONS MESSAGES OCTETS [apart]

With ``apart`` the next commands wait for the reply to the message, for a server
that takes nothing in the same segment.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from enum import Enum

ENVELOPE = b"MAIL FROM:<sender@client.example>\r\nRCPT TO:<recipient@mail.example>\r\nDATA\r\n"
HEADER = (
    b"From: <sender@client.example>\r\nTo: <recipient@mail.example>\r\n"
    b"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-Id: <1.2@client.example>\r\n\r\n"
)
LINE = b"X" * 78 + b"\r\n"


class Group(Enum):
    """What a segment asks for; the value ends in the first digit of each of its replies."""

    GREETING = "greeting", b"2"
    EHLO = "ehlo", b"2"
    ENVELOPE = "envelope", b"223"
    MESSAGE_AND_NEXT = "message and next", b"2223"
    MESSAGE = "message", b"2"
    MESSAGE_AND_QUIT = "message and quit", b"22"
    QUIT = "quit", b"2"


#: The groups after which a session is over.
LAST = (Group.MESSAGE_AND_QUIT, Group.QUIT)


class Session:
    """One connection, its unread octets and the replies it still expects."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""
        self.group = Group.GREETING
        self.expected = b""
        self.at = 0

    def handshake(self) -> bool:
        """Go as far as the reply to EHLO; return whether it offers PIPELINING."""
        self.say(b"", Group.GREETING)
        self.read_group()
        self.say(b"EHLO client.example\r\n", Group.EHLO)
        return b"PIPELINING" in self.read_group().upper()

    def read_group(self) -> bytes:
        said = b""
        while not self.replied(data := self.socket.recv(65536)):
            said += data
        return said + data

    def say(self, data: bytes, group: Group) -> None:
        self.group = group
        self.expected = group.value[1]
        self.at = 0
        if data:
            self.socket.sendall(data)

    def replied(self, data: bytes) -> bool:
        """Take octets from the server; return whether the group is answered in full."""
        if not data:
            raise SystemExit(f"connection closed, {self.expected[self.at :]!r} expected")
        lines = (self.rest + data).split(b"\r\n")
        self.rest = lines.pop()
        for line in lines:
            if self.at == len(self.expected) or line[0] != self.expected[self.at]:
                raise SystemExit(f"{line!r} as reply {self.at} of {self.expected!r}")
            if line[3:4] != b"-":
                self.at += 1
        return self.at == len(self.expected)


def main(port: int, sessions: int, messages: int, octets: int, apart: bool) -> None:
    full, part = divmod(octets, len(LINE))
    body = LINE * full + (b"X" * (part - 2) + b"\r\n" if part > 2 else b"")
    message = HEADER + body + b".\r\n"
    message_and_next = message + ENVELOPE
    last_message = message + b"QUIT\r\n"

    poll = select.epoll()
    by_number: dict[int, Session] = {}
    for _ in range(min(sessions, messages)):
        session = Session(port)
        by_number[session.socket.fileno()] = session
        poll.register(session.socket, select.EPOLLIN)
    offered = all([session.handshake() for session in by_number.values()])
    # From here on, as a server that greets late would be measured by its greeting alone.
    began = time.perf_counter()
    for session in by_number.values():
        session.say(ENVELOPE, Group.ENVELOPE)
    begun = len(by_number)
    while by_number:
        ready = poll.poll(60)
        if not ready:
            raise SystemExit(f"no reply for 60 seconds to {len(by_number)} sessions")
        for number, _ in ready:
            session = by_number[number]
            if not session.replied(session.socket.recv(65536)):
                continue
            if session.group in LAST:
                poll.unregister(number)
                session.socket.close()
                del by_number[number]
            elif session.group is Group.MESSAGE:
                if begun < messages:
                    begun += 1
                    session.say(ENVELOPE, Group.ENVELOPE)
                else:
                    session.say(b"QUIT\r\n", Group.QUIT)
            elif apart:
                session.say(message, Group.MESSAGE)
            elif begun < messages:
                begun += 1
                session.say(message_and_next, Group.MESSAGE_AND_NEXT)
            else:
                session.say(last_message, Group.MESSAGE_AND_QUIT)
    json.dump({"seconds": time.perf_counter() - began, "offered": offered}, sys.stdout)


if __name__ == "__main__":
    port, sessions, messages, octets = map(int, sys.argv[1:5])
    main(port, sessions, messages, octets, sys.argv[5:] == ["apart"])

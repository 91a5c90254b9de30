# -*- test-case-name: tests.compared.test_sessions -*-
"""The sessions of ``sessions.txt``, read.

A session begins with ``== NAME``. What follows is sent step by step; the server's replies are
awaited after each:

=========  ==========================================================================
``C: X``   a command
``A: X``   an answer to 334; not sent to a server that did not give one
``D: X``   message content; not sent to a server that did not give 354
``+ X``    sent together with the line before it
``from``   the client's address, which stands before the first step
``TLS``    the client's side of a TLS handshake; not done with a server that gave no 220
``END``    the client sends nothing more, and reads what still comes
=========  ==========================================================================

In a line ``\\x00`` and its like are octets, ``{text}`` is the text in Base64, and ``{200*x}``
repeats the letter. ``{cram:user:password}`` is the answer to the challenge last given.
Lines that begin with ``#`` are comments.
"""

from __future__ import annotations

import base64
import hmac
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["FILE", "Session", "Step", "octets", "read"]

FILE: Final = Path(__file__).with_name("sessions.txt")

_STEP: Final = re.compile(r"(C|A|D):(?: (.*))?|(TLS|END)")


@dataclass(frozen=True)
class Step:
    """What a client does before it waits for replies.

    :ivar kind: ``C``, ``A``, ``D``, ``TLS`` or ``END``.
    :ivar lines: As they stand in the file.
    """

    kind: str
    lines: list[str] = field(default_factory=list)

    @property
    def shown(self) -> str:
        """The step in a table."""
        if not self.lines:
            return self.kind
        first = self.lines[0] if len(self.lines[0]) <= 60 else self.lines[0][:57] + "..."
        more = len(self.lines) - 1
        return f"{first} (+{more})" if more else first or "(an empty line)"

    @property
    def replies(self) -> int:
        """How many replies are due where all goes well."""
        if self.kind != "D":
            return sum(1 + line.count("\\r\\n") for line in self.lines)
        end = self.lines.index(".") if "." in self.lines else len(self.lines) - 1
        return len(self.lines) - end


@dataclass(frozen=True)
class Session:
    """A name, the client's address, and steps."""

    name: str
    address: str
    steps: list[Step]


def read(text: str) -> list[Session]:
    """Read sessions.

    :raises ValueError: A line is none of those that the module describes.
    """
    sessions: list[Session] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("== "):
            sessions.append(Session(line[3:], "127.0.0.1", []))
        elif line.startswith("from "):
            last = sessions.pop()
            sessions.append(Session(last.name, line[5:], last.steps))
        elif line.startswith("+ ") or line == "+":
            sessions[-1].steps[-1].lines.append(line[2:])
        elif found := _STEP.fullmatch(line):
            lines = [] if found[3] else [found[2] or ""]
            sessions[-1].steps.append(Step(found[1] or found[3], lines))
        elif line and not line.startswith("#"):
            raise ValueError(f"line {number} is no step: {line}")
    return sessions


def octets(line: str, challenge: bytes) -> bytes:
    """Make what is sent of a line, CR LF included.

    :param challenge: What the server's last 334 said, decoded.
    """

    def replacement(found: re.Match[bytes]) -> bytes:
        text = found[1]
        if times := re.fullmatch(rb"(\d+)\*(.*)", text, re.DOTALL):
            return int(times[1]) * times[2]
        if cram := re.fullmatch(rb"cram:([^:]*):(.*)", text):
            digest = hmac.new(cram[2], challenge, "md5").hexdigest()
            text = cram[1] + b" " + digest.encode("ascii")
        return base64.b64encode(text)

    def octet(found: re.Match[str]) -> str:
        return {"r": "\r", "n": "\n", "t": "\t"}.get(found[1]) or chr(int(found[1][1:], 16))

    plain = re.sub(r"\\(x[0-9a-f]{2}|[rnt])", octet, line)
    return re.sub(rb"\{([^{}]*)\}", replacement, plain.encode("latin-1")) + b"\r\n"

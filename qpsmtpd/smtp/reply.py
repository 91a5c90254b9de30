# -*- test-case-name: tests.smtp.test_reply -*-
"""Replies: a code, an enhanced status code, and lines of text (RFC 5321, 4.2; RFC 2034)."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, final

MAX_LINE: Final = 512
"""Octets of a reply line with its CR LF (RFC 5321, 4.5.3.1.5)."""

_STATUS = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")
_LINE_END = re.compile(r"\r\n|\r|\n")
# Tab is text (RFC 5321, 4.2); U+2028 and U+2029 end a line for some readers of logs.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


_new = object.__new__


@lru_cache(maxsize=1024)
def class_of(status: str) -> int:
    """The first digit of an enhanced status code.

    :raises ValueError: It is none.
    """
    if _STATUS.fullmatch(status) is None:
        raise ValueError(f"{status!r} is not an enhanced status code such as '5.7.1'")
    return int(status[0])


@final
class Reply:
    """What the server says to one command. Whatever its text, it is exactly one reply.

    Parts of the text often come from outside. CR LF, CR or LF end a line and begin the next; any
    other control character becomes ``?``; what does not fit into a line goes on in the next one.

    :param code: Three digits, from 200 to 599.
    :param text: One text or several, each of one or more lines.
    :param status: Stands on each line. Its class is the code's first digit, so 3yz have none.

    :raises ValueError: A code or status that does not exist, or two that contradict.
    """

    __slots__ = ("_code", "_lines", "_octets", "_status")

    _octets: bytes | None

    def __init__(self, code: int, text: str | Sequence[str] = "", status: str | None = None):
        if not 200 <= code <= 599:
            raise ValueError(f"a reply code is from 200 to 599, not {code!r}")
        if status is not None and class_of(status) != code // 100:
            raise ValueError(f"the status {status!r} contradicts the code {code}")
        self._code = code
        self._status = status
        if isinstance(text, str):
            self._lines = (text,) if text.isprintable() else tuple(_clean((text,)))
        else:
            self._lines = tuple(_clean(text)) or ("",)
        self._octets = None

    @classmethod
    def plain(cls, line: str, status: str) -> "Reply":
        """Make a 250 of one line that is known to be short and printable.

        It saves the checks, which take half the time of a reply. A line that is not ASCII
        or not short is made in the ordinary way.

        :param status: Of the class 2.
        """
        if len(line) > 400 or not line.isascii():
            return cls(250, line, status)
        reply = _new(cls)
        reply._code = 250
        reply._status = status
        reply._lines = (line,)
        reply._octets = f"250 {status} {line}\r\n".encode()
        return reply

    def led_by(self, line: str) -> "Reply":
        """This reply, with one more line in front of its own.

        Its own are not cleaned and written again, which would take half of the time of the
        EHLO step (``python -m benchmarks messages``).

        :param line: May come from outside, as the constructor's text.
        """
        if not line or len(line) > 490 or not (line.isascii() and line.isprintable()):
            return Reply(self._code, [line, *self._lines], self._status)
        reply = _new(Reply)
        reply._code = self._code
        reply._status = status = self._status
        reply._lines = (line, *self._lines)
        shown = line if status is None else f"{status} {line}"
        reply._octets = f"{self._code}-{shown}\r\n".encode() + self.octets
        return reply

    @property
    def code(self) -> int:
        """The three digits as a number."""
        return self._code

    @property
    def status(self) -> str | None:
        """The enhanced status code, such as ``5.7.1``."""
        return self._status

    @property
    def lines(self) -> tuple[str, ...]:
        """The text, at least one line, without code and status, before long lines are folded."""
        return self._lines

    @property
    def octets(self) -> bytes:
        """The reply as sent: ASCII, with ``?`` for what is not."""
        octets = self._octets
        if octets is None:
            octets = self._octets = self.encode()
        return octets

    @property
    def positive(self) -> bool:
        """Whether the command was done: 2yz."""
        return self._code < 300

    @property
    def intermediate(self) -> bool:
        """Whether the client shall go on with what it began: 3yz."""
        return 300 <= self._code < 400

    @property
    def transient(self) -> bool:
        """Whether the client may try again later: 4yz."""
        return 400 <= self._code < 500

    @property
    def permanent(self) -> bool:
        """Whether the client shall not try again: 5yz."""
        return self._code >= 500

    def encode(self, utf8: bool = False) -> bytes:
        """Give the octets to send.

        :param utf8: Whether the text may go beyond ASCII: the client said ``SMTPUTF8`` (RFC 6531,
            3.7.4).
        """
        status = self._status
        lines = self._lines
        if len(lines) == 1:
            line = lines[0]
            if line and len(line) <= 490 and line.isascii():  # it fits with any code and status
                shown = line if status is None else f"{status} {line}"
                return f"{self._code} {shown}\r\n".encode()
        prefix = b"" if status is None else status.encode("ascii") + b" "
        room = MAX_LINE - len("250-") - len(prefix) - len("\r\n")
        charset = "utf-8" if utf8 else "ascii"
        folded = [
            (prefix + piece).rstrip(b" ") if not piece else prefix + piece
            for line in lines
            for piece in _fold(line.encode(charset, "replace"), room)
        ]
        last = folded.pop()
        code = b"%d" % self._code
        return b"".join(
            [*(code + b"-" + one + b"\r\n" for one in folded), code, b" ", last, b"\r\n"]
        )

    def __repr__(self) -> str:
        text = self._lines[0] if len(self._lines) == 1 else self._lines
        status = "" if self._status is None else f", {self._status!r}"
        return f"Reply({self._code}, {text!r}{status})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reply):
            return NotImplemented
        return (self._code, self._status, self._lines) == (
            other._code,
            other._status,
            other._lines,
        )

    def __hash__(self) -> int:
        return hash((self._code, self._status, self._lines))


def _clean(texts: Iterable[str]) -> Iterable[str]:
    """Split texts into lines that hold no control character; a last line end begins no line."""
    for text in texts:
        lines = _LINE_END.split(text)
        if len(lines) > 1 and not lines[-1]:
            del lines[-1]
        for line in lines:
            yield _CONTROL.sub("?", line)


def _fold(line: bytes, room: int) -> Iterable[bytes]:
    """Cut a line into pieces that fit, at a space if there is one, never inside a character."""
    while len(line) > room:
        cut = line.rfind(b" ", 1, room + 1)
        if cut > 0:
            yield line[:cut]
            line = line[cut + 1 :]
            continue
        cut = room
        while line[cut] & 0xC0 == 0x80:
            cut -= 1
        yield line[:cut]
        line = line[cut:]
    yield line

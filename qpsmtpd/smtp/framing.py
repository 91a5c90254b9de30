"""Message content: where it ends, how it was stuffed, and what it may contain."""

from __future__ import annotations

import re
from typing import Final

from qpsmtpd.smtp.limits import BareNewlines, Limits
from qpsmtpd.smtp.reply import Reply

__all__ = ["END_OF_DATA", "ContentCheck", "dot_split"]

#: The only thing that ends content sent with DATA (RFC 5321, 4.1.1.4).
END_OF_DATA: Final = b"\r\n.\r\n"

_BARE_NEWLINE: Final = Reply(
    550, "Message refused: bare CR or LF; lines end with CR LF (RFC 5321, 2.3.8)", "5.6.0"
)
_TOO_BIG: Final = Reply(552, "Message too big", "5.3.4")
_HEADER_TOO_BIG: Final = Reply(552, "Header section too big", "5.3.4")
_LINE_TOO_LONG: Final = Reply(550, "Message refused: a line is too long", "5.6.0")

_NEWLINE: Final = re.compile(rb"\r\n|\r|\n")


def dot_split(buffer: bytes, start: int, fresh: bool) -> tuple[bytes, int, bool]:
    """Take the content at the front of a buffer, and undo its dot-stuffing (RFC 5321, 4.5.2).

    :param buffer: Octets from the client.
    :param start: Where the content goes on. It never stands between the octets of
        a CR LF or behind one, because those are held back with what follows them.
    :param fresh: Whether no content was taken yet, so that ``start`` begins a line.

    :returns: Content, which may be empty; where the rest begins; whether the end
        of data was passed. Content ends with CR LF where the end was passed.
    """
    if fresh and buffer.startswith(b".", start):
        if buffer.startswith(b".\r\n", start):
            return b"", start + 3, True
        if len(buffer) - start < 3 and b".\r\n".startswith(buffer[start:]):
            return b"", start, False
        start += 1
    found = buffer.find(END_OF_DATA, start)
    if found >= 0:
        content = buffer[start : found + 2]
        after = found + 5
    else:
        after = len(buffer) - _held_back(buffer, start)
        content = buffer[start:after]
    if b"\r\n." in content:
        content = content.replace(b"\r\n.", b"\r\n")
    return content, after, found >= 0


def _held_back(buffer: bytes, start: int) -> int:
    """How many octets at the end of a buffer may be the beginning of the end of data."""
    for length in (4, 3, 2, 1):
        if len(buffer) - start >= length and buffer.endswith(END_OF_DATA[:length]):
            return length
    return 0


class ContentCheck:
    """Holds one message's content against the limits, chunk by chunk.

    :ivar refusal: What the message is refused with, once something was wrong. From then
        on :meth:`take` gives nothing: what is refused is not stored.
    :ivar size: Octets taken.
    :ivar headers_end: Where in the chunk last taken the body begins; -1 if not in it.
    """

    __slots__ = (
        "_bare",
        "_header_size",
        "_held",
        "_limits",
        "_line",
        "_tail",
        "headers_end",
        "refusal",
        "size",
    )

    def __init__(self, limits: Limits, binary: bool = False) -> None:
        self._limits = limits
        #: BODY=BINARYMIME (RFC 3030, 3) has no lines, so no bare newlines either.
        self._bare = BareNewlines.KEEP if binary else limits.bare_newlines
        self._held = b""
        self._header_size = 0  # -1 when the header section has ended
        self._tail = b"\r\n"  # the last octets, where an empty line may have begun
        self._line = 0
        self.refusal: Reply | None = None
        self.size = 0
        self.headers_end = -1

    @property
    def in_headers(self) -> bool:
        """Whether the empty line behind the header section is still to come."""
        return self._header_size >= 0

    def take(self, chunk: bytes, last: bool = False) -> bytes:
        """Check more content.

        :param chunk: Octets, cut anywhere.
        :param last: Whether the content ends with them.

        :returns: What may be stored; empty once the message is refused.
        """
        self.headers_end = -1
        if self.refusal is not None:
            return b""
        if self._bare is not BareNewlines.KEEP:
            chunk = self._newlines(chunk, last)
        length = len(chunk)
        self.size += length
        limits = self._limits
        if limits.message_size and self.size > limits.message_size:
            return self._refuse(_TOO_BIG)
        if self._header_size >= 0 and not self._header(chunk):
            return self._refuse(_HEADER_TOO_BIG)
        if limits.text_line and not self._lines(chunk, length, limits.text_line):
            return self._refuse(_LINE_TOO_LONG)
        return chunk

    def _refuse(self, refusal: Reply) -> bytes:
        self.refusal = refusal
        self.headers_end = -1
        return b""

    def _newlines(self, chunk: bytes, last: bool) -> bytes:
        if self._held:
            chunk = self._held + chunk
            self._held = b""
        if not last and chunk.endswith(b"\r"):
            self._held = b"\r"
            chunk = chunk[:-1]
        # Three counts at C speed: a tenth of what a regular expression takes.
        pairs = chunk.count(b"\r\n")
        if chunk.count(b"\n") == pairs and chunk.count(b"\r") == pairs:
            return chunk
        if self._bare is BareNewlines.REPLACE:
            return _NEWLINE.sub(b"\r\n", chunk)
        return self._refuse(_BARE_NEWLINE)

    def _header(self, chunk: bytes) -> bool:
        """Look for the empty line behind the header section; whether it is within its limit."""
        # An empty line may begin in the chunk before and end in this one.
        joint = self._tail + chunk[:3]
        found = joint.find(b"\r\n\r\n")
        if found >= 0:
            end = found + 4 - len(self._tail)
        else:
            found = chunk.find(b"\r\n\r\n")
            end = found + 4 if found >= 0 else -1
        if end >= 0:
            size = self._header_size + end
            self._header_size = -1
            self.headers_end = end
        else:
            size = self._header_size = self._header_size + len(chunk)
            self._tail = (self._tail + chunk[-3:])[-3:]
        return not self._limits.header_size or size <= self._limits.header_size

    def _lines(self, chunk: bytes, length: int, limit: int) -> bool:
        """Whether no line is longer than the limit."""
        if self._line + length > limit:
            start = -self._line
            while length - start > limit:
                newline = chunk.rfind(b"\n", max(start, 0), start + limit)
                if newline < 0:
                    return False
                start = newline + 1
        newline = chunk.rfind(b"\n")
        self._line = length - newline - 1 if newline >= 0 else self._line + length
        return True

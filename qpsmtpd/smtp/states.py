# -*- test-case-name: tests.smtp.test_states -*-
"""The table of an SMTP session: which command may follow which (RFC 5321, 4.1.4)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from qpsmtpd.smtp.reply import Reply

__all__ = ["AFTER", "ANYWHERE", "State", "out_of_sequence"]


class State(Enum):
    """Where a session stands between two commands."""

    #: The server's greeting was sent; the client has not greeted.
    CONNECTED = "connected"
    #: The client has greeted; no transaction is open.
    READY = "ready"
    #: A transaction is open and has no recipient.
    MAIL = "mail"
    #: A transaction is open and has recipients.
    RCPT = "rcpt"
    #: A part of the message has come with BDAT.
    CHUNKS = "chunks"

    __hash__ = object.__hash__  # an enumeration's own is five times as slow


#: Commands that leave the state as it is and may come at any time (RFC 5321, 4.1.4),
#: and those that mean the same in every state.
ANYWHERE: Final = frozenset({b"NOOP", b"HELP", b"VRFY", b"QUIT", b"EHLO", b"HELO", b"RSET"})

#: Where a positive reply to each command leads. What a row does not list is out of
#: sequence there and gets 503; a negative reply changes nothing. ``RSET`` leads back to the
#: state it was given in where no transaction is open. A second MAIL in a
#: transaction begins a new one, as in qmail-smtpd and in the Perl qpsmtpd.
AFTER: Final[Mapping[State, Mapping[bytes, State]]] = {
    State.CONNECTED: {
        b"EHLO": State.READY,
        b"HELO": State.READY,
        b"RSET": State.CONNECTED,
        b"STARTTLS": State.CONNECTED,
    },
    State.READY: {
        b"EHLO": State.READY,
        b"HELO": State.READY,
        b"RSET": State.READY,
        b"STARTTLS": State.CONNECTED,
        b"AUTH": State.READY,
        b"MAIL": State.MAIL,
    },
    State.MAIL: {
        b"EHLO": State.READY,
        b"HELO": State.READY,
        b"RSET": State.READY,
        b"STARTTLS": State.CONNECTED,
        b"MAIL": State.MAIL,
        b"RCPT": State.RCPT,
    },
    State.RCPT: {
        b"EHLO": State.READY,
        b"HELO": State.READY,
        b"RSET": State.READY,
        b"STARTTLS": State.CONNECTED,
        b"MAIL": State.MAIL,
        b"RCPT": State.RCPT,
        b"DATA": State.READY,
        b"BDAT": State.CHUNKS,
    },
    State.CHUNKS: {
        b"EHLO": State.READY,
        b"HELO": State.READY,
        b"RSET": State.READY,
        b"BDAT": State.CHUNKS,
    },
}

_SAY_HELLO: Final = Reply(503, "Say EHLO or HELO first", "5.5.1")
_MAIL_FIRST: Final = Reply(503, "MAIL first", "5.5.1")
_RCPT_FIRST: Final = Reply(503, "RCPT first", "5.5.1")
_AUTH_TOO_LATE: Final = Reply(503, "AUTH comes before MAIL", "5.5.1")
_CHUNKS_BEGUN: Final = Reply(503, "BDAT or RSET is expected", "5.5.1")


def out_of_sequence(state: State, verb: bytes) -> Reply:
    """The 503 for a command that its state does not list, which says what to do first."""
    if state is State.CHUNKS:
        return _CHUNKS_BEGUN
    if state is State.CONNECTED:
        return _SAY_HELLO
    if verb == b"AUTH":
        return _AUTH_TOO_LATE
    return _RCPT_FIRST if state is State.MAIL else _MAIL_FIRST

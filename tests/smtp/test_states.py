"""Tests for :mod:`qpsmtpd.smtp.states`: every pair of state and command."""

from __future__ import annotations

from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.smtp.commands import PARSERS
from qpsmtpd.smtp.extensions import Extensions
from qpsmtpd.smtp.machine import Event
from qpsmtpd.smtp.reply import Reply
from qpsmtpd.smtp.states import AFTER, ANYWHERE, State
from tests.smtp.conversation import HELLO, MAIL, RCPT, Conversation, usual

_TO_STATE = {
    State.CONNECTED: b"",
    State.READY: HELLO,
    State.MAIL: HELLO + MAIL,
    State.RCPT: HELLO + MAIL + RCPT,
    State.CHUNKS: HELLO + MAIL + RCPT + b"BDAT 1\r\nx",
}
_LINES = {
    "EHLO": HELLO,
    "HELO": b"HELO client.example\r\n",
    "MAIL": MAIL,
    "RCPT": RCPT,
    "DATA": b"DATA\r\nSubject: x\r\n\r\n.\r\n",
    "BDAT": b"BDAT 2\r\nyz",
    "BDAT LAST": b"BDAT 2 LAST\r\nyz",
    "RSET": b"RSET\r\n",
    "NOOP": b"NOOP\r\n",
    "HELP": b"HELP\r\n",
    "VRFY": b"VRFY somebody\r\n",
    "STARTTLS": b"STARTTLS\r\n",
    "AUTH": b"AUTH PLAIN\r\nAA==\r\n",
    "QUIT": b"QUIT\r\n",
}

#: Where a command leads that is accepted. ``-``: 503; ``=``: nowhere; letters: a state.
_STATES = {
    "C": State.CONNECTED,
    "R": State.READY,
    "M": State.MAIL,
    "T": State.RCPT,
    "B": State.CHUNKS,
}
_ACCEPTED = """
             C R M T B
    EHLO     R R R R R
    HELO     R R R R R
    MAIL     - M M M -
    RCPT     - - T T -
    DATA     - - - R -
    BDAT     - - - B B
    BDAT_LAST - - - R R
    RSET     C R R R R
    NOOP     = = = = =
    HELP     = = = = =
    VRFY     = = = = =
    STARTTLS C C C C -
    AUTH     - R - - -
    QUIT     = = = = =
"""
#: Where a command leads that a component refuses. Whoever refuses the message ends its
#: transaction, and so does a MAIL that begins another one.
_REFUSED = """
             C R M T B
    EHLO     = = = = =
    HELO     = = = = =
    MAIL     - = R R -
    RCPT     - - = = -
    DATA     - - - R -
    BDAT     - - - R =
    BDAT_LAST - - - R R
    RSET     = = = = =
    NOOP     = = = = =
    HELP     = = = = =
    VRFY     = = = = =
    STARTTLS = = = = -
    AUTH     - = - - -
    QUIT     = = = = =
"""


def _table(text: str) -> dict[tuple[State, str], str]:
    head, *rows = text.strip().splitlines()
    columns = [_STATES[letter] for letter in head.split()]
    table = {}
    for row in rows:
        verb, *cells = row.split()
        table.update(
            {
                (state, verb.replace("_", " ")): cell
                for state, cell in zip(columns, cells, strict=True)
            }
        )
    return table


def _refuse(event: Event) -> Reply:
    return Reply(550, "No")


class StateTests(SynchronousTestCase):
    def begin(self, state: State) -> Conversation:
        conversation = Conversation(extensions=Extensions(starttls=True))
        conversation.send(_TO_STATE[state])
        self.assertIs(conversation.machine.state, state)
        return conversation

    def walk(self, table: dict[tuple[State, str], str], refuse: bool) -> None:
        for state, verb in product(State, _LINES):
            conversation = self.begin(state)
            conversation.answer = _refuse if refuse else usual
            line = _LINES[verb]
            if refuse and verb in ("DATA", "AUTH"):  # nobody goes on behind a refusal
                line = line[: line.index(b"\n") + 1]
            replies = conversation.send(line)
            where = table[state, verb]
            said = f"{verb} in {state}: {replies}"
            if where == "-":
                self.assertEqual(replies[0], 503, said)
                self.assertIs(conversation.machine.state, state, said)
                continue
            self.assertNotIn(503, replies, said)
            expected = state if where == "=" else _STATES[where]
            self.assertIs(conversation.machine.state, expected, said)

    def test_every_command_in_every_state_accepted(self) -> None:
        """A command is accepted where the table lists it, and leads where it says."""
        self.walk(_table(_ACCEPTED), refuse=False)

    def test_every_command_in_every_state_refused(self) -> None:
        """A command that is refused leaves the session where it was, or ends the transaction."""
        self.walk(_table(_REFUSED), refuse=True)

    def test_out_of_sequence_reaches_nobody(self) -> None:
        """A command out of sequence is no event."""
        for (state, verb), where in _table(_ACCEPTED).items():
            if where == "-":
                conversation = self.begin(state)
                conversation.events.clear()
                line = _LINES[verb]
                end = line.index(b"\n") + 1
                conversation.send(line if verb.startswith("BDAT") else line[:end])
                self.assertEqual(conversation.events, [], (state, verb))

    def test_what_to_do_first(self) -> None:
        """The 503 says which command is missing."""
        for state, verb, hint in (
            (State.CONNECTED, "MAIL", b"Say EHLO or HELO first"),
            (State.CONNECTED, "AUTH", b"Say EHLO or HELO first"),
            (State.READY, "RCPT", b"MAIL first"),
            (State.READY, "DATA", b"MAIL first"),
            (State.MAIL, "DATA", b"RCPT first"),
            (State.MAIL, "AUTH", b"AUTH comes before MAIL"),
            (State.RCPT, "AUTH", b"AUTH comes before MAIL"),
            (State.CHUNKS, "DATA", b"BDAT or RSET is expected"),
            (State.CHUNKS, "MAIL", b"BDAT or RSET is expected"),
        ):
            conversation = self.begin(state)
            conversation.said = b""
            line = _LINES[verb]
            conversation.send(line[: line.index(b"\n") + 1])
            self.assertEqual(conversation.said, b"503 5.5.1 " + hint + b"\r\n", (state, verb))

    def test_the_table_is_whole(self) -> None:
        """Each state has a row, and each verb of a row is a command or leads on from one."""
        known = PARSERS.keys() | {b"RCPT"}
        self.assertEqual(set(AFTER), set(State))
        for row in AFTER.values():
            self.assertLessEqual(row.keys(), known)
        self.assertLessEqual(ANYWHERE, known)
        self.assertEqual({verb.split()[0].encode() for verb in _LINES}, known)

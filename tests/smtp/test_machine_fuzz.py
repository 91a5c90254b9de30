"""Sessions made by a grammar, then damaged, for :mod:`qpsmtpd.smtp.machine`.

Whatever a client sends and however it is cut, the machine raises nothing, keeps little, gives
each command one reply, and says and gives the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.smtp.commands import Auth, Bdat, Data, Ehlo, Mail, Quit, Rcpt, Starttls, Unrecognized
from qpsmtpd.smtp.extensions import Extensions
from qpsmtpd.smtp.limits import BareNewlines, Limits
from qpsmtpd.smtp.machine import HEADERS_END, AuthLine, ContentEnd, Event, Need
from qpsmtpd.smtp.reply import Reply
from tests.smtp.conversation import Conversation, cut

FUZZ = settings(
    derandomize=True,
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow],
)

OFFERED = Extensions(auth=("PLAIN",), starttls=True, dsn=True)
#: How an event may be answered, the likely first. ContentEnd is refused if a limit says so.
CODES: dict[type, tuple[int, ...]] = {
    Ehlo: (250,) * 9 + (550,),
    Mail: (250,) * 9 + (450,),
    Rcpt: (250,) * 6 + (450, 550),
    Data: (354,) * 9 + (554,),
    Bdat: (250,) * 9 + (451,),
    ContentEnd: (250,) * 6 + (451, 550),
    Auth: (334, 334, 334, 235, 535),
    AuthLine: (235, 334, 535),
    Starttls: (220, 454, 454),
    Unrecognized: (500,) * 6 + (250,),
    Quit: (221,),
}

_end = st.sampled_from([b"\r\n"] * 60 + [b"\n", b"\r", b"\r\r\n", b" \r\n", b"\t\r\n"])
_parameters = st.sampled_from(
    [b""] * 8
    + [b" SIZE=100", b" SIZE=1000000", b" SMTPUTF8", b" BODY=BINARYMIME", b" BODY=8BITMIME SIZE=5"]
    + [b" X=1", b" SIZE=1 SIZE=1", b" AUTH=<>"]
)
_paths = st.sampled_from(
    [b"<a@b.example>"] * 10
    + [b"<%b@b>" % (b"l" * size) for size in (63, 64, 65)]
    + [b"<>", b"<Postmaster>", b'<"a b"@c.example>', "<ü@b.example>".encode(), b"a@b", b"<a"]
)
_pieces = [b"Subject: x\r\n", b"\r\n", b"body\r\n", b"..\r\n", b".x\r\n", b"MAIL FROM:<>\r\n"]
_traps = [
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\n.\n",
    b"\n",
    b"\r",
    b"\0\xff",
    b"x" * 70,
    b"\r\n.\r",
]
_text = st.lists(st.sampled_from(_pieces) | st.sampled_from(_pieces + _traps), max_size=8).map(
    b"".join
)


def _line(*parts: bytes | st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """One line of fixed parts and drawn ones."""
    drawn = [part if isinstance(part, st.SearchStrategy) else st.just(part) for part in parts]
    return st.tuples(*drawn, _end).map(b"".join)


_mail = _line(b"MAIL FROM:", _paths, _parameters)
_rcpt = _line(b"RCPT TO:", _paths, st.sampled_from([b"", b"", b" NOTIFY=NEVER", b" SIZE=1"]))
_data = st.tuples(_line(b"DATA"), _text, st.sampled_from([b"\r\n.\r\n"] * 8 + [b".\r\n", b""])).map(
    b"".join
)


def _chunk(octets: bytes, wrong: int, last: bytes) -> bytes:
    return b"BDAT %d%b\r\n%b" % (max(len(octets) + wrong, 0), last, octets)


_bdat = st.builds(
    _chunk, _text, st.sampled_from([0] * 30 + [-1, 1, 30, 10**18]), st.sampled_from([b"", b" LAST"])
)
_auth = st.tuples(
    _line(st.sampled_from([b"AUTH PLAIN", b"AUTH PLAIN AGEAYg==", b"AUTH", b"AUTH LOGIN ="])),
    _line(st.sampled_from([b"", b"AGEAYg==", b"*", b"QUIT", b"x" * 100])),
).map(b"".join)
_hello = _line(st.sampled_from([b"EHLO a.example"] * 8 + [b"HELO a.example", b"EHLO"]))
_simple = [b"RSET", b"NOOP", b"NOOP x", b"VRFY x", b"HELP", b"DATA", b"STARTTLS"]
_wrong = [b"BDAT x", b"BDAT", b"RSET x", b"", b"XVERB x", b"y" * 200, b"STARTTLS x", b"quit x"]
_other = _line(st.sampled_from(_simple + _wrong))
_garbage = st.binary(max_size=30)
_rcpts = st.lists(_rcpt, min_size=1, max_size=4).map(b"".join)
_bdats = st.lists(_bdat, min_size=1, max_size=4).map(b"".join)
_message = st.tuples(_mail, _rcpts, _data | _bdats).map(b"".join)
_loose = st.one_of(_mail, _rcpt, _data, _bdat, _auth, _hello, _other, _garbage)
_step = st.one_of(_message, _message, _message, _auth, _other, _loose)
_phase = st.tuples(_hello, st.lists(_step, min_size=2, max_size=8).map(b"".join)).map(b"".join)


@st.composite
def sessions(draw: st.DrawFn) -> list[bytes]:
    """What a client sends; after STARTTLS was accepted, it goes on with the next item."""
    phases = draw(st.lists(_phase, min_size=1, max_size=3))
    if draw(st.sampled_from([False, False, True])):
        random = Random(draw(st.integers(0, 2**32)))
        phases = [_damaged(phase, random) for phase in phases]
    return phases


def _damaged(octets: bytes, random: Random) -> bytes:
    """Octets with a few pieces lost, doubled, swapped or replaced."""
    data = bytearray(octets)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        piece = bytes(data[at : at + random.randint(0, 12)])
        del data[at : at + random.choice((0, 0, len(piece)))]
        new = random.choice(
            (piece, b"\r", b"\n", b".", b"\r\n", b"\0", b" ", b"\r\n.\r\n", b"DATA\r\n")
        )
        data[at:at] = new
    return bytes(data)


limits = st.builds(
    Limits,
    command_line=st.sampled_from([2048, 2048, 150, 64]),
    auth_line=st.sampled_from([150, 40]),
    text_line=st.sampled_from([0, 0, 200, 60]),
    header_size=st.sampled_from([0, 0, 300, 50, 12]),
    message_size=st.sampled_from([0, 0, 1000, 120, 30]),
    recipients=st.sampled_from([0, 0, 2, 1]),
    errors=st.sampled_from([0, 0, 50, 10, 2]),
    unknown_commands=st.sampled_from([0, 0, 20, 1]),
    idle_commands=st.sampled_from([0, 0, 50, 3]),
    bare_newlines=st.sampled_from(BareNewlines),
)
unparsed = st.sampled_from([frozenset(), frozenset({b"MAIL", b"RCPT", b"EHLO", b"AUTH"})])


class FuzzConversation(Conversation):
    """Answers by the number of the event, so that every segmentation gets the same answers.

    :ivar tls: Whether TLS has just begun, so that what the client sent in clear is lost.
    """

    def __init__(self, limits: Limits, unparsed: frozenset[bytes], seed: int) -> None:
        super().__init__(limits, OFFERED, self._decide)
        self.machine.unparsed = unparsed
        self._random = Random(seed)
        self.tls = False

    def _decide(self, event: Event) -> Reply | None:
        code = self._random.choice(CODES.get(type(event), (250,)))
        if type(event) is Ehlo:
            self.machine.extensions = OFFERED
        if type(event) is ContentEnd and event.refusal is not None:
            return event.refusal
        self.tls = self.tls or (type(event) is Starttls and code == 220)
        return Reply(code, "x")

    def play(self, phases: list[bytes], cuts: Iterable[int]) -> FuzzConversation:
        """Send all phases, cut into segments of the sizes given in turn."""
        sizes = iter(cuts)
        for phase in phases:
            self.tls = False
            at = 0
            while at < len(phase) and not self.tls:
                size = next(sizes)
                self.send(phase[at : at + size])
                at += size
                self.check_memory()
        return self

    def check_memory(self) -> None:
        """What is kept is a part of a line at most."""
        machine = self.machine
        line = max(machine.limits.command_line, machine.limits.auth_line)
        assert len(machine._buffer) == machine.pending < line, len(machine._buffer)
        assert not machine._pending, machine._pending


def forever(*sizes: int) -> Iterable[int]:
    while True:
        yield from sizes


class FuzzTests(SynchronousTestCase):
    @FUZZ
    @given(
        sessions(),
        limits,
        unparsed,
        st.integers(0, 2**32),
        st.lists(st.integers(1, 40), min_size=1, max_size=6),
    )
    def test_cuts_make_no_difference(
        self,
        phases: list[bytes],
        limits: Limits,
        unparsed: frozenset[bytes],
        seed: int,
        sizes: list[int],
    ) -> None:
        """Whole, in pieces, or octet by octet: the same replies, events and end."""
        whole = FuzzConversation(limits, unparsed, seed).play(phases, forever(1 << 20))
        for cuts in (sizes, [1]):
            other = FuzzConversation(limits, unparsed, seed).play(phases, forever(*cuts))
            self.assertEqual(other.said, whole.said)
            self.assertEqual(other.events, whole.events)
            self.assertEqual(list(map(type, other.events)), list(map(type, whole.events)))
            self.assertEqual(other.closed, whole.closed)
            self.assertIs(other.machine.state, whole.machine.state)
            self.assertEqual(other.machine.recipients, whole.machine.recipients)

    @FUZZ
    @given(sessions(), limits, st.integers(0, 2**32))
    def test_plain_commands_are_read_alike(
        self, phases: list[bytes], limits: Limits, seed: int
    ) -> None:
        """Whether commands of the usual kind are read in the shorter way or not."""
        short = FuzzConversation(limits, frozenset(), seed).play(phases, forever(1 << 20))
        longer = FuzzConversation(limits, frozenset(), seed)
        longer.machine._at_once = 0
        longer.play(phases, forever(1 << 20))
        self.assertEqual(short.said, longer.said)
        self.assertEqual(short.events, longer.events)
        self.assertEqual(list(map(type, short.events)), list(map(type, longer.events)))

    @FUZZ
    @given(sessions(), limits, unparsed, st.integers(0, 2**32))
    def test_one_reply_for_each_command(
        self, phases: list[bytes], limits: Limits, unparsed: frozenset[bytes], seed: int
    ) -> None:
        """Each line is answered once, when it ends or is too long; content once, at its end."""
        session = FuzzConversation(limits, unparsed, seed)
        line = 0  # octets of the line, and of the one in an AUTH exchange
        answered = False  # the line that is too long
        for phase in phases:
            if session.tls:
                line = 0
            session.tls = False
            for octet in cut(phase, 1):
                if session.closed or session.tls:
                    break
                receiving = session.machine.receiving
                exchange = self.in_exchange(session)
                replies = session.send(octet)
                self.assertLessEqual(len(replies), 1)
                if receiving:
                    self.assertEqual(len(replies), session.machine.receiving is False)
                    continue
                line += 1
                begins_chunk = session.machine.receiving and replies != [354]
                too_long = not exchange and octet != b"\n" and line == limits.command_line
                expected = (octet == b"\n" and not answered and not begins_chunk) or too_long
                self.assertEqual(len(replies), expected, (phase, line))
                answered = (answered or too_long) and octet != b"\n"
                line = 0 if octet == b"\n" else line
        self.check_events(session)

    def in_exchange(self, session: FuzzConversation) -> bool:
        """Whether the last reply was a 334."""
        return session.said.endswith(b"334 x\r\n")

    def check_events(self, session: FuzzConversation) -> None:
        """Content stands between DATA or BDAT and its end; each header section ends once."""
        ended = 0
        inside = False
        for event in session.events:
            if isinstance(event, Data | Bdat):
                inside = True
                ended = 0
            elif type(event) is ContentEnd:
                self.assertTrue(inside)
                self.assertLessEqual(ended, 1)
                if event.refusal is None:
                    self.assertEqual(ended, 1)
                inside = False
            elif event is HEADERS_END:
                self.assertTrue(inside)
                ended += 1
            elif type(event) is bytes:
                self.assertTrue(inside)
            self.assertNotIsInstance(event, Need)

    @FUZZ
    @given(
        _text, st.sampled_from(BareNewlines), st.lists(st.integers(1, 9), min_size=1, max_size=5)
    )
    def test_stored_content_cannot_smuggle(
        self, text: bytes, bare_newlines: BareNewlines, sizes: list[int]
    ) -> None:
        """Content that is accepted and sent on, stuffed, is one message for the next server."""
        envelope = b"EHLO a.example\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n"
        session = Conversation(Limits(bare_newlines=bare_newlines))
        cuts = iter(forever(*sizes))
        octets = envelope + text + b"\r\n.\r\n"
        while octets:
            size = next(cuts)
            session.send(octets[:size])
            octets = octets[size:]
        end = next(event for event in session.events if type(event) is ContentEnd)
        if end.refusal is not None or bare_newlines is BareNewlines.KEEP:
            return
        self.assertNotRegex(session.content, rb"\r(?!\n)|(?<!\r)\n")
        stuffed = (b"\r\n" + session.content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"
        again = Conversation()
        again.send(envelope + stuffed)
        self.assertEqual(again.content, session.content)
        self.assertEqual((again.count(ContentEnd), again.machine.pending), (1, 0))

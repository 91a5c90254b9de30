"""Tests for :mod:`qpsmtpd.smtp.machine`. Each session is played in several segmentations."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby, product

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.smtp.address import Address
from qpsmtpd.smtp.commands import (
    Auth,
    Bdat,
    Data,
    Ehlo,
    Helo,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Rset,
    Starttls,
    Unparsed,
    Unrecognized,
)
from qpsmtpd.smtp.extensions import Extensions
from qpsmtpd.smtp.framing import END_OF_DATA
from qpsmtpd.smtp.limits import BareNewlines, Limits
from qpsmtpd.smtp.machine import HEADERS_END, AuthLine, ContentEnd, Event, Need, ServerMachine
from qpsmtpd.smtp.reply import Reply
from qpsmtpd.smtp.states import State
from tests.smtp.conversation import (
    DATA,
    ENVELOPE,
    ENVELOPE_CODES,
    HELLO,
    MAIL,
    RCPT,
    Answer,
    Conversation,
    ConversationCase,
    cut,
)

KEEP = Limits(bare_newlines=BareNewlines.KEEP)
REPLACE = Limits(bare_newlines=BareNewlines.REPLACE)
TLS = Extensions(starttls=True)
OK = Reply(250, "OK")


def to(kind: type, code: int, text: str = "No") -> Answer:
    """Answer one kind of event with a code, and the others as usual."""
    return lambda event: Reply(code, text) if type(event) is kind else None


def runs(replies: list[int]) -> list[tuple[int, int]]:
    """Codes of many replies, each with how often it comes in a row."""
    return [(code, len(list(same))) for code, same in groupby(replies)]


class PipeliningTests(ConversationCase):
    def test_greeting_first(self) -> None:
        """Nothing is answered before the session's own greeting was decided."""
        machine = ServerMachine(Limits())
        machine.receive(HELLO)
        self.assertIs(machine.next_event(), Need.REPLY)
        self.assertEqual((machine.outgoing(), machine.pending), (b"", len(HELLO)))
        machine.reply(Reply(220, "mail.example"))
        self.assertEqual(machine.outgoing(), b"220 mail.example\r\n")
        self.assertEqual(machine.next_event(), Ehlo("client.example"))

    def test_pipelined_commands_wait(self) -> None:
        """A command that came early waits for the reply to the one before it (RFC 2920, 3.2)."""
        machine = ServerMachine(Limits())
        machine.reply(Reply(220, "mail.example"))
        machine.receive(HELLO + MAIL)
        self.assertEqual(machine.next_event(), Ehlo("client.example"))
        self.assertIs(machine.next_event(), Need.REPLY)
        self.assertEqual(machine.pending, len(MAIL))
        machine.reply(OK)
        self.assertIsInstance(machine.next_event(), Mail)
        self.assertEqual(machine.pending, 0)

    def test_whole_session(self) -> None:
        """A message and the next one go through in one segment, with one reply each."""
        message = MAIL + RCPT + RCPT + DATA + b"Subject: x\r\n\r\n..body\r\n.\r\n"
        session = self.play(HELLO + message + message + b"QUIT\r\n")
        self.assertEqual(
            session.said.split(b"\r\n"),
            [b"250 OK"]
            + [b"250 OK", b"250 OK", b"250 OK", b"354 Go ahead", b"250 OK"] * 2
            + [b"221 Bye", b""],
        )
        transaction = [
            Mail(Address("a", "client.example"), {}),
            Rcpt(Address("b", "mail.example"), {}),
            Rcpt(Address("b", "mail.example"), {}),
            Data(),
            b"Subject: x\r\n\r\n",
            HEADERS_END,
            b".body\r\n",
            ContentEnd(),
        ]
        self.assertEqual(
            session.events, [Ehlo("client.example"), *transaction, *transaction, Quit()]
        )

    def test_behind_ehlo(self) -> None:
        """Commands in the segment of EHLO are processed in order, though it should be the last."""
        session = self.play(HELLO + b"NOOP 1\r\n" + MAIL + b"NOOP 2\r\n")
        self.assertEqual(
            session.events[1:], [Noop("1"), Mail(Address("a", "client.example"), {}), Noop("2")]
        )

    def test_behind_data(self) -> None:
        """What came early behind DATA is content after a 354."""
        self.assertEqual(self.play(ENVELOPE + b"QUIT\r\n.\r\n").content, b"QUIT\r\n")

    def test_behind_refused_data(self) -> None:
        """What came early behind DATA is commands after a refusal (RFC 2920, 3.1)."""
        session = self.play(ENVELOPE + b"RSET\r\n.\r\nQUIT\r\n", answer=to(Data, 554))
        self.assertEqual(session.content, b"")
        self.assertEqual(session.send(), [])
        self.assertEqual(session.events[-3:], [Rset(), Unrecognized("."), Quit()])
        self.assertEqual(
            session.said.split(b"\r\n")[-5:],
            [b"554 No", b"250 OK", b"500 What?", b"221 Bye", b""],
        )

    def test_behind_quit(self) -> None:
        """Behind QUIT nothing is answered, nor read."""
        session = self.play(HELLO + b"QUIT\r\nNOOP\r\n" + MAIL)
        self.assertEqual(session.events, [Ehlo("client.example"), Quit()])
        self.assertTrue(session.closed)
        self.assertTrue(session.said.endswith(b"221 Bye\r\n"))

    def test_behind_starttls(self) -> None:
        """What came behind STARTTLS in clear is thrown away (RFC 3207, 4.2)."""
        for behind in (b"MAIL FROM:<>\r\n", b"x", b"x" * 5000):
            session = Conversation(extensions=TLS)
            self.assertEqual(session.send(HELLO + b"STARTTLS\r\n" + behind), [250, 220])
            self.assertEqual(session.machine.pending, 0)
            self.assertEqual(session.events[1:], [Starttls()])
            self.assertEqual(session.send(b"MAIL FROM:<a@b.example>\r\n"), [503])
            self.assertEqual(session.send(HELLO + MAIL), [250, 250])

    def test_behind_refused_starttls(self) -> None:
        """When TLS does not begin, the session goes on."""
        octets = HELLO + b"STARTTLS\r\n" + MAIL
        found = self.codes(octets, extensions=TLS, answer=to(Starttls, 454))
        self.assertEqual(found, [250, 454, 250])
        self.assertEqual(self.codes(octets), [250, 502, 250])

    def test_starttls_ends_the_transaction(self) -> None:
        """After STARTTLS the client greets anew, and cannot begin TLS again."""
        session = Conversation(extensions=TLS)
        session.send(HELLO + MAIL + RCPT + b"STARTTLS\r\n")
        machine = session.machine
        self.assertEqual((machine.state, machine.recipients), (State.CONNECTED, 0))
        self.assertEqual(session.send(DATA, b"STARTTLS\r\n"), [503, 502])

    def test_nothing_to_answer(self) -> None:
        """A reply that nothing waits for is a defect of the caller, not a second reply."""
        machine = Conversation().machine
        self.assertRaises(RuntimeError, machine.reply, OK)
        self.assertEqual(machine.outgoing(), b"")

    def test_hold(self) -> None:
        """While somebody is busy with content, no more of it is given."""
        session = Conversation()
        session.send(ENVELOPE)
        machine = session.machine
        machine.receive(b"A: b\r\n\r\nbody\r\n.\r\n")
        self.assertEqual(machine.next_event(), b"A: b\r\n\r\n")
        machine.hold()
        self.assertIs(machine.next_event(), Need.REPLY)
        machine.go_on()
        self.assertIs(machine.next_event(), HEADERS_END)
        self.assertEqual(machine.next_event(), b"body\r\n")
        self.assertEqual(machine.next_event(), ContentEnd())
        machine.go_on()
        self.assertIs(machine.next_event(), Need.REPLY)


class CloseTests(ConversationCase):
    def test_close(self) -> None:
        """A session can be ended at any time, with a last reply (RFC 5321, 3.8)."""
        session = Conversation()
        session.send(ENVELOPE)
        machine = session.machine
        machine.receive(b"A: b\r\n\r\nbody")
        machine.next_event()
        machine.close(Reply(421, "Shutting down", "4.3.2"))
        machine.close(Reply(421, "Again", "4.3.2"))
        self.assertEqual(machine.outgoing(), b"421 4.3.2 Shutting down\r\n")
        self.assertIs(machine.next_event(), Need.CLOSE)

    def test_late_reply(self) -> None:
        """A reply that comes after the session was ended is not said."""
        machine = Conversation().machine
        machine.receive(HELLO)
        machine.next_event()
        machine.close()
        machine.reply(OK)
        self.assertEqual(machine.outgoing(), b"")
        self.assertIs(machine.next_event(), Need.CLOSE)

    def test_octets_after_the_end(self) -> None:
        """What a client sends after the end is not kept."""
        session = Conversation()
        session.send(b"QUIT\r\n")
        session.machine.receive(b"x" * 1000)
        session.machine.receive(b"x" * 1000)
        self.assertEqual(session.machine.pending, 0)


class LineTests(ConversationCase):
    def test_only_cr_lf_ends_a_command(self) -> None:
        """A bare CR or LF in a command is refused, and does not make two commands of it."""
        for line in (
            b"NOOP\n",
            b"NOOP\r\r\n",
            b"NOOP\rRSET\r\n",
            b"NOOP \r\x00\n",
            b"NOOP \r x\r\n",
            b"\n",
            b"\r\r\n",
        ):
            session = self.play(line + b"RSET\r\n")
            self.assertEqual(session.events, [Rset()], line)
            self.assertTrue(session.said.startswith(b"500 5.5.2 Bare CR or LF"), line)

    def test_bare_lf_is_one_command_each(self) -> None:
        """Each LF ends something that is answered, so replies stay in step with commands."""
        self.assertEqual(self.codes(b"NOOP\nNOOP\n" + b"NOOP\r\n"), [500, 500, 250])

    def test_blanks(self) -> None:
        """Blanks before the CR LF are tolerated (RFC 5321, 4.1.1), and more than one before
        the argument.
        """
        for line in (b"RSET ", b"RSET  \t", b"RSET\t"):
            self.assertEqual(self.play(line + b"\r\n").events, [Rset()], line)
        self.assertEqual(self.codes(b"EHLO  a.example\r\nMAIL   FROM:<>\r\n"), [250, 250])

    def test_any_case(self) -> None:
        """A verb may be in any case."""
        session = self.play(b"nOoP x\r\nEhlo client.example\r\n")
        self.assertEqual(session.events, [Noop("x"), Ehlo("client.example")])

    def test_any_case_of_plain_commands(self) -> None:
        """MAIL, RCPT and DATA of the usual kind, which are read in a shorter way, may be too."""
        octets = b"mail from:<a@client.example>\r\nrcpt To:<b@mail.example>\r\ndatA\r\n"
        self.assertEqual(self.play(HELLO + octets).events, self.play(ENVELOPE).events)
        again = self.play(HELLO + MAIL + octets)
        self.assertEqual((again.count(Mail), again.count(Rcpt)), (2, 1))

    def test_any_case_of_plain_greetings(self) -> None:
        """So may EHLO and HELO with a host alone, and QUIT."""
        for octets, command in (
            (b"ehlo a.example", Ehlo("a.example")),
            (b"HelO a.example", Helo("a.example")),
            (b"EHLO b\xc3\xbccher.example", Ehlo("b\u00fccher.example")),
            (b"quIt", Quit()),
        ):
            for read in (octets, octets + b" "):  # in the shorter way, and not
                events = self.play(read + b"\r\n").events
                self.assertEqual(events, [command])
                self.assertIs(type(events[0]), type(command))

    def test_idle_greetings(self) -> None:
        """A client that does nothing but greet is sent away, however its greetings are read."""
        for greeting in (b"EHLO a.example\r\n", b"EHLO  a.example\r\n"):
            self.assertEqual(
                self.codes(greeting * 4, limits=Limits(idle_commands=3)), [250, 250, 250, 421]
            )

    def test_long_plain_paths(self) -> None:
        """A path and its local part have limits (RFC 5321, 4.5.3.1), however they are read."""
        label = b"d" * 60 + b"."
        for path, code in (
            (b"a" * 64 + b"@b.example", 250),
            (b"a" * 65 + b"@b.example", 501),
            (b"abcd@" + label * 4 + b"e" * 5, 250),
            (b"abcde@" + label * 4 + b"e" * 5, 501),
        ):
            self.assertEqual(
                self.codes(HELLO + b"MAIL FROM:<" + path + b">\r\n"), [250, code], path
            )

    def test_unrecognized(self) -> None:
        """A line that begins with no verb is handed on, its first word cut and in lower case."""
        for line, command in (
            (b"", Unrecognized("")),
            (b" NOOP", Unrecognized("", "NOOP")),
            (b"XVERB a  b", Unrecognized("xverb", "a  b")),
            (b"NOOP\tx", Unrecognized("noop\tx")),
            (b"GET / HTTP/1.1", Unrecognized("get", "/ HTTP/1.1")),
            (b"\xff\x00 \xfe", Unrecognized("\ufffd\0", "\ufffd")),
            (b"Y" * 100, Unrecognized("y" * 40)),
        ):
            self.assertEqual(self.play(line + b"\r\n").events, [command], line)

    def test_syntax_error_reaches_nobody(self) -> None:
        """A command that cannot be read is answered by the machine."""
        session = self.play(HELLO + b"MAIL FROM:a\r\nRSET now\r\n")
        self.assertEqual(session.events, [Ehlo("client.example")])


class SmugglingTests(ConversationCase):
    NEWLINES = (b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\r", b"\n\n", b"\r\x00\n")

    def smuggled(self) -> list[bytes]:
        """Content with a lone dot between all pairs of ends of line but the true one."""
        pairs = product(self.NEWLINES, self.NEWLINES)
        ends = {before + b"." + after for before, after in pairs}
        return sorted(end for end in ends if END_OF_DATA not in end)

    def test_rejected(self) -> None:
        """A message with anything like an end of data is refused once, and ends at the true one."""
        for end in self.smuggled():
            content = b"A: b\r\n\r\nbody" + end + MAIL + b"x"
            session = self.play(ENVELOPE + content + END_OF_DATA + b"NOOP\r\n" + MAIL)
            self.assertEqual(session.count(Mail), 2, end)
            replies = session.said.split(b"\r\n")
            self.assertEqual(len(replies), 8, end)
            self.assertEqual(replies[4][:10], b"550 5.6.0 ", end)
            self.assertEqual(replies[5:], [b"250 OK", b"250 OK", b""], end)

    def test_kept(self) -> None:
        """Under KEEP such octets are content as they are, and end nothing."""
        for end in self.smuggled():
            content = b"A: b\r\n\r\nbody" + end + MAIL + b"x\r\n"
            session = self.play(ENVELOPE + content + b".\r\n", KEEP)
            self.assertEqual(session.content, content.replace(b"\r\n.", b"\r\n"), end)
            self.assertEqual(session.count(ContentEnd), 1)

    def test_replaced(self) -> None:
        """Under REPLACE what is stored has only CR LF, so that sent on it ends only once."""
        for end in self.smuggled():
            content = b"A: b\r\n\r\nbody" + end + MAIL + b"x\r\n"
            session = self.play(ENVELOPE + content + b".\r\n", REPLACE)
            self.assertEqual(session.count(ContentEnd), 1)
            stored = session.content
            self.assertNotRegex(stored, rb"\r(?!\n)|(?<!\r)\n")
            stuffed = (b"\r\n" + stored).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"
            again = self.play(ENVELOPE + stuffed, Limits())
            self.assertEqual((again.content, again.count(ContentEnd)), (stored, 1), end)
            self.assertEqual(again.machine.pending, 0)

    def test_at_the_very_beginning(self) -> None:
        """Content that begins with a lone dot and a bare newline does not end there."""
        for limits, end in product(
            (Limits(), KEEP, REPLACE), (b".\n", b".\r\r\n", b".\r", b"\n.\r\n")
        ):
            session = self.play(ENVELOPE + end + MAIL + b".\r\n", limits)
            self.assertEqual((session.count(Mail), session.count(ContentEnd)), (1, 1), end)

    def test_empty_message(self) -> None:
        """The final dot may come first."""
        session = self.play(ENVELOPE + b".\r\n")
        self.assertEqual(session.events[4:], [HEADERS_END, ContentEnd()])

    def test_chunks(self) -> None:
        """Bare newlines in chunks are refused too, also where a chunk cuts a CR LF in two."""
        begun = HELLO + MAIL + RCPT
        good = self.play(begun + b"BDAT 2\r\na\rBDAT 2 LAST\r\n\nb")
        self.assertEqual((good.content, good.events[-1]), (b"a\r\nb", ContentEnd()))
        for octets in (b"BDAT 2\r\na\rBDAT 1 LAST\r\nb", b"BDAT 2\r\na\rBDAT 0 LAST\r\n"):
            self.assertEqual(self.codes(begun + octets), [250, 250, 250, 250, 550])
        for octets in (b"BDAT 2 LAST\r\n\n\r", b"BDAT 3 LAST\r\na\n\r", b"BDAT 1 LAST\r\n\r"):
            self.assertEqual(self.codes(begun + octets), [250, 250, 250, 550])
        replaced = self.play(begun + b"BDAT 2\r\na\rBDAT 0 LAST\r\n", REPLACE)
        self.assertEqual(replaced.content, b"a\r\n")

    def test_binary(self) -> None:
        """With BODY=BINARYMIME a message may hold any octets (RFC 3030, 3)."""
        begun = HELLO + b"MAIL FROM:<> BODY=BINARYMIME\r\n" + RCPT
        for limits in (Limits(text_line=1), replace(REPLACE, text_line=1)):
            session = self.play(begun + b"BDAT 6 LAST\r\n\r.\n\0\xff.", limits)
            self.assertEqual(session.content, b"\r.\n\0\xff.")
            self.assertEqual(session.events[-1], ContentEnd())


class SequenceTests(ConversationCase):
    def test_refused_recipients(self) -> None:
        """DATA needs a recipient that was accepted."""
        found = self.codes(HELLO + MAIL + RCPT + DATA, answer=to(Rcpt, 550))
        self.assertEqual(found, [250, 250, 550, 503])

    def test_second_mail(self) -> None:
        """A second MAIL begins a new transaction, without the first one's recipients."""
        session = self.play(HELLO + MAIL + RCPT + MAIL + DATA)
        self.assertTrue(session.said.endswith(b"\r\n503 5.5.1 RCPT first\r\n"))
        self.assertEqual((session.machine.recipients, session.machine.state), (0, State.MAIL))

    def test_next_transaction(self) -> None:
        """A message, accepted or not, ends the transaction."""
        for code in (250, 451, 550):
            octets = ENVELOPE + b"x\r\n.\r\n" + RCPT + MAIL + RCPT
            found = self.codes(octets, answer=to(ContentEnd, code))
            self.assertEqual(found, [*ENVELOPE_CODES, code, 503, 250, 250])

    def test_data_answered_with_success(self) -> None:
        """DATA that is answered without 354 has no content."""
        found = self.codes(ENVELOPE + b"NOOP\r\n", answer=to(Data, 250))
        self.assertEqual(found, [250, 250, 250, 250, 250])

    def test_utf8_recipients(self) -> None:
        """Recipients outside ASCII are taken in a transaction with SMTPUTF8, and only there."""
        rcpt = "RCPT TO:<jürgen@b.example>\r\n".encode()
        utf8 = b"MAIL FROM:<a@b.example> SMTPUTF8\r\n"
        session = self.play(HELLO + utf8 + rcpt + MAIL + rcpt)
        self.assertEqual(session.count(Rcpt), 1)
        self.assertIn(b"553 5.6.7", session.said)

    def test_refused_mail_leaves_nothing(self) -> None:
        """What a refused MAIL asked for does not hold for the next one."""
        rcpt = "RCPT TO:<jürgen@b.example>\r\n".encode()
        refused = b"MAIL FROM:<> SMTPUTF8 BODY=BINARYMIME\r\n"

        def answer(event: Event) -> Reply | None:
            return Reply(550, "No") if isinstance(event, Mail) and event.parameters else None

        octets = HELLO + refused + MAIL + rcpt + RCPT + DATA + b".\r\n"
        found = self.codes(octets, answer=answer)
        self.assertEqual(found, [250, 550, 250, 553, 250, 354, 250])


class ChunkTests(ConversationCase):
    BEGUN = HELLO + MAIL + RCPT

    def chunks(self, octets: bytes, answer: Answer | None = None) -> Conversation:
        return self.play(self.BEGUN + octets, answer=answer)

    def said(self, session: Conversation) -> list[bytes]:
        return session.said.split(b"\r\n")[3:-1]

    def test_one(self) -> None:
        """A message in one chunk has one reply, when it is complete (RFC 3030, 2)."""
        session = self.chunks(b"BDAT 12 LAST\r\nA: b\r\n\r\nbodyQUIT\r\n")
        self.assertEqual(
            session.events[3:],
            [
                Bdat(12, True, first=True),
                b"A: b\r\n\r\n",
                HEADERS_END,
                b"body",
                ContentEnd(),
                Quit(),
            ],
        )
        self.assertEqual(self.said(session), [b"250 OK", b"221 Bye"])

    def test_several(self) -> None:
        """Each chunk has its reply; only the first and the end of the last are events."""
        session = self.chunks(
            b"BDAT 9\r\nA: b\r\n\r\n.BDAT 0\r\nBDAT 5\r\n\r\n.\r\nBDAT 0 LAST\r\n"
        )
        self.assertEqual(session.events[3], Bdat(9, first=True))
        self.assertEqual(session.content, b"A: b\r\n\r\n.\r\n.\r\n")
        self.assertEqual(session.count(Bdat), 1)
        self.assertEqual(
            self.said(session),
            [
                b"250 2.0.0 9 octets received",
                b"250 2.0.0 9 octets received",
                b"250 2.0.0 14 octets received",
                b"250 OK",
            ],
        )

    def test_nothing(self) -> None:
        """A message of no octets is one."""
        session = self.chunks(b"BDAT 0 LAST\r\n" + MAIL)
        self.assertEqual(session.events[4:6], [HEADERS_END, ContentEnd()])
        self.assertEqual(self.said(session), [b"250 OK", b"250 OK"])

    def test_refused(self) -> None:
        """Of a refused first chunk the octets are passed over before the reply comes."""
        session = Conversation(answer=to(Bdat, 554))
        session.send(self.BEGUN)
        self.assertEqual(session.send(b"BDAT 10\r\nQUIT\r\n"), [])
        self.assertTrue(session.machine.receiving)
        self.assertEqual(session.send(b"xxxxNOOP\r\n"), [554, 250])
        self.assertFalse(session.machine.receiving)
        self.assertIs(session.machine.state, State.READY)

    def test_refused_and_pipelined(self) -> None:
        """Chunks behind a refused one are passed over and get 503."""
        octets = b"BDAT 6\r\nRSET\r\nBDAT 6 LAST\r\nQUIT\r\nBDAT 0 LAST\r\nNOOP\r\n"
        session = self.chunks(octets, answer=to(Bdat, 554))
        self.assertEqual(session.events[3:], [Bdat(6, first=True), Noop()])
        self.assertEqual(
            [line[:3] for line in self.said(session)], [b"554", b"503", b"503", b"250"]
        )

    def test_out_of_sequence(self) -> None:
        """The octets of a chunk that is out of sequence are no commands."""
        for begun in (b"", HELLO, HELLO + MAIL):
            session = self.play(begun + b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")
            self.assertEqual(session.events[-1], Noop())
            self.assertEqual(session.count(Quit), 0)
            self.assertIn(b"503 5.5.1", session.said)

    def test_syntax_error_out_of_sequence(self) -> None:
        """A chunk whose size cannot be read has no octets that could be passed over."""
        self.assertEqual(self.codes(b"BDAT x\r\nNOOP\r\n"), [503, 250])

    def test_not_offered(self) -> None:
        """Without CHUNKING a chunk is passed over, and DATA still works."""
        octets = self.BEGUN + b"BDAT 6 LAST\r\nQUIT\r\n" + DATA + b".\r\n"
        found = self.codes(octets, extensions=Extensions(chunking=False))
        self.assertEqual(found, [250, 250, 250, 502, 354, 250])

    def test_data_behind_a_chunk(self) -> None:
        """DATA and BDAT cannot be mixed in one transaction (RFC 3030, 2)."""
        session = self.chunks(b"BDAT 1\r\nx" + DATA + b"BDAT 1 LAST\r\ny")
        self.assertEqual(session.content, b"xy")
        self.assertEqual([line[:3] for line in self.said(session)], [b"250", b"503", b"250"])

    def test_binary_needs_chunks(self) -> None:
        """BODY=BINARYMIME cannot be sent with DATA (RFC 3030, 3)."""
        octets = HELLO + b"MAIL FROM:<> BODY=BINARYMIME\r\n" + RCPT + DATA + b"BDAT 1 LAST\r\nx"
        self.assertEqual(self.codes(octets), [250, 250, 250, 503, 250])

    def test_abandoned(self) -> None:
        """RSET between chunks ends the transaction; the next BDAT has none."""
        session = self.chunks(b"BDAT 1\r\nxRSET\r\nBDAT 1 LAST\r\ny" + MAIL)
        self.assertEqual(session.count(ContentEnd), 0)
        self.assertEqual(
            [line[:3] for line in self.said(session)], [b"250", b"250", b"503", b"250"]
        )

    def test_too_big(self) -> None:
        """The size of a message is that of all its chunks; the first one too many is refused."""
        limits = Limits(message_size=10)
        exact = b"BDAT 5\r\n12345BDAT 5 LAST\r\n67890"
        self.assertEqual(self.codes(self.BEGUN + exact, limits=limits), [250] * 5)
        more = b"BDAT 5\r\n12345BDAT 6\r\n67890xBDAT 2 LAST\r\nyzNOOP\r\n"
        session = self.play(self.BEGUN + more, limits)
        self.assertEqual(
            [line[:3] for line in self.said(session)], [b"250", b"552", b"503", b"250"]
        )
        self.assertEqual(session.count(ContentEnd), 1)

    def test_huge(self) -> None:
        """A chunk may call itself as big as it likes; what is too big is not kept."""
        session = Conversation(Limits(message_size=1000))
        session.send(self.BEGUN + b"BDAT 99999999999999999999 LAST\r\n")
        for _ in range(100):
            self.assertEqual(session.send(b"x" * 10_000), [])
            self.assertEqual(session.machine.pending, 0)
        self.assertEqual(len(session.content), 1000)
        self.assertFalse(session.closed)


class HeadersEndTests(ConversationCase):
    def play_content(self, content: bytes, limits: Limits | None = None) -> list[Event]:
        """Play content with DATA and with BDAT; what the machine gives must be the same."""
        with_data = self.play(ENVELOPE + content + b".\r\n", limits).events[4:]
        begun = HELLO + MAIL + RCPT
        for size in (len(content), 5, 1):
            parts = [b"BDAT %d\r\n%b" % (len(part), part) for part in cut(content, size)]
            session = self.play(begun + b"".join(parts) + b"BDAT 0 LAST\r\n", limits)
            self.assertEqual(session.events[4:], with_data)
        return with_data

    def test_before_the_body(self) -> None:
        """The end of the header section is told once, before the body."""
        self.assertEqual(
            self.play_content(b"A: b\r\nC: d\r\n\r\nbody\r\n\r\nbody\r\n"),
            [b"A: b\r\nC: d\r\n\r\n", HEADERS_END, b"body\r\n\r\nbody\r\n", ContentEnd()],
        )

    def test_no_header(self) -> None:
        """Content that begins with an empty line has an empty header section."""
        self.assertEqual(
            self.play_content(b"\r\nbody\r\n"), [b"\r\n", HEADERS_END, b"body\r\n", ContentEnd()]
        )

    def test_no_body(self) -> None:
        """Without an empty line the header section ends with the message."""
        self.assertEqual(self.play_content(b"A: b\r\n"), [b"A: b\r\n", HEADERS_END, ContentEnd()])

    def test_empty_body(self) -> None:
        """The header section ends once, also if nothing follows its empty line."""
        self.assertEqual(
            self.play_content(b"A: b\r\n\r\n"), [b"A: b\r\n\r\n", HEADERS_END, ContentEnd()]
        )

    def test_refused(self) -> None:
        """The header section of a message that was refused in it does not end."""
        for limits, content in (
            (Limits(message_size=5), b"A: b\r\n\r\nbody\r\n"),
            (Limits(header_size=7), b"A: b\r\n\r\nbody\r\n"),
            (Limits(), b"A: b\n\r\n\r\nbody\r\n"),
            (Limits(text_line=5), b"A: b\r\n\r\nbody\r\n"),
        ):
            session = self.play(ENVELOPE + content + b".\r\nNOOP\r\n", limits)
            self.assertEqual(session.count(HEADERS_END), 0, limits)
            self.assertIsNotNone(session.events[-2].refusal)  # type: ignore[union-attr]

    def test_refused_in_the_body(self) -> None:
        """A message that is refused in its body had a header section that ended."""
        session = self.play(ENVELOPE + b"A: b\r\n\r\nbody\n.\r\n\r\n.\r\n")
        self.assertEqual(session.events[4:7], [b"A: b\r\n\r\n", HEADERS_END, b"body"])
        self.assertEqual(session.count(ContentEnd), 1)

    def test_not_asked_for(self) -> None:
        """Nobody is told who does not want to know."""
        for content in (b"A: b\r\n\r\nbody\r\n", b"A: b\r\n", b"\n\r\n", b""):
            for size in (1000, 3, 1):
                session = Conversation()
                session.machine.announce_headers = False
                session.send(*cut(ENVELOPE + content + b".\r\nNOOP\r\n", size))
                good = content != b"\n\r\n"
                *stored, end, noop = session.events[4:]
                self.assertEqual(stored, [content] if content and good else [], (content, size))
                assert isinstance(end, ContentEnd)
                self.assertEqual((end.refusal is None, noop), (good, Noop()))


class AuthTests(ConversationCase):
    def test_behind_auth(self) -> None:
        """The line behind AUTH is the client's response, whatever it looks like."""
        session = self.play(HELLO + b"AUTH LOGIN\r\nQUIT\r\nNOOP\r\n")
        self.assertEqual(session.events[1:], [Auth("LOGIN"), AuthLine(b"QUIT"), Noop()])
        self.assertIn(b"\r\n235 Welcome\r\n", session.said)

    def test_several_lines(self) -> None:
        """The exchange goes on as long as it is answered with 334."""
        answers = iter([Reply(334, "b25l"), Reply(334, "dHdv"), Reply(535, "No")] * 3)

        def answer(event: Event) -> Reply | None:
            return next(answers) if isinstance(event, Auth | AuthLine) else None

        found = self.codes(HELLO + b"AUTH LOGIN\r\nb25l\r\n\r\nNOOP\r\n", answer=answer)
        self.assertEqual(found, [250, 334, 334, 535, 250])

    def test_initial_response(self) -> None:
        """An AUTH that is decided at once is followed by commands."""
        octets = HELLO + b"AUTH PLAIN AGEAYg==\r\nNOOP\r\n"
        for code in (235, 454, 535):
            self.assertEqual(self.codes(octets, answer=to(Auth, code)), [250, code, 250])

    def test_line_too_long(self) -> None:
        """A response over its limit, or with a bare newline, is told as none, and answered once."""
        limits = Limits(auth_line=20)
        for line, good in (
            (b"x" * 18 + b"\r\n", True),
            (b"x" * 19 + b"\r\n", False),
            (b"x" * 5000 + b"\r\n", False),
            (b"x\n", False),
            (b"x\r\r\n", False),
        ):
            session = self.play(HELLO + b"AUTH PLAIN\r\n" + line + b"NOOP\r\n", limits)
            octets = line[:-2] if good else None
            self.assertEqual(session.events[2:], [AuthLine(octets), Noop()], line)

    def test_too_long_and_asked_again(self) -> None:
        """A response that was too long takes nothing of the next one with it."""

        def answer(event: Event) -> Reply | None:
            return Reply(334, "") if event == AuthLine(None) else None

        octets = HELLO + b"AUTH PLAIN\r\n" + b"x" * 100 + b"\r\neA==\r\nNOOP\r\n"
        session = self.play(octets, Limits(auth_line=20), answer=answer)
        self.assertEqual(session.events[2:], [AuthLine(None), AuthLine(b"eA=="), Noop()])

    def test_failures_are_errors(self) -> None:
        """Authentications that failed count as errors, and too many of them end the session."""
        octets = HELLO + b"AUTH PLAIN AGEAYg==\r\n" * 5
        found = self.codes(octets, limits=Limits(errors=2), answer=to(Auth, 535))
        self.assertEqual(found, [250, 535, 535, 421])
        found = self.codes(octets, limits=Limits(errors=2), answer=to(Auth, 454))
        self.assertEqual(found, [250, 454, 454, 454, 454, 454])


class LimitTests(ConversationCase):
    def test_command_line(self) -> None:
        """A command of exactly the limit is read; a longer one is refused once, complete or not."""
        limits = Limits(command_line=20)
        exact = b"NOOP " + b"x" * 13 + b"\r\n"
        self.assertEqual(self.codes(exact, limits=limits), [250])
        for more in (1, 2, 19, 20, 21, 5000):
            line = b"NOOP " + b"x" * (13 + more) + b"\r\n"
            self.assertEqual(self.codes(line + exact, limits=limits), [500, 250], more)
            self.assertEqual(self.codes(line[:-1] + b"RSET\r\n", limits=limits), [500], more)
        self.assertEqual(self.codes(exact[:-2] + b"xx", limits=limits), [500])
        self.assertEqual(self.codes(exact[:-2] + b"x", limits=limits), [])

    def test_plain_commands_have_the_same_limit(self) -> None:
        """MAIL and RCPT of the usual kind, which are read in a shorter way, are refused too."""
        limits = Limits(command_line=40)
        for length, code in ((40, 250), (41, 500)):
            domain = b"d" * (length - len(b"MAIL FROM:<a@.example>\r\n"))
            octets = HELLO + b"MAIL FROM:<a@" + domain + b".example>\r\n"
            self.assertEqual(self.codes(octets, limits=limits), [250, code])

    def test_a_line_too_long_ends_in_a_command(self) -> None:
        """What ends a line that was refused is no command, wherever a segment begins."""
        for end in (MAIL, RCPT, DATA, b"QUIT\r\n", b"XVERB\r\n"):
            session = Conversation()
            session.send(HELLO + MAIL + RCPT)
            state = session.machine.state
            self.assertEqual(session.send(b"x" * 3000, end, b"NOOP\r\n"), [500, 250], end)
            self.assertIs(session.machine.state, state)

    def test_a_megabyte_without_a_newline(self) -> None:
        """An endless line is refused once and not kept, among commands and in an AUTH exchange."""
        for begun, replies in ((HELLO, [500]), (HELLO + b"AUTH PLAIN\r\n", [])):
            session = Conversation()
            session.send(begun)
            said: list[int] = []
            for _ in range(256):
                said += session.send(b"x" * 4096)
                self.assertLess(session.machine.pending, session.machine.limits.auth_line)
            self.assertEqual(said, replies)
            self.assertEqual(session.machine._buffer, b"")
            self.assertEqual(session.send(b"\r\nNOOP\r\n")[-1], 250)

    def test_a_megabyte_without_a_newline_in_content(self) -> None:
        """An endless line of content is refused once it is over its limit."""
        session = Conversation(Limits(text_line=100_000, header_size=0))
        session.send(ENVELOPE, *[b"x" * 4096] * 256)
        self.assertEqual((len(session.content), session.machine.pending), (100_000, 0))
        self.assertEqual(session.send(b"\r\n.\r\nNOOP\r\n"), [550, 250])

    def test_errors(self) -> None:
        """One error more than the limit ends the session with 421, instead of its own reply."""
        limits = Limits(errors=3, command_line=60)
        for line in (
            b"RSET now\r\n",
            b"DATA\r\n",
            b"NOOP\n",
            b"BDAT 0\r\n",
            b"STARTTLS\r\n",
            b"x" * 60 + b"\r\n",
        ):
            session = self.play(HELLO + line * 5, limits)
            self.assertTrue(session.closed, line)
            replies = session.said.split(b"\r\n")[1:-1]
            self.assertEqual(len(replies), 4, line)
            self.assertEqual(replies[-1], b"421 4.7.0 Too many errors, closing connection")
            self.assertFalse(self.play(HELLO + line * 3, limits).closed, line)

    def test_errors_in_the_envelope(self) -> None:
        """Parameters that a limit forbids are errors; what policy refuses is not."""
        limits = Limits(errors=3, message_size=10)
        big = b"MAIL FROM:<> SIZE=11\r\n"
        self.assertEqual(self.codes(HELLO + big * 5, limits=limits), [250, 552, 552, 552, 421])
        found = self.codes(HELLO + MAIL * 5, limits=limits, answer=to(Mail, 550))
        self.assertEqual(found, [250, 550, 550, 550, 550, 550])

    def test_unknown_commands(self) -> None:
        """One unknown command more than the limit ends the session."""
        limits = Limits(unknown_commands=2)
        self.assertEqual(self.codes(b"X\r\n" * 5, limits=limits), [500, 500, 421])

    def test_known_to_a_component(self) -> None:
        """A command that a component answers positively is none that nobody knows."""
        found = self.codes(
            b"X\r\n" * 5, limits=Limits(unknown_commands=2), answer=to(Unrecognized, 250)
        )
        self.assertEqual(found, [250] * 5)

    def test_idle_commands(self) -> None:
        """A hundred thousand commands that move no mail end with one 421."""
        session = Conversation()
        replies = session.send(b"RSET\r\n" * 100_000, b"RSET\r\n" * 100_000)
        self.assertEqual(runs(replies), [(250, 100), (421, 1)])
        self.assertTrue(session.closed)
        self.assertEqual(session.machine.pending, 0)

    def test_each_idle_command(self) -> None:
        """Each command that moves no mail counts as such."""

        def later(event: Event) -> Reply | None:
            return None if type(event) is Ehlo else Reply(454, "Later")

        for line in (
            b"NOOP",
            b"VRFY x",
            b"HELP",
            b"EHLO x",
            b"HELO x",
            b"AUTH PLAIN =",
            b"STARTTLS",
        ):
            session = Conversation(Limits(idle_commands=2), TLS, later)
            replies = session.send(HELLO + (line + b"\r\n") * 5)
            self.assertEqual((len(replies), replies[-1]), (3, 421), line)

    def test_a_message_ends_idleness(self) -> None:
        """A message that was accepted begins the count anew, one that was refused does not."""
        limits = Limits(idle_commands=2)
        message = MAIL + RCPT + DATA + b".\r\n"
        octets = HELLO + b"NOOP\r\n" + message + b"NOOP\r\n" * 2
        self.assertEqual(self.codes(octets, limits=limits)[-2:], [250, 250])
        found = self.codes(octets, limits=limits, answer=to(ContentEnd, 550))
        self.assertEqual(found[-2:], [550, 421])

    def test_recipients(self) -> None:
        """Of ten thousand recipients the first thousand are taken, the others get 452."""
        session = Conversation()
        replies = session.send(HELLO + MAIL + RCPT * 10_000 + DATA)
        self.assertEqual(runs(replies), [(250, 1002), (452, 9000), (354, 1)])
        self.assertEqual((session.count(Rcpt), session.machine.recipients), (1000, 1000))

    def test_refused_recipients_do_not_count(self) -> None:
        """Only recipients that were accepted fill the envelope."""
        octets = HELLO + MAIL + RCPT * 3
        limits = Limits(recipients=1)
        self.assertEqual(self.codes(octets, limits=limits), [250, 250, 250, 452, 452])
        found = self.codes(octets, limits=limits, answer=to(Rcpt, 450))
        self.assertEqual(found, [250, 250, 450, 450, 450])

    def test_no_limits(self) -> None:
        """A count of 0 is no limit."""
        limits = Limits(recipients=0, errors=0, unknown_commands=0, idle_commands=0, message_size=0)
        octets = b"DATA\r\nX\r\nNOOP\r\n" + HELLO + MAIL[:-2] + b" SIZE=99999999999\r\n" + RCPT * 3
        self.assertEqual(self.codes(octets, limits=limits), [503, 500, *[250] * 6])
        session = Conversation(limits)
        replies = session.send(b"DATA\r\n" * 200 + b"X\r\n" * 200 + b"NOOP\r\n" * 200)
        self.assertEqual(runs(replies), [(503, 200), (500, 200), (250, 200)])

    def test_message_size(self) -> None:
        """A message of exactly the limit is taken; one octet more is refused, in the end."""
        limits = Limits(message_size=20)
        exact = b"A: b\r\n\r\n" + b"x" * 10 + b"\r\n"
        taken = self.play(ENVELOPE + exact + b".\r\n", limits)
        self.assertEqual((taken.content, taken.events[-1]), (exact, ContentEnd()))
        octets = ENVELOPE + b"x" + exact + b".\r\nNOOP\r\n"
        self.assertEqual(self.codes(octets, limits=limits), [*ENVELOPE_CODES, 552, 250])

    def test_stuffing_does_not_count(self) -> None:
        """The dot that stuffs a line is not a part of the message."""
        octets = ENVELOPE + b"..\r\n.\r\n"
        self.assertEqual(self.codes(octets, limits=Limits(message_size=3))[-1], 250)
        self.assertEqual(self.codes(octets, limits=Limits(message_size=2))[-1], 552)

    def test_size_parameter(self) -> None:
        """A message that is announced as too big is refused at once (RFC 1870, 6.1)."""
        limits = Limits(message_size=1000)
        for size, code in ((b"1000", 250), (b"1001", 552), (b"9" * 20, 552), (b"0", 250)):
            octets = HELLO + b"MAIL FROM:<> SIZE=" + size + b"\r\n"
            self.assertEqual(self.codes(octets, limits=limits), [250, code], size)

    def test_header_size(self) -> None:
        """A header section of ten megabytes is refused, and not kept."""
        session = Conversation()
        session.send(ENVELOPE)
        field = b"X-Field: " + b"x" * 60 + b"\r\n"
        for _ in range(160):
            self.assertEqual(session.send(field * 1000), [])
            self.assertLess(session.machine.pending, 5)
        self.assertEqual(len(session.content), session.machine.limits.header_size)
        self.assertEqual(session.send(b"\r\nbody\r\n.\r\nNOOP\r\n"), [552, 250])
        self.assertEqual(session.count(HEADERS_END), 0)

    def test_text_line(self) -> None:
        """A line of exactly the limit is taken, in header section and body."""
        limits = Limits(text_line=10)
        good = b"A: 45678\r\n\r\n12345678\r\n"
        self.assertEqual(self.codes(ENVELOPE + good + b".\r\n", limits=limits)[-1], 250)
        bad = b"A: 45678\r\n\r\n123456789\r\n"
        self.assertEqual(self.codes(ENVELOPE + bad + b".\r\n", limits=limits)[-1], 550)


class UnparsedTests(ConversationCase):
    ALL = (b"EHLO", b"HELO", b"MAIL", b"RCPT", b"AUTH")

    def test_same_session(self) -> None:
        """A session whose commands components read is the same as any other."""
        utf8 = "RCPT TO:<jürgen@b.example>\r\n".encode()
        octets = (
            b"HELO x\r\n" + HELLO + b"AUTH PLAIN\r\neA==\r\nMAIL FROM:<> SMTPUTF8\r\n" + utf8
            + MAIL + RCPT * 3 + DATA + b"x\r\n.\r\nMAIL FROM:<> BODY=BINARYMIME\r\n"
            + RCPT + DATA + b"BDAT 1 LAST\r\nxMAIL FROM:<> SIZE=101\r\nMAIL FROM:nobody\r\nQUIT\r\n"
        )  # fmt: skip
        limits = Limits(recipients=2, message_size=100)
        usual = self.play(octets, limits)
        unparsed = self.play(octets, limits, unparsed=self.ALL)
        self.assertEqual(unparsed.said, usual.said)
        self.assertEqual(
            unparsed.events[:2], [Unparsed(b"HELO", b"x"), Unparsed(b"EHLO", b"client.example")]
        )
        self.assertEqual(unparsed.count(Unparsed), 13)

    def test_argument(self) -> None:
        """What stands behind the verb is handed over as it is, without blanks around it."""
        session = self.play(HELLO + b"MAIL  FROM: a b  \r\n", unparsed=self.ALL)
        self.assertEqual(session.events[-1], Unparsed(b"MAIL", b"FROM: a b"))
        self.assertTrue(session.said.endswith(b"501 5.5.4 Syntax error: MAIL FROM:<address>\r\n"))

    def test_out_of_sequence(self) -> None:
        """Nobody is asked to read a command that is out of sequence."""
        session = self.play(MAIL + RCPT, unparsed=self.ALL)
        self.assertEqual((session.events, len(session.said) > 0), ([], True))

    def test_limits(self) -> None:
        """Errors, idle commands and recipients have the same limits."""
        bad = b"MAIL FROM:a\r\n" * 5
        found = self.codes(HELLO + bad, limits=Limits(errors=2), unparsed=self.ALL)
        self.assertEqual(found, [250, 501, 501, 421])
        big = b"MAIL FROM:<> SIZE=9\r\n" * 5
        found = self.codes(HELLO + big, limits=Limits(errors=2, message_size=5), unparsed=self.ALL)
        self.assertEqual(found, [250, 552, 552, 421])
        found = self.codes(HELLO * 5, limits=Limits(idle_commands=2), unparsed=self.ALL)
        self.assertEqual(found, [250, 250, 421])
        found = self.codes(
            HELLO + MAIL + RCPT * 3 + DATA, limits=Limits(recipients=1), unparsed=self.ALL
        )
        self.assertEqual(found, [250, 250, 250, 452, 452, 354])


class OutgoingTests(SynchronousTestCase):
    def test_taken_once(self) -> None:
        """Replies are taken once, those of a group together."""
        session = Conversation()
        machine = session.machine
        machine.receive(b"DATA\r\nDATA\r\n")
        machine.next_event()
        octets = b"503 5.5.1 Say EHLO or HELO first\r\n"
        self.assertEqual(machine.outgoing(), octets * 2)
        self.assertEqual(machine.outgoing(), b"")

    def test_receiving(self) -> None:
        """Content is being received from the 354 until its end."""
        session = Conversation()
        machine = session.machine
        states = []
        for octets in (HELLO + MAIL + RCPT, DATA, b"x\r\n", b".\r\n"):
            session.send(octets)
            states.append(machine.receiving)
        self.assertEqual(states, [False, True, True, False])

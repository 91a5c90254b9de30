"""Tests of replies."""

import copy
import pickle
import re

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.smtp.reply import Reply

#: Reply-line of RFC 5321, 4.2, in UTF-8 as RFC 6531, 3.7.4 allows it.
MULTILINE = re.compile(rb"(?:250-[\t -~\x80-\xff]*\r\n)*250 [\t -~\x80-\xff]*\r\n")

hostile_text = st.text(
    alphabet=st.one_of(
        st.sampled_from("\r\n\t\x00\x7f\x85\u2028é 0-"), st.characters(exclude_categories=[])
    ),
    max_size=40,
).flatmap(lambda text: st.sampled_from([text, text * 40]))


class OctetsTests(SynchronousTestCase):
    def test_one_line(self) -> None:
        """A reply is its code, a space, its text and CR LF."""
        self.assertEqual(Reply(250, "sender ok").octets, b"250 sender ok\r\n")

    def test_status(self) -> None:
        """The enhanced status code stands before the text."""
        self.assertEqual(Reply(250, "sender ok", "2.1.0").octets, b"250 2.1.0 sender ok\r\n")

    def test_several_lines(self) -> None:
        """Code and status stand on each line, a hyphen after each code but the last."""
        for text in ("a\r\nb\nc\rd", ["a", "b", "c", "d"], ("a\nb", "c\r\nd\r\n")):
            self.assertEqual(
                Reply(550, text, "5.7.1").octets,
                b"550-5.7.1 a\r\n550-5.7.1 b\r\n550-5.7.1 c\r\n550 5.7.1 d\r\n",
            )

    @given(hostile_text, st.lists(hostile_text, min_size=1, max_size=3))
    def test_led_by(self, line: str, texts: list[str]) -> None:
        """A line put in front of a reply makes the reply that has all of its lines."""
        for status in (None, "2.0.0"):
            whole = Reply(250, [line, *Reply(250, texts, status).lines], status)
            led = Reply(250, texts, status).led_by(line)
            self.assertEqual((led, led.octets), (whole, whole.octets))

    def test_empty_line(self) -> None:
        """An empty line is a line with only the code and does not end the reply early."""
        self.assertEqual(Reply(214, "a\n\nb").octets, b"214-a\r\n214-\r\n214 b\r\n")
        self.assertEqual(Reply(214, "\na\n\n").octets, b"214-\r\n214-a\r\n214 \r\n")
        self.assertEqual(
            Reply(214, "a\n\nb", "2.0.0").octets, b"214-2.0.0 a\r\n214-2.0.0\r\n214 2.0.0 b\r\n"
        )

    def test_no_text(self) -> None:
        """Without text the space after the code is still sent (RFC 5321, 4.2.1)."""
        for text in ("", [], [""], "\n"):
            self.assertEqual(Reply(250, text).octets, b"250 \r\n")
            self.assertEqual(Reply(250, text, "2.0.0").octets, b"250 2.0.0\r\n")

    def test_zero(self) -> None:
        """A line that is just ``0`` is a line as any other."""
        self.assertEqual(Reply(250, "a\n0\nb").octets, b"250-a\r\n250-0\r\n250 b\r\n")

    def test_control_characters(self) -> None:
        """What could steer a terminal or cut a string short becomes a question mark."""
        self.assertEqual(Reply(250, "a\x00b\x1bc\x7fd\x0b\x0ce").octets, b"250 a?b?c?d??e\r\n")
        self.assertEqual(Reply(250, "a\x85b\u2028c\u2029").encode(utf8=True), b"250 a?b?c?\r\n")

    def test_tab(self) -> None:
        """A tab is text (RFC 5321, 4.2)."""
        self.assertEqual(Reply(250, "a\tb").octets, b"250 a\tb\r\n")

    def test_not_ascii(self) -> None:
        """Without SMTPUTF8 a reply is ASCII, with it UTF-8 (RFC 6531, 3.7.4)."""
        reply = Reply(550, "José", "5.1.1")
        self.assertEqual(reply.octets, b"550 5.1.1 Jos?\r\n")
        self.assertEqual(reply.encode(utf8=True), "550 5.1.1 José\r\n".encode())
        self.assertEqual(reply.encode(), reply.octets)

    def test_surrogates(self) -> None:
        """A text that UTF-8 cannot hold does no harm."""
        self.assertEqual(Reply(250, "a\udce9").encode(utf8=True), b"250 a?\r\n")

    def test_longest_line(self) -> None:
        """A line of 512 octets with its CR LF is not folded (RFC 5321, 4.5.3.1.5)."""
        for status, prefix in [(None, b"550 "), ("5.123.123", b"550 5.123.123 ")]:
            text = "x" * (510 - len(prefix))
            self.assertEqual(Reply(550, text, status).octets, prefix + text.encode() + b"\r\n")
            self.assertEqual(
                Reply(550, text + "y", status).octets,
                prefix.replace(b" ", b"-", 1) + text.encode() + b"\r\n" + prefix + b"y\r\n",
            )

    def test_folded_at_space(self) -> None:
        """A long line is folded at the last space that fits."""
        self.assertEqual(
            Reply(250, "a" * 300 + " " + "b" * 205 + " " + "c" * 9).octets,
            b"250-%b %b\r\n250 %b\r\n" % (b"a" * 300, b"b" * 205, b"c" * 9),
        )

    def test_folded_between_characters(self) -> None:
        """Folding does not cut a character in two."""
        self.assertEqual(
            Reply(250, "x" + "é" * 300).encode(utf8=True),
            f"250-x{'é' * 252}\r\n250 {'é' * 48}\r\n".encode(),
        )

    @given(hostile_text, st.sampled_from([None, "2.1.0"]), st.booleans())
    @example("x" * 505 + "\n", None, False)
    @example(" " * 600, "2.1.0", True)
    def test_always_one_reply(self, text: str, status: str | None, utf8: bool) -> None:
        """Whatever the text, what is sent is exactly one reply in lines that fit."""
        octets = Reply(250, text, status).encode(utf8)
        self.assertTrue(MULTILINE.fullmatch(octets), octets)
        octets.decode("utf-8" if utf8 else "ascii")
        lines = octets.split(b"\r\n")[:-1]
        self.assertLessEqual(max(map(len, lines)), 510)
        if status is not None:
            self.assertTrue(all(line[4:].split(b" ")[0] == b"2.1.0" for line in lines))


class ReplyTests(SynchronousTestCase):
    def test_parts(self) -> None:
        """Code, status and clean lines can be read."""
        reply = Reply(550, "no\nnever\x07", "5.7.1")
        self.assertEqual((reply.code, reply.status, reply.lines), (550, "5.7.1", ("no", "never?")))

    def test_severity(self) -> None:
        """A reply is one of positive, intermediate, transient and permanent."""
        for code, severity in [
            *((200, "positive"), (250, "positive"), (299, "positive")),
            *((300, "intermediate"), (354, "intermediate"), (399, "intermediate")),
            *((400, "transient"), (421, "transient"), (499, "transient")),
            *((500, "permanent"), (554, "permanent"), (599, "permanent")),
        ]:
            reply = Reply(code)
            self.assertEqual(
                [
                    name
                    for name in ("positive", "intermediate", "transient", "permanent")
                    if getattr(reply, name)
                ],
                [severity],
            )

    def test_bad_code(self) -> None:
        """A code that is no reply code is an error of the program."""
        for code in (-250, 0, 25, 199, 600, 2500):
            with self.assertRaises(ValueError):
                Reply(code)

    def test_bad_status(self) -> None:
        """So is a status that is none, or that has another class than the code."""
        for code, status in [
            *((250, "2.1"), (250, "2.1.0\r\n"), (250, "2.1.1000"), (250, ""), (250, "x")),
            *((250, "5.1.0"), (550, "4.7.1"), (354, "3.0.0"), (354, "2.0.0"), (450, "5.1.1")),
        ]:
            with self.assertRaises(ValueError):
                Reply(code, "text", status)

    def test_equal(self) -> None:
        """Replies are equal when code, status and lines are."""
        reply = Reply(250, "a\nb", "2.0.0")
        self.assertEqual(reply, Reply(250, ["a", "b"], "2.0.0"))
        self.assertEqual(hash(reply), hash(Reply(250, ["a", "b"], "2.0.0")))
        for other in (Reply(251, "a\nb", "2.0.0"), Reply(250, "a\nb"), Reply(250, "a", "2.0.0")):
            self.assertNotEqual(reply, other)
        self.assertNotEqual(reply, "250 2.0.0 a")

    def test_immutable(self) -> None:
        """Nobody can change a reply that somebody else holds."""
        reply = Reply(250)
        for name in ("code", "status", "lines", "octets", "other"):
            with self.assertRaises(AttributeError):
                setattr(reply, name, None)

    def test_repr(self) -> None:
        """A reply prints as it is made, so that a failing test explains itself."""
        for reply in (Reply(250), Reply(250, "a", "2.0.0"), Reply(550, "a\nb'")):
            self.assertEqual(eval(repr(reply)), reply)

    def test_copies(self) -> None:
        """A reply can be copied and sent to another process."""
        reply = Reply(250, "a", "2.0.0")
        self.assertEqual(copy.deepcopy(reply), reply)
        self.assertEqual(pickle.loads(pickle.dumps(reply)).octets, reply.octets)

    def test_plain(self) -> None:
        """A positive reply that is made in the short way is the same, whatever its line."""
        for line in ("OK", "x" * 400, "x" * 401, "y " * 600, "jürgen@b.example"):
            plain, usual = Reply.plain(line, "2.1.5"), Reply(250, line, "2.1.5")
            self.assertEqual((plain, plain.octets, repr(plain)), (usual, usual.octets, repr(usual)))

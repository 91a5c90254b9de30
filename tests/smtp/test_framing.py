"""Tests for :mod:`qpsmtpd.smtp.framing` and the values of :mod:`qpsmtpd.smtp.limits`."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.smtp.framing import END_OF_DATA, ContentCheck, dot_split, only_pairs
from qpsmtpd.smtp.limits import BareNewlines, Limits
from tests.smtp.conversation import cut

OPEN = Limits(
    message_size=0, header_size=0, text_line=0, recipients=0, bare_newlines=BareNewlines.KEEP
)
#: Content made of what matters only.
contents = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"\r\n\r\n", b"a", b"bc", b"\x00\xff"]),
    max_size=30,
).map(b"".join)


def expected(octets: bytes) -> tuple[bytes, bytes] | None:
    """What RFC 5321, 4.5.2 says in two steps: find the end, then take one dot from each line."""
    whole = b"\r\n" + octets
    end = whole.find(END_OF_DATA)
    if end < 0:
        return None
    stuffed = whole[: end + 2]
    return re.sub(rb"\r\n\.", b"\r\n", stuffed)[2:], whole[end + 5 :]


def unstuffed(segments: list[bytes]) -> tuple[bytes, bytes, bool]:
    """Content of segments; what follows it; whether its end has come."""
    buffer = content = b""
    for number, segment in enumerate(segments, 1):
        part, after, ended = dot_split(buffer + segment, 0, not content)
        buffer = (buffer + segment)[after:]
        content += part
        if ended:
            rest = b"".join(segments[number:])
            return content, buffer + rest, True
    return content, buffer, False


class DotSplitTests(SynchronousTestCase):
    def test_whole(self) -> None:
        """Content ends at CR LF . CR LF, and a dot before each line that had one is taken away."""
        for octets, content, rest in (
            (b".\r\n", b"", b""),
            (b"a\r\n.\r\nQUIT\r\n", b"a\r\n", b"QUIT\r\n"),
            (b"..\r\n.\r\n", b".\r\n", b""),
            (b"a\r\n..\r\n...\r\n.b\r\n.\r\n", b"a\r\n.\r\n..\r\nb\r\n", b""),
            (b"\r\n.\r\n.\r\n", b"\r\n", b".\r\n"),
            (b".\r\r\n.\r\n", b"\r\r\n", b""),
        ):
            self.assertEqual(dot_split(octets, 0, True), (content, len(octets) - len(rest), True))
            self.assertEqual(expected(octets), (content, rest))

    def test_starts_where_it_is_told(self) -> None:
        """What stands before the start is left alone."""
        self.assertEqual(dot_split(b"DATA\r\n.\r\nx", 6, True), (b"", 9, True))
        self.assertEqual(dot_split(b"DATA\r\n.", 6, True), (b"", 6, False))

    def test_only_a_first_line_may_begin_with_the_end(self) -> None:
        """A dot at the front of later octets is content, since they begin inside a line."""
        self.assertEqual(dot_split(b".\r\nx", 0, False), (b".\r\nx", 4, False))

    def test_what_may_be_the_end_is_held_back(self) -> None:
        """Octets that could be the beginning of the end are not content yet."""
        for tail in (b"\r", b"\r\n", b"\r\n.", b"\r\n.\r"):
            self.assertEqual(dot_split(b"abc" + tail, 0, True), (b"abc", 3, False))
        for tail in (b"", b"\n", b".", b"\n.", b"\r\n.x", b"\n.\r\n"):
            split = dot_split(b"abc" + tail, 0, True)
            if not tail.endswith(b"\r\n"):
                self.assertEqual(split[1], 3 + len(tail), tail)
            self.assertFalse(split[2], tail)

    @settings(derandomize=True, deadline=None, max_examples=300)
    @given(contents, st.integers(1, 4))
    def test_cuts_make_no_difference(self, octets: bytes, size: int) -> None:
        """However the octets are cut, content and rest are those of the two steps of the RFC."""
        octets += END_OF_DATA + b"NOOP\r\n"
        for segment in (size, len(octets)):
            content, rest, ended = unstuffed(list(cut(octets, segment)))
            self.assertTrue(ended)
            self.assertEqual((content, rest), expected(octets))

    def test_all_short_contents(self) -> None:
        """What the two steps of the RFC give is given for all contents short enough to try."""
        for length in range(7):
            for octets in map(b"".join, product((b"\r", b"\n", b".", b"a"), repeat=length)):
                found = expected(octets + END_OF_DATA)
                assert found is not None
                for size in (length + 5, 3, 2, 1):
                    content, rest, ended = unstuffed(list(cut(octets + END_OF_DATA, size)))
                    self.assertEqual((content, rest, ended), (*found, True), (octets, size))

    def test_nothing_else_ends_content(self) -> None:
        """Of all lines with a lone dot only CR LF . CR LF ends content, in any segmentation."""
        newlines = (b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\r", b"\r\x00\n", b"")
        for before, after in product(newlines, newlines):
            octets = b"a" + before + b"." + after + b"b"
            really = END_OF_DATA in octets
            self.assertEqual(dot_split(octets, 0, True)[2], really, octets)
            self.assertEqual(unstuffed(list(cut(octets, 1)))[2], really, octets)
        self.assertTrue(dot_split(b"a\r\n.\r\nb", 0, True)[2])


class OnlyPairsTests(SynchronousTestCase):
    def check(self, octets: bytes) -> None:
        """Compare what is found with what a plain definition finds."""
        bare = re.search(rb"\r(?!\n)|(?<!\r)\n", octets)
        self.assertEqual(only_pairs(octets), bare is None, octets)

    def test_all_short_contents(self) -> None:
        """Of all contents short enough to try, those with a CR or LF alone are told."""
        for length in range(8):
            for octets in map(b"".join, product((b"\r", b"\n", b".", b"\xff"), repeat=length)):
                self.check(octets)

    @settings(derandomize=True, deadline=None, max_examples=300)
    @given(contents | st.binary(), st.sampled_from([b"", b"\r", b"\n", b"\r\n"]), contents)
    def test_longer_contents(self, octets: bytes, newline: bytes, rest: bytes) -> None:
        """It is the same with longer ones, and anywhere in them."""
        self.check(octets)
        self.check(octets.replace(b"\r", b"").replace(b"\n", newline) + b"a\r\n" * 1000 + rest)

    def test_other_octets_that_end_lines_elsewhere(self) -> None:
        """Only CR and LF are newlines, whatever the octet and the one before it."""
        for octet in range(256):
            for octets in (b"%c", b"\r\n%c\r\n", b"a%c%c\r\n", b"\r%c\n"):
                self.check(octets.replace(b"%c", bytes([octet])))


class ContentCheckTests(SynchronousTestCase):
    def take(self, octets: bytes, limits: Limits, binary: bool = False) -> tuple[bytes, int]:
        """Check octets, however they are cut; what is stored, and the code of the refusal."""
        found = set()
        for size, late_end in product((len(octets) or 1, 3, 2, 1), (False, True)):
            check = ContentCheck(limits, binary)
            parts = list(cut(octets, size)) + [b""] * (late_end or not octets)
            last = len(parts) - 1
            kept = b"".join(check.take(part, at == last) for at, part in enumerate(parts))
            found.add((kept, check.refusal.code if check.refusal is not None else 0))
        self.assertEqual(len(found), 1, (octets, found))
        return found.pop()

    def test_no_limits(self) -> None:
        """Without limits everything is kept."""
        octets = b"\n\r" * 100 + b"x" * 1000
        self.assertEqual(self.take(octets, OPEN), (octets, 0))

    def test_bare_newlines_refused(self) -> None:
        """Each CR and each LF alone is found, at any place; CR LF is none."""
        limits = replace(OPEN, bare_newlines=BareNewlines.REJECT)
        self.assertEqual(self.take(b"a\r\n\r\nb\r\n", limits), (b"a\r\n\r\nb\r\n", 0))
        for octets, before in (
            (b"\n", b""),
            (b"\r", b""),
            (b"a\nb", b"a"),
            (b"a\rb", b"a"),
            (b"a\r\r\nb", b"a"),
            (b"a\r\n\nb", b"a\r\n"),
            (b"a\n\r\n", b"a"),
            (b"a\r\n\r", b"a\r\n"),
            (b"a\r\n" * 50 + b"\r", b"a\r\n" * 50),
        ):
            self.assertEqual(self.take(octets, limits), (before, 550), octets)

    def test_bare_newlines_replaced(self) -> None:
        """Each CR and each LF alone becomes CR LF; CR LF stays one."""
        limits = replace(OPEN, bare_newlines=BareNewlines.REPLACE)
        for octets, replaced in (
            (b"a\nb\rc\r\nd", b"a\r\nb\r\nc\r\nd"),
            (b"\r\r\n\n", b"\r\n\r\n\r\n"),
            (b"a\r", b"a\r\n"),
            (b"\n.\n", b"\r\n.\r\n"),
        ):
            self.assertEqual(self.take(octets, limits), (replaced, 0), octets)

    def test_all_short_contents(self) -> None:
        """There is no run of newlines, short enough to try them all, that gets through."""
        reject = replace(OPEN, bare_newlines=BareNewlines.REJECT)
        exchange = replace(OPEN, bare_newlines=BareNewlines.REPLACE)
        for length in range(7):
            for octets in map(b"".join, product((b"\r", b"\n", b"a"), repeat=length)):
                bare = re.search(rb"\r(?!\n)|(?<!\r)\n", octets)
                good = (octets, 0) if bare is None else (octets[: bare.start()], 550)
                self.assertEqual(self.take(octets, reject), good, octets)
                replaced = re.sub(rb"\r\n|\r|\n", b"\r\n", octets)
                self.assertEqual(self.take(octets, exchange), (replaced, 0), octets)

    def test_replaced_newlines_count(self) -> None:
        """The size is that of what is stored."""
        limits = replace(OPEN, bare_newlines=BareNewlines.REPLACE, message_size=4)
        self.assertEqual(self.take(b"\n\n", limits), (b"\r\n\r\n", 0))
        self.assertEqual(self.take(b"\n\n\n", limits), (b"\r\n\r\n", 552))

    def test_message_size(self) -> None:
        """A message of exactly the limit is taken, one octet more is refused."""
        limits = replace(OPEN, message_size=10)
        self.assertEqual(self.take(b"x" * 10, limits), (b"x" * 10, 0))
        self.assertEqual(self.take(b"x" * 11, limits), (b"x" * 10, 552))

    def test_header_size(self) -> None:
        """The header section, with its empty line, has a limit of its own; the body has not."""
        limits = replace(OPEN, header_size=10)
        header = b"A: 345\r\n\r\n"
        body = b"x" * 50
        self.assertEqual(self.take(header + body, limits), (header + body, 0))
        self.assertEqual(self.take(b"A: 3456\r\n\r\n" + body, limits), (b"A: 3456\r\n\r", 552))
        self.assertEqual(self.take(b"A" * 11, limits), (b"A" * 10, 552))

    def test_text_line(self) -> None:
        """A line, with its CR LF, of exactly the limit is taken; one octet more is refused."""
        limits = replace(OPEN, text_line=5)
        good = b"abc\r\n\r\nabc\r\nabcde"
        self.assertEqual(self.take(good, limits), (good, 0))
        self.assertEqual(self.take(b"abc\r\nabcd\r\n", limits), (b"abc\r\nabcd\r", 550))
        self.assertEqual(self.take(b"abcdef", limits), (b"abcde", 550))

    def test_binary_has_no_lines(self) -> None:
        """With BODY=BINARYMIME neither newlines nor lines are looked at (RFC 3030, 3)."""
        limits = replace(OPEN, text_line=5, bare_newlines=BareNewlines.REJECT)
        octets = b"\r" + b"x" * 20 + b"\n"
        self.assertEqual(self.take(octets, limits, binary=True), (octets, 0))

    def test_the_first_fault_counts(self) -> None:
        """A message with several faults is refused for the first, however it is cut."""
        limits = replace(
            OPEN, message_size=30, header_size=20, text_line=12, bare_newlines=BareNewlines.REJECT
        )
        for octets, before, code in (
            (b"x" * 12 + b"y\n" + b"z" * 40, b"x" * 12, 550),
            (b"x\r\n" * 6 + b"yyy" + b"\n", b"x\r\n" * 6 + b"yy", 552),
            (b"\r\n" + b"x\r\n" * 9 + b"yy" + b"\n", b"\r\n" + b"x\r\n" * 9 + b"y", 552),
            (b"\r\n" + b"x\r\n" * 9 + b"\n" + b"y" * 40, b"\r\n" + b"x\r\n" * 9, 550),
        ):
            self.assertEqual(self.take(octets, limits), (before, code), octets)

    @settings(derandomize=True, deadline=None, max_examples=300)
    @given(
        contents,
        st.builds(
            Limits,
            message_size=st.integers(0, 30),
            header_size=st.integers(0, 20),
            text_line=st.integers(0, 15),
            bare_newlines=st.sampled_from(BareNewlines),
        ),
        st.booleans(),
    )
    def test_cuts_make_no_difference(self, octets: bytes, limits: Limits, binary: bool) -> None:
        """What is stored and what is refused does not depend on how content is cut."""
        kept, code = self.take(octets, limits, binary)
        if limits.message_size:
            self.assertLessEqual(len(kept), limits.message_size)
        if not code and limits.bare_newlines is not BareNewlines.KEEP and not binary:
            self.assertNotRegex(kept, rb"\r(?!\n)|(?<!\r)\n")

    def test_nothing_behind_a_refusal(self) -> None:
        """From a refused message on, nothing is kept and no header section ends."""
        check = ContentCheck(replace(OPEN, message_size=2))
        self.assertEqual(check.take(b"abc"), b"ab")
        self.assertEqual(check.take(b"\r\n\r\n"), b"")
        self.assertEqual((check.headers_end, check.in_headers), (-1, True))

    def test_where_the_body_begins(self) -> None:
        """The place behind the first empty line is told with the octets that end it, once."""
        for octets, end in (
            (b"\r\nbody", 2),
            (b"A: b\r\n\r\nbody\r\n\r\n", 8),
            (b"A: b\r\nC: d\r\n\r\n", 14),
        ):
            for size in range(1, len(octets) + 1):
                check = ContentCheck(OPEN)
                places = []
                for number, part in enumerate(cut(octets, size)):
                    check.take(part)
                    if check.headers_end >= 0:
                        places.append(number * size + check.headers_end)
                self.assertEqual(places, [end], (octets, size))
                self.assertFalse(check.in_headers)

    def test_no_body(self) -> None:
        """Without an empty line the header section goes on to the end."""
        check = ContentCheck(OPEN)
        check.take(b"A: b\r\n", True)
        self.assertEqual((check.headers_end, check.in_headers), (-1, True))


class LimitsTests(SynchronousTestCase):
    def test_lines_need_a_limit(self) -> None:
        """A line is kept until it is whole, so those two limits cannot be switched off."""
        self.assertRaises(ValueError, Limits, command_line=0)
        self.assertRaises(ValueError, Limits, auth_line=0)

"""Tests for :mod:`qpsmtpd.message`."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.message import BODY_LINE_LIMIT, HEADER_LIMIT, KEPT, HeaderSection, Message
from qpsmtpd.spool import Spool

MAIL = (
    b"Received: from a.example\r\n\tby b.example; now\r\n"
    b"Subject: one\r\n"
    b"SUBJECT: two\r\n"
    b"X-Folded:\r\n  first\r\n\tsecond \r\n"
    b"bogus line\r\n"
    b"X-Spaced :baz\r\n"
    b"\r\n"
    b"body\r\n\r\nmore\r\n"
)
BODY = b"body\r\n\r\nmore\r\n"

#: Octets in which line ends, colons and white space meet often.
mail_like = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.sampled_from(
            [
                b"\r\n",
                b"\r",
                b"\n",
                b" ",
                b"\t",
                b":",
                b"A: b\r\n",
                b"a",
                b"\0",
                b"\xff",
                b"\r\n\r\n",
            ]
        ),
        max_size=30,
    ).map(b"".join),
)


def message(content: bytes, size: int = 1 << 30, limit: int = HEADER_LIMIT) -> Message:
    """Make a message in memory, written in chunks of one size."""
    spool = Spool(1 << 30, None)
    for start in range(0, len(content), size):
        spool.write(content[start : start + size])
    return Message(spool, limit)


class UnchangedTests(SynchronousTestCase):
    @settings(max_examples=400, deadline=None)
    @given(mail_like, st.integers(1, 50), st.integers(1, 60))
    def test_same_octets(self, content: bytes, size: int, limit: int) -> None:
        """What nobody changed is delivered as it came, whether headers were read or not."""
        for header_limit in (limit, HEADER_LIMIT):
            mail = message(content, size, header_limit)
            self.assertEqual(mail.as_bytes(), content)
            section = mail.headers.as_bytes()
            self.assertEqual(mail.as_bytes(), content)
            self.assertFalse(mail.changed)
            self.assertEqual(mail.delivered_size, mail.size)
            body = b"".join(mail.body_chunks())
            self.assertEqual(body, content[mail.header_size :])
            self.assertEqual(b"".join(mail.body_lines()), body)
            self.assertLessEqual(mail.header_size, header_limit)
            # What is written from the parsed fields is the section, up to its last line end.
            head = content[: mail.header_size]
            self.assertIn(head, (section, section + b"\r\n", section[:-2]))

    @settings(max_examples=100, deadline=None)
    @given(mail_like, st.integers(1, 50), st.integers(0, 200))
    def test_cuts_do_not_matter(self, content: bytes, size: int, threshold: int) -> None:
        """However the content is cut and wherever it lies, the message is the same."""
        whole = message(content)
        with TemporaryDirectory() as directory:
            spool = Spool(threshold, directory)
            for start in range(0, len(content), size):
                spool.write(content[start : start + size])
            cut = Message(spool)
            self.assertEqual(cut.header_size, whole.header_size)
            self.assertEqual(list(cut.headers), list(whole.headers))
            self.assertEqual(list(cut.body_lines()), list(whole.body_lines()))
            cut.headers.add("X-New", "x")
            whole.headers.add("X-New", "x")
            self.assertEqual(cut.as_bytes(), whole.as_bytes())
            with cut.open() as file:
                self.assertEqual(file.read(), whole.as_bytes())
            cut.close()

    def test_no_copy(self) -> None:
        """An unchanged message gives the very chunks that were written."""
        spool = Spool(1 << 20, None)
        spool.write(MAIL)
        self.assertIs(next(Message(spool).chunks()), MAIL)


class WhereTheBodyStartsTests(SynchronousTestCase):
    def check(self, content: bytes, header_size: int, delivered: bytes) -> None:
        """Look at the place of the body, and at the message with a field at the top."""
        for size in (1, 1000):
            mail = message(content, size)
            self.assertEqual(mail.header_size, header_size)
            mail.prepend("X-Top", "x")
            self.assertEqual(mail.as_bytes(), delivered)
            self.assertEqual(mail.delivered_size, len(delivered))
            added = message(content, size)
            added.headers.prepend("X-Top", "x")
            self.assertEqual(added.as_bytes(), delivered)
            self.assertEqual(added.delivered_size, len(delivered))

    def test_ordinary(self) -> None:
        """The body starts behind the first empty line."""
        self.check(MAIL, MAIL.index(b"body"), b"X-Top: x\r\n" + MAIL)

    def test_text_from_the_first_line(self) -> None:
        """Text without header fields is all body; new fields end with an empty line."""
        text = b"just text\r\n\r\nA: b\r\n\r\nmore\r\n"
        self.check(text, 0, b"X-Top: x\r\n\r\n" + text)

    def test_folding_of_nothing(self) -> None:
        """White space at the start folds no field, so it is text."""
        self.check(b" a: b\r\n\r\nx", 0, b"X-Top: x\r\n\r\n a: b\r\n\r\nx")

    def test_empty_first_line(self) -> None:
        """An empty line at the start ends an empty header section."""
        self.check(b"\r\nbody\r\n\r\n", 2, b"X-Top: x\r\n\r\nbody\r\n\r\n")

    def test_nothing_at_all(self) -> None:
        """A message without any octet gets just the new field."""
        self.check(b"", 0, b"X-Top: x\r\n")

    def test_no_empty_line(self) -> None:
        """A message of fields only has no body."""
        self.check(b"A: b\r\nC: d\r\n", 12, b"X-Top: x\r\nA: b\r\nC: d\r\n")

    def test_bare_newlines_end_nothing(self) -> None:
        """A bare CR or LF ends no line, so no field and no header section."""
        content = b"A: b\n\nC: d\r\r\r\n\r\nbody"
        self.check(content, content.index(b"body"), b"X-Top: x\r\n" + content)
        self.assertEqual(len(message(content).headers), 1)

    def test_over_the_limit(self) -> None:
        """A section over the limit is cut behind its last whole field; nothing is lost."""
        content = b"A: b\r\nC: d\r\n e\r\nF: g\r\n\r\nbody"
        for limit, size in ((5, 0), (6, 0), (7, 6), (12, 6), (15, 6), (16, 6), (17, 16), (23, 22)):
            mail = message(content, limit=limit)
            self.assertEqual(mail.header_size, size, limit)
            mail.headers.add("X-New", "x")
            self.assertEqual(mail.as_bytes(), content[:size] + b"X-New: x\r\n" + content[size:])
            mail = message(content, limit=limit)
            mail.prepend("X-Top", "x")
            self.assertEqual(mail.as_bytes(), b"X-Top: x\r\n" + content)
        self.assertEqual(message(content, limit=24).header_size, 24)

    def test_exactly_the_limit(self) -> None:
        """A message of fields only that is as long as the limit is all header section."""
        self.assertEqual(message(b"A: b\r\nC: d\r\n", limit=12).header_size, 12)

    def test_asked_while_it_arrives(self) -> None:
        """The header section can be read before the body is complete."""
        spool = Spool(1 << 20, None)
        mail = Message(spool)
        spool.write(b"A: b\r\n\r\nbo")
        self.assertEqual(mail.headers.get("a"), "b")
        spool.write(b"dy")
        self.assertEqual(mail.as_bytes(), b"A: b\r\n\r\nbody")
        self.assertEqual(mail.size, 12)


class QueryTests(SynchronousTestCase):
    def test_get(self) -> None:
        """Names match in any case; values are unfolded and trimmed; an index counts."""
        headers = message(MAIL).headers
        self.assertEqual(headers.get("subject"), "one")
        self.assertEqual(headers.get("Subject", index=1), "two")
        self.assertEqual(headers.get("Subject", index=-1), "two")
        self.assertEqual(headers.get("Subject", "no", 2), "no")
        self.assertIsNone(headers.get("To"))
        self.assertEqual(headers.get("X-Folded"), "first\tsecond")
        self.assertEqual(headers.get("x-spaced"), "baz")
        self.assertEqual(headers.get_all("SUBJECT"), ["one", "two"])
        self.assertEqual(headers.get_all("To"), [])

    def test_presence(self) -> None:
        """Fields can be counted and asked for by name."""
        headers = message(MAIL).headers
        self.assertEqual((headers.count("subject"), headers.count("to")), (2, 0))
        self.assertIn("RECEIVED", headers)
        self.assertNotIn("To", headers)
        self.assertEqual(len(headers), 6)

    def test_iteration(self) -> None:
        """Iterating gives all fields in order as they were written, malformed lines too."""
        fields = list(message(MAIL).headers)
        self.assertEqual(
            [field.name for field in fields],
            ["Received", "Subject", "SUBJECT", "X-Folded", "", "X-Spaced"],
        )
        self.assertEqual(fields[3].raw, b"X-Folded:\r\n  first\r\n\tsecond ")
        self.assertEqual(fields[3].value, "first\tsecond")
        self.assertEqual((fields[4].raw, fields[4].value), (b"bogus line", "bogus line"))

    def test_malformed_lines_have_no_name(self) -> None:
        """No query finds a malformed line, whatever name is asked for."""
        headers = HeaderSection(b"A: b\r\nbogus\r\n: nameless\r\n\xe4\xf6: high\r\n")
        self.assertEqual([field.name for field in headers], ["A", "", "", ""])
        for name in ("", "bogus", "\xe4\xf6", "\udce4\udcf6", ":", "a:"):
            self.assertNotIn(name, headers)
            self.assertEqual((headers.count(name), headers.delete(name)), (0, 0))

    def test_only_ascii_letters_are_alike(self) -> None:
        """A name with a letter that merely lower-cases to ASCII is another name."""
        self.assertNotIn("\u212aey", HeaderSection(b"Key: x\r\n"))

    def test_octets_beyond_ascii(self) -> None:
        """UTF-8 is read as such, anything else as Latin-1."""
        headers = HeaderSection("A: gr\u00fcn\r\n".encode() + b"B: gr\xfcn\r\nC: \xff\0\r\n")
        self.assertEqual(headers.get("A"), "gr\u00fcn")
        self.assertEqual(headers.get("B"), "gr\u00fcn")
        self.assertEqual(headers.get("C"), "\u00ff\0")

    def test_changing_while_iterating(self) -> None:
        """An iteration under way is not disturbed by changes."""
        headers = HeaderSection(b"A: 1\r\nB: 2\r\nC: 3\r\n")
        for field in headers:
            headers.delete(field.name)
        self.assertEqual(len(headers), 0)

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=100))
    def test_hostile_values(self, value: bytes) -> None:
        """Whatever a value holds, reading it raises nothing."""
        for field in message(b"A: " + value + b"\r\n\r\n").headers:
            self.assertIsInstance(field.value, str)
        self.assertIsInstance(message(b"A: " + value).headers.decoded("A"), str)


class EncodedWordTests(SynchronousTestCase):
    def decoded(self, value: str) -> str | None:
        return HeaderSection(f"Subject: {value}\r\n".encode()).decoded("subject")

    def test_both_encodings(self) -> None:
        """Encoded words of both kinds are decoded where they stand (RFC 2047, 4)."""
        self.assertEqual(self.decoded("a =?UTF-8?Q?gr=C3=BCn_?= b"), "a gr\u00fcn  b")
        self.assertEqual(self.decoded("=?iso-8859-1?b?Z3L8bg==?="), "gr\u00fcn")
        self.assertEqual(self.decoded("=?iso-8859-1*en?b?Z3L8bg?="), "gr\u00fcn")

    def test_white_space_between_words(self) -> None:
        """White space between encoded words goes, next to other text it stays (6.2)."""
        self.assertEqual(self.decoded("=?utf-8?q?a?=  =?utf-8?q?b?= c =?utf-8?q?d?="), "ab c d")
        self.assertEqual(self.decoded("=?utf-8?q?a?=\r\n =?iso-8859-1?q?=FC?="), "a\u00fc")

    def test_character_in_two_words(self) -> None:
        """A character that a careless client cut in two is put together."""
        self.assertEqual(self.decoded("=?utf-8?q?=C3?= =?utf-8?q?=BC?="), "\u00fc")

    def test_what_cannot_be_decoded_stays(self) -> None:
        """Broken words and unknown character sets stay as they are."""
        for value in (
            "=?punycode?q?abc?=",
            "=?x-unknown?q?abc?=",
            "=?zlib?b?AAAA?=",
            "=?utf-8?b?A?=",
            "=?utf-8?x?abc?=",
            "=?utf-8?q?abc",
            "=?utf-8?q?gr\u00fcn?=",
        ):
            self.assertEqual(self.decoded(value), value)

    def test_bad_octets(self) -> None:
        """Octets that are wrong in their character set are replaced."""
        self.assertEqual(self.decoded("=?utf-8?q?a=FFb?="), "a\ufffdb")

    def test_character_sets(self) -> None:
        """Each character set that is admitted can be decoded."""
        names = [
            "us-ascii",
            "utf-7",
            "utf8",
            "koi8-r",
            "gb18030",
            "big5-hkscs",
            "euc-kr",
            "tis-620",
        ]
        names += [f"iso-8859-{number}" for number in (*range(1, 12), 13, 14, 15, 16)]
        names += [f"windows-125{number}" for number in range(9)]
        names += ["shift_jis", "iso-2022-jp", "iso-2022-jp-3", "iso-2022-kr", "ks_c_5601-1987"]
        for name in names:
            self.assertEqual(self.decoded(f"=?{name}?q?abc?="), "abc", name)
        self.assertEqual(self.decoded("=?iso-8859-12?q?abc?="), "=?iso-8859-12?q?abc?=")

    def test_default(self) -> None:
        """Without the field the default is given."""
        self.assertEqual(HeaderSection().decoded("Subject", "none"), "none")


class ChangeTests(SynchronousTestCase):
    def delivered(self, change: Callable[[HeaderSection], object]) -> bytes:
        mail = message(MAIL)
        change(mail.headers)
        self.assertTrue(mail.changed)
        octets = mail.as_bytes()
        self.assertEqual(mail.delivered_size, len(octets))
        self.assertEqual(b"".join(mail.content_chunks()), MAIL)
        self.assertEqual(b"".join(mail.body_chunks()), BODY)
        return octets

    def test_add(self) -> None:
        """A field added stands last, and all others are as they were."""
        octets = self.delivered(lambda headers: headers.add("X-New", "gr\u00fcn"))
        self.assertEqual(
            octets, MAIL.replace(b"\r\n\r\nbody", "\r\nX-New: gr\u00fcn\r\n\r\nbody".encode())
        )

    def test_prepend(self) -> None:
        """A field prepended stands first."""
        octets = self.delivered(lambda headers: headers.prepend("X-New", "x"))
        self.assertEqual(octets, b"X-New: x\r\n" + MAIL)

    def test_replace(self) -> None:
        """A field is replaced where it stands; one that is not there is added."""
        octets = self.delivered(lambda headers: headers.replace("subject", "new", 1))
        self.assertEqual(octets, MAIL.replace(b"SUBJECT: two", b"subject: new"))
        octets = self.delivered(lambda headers: headers.replace("To", "x"))
        self.assertEqual(octets, MAIL.replace(b"\r\n\r\nbody", b"\r\nTo: x\r\n\r\nbody"))

    def test_rename(self) -> None:
        """All fields of a name get another one where they stand, folding and all."""
        changed = message(b"A: 1\r\nx-y: 2\r\n\tb\r\nB: 3\r\nX-Y : 4\r\n\r\nbody\r\n")
        self.assertEqual(changed.headers.rename("X-Y", "Z"), 2)
        self.assertEqual(changed.as_bytes(), b"A: 1\r\nZ: 2\r\n\tb\r\nB: 3\r\nZ: 4\r\n\r\nbody\r\n")
        self.assertEqual(changed.headers.get_all("z"), ["2\tb", "4"])
        self.assertEqual(changed.headers.rename("X-Y", "Z"), 0)
        with self.assertRaises(ValueError):
            changed.headers.rename("Z", "a b")

    def test_delete(self) -> None:
        """One field of a name or all of them can be deleted."""
        octets = self.delivered(lambda headers: headers.delete("subject"))
        self.assertEqual(octets, MAIL.replace(b"Subject: one\r\nSUBJECT: two\r\n", b""))
        octets = self.delivered(lambda headers: headers.delete("subject", 0))
        self.assertEqual(octets, MAIL.replace(b"Subject: one\r\n", b""))
        octets = self.delivered(lambda headers: headers.delete("subject", -1))
        self.assertEqual(octets, MAIL.replace(b"SUBJECT: two\r\n", b""))

    def test_delete_where(self) -> None:
        """Of the fields of a name those can be deleted whose values somebody does not want."""
        headers = message(MAIL).headers
        self.assertEqual(headers.delete_where("subject", ("three", "To").__contains__), 0)
        self.assertFalse(headers.changed)
        octets = self.delivered(lambda headers: headers.delete_where("Subject", "two".__eq__))
        self.assertEqual(octets, MAIL.replace(b"SUBJECT: two\r\n", b""))

    def test_delete_tells_how_many(self) -> None:
        """Deleting tells how many fields went, and nothing gone is no change."""
        headers = message(MAIL).headers
        self.assertEqual([headers.delete("To"), headers.delete("subject", 2)], [0, 0])
        self.assertFalse(headers.changed)
        self.assertEqual([headers.delete("subject"), headers.delete("subject")], [2, 0])

    def test_all_fields_deleted(self) -> None:
        """Without fields the empty line still separates; text that never had any stays."""
        mail = message(b"A: b\r\n\r\nC: d\r\n")
        mail.headers.delete("A")
        self.assertEqual(mail.as_bytes(), b"\r\nC: d\r\n")
        mail = message(b"text\r\n")
        mail.headers.add("A", "b")
        self.assertEqual(mail.as_bytes(), b"A: b\r\n\r\ntext\r\n")
        mail.headers.delete("A")
        self.assertEqual(mail.as_bytes(), b"text\r\n")

    def test_queries_see_changes(self) -> None:
        """Each change is seen by the next query."""
        headers = HeaderSection(b"A: 1\r\n")
        self.assertEqual(headers.get_all("a"), ["1"])
        headers.add("a", "2")
        self.assertEqual(headers.get_all("A"), ["1", "2"])
        headers.prepend("A", "0")
        self.assertEqual(headers.get_all("A"), ["0", "1", "2"])
        headers.replace("A", "9", -1)
        self.assertEqual(headers.get_all("A"), ["0", "1", "9"])
        headers.delete("A", 1)
        self.assertEqual(headers.get_all("A"), ["0", "9"])

    def test_refused_values_change_nothing(self) -> None:
        """A value that would break out of its field is refused, and nothing is changed."""
        bad = ["a\r\nB: c", "a\nB: c", "a\r\n\r\nbody", "a\r", "a\n", "a\rb", "a\r\n ", "a\n \n b"]
        for value in bad:
            mail = message(MAIL)
            self.assertRaises(ValueError, mail.prepend, "X", value)
            for method in (mail.headers.add, mail.headers.prepend, mail.headers.replace):
                self.assertRaises(ValueError, method, "Subject", value)
            self.assertEqual(mail.headers.get_all("Subject"), ["one", "two"])
            self.assertEqual(mail.as_bytes(), MAIL)

    def test_refused_names(self) -> None:
        """A name that is no field name is refused."""
        headers = HeaderSection()
        for name in ("", "a b", "a:", "a\r\n", "gr\u00fcn", "a\0", "a\n", "x" * 1000):
            self.assertRaises(ValueError, headers.add, name, "x")

    def test_folding_given(self) -> None:
        """A value that is folded already keeps its folding, with CR LF."""
        headers = HeaderSection()
        headers.add("A", "one\n\ttwo\r\n three ")
        self.assertEqual(headers.as_bytes(), b"A: one\r\n\ttwo\r\n three\r\n")
        self.assertEqual(headers.get("A"), "one\ttwo three")
        headers.add("B", "")
        self.assertEqual(headers.get("B"), "")

    def test_undecodable_text(self) -> None:
        """Octets of a command that came as surrogates are written as they were."""
        headers = HeaderSection()
        headers.add("A", b"gr\xfcn".decode("utf-8", "surrogateescape"))
        self.assertEqual(headers.as_bytes(), b"A: gr\xfcn\r\n")

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["a", " ", "\t", "\u00fc", "\u20ac", "ab "]), st.integers(1, 1500)
            ),
            max_size=5,
        )
    )
    def test_long_lines_are_folded(self, runs: list[tuple[str, int]]) -> None:
        """No line is over 998 octets, none blank, no character cut, no text lost."""
        value = "".join(text * times for text, times in runs)
        headers = HeaderSection()
        headers.add("X-Long", value)
        lines = headers.as_bytes().removesuffix(b"\r\n").split(b"\r\n")
        self.assertLessEqual(max(map(len, lines)), 998)
        for line in lines:
            line.decode()
            self.assertTrue(line.strip(b" \t"))
        for line in lines[1:]:
            self.assertIn(line[:1], (b" ", b"\t"))
        got = headers.get("X-Long") or ""
        self.assertEqual(re.sub("[ \t]", "", got), re.sub("[ \t]", "", value))

    def test_folding_at_white_space_keeps_the_value(self) -> None:
        """A value with white space in reach is the same once unfolded."""
        headers = HeaderSection()
        value = "word " * 1000 + "end"
        headers.add("X-Long", value)
        self.assertEqual(headers.get("X-Long"), value)
        self.assertEqual(headers.as_bytes().count(b"\r\n"), 6)


class PrependTests(SynchronousTestCase):
    def test_order(self) -> None:
        """What is prepended last stands first, before or after the headers were read."""
        mail = message(MAIL)
        mail.prepend("A", "1")
        mail.prepend("B", "2")
        expected = b"B: 2\r\nA: 1\r\n" + MAIL
        self.assertEqual(mail.as_bytes(), expected)
        self.assertTrue(mail.changed)
        self.assertEqual([field.name for field in mail.headers][:3], ["B", "A", "Received"])
        self.assertEqual(mail.as_bytes(), expected)
        mail.prepend("C", "3")
        self.assertEqual(mail.as_bytes(), b"C: 3\r\n" + expected)
        mail.headers.delete("A")
        self.assertEqual(mail.as_bytes(), b"C: 3\r\nB: 2\r\n" + MAIL)

    def test_reads_nothing(self) -> None:
        """Prepending a field does not read the message."""
        mail = message(MAIL)
        mail.spool.close()
        mail.prepend("A", "1")
        self.assertRaises(ValueError, lambda: mail.headers)


class MayHaveTests(SynchronousTestCase):
    @given(mail_like)
    def test_never_missed(self, octets: bytes) -> None:
        """A field that is found by its name was not said to be missing."""
        for name in ("a", "A"):
            if name in message(octets).headers:
                self.assertTrue(message(octets).may_have(name))

    def test_before_and_after_reading(self) -> None:
        """A field that is there is never missed; what is in the body is none."""
        for octets, found in (
            (b"a: 1\r\nSOME-Name: 2\r\n\r\nbody\r\n", True),
            (b"some-name : 2\r\n", True),
            (b"a: 1\r\n\r\nSome-Name: 2\r\n", False),
            (b"X-Some-Name: 2\r\na: some-name: 1\r\n some-name: 1\r\n\r\n", False),
            (b"X-Some-Name: 2\r\nsome-name: 1\r\n\r\n", True),
        ):
            read = message(octets)
            self.assertEqual(read.may_have("Some-Name"), found, octets)
            read.headers.get("a")
            self.assertEqual(read.may_have("Some-Name"), found, octets)
            read.headers.add("Some-Name", "3")
            self.assertTrue(read.may_have("Some-Name"))


class LoweredHeadersTests(SynchronousTestCase):
    def test_whatever_is_done_to_it(self) -> None:
        """What the client sent is given, however often, and whatever was changed since."""
        for size in (1, 7, 1 << 30):
            read = message(MAIL, size)
            for _ in range(2):
                self.assertEqual(read.lowered_headers() + BODY, MAIL.lower())
                read.prepend("A", "1")
                read.headers.delete("Subject")

    def test_large(self) -> None:
        """It may be as large as a header section may be."""
        head = b"X-Large: " + b"x" * KEPT + b"\r\n\r\n"
        for size in (1000, 1 << 30):
            read = message(head + BODY, size)
            for _ in range(2):
                self.assertEqual(read.lowered_headers(), head.lower())

    def test_closed(self) -> None:
        """A closed message gives nothing."""
        read = message(MAIL)
        self.assertTrue(read.lowered_headers())
        read.close()
        self.assertRaises(ValueError, read.lowered_headers)


class BodyLinesTests(SynchronousTestCase):
    def test_lines(self) -> None:
        """Lines come whole with their CR LF, wherever the chunks were cut."""
        content = b"A: b\r\n\r\none\r\n\r\nt\nw\ro\r\r\nlast"
        for size in range(1, len(content) + 1):
            self.assertEqual(
                list(message(content, size).body_lines()),
                [b"one\r\n", b"\r\n", b"t\nw\ro\r\r\n", b"last"],
            )

    def test_endless_line(self) -> None:
        """A line without end comes in pieces, and its CR LF is never cut."""
        body = b"x" * (2 * BODY_LINE_LIMIT + 5) + b"\r\n" + b"y\r\n"
        for size in (65536, 65537, 2 * BODY_LINE_LIMIT + 6):
            lines = list(message(b"\r\n" + body, size).body_lines())
            self.assertEqual(b"".join(lines), body)
            self.assertEqual(lines[-1], b"y\r\n")
            self.assertTrue(lines[-2].endswith(b"x\r\n"))
            self.assertGreater(len(lines), 2)


class OpenTests(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(
        st.sampled_from(["none", "prepend", "replace"]),
        st.booleans(),
        st.lists(st.tuples(st.integers(0, 200), st.integers(0, 60))),
    )
    def test_like_a_file(self, change: str, spilled: bool, reads: list[tuple[int, int]]) -> None:
        """The delivered form can be read, sought in and gone through by lines."""
        with TemporaryDirectory() as directory:
            mail = Message(Spool(1 if spilled else 10_000, directory))
            mail.spool.write(MAIL)
            if change == "prepend":
                mail.prepend("X-Top", "x")
            elif change == "replace":
                mail.headers.replace("Subject", "longer than it was")
            expected = io.BytesIO(mail.as_bytes())
            with mail.open() as file:
                for place, size in reads:
                    self.assertEqual(file.seek(place), expected.seek(place))
                    self.assertEqual(file.read(size), expected.read(size))
                    self.assertEqual(file.tell(), expected.tell())
                self.assertEqual(file.seek(-3, io.SEEK_END), mail.delivered_size - 3)
                self.assertEqual(file.read(), b"e\r\n")
                file.seek(0)
                self.assertEqual(list(file), mail.as_bytes().splitlines(keepends=True))
            mail.close()

    def test_independent(self) -> None:
        """Two open files do not share a position, and outlive the message."""
        with TemporaryDirectory() as directory:
            mail = Message(Spool(1, directory))
            mail.spool.write(MAIL)
            mail.prepend("A", "b")
            expected = mail.as_bytes()
            with mail.open() as one, mail.open() as two:
                self.assertEqual(one.read(20), expected[:20])
                mail.close()
                self.assertEqual(two.read(), expected)
                self.assertEqual(one.read(), expected[20:])


class CloseTests(SynchronousTestCase):
    def test_closed(self) -> None:
        """A closed message cannot be read; closing twice does no harm."""
        mail = message(MAIL)
        self.assertEqual(mail.headers.get("Subject"), "one")
        mail.close()
        mail.close()
        self.assertRaises(ValueError, mail.chunks)
        self.assertRaises(ValueError, mail.body_chunks)
        self.assertRaises(ValueError, mail.open)
        self.assertRaises(ValueError, lambda: mail.headers)


class HostileTests(SynchronousTestCase):
    """Each of these takes hours if some step is quadratic."""

    def check(self, content: bytes) -> Message:
        for size in (65536, 7):
            mail = message(content, size)
            headers = mail.headers
            for field in headers:
                headers.count(field.name)
            headers.decoded("Subject")
            self.assertLessEqual(mail.header_size, HEADER_LIMIT)
            self.assertEqual(mail.as_bytes(), content)
            headers.add("X-New", "x")
            self.assertEqual(mail.delivered_size, len(mail.as_bytes()))
            self.assertEqual(sum(map(len, mail.body_lines())), mail.size - mail.header_size)
        return mail

    def test_one_line(self) -> None:
        """A line of megabytes is text or a field too long: body, in either case."""
        self.assertEqual(self.check(b"a" * 2_000_000).header_size, 0)
        self.assertEqual(self.check(b"Subject: " + b"b" * 2_000_000).header_size, 0)
        self.assertEqual(self.check(b"a" + b" " * 2_000_000).header_size, 0)

    def test_many_fields(self) -> None:
        """Fields without number are read up to the limit."""
        self.assertGreater(self.check(b"a:\r\n" * 500_000).header_size, HEADER_LIMIT - 8)
        self.assertGreater(self.check(b"a:\r\n" + b"b\r\n" * 600_000).header_size, HEADER_LIMIT - 8)

    def test_endless_folding(self) -> None:
        """A field folded without end is too long."""
        self.assertEqual(self.check(b"a: b\r\n" + b" c\r\n" * 500_000).header_size, 0)

    def test_control_characters(self) -> None:
        """NUL, CR and LF by the million are octets like others."""
        for content in (bytes(2_000_000), b"\r" * 2_000_000, b"\n" * 2_000_000, b"a:\n" * 600_000):
            self.assertEqual(self.check(content).header_size, 0)

    def test_encoded_words(self) -> None:
        """Encoded words without number, whole or broken, are decoded in one pass."""
        for word in (b"=?utf-8?q?=41?= ", b"=?utf-8?q?", b"=?", b"=?utf-8?b?A?= "):
            self.check(b"Subject: " + word * (900_000 // len(word)) + b"\r\n\r\n")

    def test_long_value_given(self) -> None:
        """A value of megabytes, with or without white space, is folded in one pass."""
        for value in ("x" * 2_000_000, "x " * 1_000_000, "\u20ac" * 600_000, "x\n y" * 500_000):
            headers = HeaderSection()
            headers.add("X-Long", value)
            self.assertLessEqual(max(map(len, headers.as_bytes().split(b"\r\n"))), 998)

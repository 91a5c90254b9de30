"""Tests of addresses."""

import copy
import pickle
import string
import unicodedata

from hypothesis import assume, example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.smtp.address import NULL_PATH, Address, AddressError, parse_path

ATEXT = string.ascii_letters + string.digits + "!#$%&'*+-/=?^_`{|}~"
LET_DIG = string.ascii_letters + string.digits

dot_strings = st.lists(st.text(ATEXT, min_size=1, max_size=12), min_size=1, max_size=4).map(
    ".".join
)
printable = st.characters(min_codepoint=32, max_codepoint=126)
letters = st.characters(categories=["L", "Nd"], min_codepoint=0x80)
local_parts = st.one_of(
    dot_strings,
    st.text(printable, max_size=30),
    st.text(st.one_of(printable, letters), max_size=12),
)
labels = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,10}[a-zA-Z0-9])?", fullmatch=True)
u_labels = st.text(st.one_of(st.sampled_from(LET_DIG), letters), min_size=1, max_size=10)
domains = st.one_of(
    st.lists(labels, min_size=1, max_size=4).map(".".join),
    st.lists(u_labels, min_size=1, max_size=3).map(".".join),
    st.ip_addresses(v=4).map("[{}]".format),
    st.ip_addresses(v=6).map("[IPv6:{}]".format),
)
#: Octets of the kind that comes near to a path.
near_paths = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    b"<",
                    b">",
                    b"@",
                    b".",
                    b",",
                    b":",
                    b'"',
                    b"\\",
                    b"[",
                    b"]",
                    b"IPv6:",
                    b"-",
                    b" ",
                ),
                *(b"postmaster", b"example", b"192.0.2.1", b"\x00", b"\r\n", "é".encode(), b"\xe9"),
                *("\u2028".encode(), "。".encode(), b"%", b"a" * 64, b"a." * 126),
            ]
        ),
        st.binary(max_size=4),
    ),
    max_size=12,
).map(b"".join)


class ParseTests(SynchronousTestCase):
    def accept(self, path: str, local_part: str, domain: str | None, text: str = "") -> None:
        address = parse_path(path.encode(), utf8=not path.isascii())
        self.assertEqual(
            (address.local_part, address.domain, str(address)), (local_part, domain, text or path)
        )

    def refuse(self, path: str | bytes, why: str, utf8: bool = False) -> None:
        octets = path.encode() if isinstance(path, str) else path
        error = self.assertRaises(AddressError, parse_path, octets, utf8)
        self.assertEqual(str(error), why, octets)

    def test_plain(self) -> None:
        """A mailbox is its local part and its domain, in the case given."""
        self.accept("<foo@example.com>", "foo", "example.com")
        self.accept("<FOO@EXAMPLE.com>", "FOO", "EXAMPLE.com")
        self.accept("<foo@foo.x.example.com>", "foo", "foo.x.example.com")
        self.accept("<foo@localhost>", "foo", "localhost")
        self.accept("<a@xn--bcher-kva.example>", "a", "xn--bcher-kva.example")
        self.accept("<foo@192.0.2.1>", "foo", "192.0.2.1")

    def test_atom_characters(self) -> None:
        """What an atom may hold is not quoted."""
        for local_part in ("foo+tag", "a%b", "a!b", "o'neil", "foo$", "a/b=c?d^e_f", "#`{|}~&*"):
            self.accept(f"<{local_part}@example.org>", local_part, "example.org")

    def test_null_path(self) -> None:
        """The empty path has neither part."""
        self.accept("<>", "", None)
        self.assertEqual(parse_path(b"<>"), NULL_PATH)

    def test_postmaster(self) -> None:
        """Postmaster alone needs no domain, in any case of letters (RFC 5321, 4.5.1)."""
        for path in ("<postmaster>", "<Postmaster>", "<POSTMASTER>"):
            self.accept(path, "postmaster", None, "<postmaster>")
        self.accept("<Postmaster@example.org>", "Postmaster", "example.org")
        for path in ("<abuse>", "<foo>", '<"postmaster">'):
            self.refuse(path, "the domain is missing")

    def test_source_route(self) -> None:
        """A source route is accepted and ignored (RFC 5321, 4.1.1.3)."""
        self.accept("<@a.com,@b.com:joe@c.com>", "joe", "c.com", "<joe@c.com>")
        self.accept("<@a:postmaster@test>", "postmaster", "test", "<postmaster@test>")
        self.accept("<@é.example:joe@c.com>", "joe", "c.com", "<joe@c.com>")
        self.accept('<@a:"x y"@[192.0.2.1]>', "x y", "[192.0.2.1]", '<"x y"@[192.0.2.1]>')

    def test_bad_source_route(self) -> None:
        """What begins as a source route and is none is refused."""
        for path in ("<@foo>", "<@192.168.1.1>", "<@a,b:joe@c.com>", "<@a.:joe@c.com>", "<@:j@c>"):
            self.refuse(path, "the local part is missing")
        for path in ("<@a:>", "<@a:postmaster>"):
            self.refuse(path, "the domain is missing")

    def test_quoted(self) -> None:
        """Quotes and backslashes are not part of a local part, and are written where needed."""
        self.accept('<"foo bar"@example.com>', "foo bar", "example.com")
        self.accept(r'<"foo\"bar"@example.com>', 'foo"bar', "example.com")
        self.accept(r'<"foo\\bar"@example.com>', r"foo\bar", "example.com")
        self.accept('<""@example.com>', "", "example.com")
        self.accept('<"a@b"@c.com>', "a@b", "c.com")
        self.accept('<"a..b."@c.com>', "a..b.", "c.com")
        self.accept('<"foo.bar"@c.com>', "foo.bar", "c.com", "<foo.bar@c.com>")
        self.accept(r'<"f\oo\@"@c.com>', "foo@", "c.com", '<"foo@"@c.com>')
        self.accept(
            '<"musa_ibrah@caramail.comandrea.luger"@wifo.ac.at>',
            "musa_ibrah@caramail.comandrea.luger",
            "wifo.ac.at",
        )

    def test_bad_local_part(self) -> None:
        """All of a local part is checked, not only its first character."""
        for local_part in (
            *("foo bar", "foo ", " foo", "foo..bar", "foo.", ".foo", "a@b", "foo(x)", "(x)", "a,b"),
            *("a;b", "a[b", "foo>bar", "<foo", 'foo"bar', 'x."a b"', '"a b".c', '"foo', '"'),
            *('a\\"', '"\\"', '"a\tb"', '"a"b"', "a\x00", "a\r\nb", '"a\r\nb"', '"\\\n"', "\x7f"),
        ):
            self.refuse(f"<{local_part}@example.com>", "the local part is not valid")
        self.refuse("<@example.com>", "the local part is missing")

    def test_bad_domain(self) -> None:
        """Only dots stand between labels, which are letters, digits and inner hyphens."""
        for domain in (
            *("example.com.", "example.com ", "example.com#", "-bad.com", "bad-.com", "a..b", ""),
            *(".a", "a_b.com", "exa mple.com", "a,b", "a\x00b", "a\r\nb", "a\n", "l" * 64 + ".com"),
        ):
            self.refuse(f"<foo@{domain}>", "the domain is not valid")

    def test_address_literal(self) -> None:
        """A domain may be an IPv4 address, or an IPv6 address with its tag in any case."""
        for literal in (
            *("[192.0.2.1]", "[10.0.255.7]", "[IPv6:2001:db8::1]", "[ipv6:::1]", "[IPV6:::]"),
            *("[IPv6:::ffff:192.0.2.1]", "[IPv6:2001:DB8:1:2:3:4:5:6]"),
        ):
            self.accept(f"<foo@{literal}>", "foo", literal)

    def test_bad_address_literal(self) -> None:
        """The numbers of a literal are checked, and other kinds of literals are refused."""
        for literal in (
            "[]",
            "[::1]",
            "[2001:db8::1]",
            "[X400:foo]",
            "[192.0.2.1",
            "[192.0.2]",
            "[",
        ):
            self.refuse(f"<foo@{literal}>", "the address literal is neither IPv4 nor IPv6")
        for literal in (
            *("[999.1.1.1]", "[192.0.2.256]", "[192.0.2.01]", "[IPv6:::1::]", "[IPv6:1:2]"),
            *("[IPv6:::ffff:192.0.2.256]", "[IPv6:12345::]", "[IPv6:192.0.2.1]"),
        ):
            self.refuse(f"<foo@{literal}>", "the address literal is out of range")
        self.refuse("<foo@[IPv6:fe80::1%eth0]>", "the address literal is neither IPv4 nor IPv6")

    def test_brackets(self) -> None:
        """A path stands in brackets, and nothing stands around them."""
        for path in (
            "",
            "<",
            ">",
            "foo@example.com",
            "<foo@example.com",
            "foo@x>",
            " <>",
            "<> ",
            "<>\n",
        ):
            self.refuse(path, "a path stands in angle brackets")
        self.refuse("<<foo@example.com>>", "the local part is not valid")

    def test_double_bounce(self) -> None:
        """The double bounce sender of qmail is no path; who takes it compares the octets."""
        self.refuse("<#@[]>", "the address literal is neither IPv4 nor IPv6")

    def test_limits(self) -> None:
        """Local part and path have their limits (RFC 5321, 4.5.3.1)."""
        local_part, label = "l" * 64, "d" * 63
        self.accept(f"<{local_part}@example.org>", local_part, "example.org")
        self.refuse(f"<l{local_part}@example.org>", "a local part has at most 64 octets")
        self.accept(f'<"{" " * 62}"@example.org>', " " * 62, "example.org")
        self.refuse(f'<"{" " * 63}"@example.org>', "a local part has at most 64 octets")
        self.refuse(f"<{'é' * 33}@example.org>", "a local part has at most 64 octets", utf8=True)
        domain = f"{label}.{label}.{label}"
        self.accept(f"<{local_part[:62]}@{domain}>", local_part[:62], domain)
        self.refuse(f"<{local_part[:63]}@{domain}>", "a path has at most 256 octets")
        self.refuse(f"<{local_part}@d{domain}>", "a path has at most 256 octets")

    def test_smtputf8(self) -> None:
        """With SMTPUTF8 both parts may go beyond ASCII (RFC 6531, 3.3)."""
        self.accept("<postmáster@test>", "postmáster", "test")
        self.accept("<用户@例子.example>", "用户", "例子.example")
        self.accept('<"jo é"@example.org>', "jo é", "example.org")
        self.accept("<a@क्षे.example>", "a", "क्षे.example")
        self.assertEqual(parse_path(b"<a@b>", utf8=True), Address("a", "b"))

    def test_without_smtputf8(self) -> None:
        """Without SMTPUTF8 no octet is above 127."""
        for path in ("<postmáster@test>", "<a@bücher.example>", b"<a\xe9@test>", '<"é"@test>'):
            self.refuse(path, "an address that is not ASCII needs SMTPUTF8")

    def test_bad_utf8(self) -> None:
        """What is not UTF-8 is refused with SMTPUTF8 too."""
        for octets in (b"\xe9", b"\xc0\xae", b"\xed\xa0\x80", b'"\xff"'):
            self.refuse(b"<" + octets + b"@test>", "the local part is not valid", utf8=True)
        self.refuse(b"<a@b\xe9c>", "the domain is not valid", utf8=True)

    def test_deceptive_characters(self) -> None:
        """What looks like a dot or a blank, or ends a line, is no part of an address."""
        for character in "\u3002\uff0e\u3000\u200b\xa0\x85\u2028\uff20\u2603\u202e":
            self.refuse(
                f"<a@b{character}c>", "the domain holds a character that no domain has", utf8=True
            )
        for character in "\x85\x9b\u2028\u2029":
            self.refuse(f"<a{character}b@c>", "the local part holds a control character", utf8=True)

    @given(st.one_of(st.binary(), near_paths, near_paths.map(b"<%b>".__mod__)), st.booleans())
    @example(b"<@>", True)
    @example(b"<@@>", True)
    @example(b"<a@[I]>", False)
    def test_any_octets(self, octets: bytes, utf8: bool) -> None:
        """Any octets are an address that survives being written, or an AddressError."""
        try:
            address = parse_path(octets, utf8)
        except AddressError:
            return
        again = parse_path(str(address).encode(), utf8)
        self.assertEqual(
            (again.local_part, again.domain, str(again)),
            (address.local_part, address.domain, str(address)),
        )
        self.assertTrue(utf8 or address.ascii)
        self.assertEqual(len(str(address).splitlines()), 1)

    @given(local_parts, domains)
    @example("", "a")
    @example('"', "a")
    @example("\\", "a")
    @example("a" * 64, "[IPv6:::1]")
    def test_round_trip(self, local_part: str, domain: str) -> None:
        """An address made of valid parts has them, and has them again when it was written."""
        assume(all(unicodedata.category(one) != "Cc" for one in local_part))
        try:
            address = Address(local_part, domain)
        except AddressError as error:
            self.assertIn("octets", str(error))
            return
        self.assertEqual((address.local_part, address.domain), (local_part, domain))
        octets = str(address).encode()
        for again in (
            parse_path(octets, utf8=True),
            Address.parse(str(address)),
            Address.parse(address.mailbox),
            eval(repr(address)),
        ):
            self.assertEqual(again, address)
            self.assertEqual(hash(again), hash(address))
            self.assertEqual((again.local_part, again.domain), (local_part, domain))
        if address.ascii:
            self.assertEqual(parse_path(octets), address)
        else:
            self.assertRaises(AddressError, parse_path, octets)


class AddressTests(SynchronousTestCase):
    def test_text(self) -> None:
        """An address is written with brackets, a mailbox without."""
        for address, path, mailbox in [
            (Address("foo", "example.com"), "<foo@example.com>", "foo@example.com"),
            (Address("a b", "c"), '<"a b"@c>', '"a b"@c'),
            (Address("POSTMASTER", None), "<postmaster>", "postmaster"),
            (NULL_PATH, "<>", ""),
        ]:
            self.assertEqual((str(address), address.mailbox), (path, mailbox))

    def test_parse(self) -> None:
        """In configuration an address has brackets or not, and is not only ASCII."""
        for text in ("foo@example.com", "<foo@example.com>"):
            self.assertEqual(Address.parse(text), Address("foo", "example.com"))
        self.assertEqual(Address.parse("é@bücher.example"), Address("é", "bücher.example"))
        self.assertEqual(Address.parse("<>"), NULL_PATH)
        self.assertEqual(Address.parse("postmaster"), Address("postmaster", None))

    def test_parse_refused(self) -> None:
        """A text that is no address never becomes the null path."""
        for text in ("", "foo", "@", "a@", "@a", "foo@x>", "<foo@x", " a@b", "a@b\n", "a\udce9@b"):
            self.assertRaises(AddressError, Address.parse, text)

    def test_made_of_bad_parts(self) -> None:
        """No address holds parts that cannot be written."""
        for local_part, domain in [
            *(("a\r\nb", "c"), ("a", "b\r\nc"), ("a", ""), ("a", "b@c"), ("a", "b>"), ("a", "[]")),
            *(("foo", None), ("a@b", None), ("a>", None), ("@a:b@c", None), ("a\udce9", "b")),
            *(("a", "\udce9"), ('"a"@b', None), ("é" * 40, "b"), ("\x85", "b"), ('"a', 'b"@c')),
        ]:
            self.assertRaises(AddressError, Address, local_part, domain)

    def test_equal(self) -> None:
        """The domain counts in any case of letters, the local part as it is (RFC 5321, 2.4)."""
        address = Address("foo", "example.com")
        self.assertEqual(address, Address("foo", "EXAMPLE.com"))
        self.assertEqual(hash(address), hash(Address("foo", "EXAMPLE.com")))
        for other in (Address("Foo", "example.com"), Address("foo", "example.org"), NULL_PATH):
            self.assertNotEqual(address, other)
        self.assertNotEqual(address, "<foo@example.com>")
        self.assertEqual(Address("f", "[IPv6:::A]"), Address("f", "[ipv6:::a]"))

    def test_empty_local_part(self) -> None:
        """An empty local part in a domain is an address of its own."""
        address = Address("", "example.org")
        self.assertNotEqual(address, NULL_PATH)
        self.assertFalse(address.is_null)
        self.assertEqual(str(address), '<""@example.org>')

    def test_equal_postmaster(self) -> None:
        """Postmaster is the same in any case of letters (RFC 5321, 4.5.1), in each domain."""
        self.assertEqual(Address("PostMaster", "a.example"), Address("postmaster", "A.example"))
        self.assertEqual(
            hash(Address("PostMaster", "a.example")), hash(Address("postmaster", "A.example"))
        )
        self.assertNotEqual(Address("postmaster", "a.example"), Address("postmaster", None))

    def test_sorted(self) -> None:
        """Addresses sort by domain, then by local part."""
        addresses = [
            *(NULL_PATH, Address("postmaster", None), Address("z", "A.example")),
            *(Address("a", "b.example"), Address("b", "B.example"), Address("a", "c.example")),
        ]
        self.assertEqual(sorted(reversed(addresses)), addresses)
        self.assertTrue(addresses[3] <= addresses[4])
        with self.assertRaises(TypeError):
            addresses[0] < "<>"  # type: ignore[operator]  # noqa: B015

    def test_domain_lower(self) -> None:
        """The domain can be had in lower case, to look things up."""
        self.assertEqual(Address("A", "Example.ORG").domain_lower, "example.org")
        self.assertIsNone(NULL_PATH.domain_lower)

    def test_is_null(self) -> None:
        """Only the null path is null, and it is true as all addresses are."""
        self.assertTrue(NULL_PATH.is_null)
        self.assertTrue(bool(NULL_PATH))
        self.assertFalse(Address("postmaster", None).is_null)

    def test_ascii(self) -> None:
        """An address tells whether the next server needs SMTPUTF8 to take it."""
        self.assertTrue(Address("a", "xn--bcher-kva.example").ascii)
        self.assertFalse(Address("a", "bücher.example").ascii)
        self.assertFalse(Address("é", "example.org").ascii)

    def test_immutable(self) -> None:
        """Nobody can change an address that somebody else holds."""
        for name in ("local_part", "domain", "mailbox", "other"):
            with self.assertRaises(AttributeError):
                setattr(NULL_PATH, name, "x")

    def test_copies(self) -> None:
        """An address can be copied and sent to another process."""
        address = Address("a b", "example.org")
        self.assertEqual(copy.deepcopy(address), address)
        self.assertEqual(str(pickle.loads(pickle.dumps(address))), str(address))

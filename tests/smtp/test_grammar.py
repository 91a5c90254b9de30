"""Tests of the productions of RFC 5321, 4.1.2."""

import re

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.smtp import grammar


class GrammarTests(SynchronousTestCase):
    def match(
        self, pattern: re.Pattern[bytes], yes: list[bytes | str], no: list[bytes | str]
    ) -> None:
        for text in yes:
            octets = text.encode() if isinstance(text, str) else text
            self.assertTrue(pattern.fullmatch(octets), text)
        for text in no:
            octets = text.encode() if isinstance(text, str) else text
            self.assertFalse(pattern.fullmatch(octets), text)

    def test_keyword(self) -> None:
        """A keyword is letters, digits and hyphens, and does not begin with a hyphen."""
        self.match(
            grammar.KEYWORD, ["SIZE", "8BITMIME", "X-A-"], ["", "-A", "A B", "A=", "É", "A\n"]
        )

    def test_esmtp_param(self) -> None:
        """A parameter is a keyword, and maybe a value without blanks and equals signs."""
        self.match(
            grammar.ESMTP_PARAM,
            ["SIZE=1230", "SMTPUTF8", "AUTH=<>", "ORCPT=rfc822;a+2Bb@x.example"],
            ["", "=1", "SIZE=", "SIZE=1=2", "SIZE=1 2", "A=\t", "A=é", "A\n", "A=\x7f"],
        )
        self.match(grammar.ESMTP_PARAM_UTF8, ["A=é", "A=1"], ["É=1", b"A=\xe9", "A=1=é"])

    def test_esmtp_param_groups(self) -> None:
        """The parts of a parameter can be taken from the match."""
        for octets, groups in [(b"SIZE=12", (b"SIZE", b"12")), (b"SMTPUTF8", (b"SMTPUTF8", None))]:
            match = grammar.ESMTP_PARAM.fullmatch(octets)
            assert match is not None
            self.assertEqual(match.groups(), groups)

    def test_dot_string(self) -> None:
        """Atoms stand with one dot between each two."""
        self.match(
            grammar.DOT_STRING,
            ["a", "a.b.c", "!#$%&'*+-/=?^_`{|}~", "0"],
            ["", ".a", "a.", "a..b", "a b", "a(b", "a@b", "é", "a\n", "a\x00"],
        )
        self.match(grammar.DOT_STRING_UTF8, ["é.a", "用户"], ["é.", b"\xe9", b"\xc0\xaf", "é b"])

    def test_quoted_string(self) -> None:
        """A quoted string holds printable ASCII; quote and backslash after a backslash."""
        self.match(
            grammar.QUOTED_STRING,
            ['""', '"a b"', r'"a\"b\\"', r'"\a\ "', '"a@b..c"'],
            ['"', '"a', '"a"b"', '"\\"', '"a\tb"', '"\x00"', '"\\\r"', '"é"', '"\x7f"', '"a"\n'],
        )
        self.match(grammar.QUOTED_STRING_UTF8, ['"é ü"'], ['"\\é"', b'"\xff"', b'"\xed\xa0\x80"'])

    def test_domain(self) -> None:
        """A label is of letters, digits and inner hyphens, and of at most 63 octets."""
        self.match(
            grammar.DOMAIN,
            [
                "a",
                "mail.example",
                "xn--bcher-kva.example",
                "1.2.3.4",
                "a-b.c",
                "l" * 63 + ".example",
            ],
            [
                *("", ".", "a.", ".a", "a..b", "-a", "a-", "a.-b", "a-.b", "a_b", "a b", "a\n"),
                *("[192.0.2.1]", "bücher.example", "l" * 64),
            ],
        )
        self.match(grammar.DOMAIN_UTF8, ["bücher.example", "é" * 63], ["-é", "é-", "é" * 64, "é."])

    def test_utf8_well_formed(self) -> None:
        """Outside ASCII, exactly what is well-formed UTF-8 matches (RFC 3629, 4)."""
        for number in (0x80, 0x7FF, 0x800, 0xFFF, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF):
            self.match(grammar.ATOM_UTF8, [chr(number)], [chr(number).encode()[:-1]])
        self.match(
            grammar.ATOM_UTF8,
            [],
            [b"\x80", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xf0\x8f\xbf\xbf"],
        )
        self.match(grammar.ATOM_UTF8, [], [b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff"])

    def test_address_literal(self) -> None:
        """A literal is four numbers, or a tagged IPv6 address, in square brackets."""
        self.match(
            grammar.ADDRESS_LITERAL,
            ["[192.0.2.1]", "[IPv6:2001:db8::1]", "[ipv6:::1]", "[IPV6:::ffff:192.0.2.1]"],
            [
                "[]",
                "192.0.2.1",
                "[192.0.2]",
                "[2001:db8::1]",
                "[X400:a]",
                "[IPv6:]",
                "[IPv6:fe80::1%a]",
            ],
        )

    def test_source_route(self) -> None:
        """A source route is a list of domains, each after an ``@``."""
        self.match(
            grammar.A_D_L, ["@a", "@a.example,@b.example"], ["", "a", "@", "@a,b", "@a,", "@é"]
        )
        self.match(grammar.A_D_L_UTF8, ["@é,@a"], [b"@\xe9"])

    def test_string(self) -> None:
        """The argument of VRFY is an atom or a quoted string."""
        self.match(grammar.STRING, ["fred", '"fred foo"'], ["", "fred foo", "fréd", "fred.foo"])
        self.match(grammar.STRING_UTF8, ["fréd", '"fréd foo"'], ["fréd foo"])

    def test_long_text(self) -> None:
        """No text makes a pattern try again and again; it would take longer than anyone waits."""
        for octets in [b"a." * 50000, b'"' + b"\\ " * 50000, b"<" + b"a" * 50000, b"a-" * 50000]:
            for name, pattern in vars(grammar).items():
                if isinstance(pattern, re.Pattern):
                    self.assertIsNone(pattern.fullmatch(octets + b"\x00"), name)

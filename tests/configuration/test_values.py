"""What an argument or a line of a control file can be."""

import os
from ipaddress import IPv4Network, IPv6Network
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.configuration import values
from qpsmtpd.configuration.values import Converter
from qpsmtpd.smtp.address import Address

T = TypeVar("T")

CONVERTERS: tuple[Converter[object], ...] = (
    values.text,
    values.integer,
    values.number,
    values.seconds,
    values.size,
    values.octal_mode,
    values.yes_no,
    values.path,
    values.domain,
    values.ip_network,
    values.address,
    values.log_level,
    values.reject_type,
    values.regex,
    values.list_of(values.domain),
)


class ConverterTests(SynchronousTestCase):
    def assert_takes(self, converter: Converter[T], expected: dict[str, T]) -> None:
        self.assertEqual({text: converter(text) for text in expected}, expected)

    def assert_refuses(self, converter: Converter[T], *texts: str) -> None:
        for text in texts:
            with self.assertRaises(
                ValueError, msg=f"{converter.__name__} takes {text!r}"
            ) as caught:
                converter(text)
            self.assertEqual(
                str(caught.exception).partition(":")[0],
                f"expected {converter.expects}".partition(":")[0],
            )

    def assert_says(self, converter: Converter[T], text: str, message: str) -> None:
        with self.assertRaises(ValueError) as caught:
            converter(text)
        self.assertEqual(str(caught.exception), message)

    def test_text(self) -> None:
        """A text is taken as it is, unless it is empty."""
        self.assert_takes(values.text, {"a  b # c": "a  b # c", "0": "0"})
        self.assert_refuses(values.text, "")

    def test_integer(self) -> None:
        """A whole number is decimal digits and nothing else."""
        self.assert_takes(values.integer, {"0": 0, "007": 7, "10485760": 10485760})
        self.assert_refuses(values.integer, "", "-1", "+1", "1_0", " 1", "1.0", "٣", "9" * 5000)
        self.assert_says(values.integer, "ten", "expected a whole number, 0 or more")

    def test_number(self) -> None:
        """A number may have a sign and a fraction, but is finite."""
        self.assert_takes(values.number, {"5": 5.0, "-2.5": -2.5, "+.5": 0.5, "1.": 1.0})
        self.assert_refuses(values.number, "", "nan", "inf", "1e3", "1_0", ".", "9" * 400)

    def test_seconds(self) -> None:
        """A duration is in seconds, or has a unit."""
        self.assert_takes(
            values.seconds,
            {"30": 30.0, "30s": 30.0, "5m": 300.0, "2h": 7200.0, "1d": 86400.0, "1.5m": 90.0},
        )
        self.assert_refuses(values.seconds, "", "m", "-1", "5 m", "5M", "1h30m", "9" * 400)

    def test_size(self) -> None:
        """A size is in octets, or in powers of 1024."""
        self.assert_takes(values.size, {"0": 0, "512k": 524288, "10M": 10485760, "1g": 1073741824})
        self.assert_refuses(values.size, "", "k", "-1", "1.5M", "10MB", "10 M")

    def test_octal_mode(self) -> None:
        """A file mode is octal, with or without zeros in front."""
        self.assert_takes(
            values.octal_mode,
            {"0700": 0o700, "700": 0o700, "0o750": 0o750, "01777": 0o1777, "0": 0},
        )
        self.assert_refuses(values.octal_mode, "", "0800", "rwx", "-700", "077777", "0x1")

    def test_yes_no(self) -> None:
        """A truth is one of eight words; "off" is false and a slip is an error."""
        self.assert_takes(
            values.yes_no,
            {"1": True, "yes": True, "TRUE": True, "On": True}
            | {"0": False, "no": False, "False": False, "off": False},
        )
        self.assert_refuses(values.yes_no, "", "2", "y", "none", "offf", " 1")

    def test_path(self) -> None:
        """A path may begin in somebody's home directory."""
        self.patch(os, "environ", {"HOME": "/home/postmaster"})
        self.assert_takes(
            values.path,
            {"/a/b": "/a/b", "a/b": "a/b", "~/tmp": "/home/postmaster/tmp", "a~": "a~"},
        )
        self.assert_refuses(values.path, "", "a\0b")
        self.assert_says(
            values.path,
            "~no-such-user-here/x",
            "expected the path of a file or directory: "
            "no home directory is known for ~no-such-user-here",
        )

    def test_domain(self) -> None:
        """A domain is lower-cased and loses its final dot."""
        self.assert_takes(
            values.domain,
            {
                "Mail.EXAMPLE": "mail.example",
                "mail.example.": "mail.example",
                "localhost": "localhost",
                "_spf.a-b.example": "_spf.a-b.example",
                "xn--bcher-kva.example": "xn--bcher-kva.example",
                "a" * 63 + ".example": "a" * 63 + ".example",
            },
        )
        self.assert_refuses(
            values.domain,
            "",
            ".",
            ".example",
            "a..example",
            "a.example..",
            "-a.example",
            "a-.example",
            "a b.example",
            "a@b.example",
            "bücher.example",
            "\N{KELVIN SIGN}.example",  # which lower-cases to an ASCII letter
            "a" * 64 + ".example",
            ".".join(["abcdefghi"] * 26),
            "a.example\n",
        )

    def test_ip_network(self) -> None:
        """A network is in CIDR notation, and an address alone is a network of one."""
        self.assert_takes(
            values.ip_network,
            {
                "192.0.2.0/24": IPv4Network("192.0.2.0/24"),
                "192.0.2.1": IPv4Network("192.0.2.1/32"),
                "2001:db8::/32": IPv6Network("2001:db8::/32"),
            },
        )
        self.assert_refuses(values.ip_network, "", "192.0.2.", "192.0.2.0/33", "mail.example")
        self.assert_says(
            values.ip_network,
            "192.0.2.1/24",
            "expected an IP address or network as in 192.0.2.0/24 or 2001:db8::/32: "
            "the network of that address is 192.0.2.0/24",
        )

    def test_address(self) -> None:
        """A mail address needs no angle brackets."""
        self.assert_takes(
            values.address,
            {
                "user@mail.example": Address("user", "mail.example"),
                "<user@mail.example>": Address("user", "mail.example"),
            },
        )
        self.assert_refuses(values.address, "", "user", "@mail.example", "a b@mail.example")

    def test_log_level(self) -> None:
        """A log level is a number or a name, as the Perl qpsmtpd spells it or shorter."""
        self.assert_takes(
            values.log_level,
            {"LOGDEBUG": 7, "info": 6, "LogNotice": 5, "WARN": 4, "LOGERROR": 3, "crit": 2}
            | {"LOGALERT": 1, "LOGEMERG": 0, "LOGRADAR": 0, "0": 0, "7": 7},
        )
        self.assert_refuses(values.log_level, "", "LOG", "-1", "verbose")
        self.assertEqual(values.log_level("8"), 7, "as in a file for an old Perl qpsmtpd")

    def test_choice(self) -> None:
        """A choice takes its words in any case and returns them as they were declared."""
        colour = values.choice("Red", "green", "blue")
        self.assert_takes(colour, {"red": "Red", "GREEN": "green"})
        self.assert_says(colour, "pink", "expected Red, green or blue")
        self.assert_says(values.choice("only"), "", "expected only")

    def test_reject_type(self) -> None:
        """The ways to refuse are those of the Perl qpsmtpd, and a slip is an error."""
        self.assert_takes(
            values.reject_type,
            {"perm": "perm", "hard": "hard", "temp": "temp", "soft": "soft"}
            | {"disconnect": "disconnect", "temp_disconnect": "temp_disconnect"},
        )
        self.assert_refuses(values.reject_type, "", "tmp")

    def test_list_of(self) -> None:
        """A list is separated by commas, and each part is converted."""
        numbers = values.list_of(values.integer)
        self.assert_takes(numbers, {"1,2": (1, 2), " 1 , 2 ": (1, 2), "3": (3,), "": ()})
        self.assert_says(
            numbers,
            "1,x",
            'expected a comma-separated list, each part a whole number, 0 or more: "x" is none',
        )
        self.assert_refuses(numbers, "1,,2", "1,", ",")

    def test_regex(self) -> None:
        """A regular expression is compiled, or refused with the reason."""
        self.assertTrue(values.regex("^a+$").search("aa"))
        self.assert_says(
            values.regex,
            "*@mail.example",
            "expected a regular expression: nothing to repeat at position 0",
        )
        self.assert_refuses(values.regex, "(", "a{99999999999999}", "[:alpha:]")

    def test_declared_elsewhere(self) -> None:
        """A plugin declares a converter of its own in one line more than its function."""

        @values.converter("an even number")
        def even(text: str) -> int:
            """Take twos."""
            if (found := int(text)) % 2:
                raise values.ConversionError(f"{found} is odd")
            return found

        self.assert_takes(even, {"4": 4})
        self.assert_says(even, "3", "expected an even number: 3 is odd")
        self.assert_says(even, "x", "expected an even number")
        self.assertEqual((even.expects, even.__name__), ("an even number", "even"))

    @given(st.text())
    def test_any_text(self, text: str) -> None:
        """Whatever the text, a converter returns a setting or says what it expected."""
        for converter in CONVERTERS:
            try:
                converter(text)
            except ValueError as error:
                self.assertTrue(str(error).startswith(f"expected {converter.expects}"))

"""What a line of the ``plugins`` file says."""

import string

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.configuration.errors import ConfigurationError
from qpsmtpd.configuration.files import Line
from qpsmtpd.configuration.lines import PluginLine, parse, quote

PRINTABLE = "".join(map(chr, range(0x20, 0x7F))) + "\t"


def parsed(text: str) -> PluginLine:
    return PluginLine.parse(Line(text, "config/plugins", 7))


class PluginLineTests(SynchronousTestCase):
    def assert_error(self, text: str, message: str) -> None:
        with self.assertRaises(ConfigurationError) as caught:
            parsed(text)
        self.assertEqual(str(caught.exception), f"config/plugins:7: {message}")

    def test_fields(self) -> None:
        """A line is a plugin and its arguments, separated by spaces and tabs."""
        self.assertEqual(
            parsed("queue/maildir \t loglevel\tLOGINFO"),
            PluginLine("queue/maildir", None, ("loglevel", "LOGINFO"), "config/plugins", 7),
        )
        self.assertEqual(parsed("rcpt_ok").arguments, ())

    def test_quotes(self) -> None:
        """Quotes and backslashes keep a field together, as in a shell."""
        for text, argument in {
            "'a  b'": "a  b",
            '"a  b"': "a  b",
            r"a\ b": "a b",
            "a' 'b": "a b",
            "''": "",
            r"'a\'": r"a\ ".strip(),
            r'"a\"b\\"': 'a"b\\',
            r'"a\nb"': r"a\nb",
            '"it\'s"': "it's",
        }.items():
            self.assertEqual(parsed(f"x {text} y").arguments, (argument, "y"), msg=text)

    def test_nothing_expanded(self) -> None:
        """Nothing is expanded, in quotes or out of them, and ``#`` starts no comment."""
        for text in ("$HOME", "~/x", "*", "`id`", "a#b", "#", "{a,b}", "!x", "a;b", "%Y-%m"):
            self.assertEqual(parsed(f"x {text}").arguments, (text,))
            self.assertEqual(parsed(f'x "{text}"').arguments, (text,))

    def test_open_quote(self) -> None:
        """A quote that does not end is an error at its line."""
        for text in ("x 'a", 'x "a', "x a\\", 'x "a\\"'):
            with self.assertRaises(ConfigurationError, msg=text) as caught:
                parsed(text)
            self.assertEqual((caught.exception.file, caught.exception.line), ("config/plugins", 7))
        self.assert_error(
            "x it's",
            '"x it\'s": expected every quote to be closed, and a character after a backslash',
        )

    def test_unsafe_characters(self) -> None:
        """A character that is not printable ASCII is an error, wherever it stands."""
        self.assert_error(
            "x b\xfccher",
            "\"x b\xfccher\": expected printable ASCII, not the unsafe characters '\\xfc'",
        )
        for char in "\0\x1b\x7f\x85\N{NO-BREAK SPACE}\u202e\r\n\v\f":
            for text in (f"x{char}", f"x y{char}z", f"x '{char}'", f"x{char}y"):
                with self.assertRaises(ConfigurationError, msg=repr(text)):
                    parsed(text)

    def test_instance(self) -> None:
        """A number after a colon tells several uses of one plugin apart."""
        line = parsed("ident/p0f:03 x")
        self.assertEqual(
            (line.name, line.instance, line.title), ("ident/p0f", "03", "ident/p0f:03")
        )
        line = parsed("relay")
        self.assertEqual((line.name, line.instance, line.title), ("relay", None, "relay"))

    def test_name(self) -> None:
        """A plugin's name is a relative path of plain names."""
        for name in ("a", "a/b/c", "a-b_c.d", "9x", "virus/9x", "_x"):
            self.assertEqual(parsed(name).name, name)
        bad = ["/a", "a/", "a//b", "..", "../a", "a/../b", "a/.b", ".", "a:", "a:x", "a:1:2", ":1"]
        for name in [*bad, "a;b", "a=b", "'a b'", "''", "$INCLUDE", "a:-1"]:
            with self.assertRaises(ConfigurationError, msg=name):
                parsed(f"{name} x")
        self.assert_error(
            "a:x y",
            '"a:x": expected a plugin\'s name as in queue/maildir, or with a number, relay:1',
        )

    def test_package(self) -> None:
        """A module of the Perl qpsmtpd is refused with what to write instead."""
        self.assert_error(
            "Qpsmtpd::Plugin::Mine x",
            '"Qpsmtpd::Plugin::Mine": expected a plugin\'s name as in queue/maildir; '
            "Package::Module cannot be loaded",
        )

    def test_log_name(self) -> None:
        """Logs call a plugin what the Perl qpsmtpd called it."""
        for text, name in {
            "rcpt_ok": "rcpt_ok",
            "queue/qmail-queue": "queue::qmail_2dqueue",
            "relay:0": "relay_3a0",
            "ident/p0f:3": "ident::p0f_3a3",
            "virus/9x": "virus::_39x",
            "9x": "9x",
            "a.b/c/d": "a_2eb::c::d",
        }.items():
            self.assertEqual(parsed(text).log_name, name)

    @given(st.lists(st.text(PRINTABLE)))
    def test_quoted(self, arguments: list[str]) -> None:
        """What is quoted is read back as it was."""
        line = parsed(quote(["queue/maildir:1", *arguments]))
        self.assertEqual(line.arguments, tuple(arguments))
        self.assertEqual(line.title, "queue/maildir:1")

    @given(st.text() | st.text(PRINTABLE) | st.text("a:/. '\"\\"))
    def test_any_text(self, text: str) -> None:
        """Whatever a line holds, it is read or refused with its place."""
        try:
            line = parsed(text)
        except ConfigurationError as error:
            self.assertEqual((error.file, error.line), ("config/plugins", 7))
        else:
            self.assertLessEqual(
                set(line.log_name), set(string.ascii_letters + string.digits + "_:")
            )


class ParseTests(SynchronousTestCase):
    def test_order(self) -> None:
        """Lines keep their order, and one that stands twice is there twice."""
        lines = [Line("b", "p", 1), Line("a", "p", 2), Line("b", "p", 3)]
        self.assertEqual(
            [(line.name, line.line) for line in parse(lines)], [("b", 1), ("a", 2), ("b", 3)]
        )

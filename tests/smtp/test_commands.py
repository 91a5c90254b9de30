"""Tests for :mod:`qpsmtpd.smtp.commands`.

Most lines that the Perl qpsmtpd takes are taken, and read the same. Where the RFCs say otherwise
they win, on purpose:

- ``MAIL FROM:`` without a path is 501, not the null reverse-path; so are paths without angle
  brackets, which a component that wants them gets unread.
- A space in a path is 501 wherever it stands, unless in quotes.
- A parameter that nobody offered is 555 (RFC 5321, 4.1.1.11), also one that is no keyword at all;
  in Perl the first was taken and the second was 501.
- A keyword without its value, ``SIZE``, is 501 as ``SIZE=`` is.
- A third word behind AUTH is 501; in Perl it was ignored.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.smtp.address import NULL_PATH, Address
from qpsmtpd.smtp.commands import (
    PARSERS,
    Auth,
    Bdat,
    Command,
    Data,
    Ehlo,
    Helo,
    Help,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Rset,
    Starttls,
    Vrfy,
    parse_argument,
    parse_mail,
    parse_rcpt,
    split_path,
)
from qpsmtpd.smtp.extensions import Extensions
from qpsmtpd.smtp.reply import Reply

ALL = Extensions(auth=("PLAIN",), starttls=True, dsn=True)


def read(verb: str, argument: bytes = b"", extensions: Extensions = ALL) -> Command | Reply:
    return parse_argument(verb.encode(), argument, extensions)


class CommandCase(SynchronousTestCase):
    def assertRefused(self, found: object, code: int, status: str, why: object = None) -> None:
        assert isinstance(found, Reply), (found, why)
        self.assertEqual((found.code, found.status), (code, status), why)


class MailTests(CommandCase):
    def mail(self, argument: bytes) -> tuple[str, dict[str, str | None]]:
        found = parse_mail(argument, ALL)
        assert isinstance(found, Mail), (argument, found)
        return str(found.reverse_path), dict(found.parameters)

    def test_taken(self) -> None:
        """MAIL has a path and parameters, keywords in any case, and blanks where Perl took them."""
        plain = "<a@b.example>"
        both = {"SIZE": "1", "BODY": "8BITMIME"}
        for argument, path, parameters in (
            (b"FROM:<a@b.example>", plain, {}),
            (b"from: <a@b.example>", plain, {}),
            (b"From:\t <a@b.example>", plain, {}),
            (b"  FROM:<a@b.example>", plain, {}),
            (b"FROM:<a@b.example> ", plain, {}),
            (b"FROM:<a@b.example> SIZE=1230", plain, {"SIZE": "1230"}),
            (b"FROM:<a@b.example>  SIZE=1   BODY=8BITMIME  ", plain, both),
            (b"FROM:<a@b.example>\tsize=1 body=8bitmime", plain, both),
            (b"FROM:<a@b.example> AUTH=<>", plain, {"AUTH": "<>"}),
            (b"FROM:<a@b.example> AUTH=e+3Dmc2@b.example", plain, {"AUTH": "e+3Dmc2@b.example"}),
            (b"FROM:<a@b.example> SMTPUTF8", plain, {"SMTPUTF8": None}),
            (b"FROM:<a@b.example> RET=hdrs ENVID=x+2By", plain, {"RET": "hdrs", "ENVID": "x+2By"}),
            (b'FROM:<"a b"@c.example> SIZE=3', '<"a b"@c.example>', {"SIZE": "3"}),
            (b'FROM:<"a> SIZE=1 <b"@c.example>', '<"a> SIZE=1 <b"@c.example>', {}),
            (b'FROM:<"a\\">"@c.example>', '<"a\\">"@c.example>', {}),
            (b"FROM:<@x.example,@y.example:a@b.example>", plain, {}),
            (b"FROM:<user=name@example.net>", "<user=name@example.net>", {}),
        ):
            self.assertEqual(self.mail(argument), (path, parameters), argument)

    def test_null_path(self) -> None:
        """``<>``, and the ``<#@[]>`` of qmail's double bounces, are the null reverse-path."""
        for path in (b"<>", b"<#@[]>"):
            self.assertEqual(parse_mail(b"FROM:" + path, ALL), Mail(NULL_PATH, {}))
        self.assertEqual(parse_mail(b"FROM:<> SIZE=5", ALL), Mail(NULL_PATH, {"SIZE": "5"}))

    def test_no_path(self) -> None:
        """What is not FROM: and a path in angle brackets is a syntax error."""
        for argument in (
            b"",
            b"FROM",
            b"FROM:",
            b"FROM :<a@b.example>",
            b"<a@b.example>",
            b"TO:<a@b.example>",
            b"FROM:a@b.example",
            b"FROM:a@b.example SIZE=3",
            b'FROM:"a b"@c.example',
            b"FROM:user=name@example.net",
            b"FROM:foo bar",
            b"FROM:<a@b.example",
            b"FROM:<a@b.example>SIZE=3",
            b"FROM:<<a@b.example>>",
            b'FROM:<"a@b.example>',
        ):
            self.assertRefused(parse_mail(argument, ALL), 501, "5.5.4", argument)

    def test_bad_address(self) -> None:
        """A path in angle brackets that is no address is refused as a reverse-path (RFC 3463)."""
        for path in (b"a", b"a b@c.example", b"a@b.example ", b"@b.example", b"a@b..example"):
            found = parse_mail(b"FROM:<" + path + b">", ALL)
            self.assertRefused(found, 501, "5.1.7", path)

    def test_unknown_parameter(self) -> None:
        """A parameter that is not offered, or no keyword at all, is 555 (RFC 5321, 4.1.1.11)."""
        for word in (b"CORRECT-WITHOUT-ARG", b"X=1", b"-x", b"=", b"X=\x01", b"NOTIFY=NEVER"):
            found = parse_mail(b"FROM:<a@b.example> SIZE=1 " + word, ALL)
            self.assertRefused(found, 555, "5.5.4", word)

    def test_unknown_parameter_is_shown_cut(self) -> None:
        """The reply repeats a part of an unknown keyword only."""
        found = parse_mail(b"FROM:<a@b.example> " + b"y" * 1000, ALL)
        assert isinstance(found, Reply)
        self.assertEqual(found.lines, (f"Parameter {'Y' * 40} not recognized",))

    def test_bad_value(self) -> None:
        """A value that its parameter's RFC does not allow is a syntax error."""
        for word in (
            b"SIZE",
            b"SIZE=",
            b"SIZE=1=2",
            b"SIZE=-1",
            b"SIZE=" + b"1" * 21,
            b"BODY=9BITMIME",
            b"BODY",
            b"SMTPUTF8=",
            b"SMTPUTF8=1",
            b"AUTH=",
            b"AUTH=a+b",
            b"AUTH=" + b"a" * 501,
            b"RET=ALL",
            b"ENVID=" + b"a" * 101,
            b"ENVID=a=b",
            b"SIZE=1\x00",
        ):
            found = parse_mail(b"FROM:<a@b.example> " + word, ALL)
            self.assertRefused(found, 501, "5.5.4", word)

    def test_longest_values(self) -> None:
        """SIZE has up to 20 digits (RFC 1870, 4), ENVID up to 100 characters (RFC 3461, 4.4)."""
        self.mail(b"FROM:<a@b.example> SIZE=" + b"9" * 20 + b" ENVID=" + b"a" * 100)

    def test_parameter_twice(self) -> None:
        """A parameter given twice is a syntax error, whatever its case and value."""
        for words in (b"SIZE=1 SIZE=1", b"SIZE=1 size=2", b"SMTPUTF8 smtputf8"):
            found = parse_mail(b"FROM:<a@b.example> " + words, ALL)
            self.assertRefused(found, 501, "5.5.4", words)

    def test_utf8(self) -> None:
        """An address outside ASCII needs SMTPUTF8 beside it (RFC 6531, 3.4)."""
        argument = "FROM:<jürgen@bücher.example>".encode()
        self.assertRefused(parse_mail(argument, ALL), 553, "5.6.7")
        found = parse_mail(argument + b" SMTPUTF8", ALL)
        self.assertEqual(found, Mail(Address("jürgen", "bücher.example"), {"SMTPUTF8": None}))

    def test_not_utf8_at_all(self) -> None:
        """Octets that are no UTF-8 are refused with SMTPUTF8 too."""
        found = parse_mail(b"FROM:<j\xfcrgen@b.example> SMTPUTF8", ALL)
        self.assertRefused(found, 501, "5.1.7")

    @settings(derandomize=True, deadline=None, max_examples=100)
    @given(st.binary(max_size=60), st.sampled_from([b"FROM:<", b"FROM:<>", b"TO:<", b""]))
    def test_anything(self, octets: bytes, before: bytes) -> None:
        """Whatever the octets, a command is read or refused; nothing is raised."""
        for verb in (*PARSERS, b"RCPT"):
            found = parse_argument(verb, before + octets, ALL)
            if isinstance(found, Reply):
                self.assertIn(found.code, (501, 553, 555))


class RcptTests(CommandCase):
    def test_taken(self) -> None:
        """RCPT has a path and the parameters of DSN."""
        plain = Address("a", "b.example")
        for argument, path, parameters in (
            (b"TO:<a@b.example>", plain, {}),
            (b"to: <a@b.example>\t", plain, {}),
            (b"TO:<Postmaster>", Address("postmaster", None), {}),
            (
                b"TO:<a@b.example> NOTIFY=NEVER ORCPT=rfc822;a+40b",
                plain,
                {"NOTIFY": "NEVER", "ORCPT": "rfc822;a+40b"},
            ),
            (b"TO:<a@b.example> notify=success,DELAY", plain, {"NOTIFY": "success,DELAY"}),
            (
                "TO:<a@b.example> ORCPT=utf-8;jürgen@b.example".encode(),
                plain,
                {"ORCPT": "utf-8;jürgen@b.example"},
            ),
        ):
            self.assertEqual(parse_rcpt(argument, ALL), Rcpt(path, parameters), argument)

    def test_no_path(self) -> None:
        """What is not TO: and a path in angle brackets is a syntax error."""
        for argument in (
            b"",
            b"TO:",
            b"TO:postmaster",
            b"TO: abuse",
            b"TO:joe",
            b"FROM:<a@b.example>",
        ):
            self.assertRefused(parse_rcpt(argument, ALL), 501, "5.5.4", argument)

    def test_nobody(self) -> None:
        """The null path is no recipient; nor is a word other than postmaster."""
        for path in (b"<>", b"<abuse>", b"<a@b.example >"):
            self.assertRefused(parse_rcpt(b"TO:" + path, ALL), 501, "5.1.3", path)

    def test_bad_parameters(self) -> None:
        """A value that RFC 3461 does not allow is a syntax error; MAIL's keywords are unknown."""
        for words, code in (
            (b"NOTIFY=NEVER,DELAY", 501),
            (b"NOTIFY=", 501),
            (b"ORCPT=a", 501),
            (b"NOTIFY=NEVER NOTIFY=NEVER", 501),
            (b"SIZE=1", 555),
        ):
            self.assertRefused(parse_rcpt(b"TO:<a@b.example> " + words, ALL), code, "5.5.4", words)

    def test_utf8(self) -> None:
        """A recipient outside ASCII needs a transaction that was begun with SMTPUTF8."""
        argument = "TO:<jürgen@b.example>".encode()
        self.assertRefused(parse_rcpt(argument, ALL), 553, "5.6.7")
        self.assertEqual(
            parse_rcpt(argument, ALL, utf8=True), Rcpt(Address("jürgen", "b.example"), {})
        )


class GreetingTests(CommandCase):
    def test_host_and_words(self) -> None:
        """The first word is the host; what follows is kept for components."""
        self.assertEqual(read("EHLO", b" a.example c  d"), Ehlo("a.example", ("c", "d")))
        self.assertEqual(read("HELO", b"a.example"), Helo("a.example"))

    def test_odd_hosts(self) -> None:
        """Names that are no domains are policy's matter: clients in the wild send them."""
        for host in ("[192.0.2.1]", "[IPv6:2001:db8::1]", "192.0.2.1", "my_pc", "bücher.example"):
            self.assertEqual(read("EHLO", host.encode()), Ehlo(host))

    def test_no_host(self) -> None:
        """A greeting without a name, or with one that cannot be one, is a syntax error."""
        for verb in ("EHLO", "HELO"):
            for argument in (b"", b"  ", b"a\x00b", b"\x7f", b"a" * 256):
                self.assertRefused(read(verb, argument), 501, "5.5.4", argument)


class OtherTests(CommandCase):
    def test_without_argument(self) -> None:
        """DATA, RSET, QUIT and STARTTLS take no argument."""
        for verb, command in (
            ("DATA", Data()),
            ("RSET", Rset()),
            ("QUIT", Quit()),
            ("STARTTLS", Starttls()),
        ):
            self.assertEqual(read(verb), command)
            self.assertRefused(read(verb, b"now"), 501, "5.5.4", verb)

    def test_with_text(self) -> None:
        """NOOP, VRFY and HELP take any text, which need not be UTF-8."""
        for verb, kind in (("NOOP", Noop), ("VRFY", Vrfy), ("HELP", Help)):
            self.assertEqual(read(verb), kind())
            self.assertEqual(read(verb, b"me \xff"), kind("me \ufffd"))

    def test_bdat(self) -> None:
        """BDAT has a size, and LAST in any case (RFC 3030, 2)."""
        for argument, command in (
            (b"0", Bdat(0)),
            (b"  86 ", Bdat(86)),
            (b"0 LAST", Bdat(0, last=True)),
            (b"5 \t last", Bdat(5, last=True)),
            (b"9" * 20, Bdat(10**20 - 1)),
        ):
            self.assertEqual(read("BDAT", argument.rstrip()), command, argument)

    def test_bad_bdat(self) -> None:
        """A size that is no number, or another word than LAST, is a syntax error."""
        for argument in (b"", b"-1", b"LAST", b"5LAST", b"5 FIRST", b"1 LAST LAST", b"1" * 21):
            self.assertRefused(read("BDAT", argument), 501, "5.5.4", argument)

    def test_auth(self) -> None:
        """AUTH has a mechanism and perhaps a response in base64, or ``=`` for an empty one."""
        for argument, command in (
            (b"plain", Auth("PLAIN")),
            (b"CRAM-MD5", Auth("CRAM-MD5")),
            (b"PLAIN  AGEAYg==", Auth("PLAIN", b"AGEAYg==")),
            (b"EXTERNAL =", Auth("EXTERNAL", b"=")),
        ):
            self.assertEqual(read("AUTH", argument), command, argument)

    def test_bad_auth(self) -> None:
        """No mechanism, one that cannot exist, or a response that is no base64: a syntax error."""
        for argument in (
            b"",
            b"PLAIN abc def",
            b"PL/AIN",
            b"A" * 21,
            b"PLAIN a=b",
            b"PLAIN ab*",
            b"PLAIN ===",
        ):
            self.assertRefused(read("AUTH", argument), 501, "5.5.4", argument)

    def test_auth_secrets_are_not_shown(self) -> None:
        """The reply to a bad AUTH repeats nothing of it."""
        found = read("AUTH", b"PLAIN secret*")
        assert isinstance(found, Reply)
        self.assertNotIn("secret", found.lines[0])


class SplitPathTests(SynchronousTestCase):
    def test_split(self) -> None:
        """The path is what components rewrite; it may lack its brackets, or not be there."""
        for argument, path, parameters in (
            (b"FROM:<a@b.example>", b"<a@b.example>", b""),
            (b"FROM: <a@b.example>  SIZE=1 BODY=7BIT", b"<a@b.example>", b"SIZE=1 BODY=7BIT"),
            (b'to:<"a b"@c.example> NOTIFY=NEVER', b'<"a b"@c.example>', b"NOTIFY=NEVER"),
            (b"TO: a@b.example  NOTIFY=NEVER ", b"a@b.example", b"NOTIFY=NEVER"),
            (b"FROM:", b"", b""),
            (b"", b"", b""),
        ):
            self.assertEqual(split_path(argument), (path, parameters), argument)

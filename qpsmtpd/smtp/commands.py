# -*- test-case-name: tests.smtp.test_commands -*-
"""The commands of SMTP as values, and how one is read from its line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from qpsmtpd.smtp.address import (
    MAX_LOCAL_PART,
    NULL_PATH,
    Address,
    AddressError,
    parse_path,
)
from qpsmtpd.smtp.extensions import MAIL_PARAMETERS, RCPT_PARAMETERS, Extensions, Parameter
from qpsmtpd.smtp.grammar import PLAIN_PATH
from qpsmtpd.smtp.reply import Reply

__all__ = [
    "AUTH_CANCELLED",
    "DATA",
    "NO_PARAMETERS",
    "PARSERS",
    "SHORT_LINE",
    "Auth",
    "Bdat",
    "Command",
    "Data",
    "Ehlo",
    "Helo",
    "Help",
    "Mail",
    "Noop",
    "Parameters",
    "Quit",
    "Rcpt",
    "Rset",
    "Starttls",
    "Unparsed",
    "Unrecognized",
    "Vrfy",
    "parse_argument",
    "parse_mail",
    "parse_rcpt",
    "plain_line",
    "split_path",
]

#: Parameters of MAIL or RCPT: keyword in upper case to value, ``None`` where it has none.
Parameters: TypeAlias = Mapping[str, str | None]

NO_PARAMETERS: Final[Parameters] = MappingProxyType({})


class Ehlo(NamedTuple):
    """The client greets, and wants to hear about extensions (RFC 5321, 4.1.1.1)."""

    host: str
    words: tuple[str, ...] = ()


class Helo(NamedTuple):
    """The client greets in the old way (RFC 5321, 4.1.1.1)."""

    host: str
    words: tuple[str, ...] = ()


class Mail(NamedTuple):
    """A transaction begins (RFC 5321, 4.1.1.2)."""

    reverse_path: Address
    parameters: Parameters


class Rcpt(NamedTuple):
    """A recipient is named (RFC 5321, 4.1.1.3)."""

    forward_path: Address
    parameters: Parameters


@dataclass(frozen=True, slots=True)
class Data:
    """The message follows after a 354 (RFC 5321, 4.1.1.4)."""


@dataclass(frozen=True, slots=True)
class Bdat:
    """A chunk of the message follows at once (RFC 3030, 2).

    :ivar size: Octets of the chunk.
    :ivar last: Whether the message ends with it.
    :ivar first: Whether the message begins with it; set by the machine.
    """

    size: int
    last: bool = False
    first: bool = False


@dataclass(frozen=True, slots=True)
class Rset:
    """The transaction is abandoned (RFC 5321, 4.1.1.5)."""


@dataclass(frozen=True, slots=True)
class Noop:
    """Nothing is to be done (RFC 5321, 4.1.1.9)."""

    argument: str = ""


@dataclass(frozen=True, slots=True)
class Vrfy:
    """The client asks about a user (RFC 5321, 4.1.1.6)."""

    argument: str = ""


@dataclass(frozen=True, slots=True)
class Help:
    """The client asks for help (RFC 5321, 4.1.1.8)."""

    argument: str = ""


@dataclass(frozen=True, slots=True)
class Quit:
    """The client says goodbye (RFC 5321, 4.1.1.10)."""


@dataclass(frozen=True, slots=True)
class Starttls:
    """TLS is to begin (RFC 3207)."""


@dataclass(frozen=True, slots=True)
class Auth:
    """An authentication exchange begins (RFC 4954, 4).

    :ivar mechanism: In upper case.
    :ivar initial: Initial response in base64; ``None`` where there was none,
        ``b"="`` for an empty one.
    """

    mechanism: str
    initial: bytes | None = None


@dataclass(frozen=True, slots=True)
class Unparsed:
    """A command that the machine was told to hand over without reading its argument.

    :ivar verb: In upper case.
    :ivar argument: What stood behind the verb, without the blanks around it.
    """

    verb: bytes
    argument: bytes


@dataclass(frozen=True, slots=True)
class Unrecognized:
    """A command that SMTP does not know.

    :ivar verb: In lower case; empty for an empty line.
    :ivar argument: The rest of the line.
    """

    verb: str
    argument: str = ""


Command: TypeAlias = (
    Ehlo
    | Helo
    | Mail
    | Rcpt
    | Data
    | Bdat
    | Rset
    | Noop
    | Vrfy
    | Help
    | Quit
    | Starttls
    | Auth
    | Unparsed
    | Unrecognized
)

#: Answer to ``*`` in an authentication exchange (RFC 4954, 4).
AUTH_CANCELLED: Final = Reply(501, "Authentication cancelled", "5.7.0")

_HOST_MISSING: Final = Reply(501, "A host name is required: EHLO host.example", "5.5.4")
_HOST_BAD: Final = Reply(501, "That is no host name", "5.5.4")
_NO_ARGUMENT: Final = Reply(501, "This command takes no argument", "5.5.4")
_BAD_MAIL: Final = Reply(501, "Syntax error: MAIL FROM:<address>", "5.5.4")
_BAD_RCPT: Final = Reply(501, "Syntax error: RCPT TO:<address>", "5.5.4")
_BAD_BDAT: Final = Reply(501, "Syntax error: BDAT size [LAST]", "5.5.4")
_BAD_AUTH: Final = Reply(501, "Syntax error: AUTH mechanism [initial-response]", "5.5.4")
_NULL_RECIPIENT: Final = Reply(501, "A recipient cannot be empty", "5.1.3")
_NEEDS_SMTPUTF8: Final = Reply(
    553, "A mailbox name outside ASCII needs the parameter SMTPUTF8", "5.6.7"
)

#: A path in angle brackets, quoted local parts included, and the parameters behind it.
_PATH: Final = rb':[ \t]*(<(?:[^<>"]*|[^<>"]*"(?:[^"\\]|\\.)*"[^<>"]*)>)(?:[ \t]+(.*))?'
_FROM: Final = re.compile(rb" *(?i:FROM)" + _PATH, re.DOTALL)
_TO: Final = re.compile(rb" *(?i:TO)" + _PATH, re.DOTALL)

_MECHANISM: Final = re.compile(rb"[A-Za-z0-9_-]{1,20}")
_INITIAL: Final = re.compile(rb"=|[A-Za-z0-9+/]+={0,2}")
_BDAT: Final = re.compile(rb" *([0-9]{1,20})(?:[ \t]+(?i:(LAST)))?")
#: What may stand for a client's name. RFC 5321, 4.1.1.1 wants a domain or an address
#: literal; clients in the wild send underscores and bare addresses, and policy about
#: that is a component's.
_HOST: Final = re.compile(rb"[!-~\x80-\xff]{1,255}")

DATA: Final = Data()
RSET: Final = Rset()
QUIT: Final = Quit()
STARTTLS: Final = Starttls()


#: The commands of a message as nearly every client gives them: one search where the way through
#: ``PARSERS`` takes five steps. It finds nothing that they would read differently. Its groups are
#: the path of MAIL and that of RCPT, the verb and the host of a greeting, and QUIT.
plain_line: Final = re.compile(
    rb"(?i:MAIL FROM):(%b)\r\n|(?i:RCPT TO):(%b)\r\n|(?i:DATA)\r\n"
    rb"|((?i:EHLO|HELO)) (%b)\r\n|((?i:QUIT))\r\n"
    % (PLAIN_PATH.pattern, PLAIN_PATH.pattern, _HOST.pattern)
).match

#: In a plain line that is no longer than this nothing can be too long: what stands around a local
#: part takes 14 octets.
SHORT_LINE: Final = MAX_LOCAL_PART + 14


def parse_mail(argument: bytes, extensions: Extensions) -> Mail | Reply:
    """Read what stands behind ``MAIL`` and a space; a ``Reply`` says what is wrong with it."""
    match = _FROM.fullmatch(argument)
    if match is None:
        return _BAD_MAIL
    path, text = match.groups()
    parameters = _parameters(text, MAIL_PARAMETERS, extensions)
    if isinstance(parameters, Reply):
        return parameters
    # qmail's sender of double bounces stands for the null reverse-path.
    if path == b"<>" or path == b"<#@[]>":
        return Mail(NULL_PATH, parameters)
    address = _address(path, "SMTPUTF8" in parameters, "5.1.7")
    if isinstance(address, Reply):
        return address
    return Mail(address, parameters)


def parse_rcpt(argument: bytes, extensions: Extensions, utf8: bool = False) -> Rcpt | Reply:
    """Read what stands behind ``RCPT`` and a space; a ``Reply`` says what is wrong with it.

    :param utf8: Whether the transaction was begun with SMTPUTF8.
    """
    match = _TO.fullmatch(argument)
    if match is None:
        return _BAD_RCPT
    path, text = match.groups()
    parameters = _parameters(text, RCPT_PARAMETERS, extensions)
    if isinstance(parameters, Reply):
        return parameters
    address = _address(path, utf8, "5.1.3")
    if isinstance(address, Reply):
        return address
    if address.is_null:
        return _NULL_RECIPIENT
    return Rcpt(address, parameters)


def parse_argument(
    verb: bytes, argument: bytes, extensions: Extensions, utf8: bool = False
) -> Command | Reply:
    """Read the argument of a command; a ``Reply`` says what is wrong with it.

    :param verb: In upper case; one that is known.
    :param utf8: As with :func:`parse_rcpt`.
    """
    if verb == b"RCPT":
        return parse_rcpt(argument, extensions, utf8)
    return PARSERS[verb](argument, extensions)


def split_path(argument: bytes) -> tuple[bytes, bytes]:
    """Part the argument of MAIL or RCPT into path and parameters, without reading either.

    A path that lacks its angle brackets ends at white space.
    """
    match = _FROM.fullmatch(argument) or _TO.fullmatch(argument)
    if match is not None:
        return match[1], match[2] or b""
    path, _, parameters = argument.partition(b":")[2].strip().partition(b" ")
    return path, parameters.strip()


def _address(path: bytes, utf8: bool, status: str) -> Address | Reply:
    try:
        return parse_path(path, utf8)
    except AddressError as error:
        if not utf8 and not path.isascii():
            return _NEEDS_SMTPUTF8
        return Reply(501, f"Bad address: {error}", status)


def _parameters(
    text: bytes | None, known: Mapping[bytes, Parameter], extensions: Extensions
) -> Parameters | Reply:
    if not text:
        return NO_PARAMETERS
    found: dict[str, str | None] = {}
    for word in text.split():
        keyword, equals, value = word.partition(b"=")
        keyword = keyword.upper()
        parameter = known.get(keyword)
        shown = keyword[:40].decode("ascii", "replace")
        if parameter is None or not extensions.allows(parameter.extension):
            return Reply(555, f"Parameter {shown} not recognized", "5.5.4")
        if shown in found:
            return Reply(501, f"Parameter {shown} given twice", "5.5.4")
        if parameter.value is None:
            if equals:
                return Reply(501, f"Parameter {shown} takes no value", "5.5.4")
            found[shown] = None
            continue
        if parameter.value.fullmatch(value) is None:
            return Reply(501, f"Parameter {shown} has a bad value", "5.5.4")
        found[shown] = value.decode("utf-8", "replace")
    body = found.get("BODY")
    if body is not None:
        found["BODY"] = body = body.upper()
        if body == "BINARYMIME" and not (extensions.chunking and extensions.binarymime):
            return Reply(555, "BODY=BINARYMIME is not offered", "5.5.4")
    return found


def _greeting(argument: bytes) -> tuple[str, tuple[str, ...]] | Reply:
    words = argument.split()
    if not words:
        return _HOST_MISSING
    if _HOST.fullmatch(words[0]) is None:
        return _HOST_BAD
    host, *rest = (word.decode("utf-8", "replace") for word in words)
    return host, tuple(rest)


def _ehlo(argument: bytes, extensions: Extensions) -> Ehlo | Reply:
    found = _greeting(argument)
    return found if isinstance(found, Reply) else Ehlo(*found)


def _helo(argument: bytes, extensions: Extensions) -> Helo | Reply:
    found = _greeting(argument)
    return found if isinstance(found, Reply) else Helo(*found)


def _data(argument: bytes, extensions: Extensions) -> Data | Reply:
    return _NO_ARGUMENT if argument else DATA


def _bdat(argument: bytes, extensions: Extensions) -> Bdat | Reply:
    match = _BDAT.fullmatch(argument)
    if match is None:
        return _BAD_BDAT
    return Bdat(int(match[1]), match[2] is not None)


def _rset(argument: bytes, extensions: Extensions) -> Rset | Reply:
    return _NO_ARGUMENT if argument else RSET


def _quit(argument: bytes, extensions: Extensions) -> Quit | Reply:
    return _NO_ARGUMENT if argument else QUIT


def _starttls(argument: bytes, extensions: Extensions) -> Starttls | Reply:
    return _NO_ARGUMENT if argument else STARTTLS


def _auth(argument: bytes, extensions: Extensions) -> Auth | Reply:
    words = argument.split()
    if not 1 <= len(words) <= 2 or _MECHANISM.fullmatch(words[0]) is None:
        return _BAD_AUTH
    mechanism = words[0].decode("ascii").upper()
    if len(words) == 1:
        return Auth(mechanism)
    if _INITIAL.fullmatch(words[1]) is None:
        return _BAD_AUTH
    return Auth(mechanism, words[1])


def _text(argument: bytes) -> str:
    return argument.decode("utf-8", "replace")


#: How the argument of each command is read. RCPT is the machine's own, since whether an
#: address may be outside ASCII depends on the transaction.
PARSERS: Final[Mapping[bytes, Callable[[bytes, Extensions], Command | Reply]]] = {
    b"EHLO": _ehlo,
    b"HELO": _helo,
    b"MAIL": parse_mail,
    b"DATA": _data,
    b"BDAT": _bdat,
    b"RSET": _rset,
    b"NOOP": lambda argument, extensions: Noop(_text(argument)),
    b"VRFY": lambda argument, extensions: Vrfy(_text(argument)),
    b"HELP": lambda argument, extensions: Help(_text(argument)),
    b"QUIT": _quit,
    b"STARTTLS": _starttls,
    b"AUTH": _auth,
}

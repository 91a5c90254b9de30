# -*- test-case-name: tests.smtp.test_address -*-
"""Mailboxes and the paths of ``MAIL`` and ``RCPT`` (RFC 5321, 4.1.2; RFC 6531, 3.3).

What an :class:`Address` holds is valid by the grammar and within the limits of RFC 5321, 4.5.3.1.
The double bounce sender of qmail, ``<#@[]>``, is neither: whoever wants to take it compares the
octets before parsing them.
"""

import unicodedata
from functools import total_ordering
from ipaddress import IPv4Address, IPv6Address
from typing import Final, final

from qpsmtpd.smtp import grammar

MAX_PATH: Final = 256
"""Octets of a path with its brackets (RFC 5321, 4.5.3.1.3); no longer domain fits into it."""

MAX_LOCAL_PART: Final = 64
"""Octets of a local part as written, its quotes included (RFC 5321, 4.5.3.1.1)."""


class AddressError(ValueError):
    """A text is not an address; the sentence says why and repeats nothing of the text."""


@final
@total_ordering
class Address:
    """A mailbox; or the null path ``<>``; or ``<postmaster>``, which needs no domain.

    Two are equal when their domains are, in any case of letters, and their local parts are in the
    case given (RFC 5321, 2.4), except that ``postmaster`` is equal in any case (RFC 5321, 4.5.1).
    They sort by domain, then by local part. All are true, ``<>`` too.

    :param local_part: Without quotes.
    :param domain: A domain, an address literal in its square brackets, or ``None``.

    :raises AddressError: No path can be written for the two.
    """

    __slots__ = ("_domain", "_local_part", "_text")

    _local_part: str
    _domain: str | None
    _text: str

    def __init__(self, local_part: str, domain: str | None) -> None:
        text = f"<{local_part}>" if domain is None else f"<{_quoted(local_part)}@{domain}>"
        parsed = parse_path(_octets(text), utf8=True)
        if domain is None and parsed._domain is not None:
            raise AddressError("only the null path and postmaster have no domain")
        self._local_part = parsed._local_part
        self._domain = parsed._domain
        self._text = parsed._text

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read an address from a configuration file: with or without brackets, not only ASCII.

        :raises AddressError: It is not one. The empty text is not; the null path is ``<>``.
        """
        if not text:
            raise AddressError("an address is missing")
        if not (text[0] == "<" and text[-1] == ">"):
            text = f"<{text}>"
        return parse_path(_octets(text), utf8=True)

    @property
    def local_part(self) -> str:
        """What stands before the ``@``, without quotes; empty in the null path."""
        return self._local_part

    @property
    def domain(self) -> str | None:
        """The domain or address literal as it was given; ``None`` when there is none."""
        return self._domain

    @property
    def domain_lower(self) -> str | None:
        """The domain to compare and to look up by."""
        return None if self._domain is None else self._domain.lower()

    @property
    def mailbox(self) -> str:
        """As ``str()``, without the brackets; empty for the null path."""
        return self._text[1:-1]

    @property
    def is_null(self) -> bool:
        """Whether this is the reverse-path of a notification, ``<>`` (RFC 5321, 4.5.5)."""
        return self._text == "<>"

    @property
    def ascii(self) -> bool:
        """Whether the next server can take it without ``SMTPUTF8``."""
        return self._text.isascii()

    def __str__(self) -> str:
        """Give the path, the local part quoted if it must be and without a source route."""
        return self._text

    def __repr__(self) -> str:
        return f"Address({self._local_part!r}, {self._domain!r})"

    def _key(self) -> tuple[str, str]:
        local_part = self._local_part
        if len(local_part) == 10 and local_part.lower() == "postmaster":
            local_part = "postmaster"
        return (self._domain or "").lower(), local_part

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Address):
            return NotImplemented
        return self._text == other._text or self._key() == other._key()

    def __lt__(self, other: "Address") -> bool:
        if not isinstance(other, Address):
            return NotImplemented
        return self._key() < other._key()

    def __hash__(self) -> int:
        return hash(self._key())


_new = object.__new__
_plain_path = grammar.PLAIN_PATH.fullmatch


def parse_path(octets: bytes, utf8: bool = False) -> Address:
    """Read the path of ``MAIL`` or ``RCPT``, from ``<`` to ``>``; a source route is dropped.

    :param utf8: Whether the client asked for ``SMTPUTF8`` and so may go beyond ASCII.

    :raises AddressError: It is not a path; nothing else is raised, whatever the octets.
    """
    plain = _plain_path(octets) is not None and len(octets) <= MAX_PATH
    if plain and octets.index(b"@") <= MAX_LOCAL_PART + len("<"):
        return plain_path(octets)
    return _parse_uncommon(octets, utf8)


def plain_path(octets: bytes) -> Address:
    """Make an address of a path that is known to be within the limits.

    :param octets: What ``PLAIN_PATH`` matches.
    """
    # Not through a constructor: this runs twice for each message, and the call costs as much again.
    address = _new(Address)
    address._text = text = octets.decode()
    at = text.index("@")
    address._local_part = text[1:at]
    address._domain = text[at + 1 : -1]
    return address


def _parse_uncommon(octets: bytes, utf8: bool) -> Address:
    """Read what is not plain: each rule in its turn, so that the error can name it."""
    if octets == b"<>":
        return NULL_PATH
    if octets[:1] != b"<" or octets[-1:] != b">" or len(octets) < 2:
        raise AddressError("a path stands in angle brackets")
    if len(octets) > MAX_PATH:
        raise AddressError(f"a path has at most {MAX_PATH} octets")
    mailbox = octets[1:-1]
    if mailbox.lower() == b"postmaster":
        return _make("postmaster", None, "<postmaster>")
    if not utf8 and not octets.isascii():
        raise AddressError("an address that is not ASCII needs SMTPUTF8")
    if mailbox[:1] == b"@":
        route = (grammar.A_D_L_UTF8 if utf8 else grammar.A_D_L).match(mailbox)
        if route is None or mailbox[route.end() : route.end() + 1] != b":":
            raise AddressError("the local part is missing")
        mailbox = mailbox[route.end() + 1 :]
    local_octets, at, domain_octets = mailbox.rpartition(b"@")
    if not at:
        raise AddressError("the domain is missing")
    if len(local_octets) > MAX_LOCAL_PART:
        raise AddressError(f"a local part has at most {MAX_LOCAL_PART} octets")
    if not (grammar.LOCAL_PART_UTF8 if utf8 else grammar.LOCAL_PART).fullmatch(local_octets):
        raise AddressError("the local part is not valid")
    domain = _domain(domain_octets, utf8)
    local_part = local_octets.decode("utf-8")
    if any(map(_breaks_lines, local_part)):
        raise AddressError("the local part holds a control character")
    if local_part[0] == '"':
        local_part = _unquoted(local_part[1:-1])
    return _make(local_part, domain, f"<{_quoted(local_part)}@{domain}>")


def _make(local_part: str, domain: str | None, text: str) -> Address:
    address = _new(Address)
    address._local_part = local_part
    address._domain = domain
    address._text = text
    return address


def _domain(octets: bytes, utf8: bool) -> str:
    """Check a domain or address literal."""
    if octets[:1] == b"[":
        if not grammar.ADDRESS_LITERAL.fullmatch(octets):
            raise AddressError("the address literal is neither IPv4 nor IPv6")
        literal = octets[1:-1].decode("ascii")
        try:
            if octets[1:2] in b"Ii":
                IPv6Address(literal[5:])
            else:
                IPv4Address(literal)
        except ValueError:
            raise AddressError("the address literal is out of range") from None
        return f"[{literal}]"
    if not (grammar.DOMAIN_UTF8 if utf8 else grammar.DOMAIN).fullmatch(octets):
        raise AddressError("the domain is not valid")
    domain = octets.decode("utf-8")
    if not domain.isascii() and not all(map(_in_label, domain)):
        raise AddressError("the domain holds a character that no domain has")
    return domain


def _in_label(character: str) -> bool:
    """Whether a character can stand in a domain.

    Wider than RFC 5892: enough to keep out look-alikes of ``.`` and ``@``, blanks and controls.
    """
    if character.isascii():
        return True
    category = unicodedata.category(character)
    return (
        category[0] in "LM" or category == "Nd" or character in "\u200c\u200d\xb7\u30fb\u05f3\u05f4"
    )


def _breaks_lines(character: str) -> bool:
    """Whether some reader of logs takes a character for the end of a line (RFC 5198, 2)."""
    return "\x80" <= character <= "\x9f" or character in "\u2028\u2029"


def _octets(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise AddressError("an address holds no surrogates") from None


def _unquoted(content: str) -> str:
    """Take the backslashes out of the content of a quoted string."""
    if "\\" not in content:
        return content
    characters = iter(content)
    return "".join(next(characters) if one == "\\" else one for one in characters)


def _quoted(local_part: str) -> str:
    """Write a local part as ``Dot-string`` if it can be, else as ``Quoted-string``."""
    if grammar.DOT_STRING_UTF8.fullmatch(local_part.encode("utf-8", "replace")):
        return local_part
    escaped = local_part.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


NULL_PATH: Final = _make("", None, "<>")
"""The reverse-path of notifications, to which none is sent in turn (RFC 5321, 4.5.5)."""

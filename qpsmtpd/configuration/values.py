# -*- test-case-name: tests.configuration.test_values -*-
"""Text to setting: what an argument or a line of a control file can hold.

A converter takes the text an operator wrote and returns the setting, or raises
`ValueError` with a text that begins with ``expected`` and says what would have
been right. Its attribute ``expects`` holds the same words for documentation.

A plugin that needs one more writes it with `converter`::

    @converter("a port")
    def port(text: str) -> int:
        return int(text)
"""

import functools
import math
import os
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network
from ipaddress import ip_network as _ip_network
from typing import Final, Protocol, TypeVar, cast

from qpsmtpd.configuration.patterns import compiled
from qpsmtpd.smtp.address import Address, AddressError

__all__ = [
    "ConversionError",
    "Converter",
    "address",
    "choice",
    "converter",
    "domain",
    "integer",
    "ip_network",
    "list_of",
    "log_level",
    "number",
    "octal_mode",
    "path",
    "regex",
    "reject_type",
    "seconds",
    "size",
    "text",
    "yes_no",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Converter(Protocol[T_co]):
    """A function from the operator's text to a setting.

    :ivar expects: What it takes, as the words that follow "expected".
    """

    expects: str
    __name__: str

    def __call__(self, text: str, /) -> T_co:
        """Return the setting.

        :raises ValueError: The text is not one; the message begins with
            ``expected``.
        """


class ConversionError(ValueError):
    """Raised inside a converter to say, beyond what it expects, why not."""


def converter(expects: str) -> Callable[[Callable[[str], T]], Converter[T]]:
    """Make a converter of a function that raises any `ValueError`.

    :param expects: What the function takes, in words that follow "expected".
    """

    def decorate(function: Callable[[str], T]) -> Converter[T]:
        @functools.wraps(function)
        def convert(text: str, /) -> T:
            try:
                return function(text)
            except ConversionError as error:
                raise ValueError(f"expected {expects}: {error}") from error
            except ValueError as error:
                raise ValueError(f"expected {expects}") from error

        made = cast(Converter[T], convert)
        made.expects = expects
        return made

    return decorate


@converter("a text")
def text(text: str) -> str:
    """Take any text that is not empty, as it is."""
    if not text:
        raise ValueError(text)
    return text


@converter("a whole number, 0 or more")
def integer(text: str) -> int:
    """Take decimal digits. Unlike `int`, no sign, space, underscore or foreign digit."""
    return int(_matched(_DIGITS, text)[0])


@converter("a number")
def number(text: str) -> float:
    """Take a decimal number with or without sign and fraction, as a score has them."""
    return _finite(float(_matched(_NUMBER, text)[0]))


@converter("a number of seconds, or a number with s, m, h or d as in 30s, 5m, 2h, 1d")
def seconds(text: str) -> float:
    """Take a duration; without a unit it is in seconds."""
    amount, unit = _matched(_DURATION, text).groups()
    return _finite(float(amount) * _SECONDS[unit])


@converter("a number of octets, or a number with k, M or G as in 512k, 10M")
def size(text: str) -> int:
    """Take a size; the units are powers of 1024, upper or lower case."""
    amount, unit = _matched(_SIZE, text).groups()
    return int(amount) << _SHIFTS[unit.lower()]


@converter("an octal file mode as in 0700")
def octal_mode(text: str) -> int:
    """Take the permission bits of a file, as `chmod` does."""
    return int(_matched(_MODE, text)[1], 8)


@converter("yes or no (also 1 or 0, true or false, on or off)")
def yes_no(text: str) -> bool:
    """Take a truth, in upper or lower case.

    In the Perl qpsmtpd every word but ``0`` was true, ``off`` and ``no`` among
    them; here a word that is neither is an error.
    """
    try:
        return _TRUTHS[text.lower()]
    except KeyError:
        raise ValueError(text) from None


@converter("the path of a file or directory")
def path(text: str) -> str:
    """Take a path; ``~`` and ``~user`` at its start stand for the home directory."""
    if not text or "\0" in text:
        raise ValueError(text)
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ConversionError(f"no home directory is known for {text.split('/')[0]}")
    return expanded


@converter("a domain, in ASCII, as in mail.example")
def domain(text: str) -> str:
    """Take a domain name; lower-cased, without a final dot (RFC 5321, 2.3.5).

    An internationalised one is written with its A-labels (``xn--...``). The
    underscore is taken although no host may have it, because names in DNS do.
    """
    if not text.isascii():  # before lower(), which makes an ASCII letter of the Kelvin sign
        raise ValueError(text)
    name = text.lower().removesuffix(".")
    if len(name) > _DOMAIN_LIMIT:
        raise ConversionError(f"it is longer than {_DOMAIN_LIMIT} octets")
    return _matched(_DOMAIN, name)[0]


@converter("an IP address or network as in 192.0.2.0/24 or 2001:db8::/32")
def ip_network(text: str) -> IPv4Network | IPv6Network:
    """Take a network in CIDR notation; an address alone is a network of one."""
    try:
        return _ip_network(text)
    except ValueError as error:
        if "host bits" in str(error):
            network = _ip_network(text, strict=False)
            raise ConversionError(f"the network of that address is {network}") from None
        raise


@converter("a mail address as in user@mail.example")
def address(text: str) -> Address:
    """Take a mailbox, with or without angle brackets; ``<>`` is the null path."""
    try:
        return Address.parse(text)
    except AddressError as error:
        raise ConversionError(str(error)) from error


@converter("a log level: 0 to 7, or emerg, alert, crit, error, warn, notice, info, debug")
def log_level(text: str) -> int:
    """Take a level by number or by name, with or without ``LOG`` in front.

    0, ``LOGEMERG`` and ``LOGRADAR`` are the same level, the most severe; a number above 7 is
    7, which is everything.
    """
    if _DIGITS.fullmatch(text):
        return min(int(text[-20:]), 7)
    name = text.upper().removeprefix("LOG")
    try:
        return _LOG_LEVELS[name]
    except KeyError:
        raise ValueError(text) from None


@converter("a regular expression")
def regex(text: str) -> re.Pattern[str]:
    """Take a regular expression in Python's notation, and some of Perl's (see `patterns`)."""
    try:
        return compiled(text)
    except (ValueError, re.error, OverflowError, RecursionError) as error:
        raise ConversionError(str(error)) from error


def choice(*names: str) -> Converter[str]:
    """Make a converter that takes one of some words, in upper or lower case.

    :param names: The words, spelt as the converter returns them.
    """
    by_folded: Final = {name.lower(): name for name in names}

    @converter(_alternatives(names))
    def one_of(text: str) -> str:
        try:
            return by_folded[text.lower()]
        except KeyError:
            raise ValueError(text) from None

    return one_of


def list_of(item: Converter[T]) -> Converter[tuple[T, ...]]:
    """Make a converter that takes a comma-separated list; the empty text is the empty list.

    :param item: Converts each part, after white space around it is removed.
    """

    @converter(f"a comma-separated list, each part {item.expects}")
    def items(text: str) -> tuple[T, ...]:
        if not text.strip():
            return ()
        return tuple(_part(item, part.strip()) for part in text.split(","))

    return items


def _part(item: Converter[T], part: str) -> T:
    try:
        return item(part)
    except ValueError:
        raise ConversionError(f'"{part}" is none') from None


def _alternatives(names: tuple[str, ...]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _matched(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return match


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ConversionError("it is too large")
    return value


#: How a plugin refuses: ``perm`` or ``hard`` with 5xx, ``temp`` or ``soft`` with 4xx;
#: the last two close the connection as well.
reject_type: Final = choice("perm", "hard", "temp", "soft", "disconnect", "temp_disconnect")


_DIGITS: Final = re.compile(r"[0-9]+")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)")
_SIZE: Final = re.compile(r"([0-9]+)([kKmMgG]?)")
_MODE: Final = re.compile(r"(?:0o?)?([0-7]{1,4})")
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")

#: RFC 1035, 2.3.4 allows 255 octets on the wire: two fewer as text without the final dot.
_DOMAIN_LIMIT: Final = 253

_SECONDS: Final[Mapping[str, int]] = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SHIFTS: Final[Mapping[str, int]] = {"": 0, "k": 10, "m": 20, "g": 30}
_TRUTHS: Final[Mapping[str, bool]] = {
    "1": True,
    "yes": True,
    "true": True,
    "on": True,
    "0": False,
    "no": False,
    "false": False,
    "off": False,
}
_LEVEL_NAMES: Final = ("EMERG", "ALERT", "CRIT", "ERROR", "WARN", "NOTICE", "INFO", "DEBUG")
_LOG_LEVELS: Final[Mapping[str, int]] = {
    "RADAR": 0,
    **{name: level for level, name in enumerate(_LEVEL_NAMES)},
}

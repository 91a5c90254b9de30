# -*- test-case-name: tests.plugins.test_greylisting -*-
"""Refuse mail for now, until a client has tried again after a while (RFC 6647).

::

    greylisting black_timeout 10m
    greylisting sender 1 recipient 1 black_timeout 300 grey_timeout 12h

What is new is *black*: it is told 450 for ``black_timeout``. Who comes back after that is let
through and from then on *white*, as long as there is mail once in ``white_timeout``. All of this
is in the server's store, so processes and machines that share the store agree.

Arguments; durations are in seconds or as in ``10m``, ``12h``, ``36d``:

``remote_ip`` 1, ``sender`` 0, ``recipient`` 0
    What has to be the same when the client tries again.
``ipv4_prefix`` 32, ``ipv6_prefix`` 64
    How many bits of the client's address have to be the same; large senders try again
    from another address of their network.
``black_timeout`` 3000, ``white_timeout`` 3110400, ``grey_timeout`` 0
    See above. Who comes back later than ``grey_timeout`` after the first time is new again; 0
    stands for ``white_timeout``.
``reject`` 1
    ``0`` keeps the records and refuses nobody.
``deny_late`` 0
    ``1`` refuses at DATA instead of MAIL.
``per_recipient`` 0
    ``1`` asks at RCPT, as ``recipient`` does, and lets ``denysoft_greylist`` override the line.
``geoip``
    Countries that are not greylisted, as in ``US,UK``; needs a plugin that finds the country.
``p0f``
    Greylist only what matches one of these, as in ``genre,windows,distance,8``: ``genre`` and
    ``link`` are patterns, ``distance`` is a number to be over, ``uptime`` one to be under.
``db_dir``, ``redis``, ``nfslock``, ``upgrade``
    Accepted from older lines, and ignored: where the records are is a setting of the store.

Control files:

``denysoft_greylist``
    The same arguments, on one line or several; the line of ``plugins`` goes before.
``greylist_exclude_files``
    Paths of files with clients that are not greylisted, in the form of postgrey's
    ``whitelist_clients``: on each line a domain, which stands for its hosts too, an address, a
    network (``192.0.2.0/24`` or ``192.0.2``), or a ``/pattern/`` for the client's name.

Relay clients and whitelisted clients are not greylisted, nor are messages all of whose
recipients are whitelisted. At RCPT the null reverse-path is taken, and refused at DATA with 451,
so that servers which ask whether an address exists get their answer.

When the store fails, the client is told to come back, or goes on with ``on_fault skip``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any, Final

from twisted.logger import Logger
from zope.interface import alsoProvides, implementer

from qpsmtpd import policy
from qpsmtpd.component import PluginMaker, argument, component, control_file, service
from qpsmtpd.configuration.values import (
    ConversionError,
    converter,
    integer,
    list_of,
    path,
    regex,
    seconds,
    text,
    yes_no,
)
from qpsmtpd.interfaces import IData, ILifecycle, IMail, IRcpt, IStore
from qpsmtpd.networks import client_address
from qpsmtpd.session import Session, Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.verdicts import Verdict, defer

log = Logger()

_NAME: Final = "greylisting"

#: The note with what the client is told at DATA.
_NOTE: Final = "greylist"
_TEXT: Final = "This mail is temporarily denied"

#: So often a record is read again when another process was faster. Then the verdict stands, and
#: this one attempt is not counted.
_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a client, as it lies in the store: ``time:new:black:white``.

    :ivar time: The first attempt, or the latest one that was let through; since the epoch.
    :ivar black: How often it was refused since.
    :ivar white: How often it was let through.
    """

    time: int
    new: int = 1
    black: int = 0
    white: int = 0

    @classmethod
    def parse(cls, octets: bytes | None) -> Record | None:
        """Read a record; what is none counts as absent."""
        if octets is None or not _RECORD.fullmatch(octets):
            return None
        return cls(*map(int, octets.split(b":")))

    def __bytes__(self) -> bytes:
        return b"%d:%d:%d:%d" % (self.time, self.new, self.black, self.white)


_RECORD: Final = re.compile(rb"[0-9]{1,12}(?::[0-9]{1,12}){3}")


@dataclass(frozen=True, slots=True)
class Rules:
    """The arguments, with what stands for those that are not given."""

    remote_ip: bool = True
    sender: bool = False
    recipient: bool = False
    ipv4_prefix: int = 32
    ipv6_prefix: int = 64
    black_timeout: float = 3000
    grey_timeout: float = 0
    white_timeout: float = 3110400
    reject: bool = True
    deny_late: bool = False
    per_recipient: bool = False
    geoip: tuple[str, ...] = ()
    p0f: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not (self.remote_ip or self.sender or self.recipient):
            raise ValueError("expected one of remote_ip, sender and recipient to be 1")
        if not self.black_timeout < self.grey_window <= self.white_timeout:
            raise ValueError("expected black_timeout < grey_timeout <= white_timeout")
        if self.ipv4_prefix > 32 or self.ipv6_prefix > 128:
            raise ValueError("expected ipv4_prefix up to 32 and ipv6_prefix up to 128")

    @property
    def grey_window(self) -> float:
        """How long after its first attempt a client may come back."""
        return self.grey_timeout or self.white_timeout

    def judge(self, record: Record | None, now: int) -> tuple[Record, bool, str]:
        """What becomes of a client that comes now.

        :returns: Its next record, whether it is let through, and a line for the log.
        """
        if record is None:
            return Record(now), False, "fail: initial DENYSOFT, unknown"
        age = now - record.time
        if record.white and age < self.white_timeout:
            again = replace(record, time=now, white=record.white + 1)
            return again, True, f"pass: white, {again.white} deliveries"
        if record.white or age >= self.grey_window:
            return Record(now), False, "fail: initial DENYSOFT, timed out"
        if age < self.black_timeout:
            again = replace(record, black=record.black + 1)
            return again, False, f"fail: black DENYSOFT - {again.black} deferred connections"
        return replace(record, time=now, white=1), True, "pass: timed out (grey)"

    def lifetime(self, record: Record, now: int) -> float:
        """How many seconds a record is worth keeping."""
        window = self.white_timeout if record.white else self.grey_window
        return max(1, record.time + window - now)


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A line of an exclude file: a network, a pattern, or a domain."""

    network: IPv4Network | IPv6Network | None = None
    pattern: re.Pattern[str] | None = None
    domain: str = ""

    def matches(self, address: IPv4Address | IPv6Address | None, host: str | None) -> bool:
        """Whether a client is meant.

        :param host: Its name in lower case, if it has one.
        """
        if self.network is not None:
            return address is not None and address in self.network
        if host is None:
            return False
        if self.pattern is not None:
            return self.pattern.search(host) is not None
        return host == self.domain or host.endswith(f".{self.domain}")


@converter("the path of a file in the form of postgrey's whitelist_clients")
def exclude_file(line: str) -> tuple[Exclusion, ...]:
    """Take a line of ``greylist_exclude_files`` and read the file it names."""
    name = path(line)
    try:
        with open(name, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise ConversionError(f"{name}: {error.strerror}") from error
    found = []
    for number, each in enumerate(lines, start=1):
        if word := "".join(each.partition("#")[0].split()):
            try:
                found.append(_exclusion(word))
            except ValueError as error:
                raise ConversionError(f"{name}, line {number}: {error}") from error
    return tuple(found)


def _exclusion(word: str) -> Exclusion:
    if len(word) > 2 and word[0] == word[-1] == "/":
        return Exclusion(pattern=regex(f"(?i){word[1:-1]}"))
    if _PREFIX.fullmatch(word):
        octets = word.rstrip(".").split(".")
        padded = ".".join(octets + ["0"] * (4 - len(octets)))
        return Exclusion(network=ip_network(f"{padded}/{8 * len(octets)}"))
    if ":" in word or "/" in word:
        return Exclusion(network=ip_network(word, strict=False))
    return Exclusion(domain=word.lower().strip("."))


_PREFIX: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){0,3}\.?")


@converter("names and values with commas between them, as in genre,windows,distance,8")
def p0f(words: str) -> tuple[tuple[str, Any], ...]:
    """Take the argument ``p0f``."""
    parts = words.split(",")
    if len(parts) % 2:
        raise ValueError(words)
    return tuple(_p0f_pairs(iter(parts)))


def _p0f_pairs(parts: Iterator[str]) -> Iterator[tuple[str, Any]]:
    for name, value in zip(parts, parts, strict=True):
        if name in ("genre", "link"):
            yield name, regex(f"(?i){value}")
        elif name in ("distance", "uptime"):
            yield name, integer(value)
        elif name != "detail":  # upstream allows it and never looks at it
            raise ConversionError(f'"{name}" is none of genre, link, distance, uptime')


_CONVERTERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "remote_ip": yes_no,
    "sender": yes_no,
    "recipient": yes_no,
    "ipv4_prefix": integer,
    "ipv6_prefix": integer,
    "black_timeout": seconds,
    "grey_timeout": seconds,
    "white_timeout": seconds,
    "reject": yes_no,
    "deny_late": yes_no,
    "per_recipient": yes_no,
    "geoip": list_of(text),
    "p0f": p0f,
}
_IGNORED: Final = ("db_dir", "redis", "nfslock", "upgrade")


@converter("names of arguments, each with its value")
def pairs(line: str) -> tuple[tuple[str, Any], ...]:
    """Take a line of ``denysoft_greylist``."""
    words = line.split()
    if len(words) % 2:
        raise ValueError(line)
    found = []
    for name, value in zip(words[::2], words[1::2], strict=True):
        if name in _CONVERTERS:
            found.append((name, _CONVERTERS[name](value)))
        elif name not in _IGNORED:
            raise ConversionError(f'"{name}" is no argument of {_NAME}')
    return tuple(found)


def _optional(name: str, help: str) -> Any:
    """Declare an argument that may be given in ``denysoft_greylist`` too."""
    return argument(_CONVERTERS[name], default=None, help=help)


@implementer(IData, ILifecycle)
@component
class Greylisting:
    """Keeps one record for each client, sender and recipient that are told apart."""

    remote_ip: bool | None = _optional("remote_ip", "tell clients apart: 1 or 0; 1")
    sender: bool | None = _optional("sender", "tell reverse-paths apart: 1 or 0; 0")
    recipient: bool | None = _optional("recipient", "tell recipients apart: 1 or 0; 0")
    ipv4_prefix: int | None = _optional("ipv4_prefix", "bits of IPv4 addresses that count; 32")
    ipv6_prefix: int | None = _optional("ipv6_prefix", "bits of IPv6 addresses that count; 64")
    black_timeout: float | None = _optional("black_timeout", "how long to refuse; 3000")
    grey_timeout: float | None = _optional("grey_timeout", "by when to come back; white_timeout")
    white_timeout: float | None = _optional("white_timeout", "how long to remember; 3110400")
    reject: bool | None = _optional("reject", "0 refuses nobody; 1")
    deny_late: bool | None = _optional("deny_late", "1 refuses at DATA, not at MAIL; 0")
    per_recipient: bool | None = _optional("per_recipient", "1 asks at RCPT; 0")
    geoip: tuple[str, ...] | None = _optional("geoip", "countries not to greylist")
    p0f: tuple[tuple[str, Any], ...] | None = _optional("p0f", "systems that alone to greylist")
    db_dir: str | None = argument(str, default=None, help="ignored: the store decides")
    redis: str | None = argument(str, default=None, help="ignored: the store decides")
    nfslock: str | None = argument(str, default=None, help="ignored: the store decides")
    upgrade: str | None = argument(str, default=None, help="ignored: the store decides")
    settings: tuple[tuple[tuple[str, Any], ...], ...] = control_file(
        "denysoft_greylist",
        pairs,
        default=(),
        example="black_timeout 300",
        help="arguments that the line does not give",
    )
    excluded: tuple[tuple[Exclusion, ...], ...] = control_file(
        "greylist_exclude_files",
        exclude_file,
        default=(),
        help="files with clients not to greylist",
    )
    store: IStore = service(IStore)

    def __post_init__(self) -> None:
        line = {name: value for name in _CONVERTERS if (value := getattr(self, name)) is not None}
        file = dict(pair for pairs in self.settings for pair in pairs)
        by_recipient = {**file, **line}.get("per_recipient", False)
        self.rules = Rules(**({**line, **file} if by_recipient else {**file, **line}))
        self.exclusions = tuple(each for file in self.excluded for each in file)
        alsoProvides(self, IRcpt if self.rules.recipient or by_recipient else IMail)

    def start(self) -> None:
        for name in _IGNORED:
            if getattr(self, name) not in (None, "0"):
                log.warn("the argument {name} is ignored, the store decides", name=name)

    def stop(self) -> None:
        """Nothing is open."""

    async def mail(self, transaction: Transaction, reverse_path: Address) -> Verdict | None:
        if await self._passes(transaction, reverse_path, None):
            return None
        if self.rules.deny_late:
            transaction.notes[_NOTE] = _TEXT
            return None
        return defer(_TEXT, "4.7.1")

    async def rcpt(self, transaction: Transaction, recipient: Address) -> Verdict | None:
        if await self._passes(transaction, transaction.reverse_path, recipient):
            return None
        if transaction.reverse_path.is_null:
            transaction.notes[_NOTE] = _TEXT
            return None
        return defer(_TEXT, "4.7.1")

    def data(self, transaction: Transaction) -> Verdict | None:
        if not transaction.note(_NOTE):
            return None
        if (transaction.note("whitelistrcpt") or 0) == len(transaction.recipients):
            policy.report(transaction, _NAME, "skip: all recipients whitelisted", 4)
            return None
        return defer(_TEXT, "4.7.1")

    async def _passes(
        self, transaction: Transaction, sender: Address, recipient: Address | None
    ) -> bool:
        if reason := self._exempt(transaction):
            policy.report(transaction, _NAME, f"skip, {reason}")
            return True
        key = self.key(transaction.session, sender, recipient)
        passes = await self._judge(transaction, key, int(transaction.started))
        return passes or not self.rules.reject

    async def _judge(self, transaction: Transaction, key: str, now: int) -> bool:
        records = self.store.namespace(_NOTE)
        for _ in range(_TRIES):
            old = await records.get(key)
            record, passes, said = self.rules.judge(Record.parse(old), now)
            lifetime = self.rules.lifetime(record, now)
            if await records.replace(key, old, bytes(record), lifetime):
                break
        policy.report(transaction, _NAME, said, 6 if passes else 4)
        return passes

    def key(self, session: Session, sender: Address, recipient: Address | None) -> str:
        """The name of the record; the address stands there as a number, as in upstream."""
        parts = []
        if self.rules.remote_ip:
            address = client_address(session.remote_ip)
            prefix = self.rules.ipv4_prefix
            if isinstance(address, IPv6Address):
                prefix = self.rules.ipv6_prefix
            if address is not None:
                network = ip_network((address, prefix), strict=False)
                parts.append(str(int(network.network_address)))
        if self.rules.sender:
            parts.append(_mailbox(sender))
        if self.rules.recipient and recipient is not None:
            parts.append(_mailbox(recipient))
        return ":".join(parts)

    def _exempt(self, transaction: Transaction) -> str | None:
        session = transaction.session
        if reason := policy.immunity(transaction):
            return reason
        if self.rules.p0f and not self._p0f_matches(session):
            return "no p0f match"
        country = session.note("geoip_country")
        if isinstance(country, str) and country.upper() in map(str.upper, self.rules.geoip):
            return f"country {country}"
        address = client_address(session.remote_ip)
        if address is None and self.rules.remote_ip:
            return "no address"
        host = session.remote_host.lower() if session.remote_host else None
        if any(each.matches(address, host) for each in self.exclusions):
            return "excluded client"
        return None

    def _p0f_matches(self, session: Session) -> bool:
        found = session.note("p0f")
        if not isinstance(found, Mapping):
            return False
        return any(_p0f_matches(name, wanted, found.get(name)) for name, wanted in self.rules.p0f)


def _p0f_matches(name: str, wanted: re.Pattern[str] | int, found: object) -> bool:
    if found is None:
        return False
    if isinstance(wanted, re.Pattern):
        return wanted.search(str(found)) is not None
    try:
        measured = float(str(found))
    except ValueError:
        return False
    return measured > wanted if name == "distance" else measured < wanted


def _mailbox(address: Address) -> str:
    """An address as part of a key: in lower case from the ``@`` on."""
    if address.domain is None:
        return address.mailbox
    return f"{address.mailbox[: -len(address.domain)]}{address.domain_lower}"


maker = PluginMaker(_NAME, Greylisting)

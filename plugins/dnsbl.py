# -*- test-case-name: tests.plugins.test_dnsbl -*-
"""Refuse clients whose address is on a DNS blocklist (RFC 5782).

All zones are asked at once, as soon as the client connects::

    dnsbl
    dnsbl reject naughty reject_type disconnect
    dnsbl reject rcpt timeout 10

Arguments:

``reject``
    ``1`` or ``connect`` (the default) waits for the answers and refuses instead of greeting.
    ``rcpt`` greets at once and refuses each recipient: users can authenticate first, and
    the special accounts below can be reached. ``naughty`` leaves it to the plugin ``naughty``,
    with the same advantages. ``0`` only logs.
``reject_type``
    ``perm``, ``temp``, ``disconnect`` or ``temp_disconnect``; may stand without its name.
``timeout``
    Seconds to wait for an answer, 30 unless given.

Control files:

``dnsbl_zones``
    A zone on each line. After a colon may stand what listed clients are told, with
    ``%IP%`` for their address; without it that is what the zone's TXT record says. After ``=``
    may stand the return codes that count, as addresses or networks::

        zen.example
        sbl.example:Listed, see http://lookup.example/?ip=%IP%
        mixed.example=127.0.0.2,127.0.0.8/29

    Without, all of 127.0.0.0/8 count, except 127.255.255.252 to 255, with which lists say
    that they do not serve this resolver.
``dnsbl_allow``
    Clients that are not looked up: addresses, networks, or the first octets of addresses as in
    ``172.16.33.``.
``dnsbl_rejectmsg``
    One line that is added to what refused clients are told.

The variable ``RBLSMTPD``, of the environment or as a note of the session, stands for a look-up
as it does for rblsmtpd: a text refuses the client with this text, nothing lets it pass.

A zone that does not answer never refuses anybody: that is logged with ``error``. Mail for
postmaster, abuse, mailer-daemon and root at a domain of ``rcpthosts`` or ``me`` is not refused
at ``rcpt``, nor by ``naughty``, for listed clients have to reach somebody (RFC 5321, 4.5.1).
"""

from __future__ import annotations

import os
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Any, Final, TypeVar, cast

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from qpsmtpd import policy
from qpsmtpd.component import PluginMaker, argument, component, control_file, service, state
from qpsmtpd.configuration.values import (
    converter,
    domain,
    ip_network,
    list_of,
    seconds,
    text,
)
from qpsmtpd.interfaces import Answer, IConnect, IRcpt, IResolver, ResolverError
from qpsmtpd.networks import client_address
from qpsmtpd.policy import Reject, RejectType
from qpsmtpd.scope import Work
from qpsmtpd.session import Session, Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.verdicts import Verdict

T = TypeVar("T")

_NAME: Final = "dnsbl"

_LISTED: Final = IPv4Network("127.0.0.0/8")
_NOT_SERVED: Final = IPv4Network("127.255.255.252/30")

_SPECIAL: Final = frozenset({"postmaster", "abuse", "mailer-daemon", "root"})

#: Characters of a zone's own words that a client is told.
_TEXT_LIMIT: Final = 400


@dataclass(frozen=True, slots=True)
class Zone:
    """A blocklist.

    :ivar codes: The answers that count; none for the usual ones.
    :ivar text: What listed clients are told; ``None`` for the zone's own words.
    """

    name: str
    codes: tuple[IPv4Network | IPv6Network, ...] = ()
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A finding: the zone's name, and what the client is told."""

    zone: str
    text: str


@converter("a zone, as in zen.example, zen.example=127.0.0.2 or zen.example:Listed, see %IP%")
def zone(line: str) -> Zone:
    """Take a line of ``dnsbl_zones``."""
    head, colon, words = line.partition(":")
    name, equals, codes = head.partition("=")
    return Zone(
        domain(name.strip()),
        list_of(ip_network)(codes) if equals else (),
        words.strip() if colon and words.strip() else None,
    )


@converter("an address, a network, or the first octets of addresses as in 172.16.33.")
def allowed(line: str) -> IPv4Network | IPv6Network:
    """Take a line of ``dnsbl_allow``."""
    octets = line.rstrip(".").split(".")
    if ":" in line or "/" in line or len(octets) == 4:
        return ip_network(line.rstrip("."))
    padded = ".".join(octets + ["0"] * (4 - len(octets)))
    return ip_network(f"{padded}/{8 * len(octets)}")


@converter("0, 1, naughty, connect or rcpt")
def decision(word: str) -> str:
    """Take the argument ``reject``; as in upstream, other words are yes."""
    if word in ("", "0"):
        return "0"
    return word if word in ("naughty", "rcpt") else "connect"


@implementer(IConnect, IRcpt)
@component
class DNSBL:
    """Looks a client up in all zones while it goes on, and decides when all have answered."""

    reject: str = argument(
        decision, default="connect", help="1 or connect, rcpt, naughty; 0 only logs"
    )
    reject_type: RejectType | None = argument(
        policy.reject_type,
        default=None,
        positional=True,
        help="perm, temp, disconnect or temp_disconnect",
    )
    timeout: float = argument(seconds, default=30.0, help="seconds to wait for an answer")
    zones: tuple[Zone, ...] = control_file(
        "dnsbl_zones", zone, default=(), example="zen.example", help="the zones to ask"
    )
    allow: tuple[IPv4Network | IPv6Network, ...] = control_file(
        "dnsbl_allow",
        allowed,
        default=(),
        example="192.0.2.",
        help="clients that are not looked up",
    )
    rejectmsg: str | None = control_file(
        "dnsbl_rejectmsg",
        text,
        default=None,
        first=True,
        example="Ask postmaster@example.org",
        help="added to what refused clients are told",
    )
    rcpthosts: tuple[str, ...] = control_file(
        "rcpthosts", str.lower, default=(), help="domains whose postmaster listed clients may reach"
    )
    me: str | None = control_file(
        "me", str.lower, default=None, first=True, help="one more domain of this sort"
    )
    resolver: IResolver = service(IResolver)
    clock: IReactorTime = service(IReactorTime)
    #: A copy, as it is asked for each client, and ``os.environ`` encodes every name.
    environ: Mapping[str, str] = state(lambda: dict(os.environ))

    _note: str = state(str)

    def __post_init__(self) -> None:
        self._note = f"{_NAME} {id(self)}"  # there may be several instances

    def connect(self, session: Session) -> Answer:
        stated = session.note("RBLSMTPD")
        if stated is None:
            stated = self.environ.get("RBLSMTPD")
        if stated:
            return self._refusal(session, (self.rejectmsg, stated), "RBLSMTPD")
        if reason := policy.immunity(session):
            policy.report(session, _NAME, f"skip, {reason}")
            return None
        if stated is not None:
            policy.report(session, _NAME, f"skip, RBLSMTPD set, but empty for {session.remote_ip}")
            return None
        if not self.zones:
            policy.report(session, _NAME, "skip, no zones", 7)
            return None
        address = client_address(session.remote_ip)
        if address is None or any(address in each for each in self.allow):
            policy.report(session, _NAME, "skip, not looked up", 7)
            return None
        test = session.start(self._test(session, address))
        if self.reject == "connect":
            return test
        session.notes[self._note] = test
        if self.reject == "naughty":
            policy.expect(session, test)
        return None

    def rcpt(self, transaction: Transaction, recipient: Address) -> Answer:
        session = transaction.session
        test = cast("Work[Verdict | None] | None", session.note(self._note))
        if test is None or self.reject == "0":
            return None
        if self._special(recipient):
            if self.reject == "naughty":
                policy.exempt(transaction, recipient)
            account = recipient.local_part
            policy.report(transaction, _NAME, f"skip, special account: {account}", 4)
            return None
        if self.reject == "naughty":
            return None
        if reason := policy.immunity(transaction):
            policy.report(transaction, _NAME, f"skip, {reason}")
            return None
        return test

    def _special(self, recipient: Address) -> bool:
        if recipient.local_part.lower() not in _SPECIAL:
            return False
        name = recipient.domain_lower
        return (
            name is None
            or name == self.me
            or any(
                name == host or (host.startswith(".") and name.endswith(host))
                for host in self.rcpthosts
            )
        )

    async def _test(self, session: Session, address: IPv4Address | IPv6Address) -> Verdict | None:
        asked = [session.start(self._listing(session, each, address)) for each in self.zones]
        listings = [listing for each in asked if (listing := await each) is not None]
        if not listings:
            policy.report(session, _NAME, "pass")
            return None
        policy.adjust_karma(session, _NAME, -len(listings))
        zones = ", ".join(listing.zone for listing in listings)
        return self._refusal(session, (listings[0].text, self.rejectmsg), zones)

    def _refusal(
        self, session: Session, texts: tuple[str | None, ...], detail: str
    ) -> Verdict | None:
        return policy.rejection(
            session,
            _NAME,
            " ".join(filter(None, texts)).replace("%IP%", session.remote_ip),
            reject=_REJECTS.get(self.reject, Reject.YES),
            kind=self.reject_type,
            detail=detail,
        )

    async def _listing(
        self, session: Session, zone: Zone, address: IPv4Address | IPv6Address
    ) -> Listing | None:
        """What a zone says of a client; ``None`` if it is not listed, or nobody can say."""
        name = f"{_reversed(address)}.{zone.name}"
        asked = session.start(self._look_up(self.resolver.a(name)))
        words = None
        if zone.text is None:
            # There are zones with TXT records only. Asked now, the words cost no time.
            words = session.start(self._look_up(self.resolver.txt(name)))
        try:
            found = await asked
        except (ResolverError, TimeoutError) as error:
            self._failed(session, zone, f"query failed: {error}")
            return None
        if any(each in _NOT_SERVED or each not in _LISTED for each in map(ip_address, found)):
            self._failed(session, zone, f"answered {', '.join(found)}")
            return None
        if zone.codes and not _counts(zone, found):
            return None
        if words is None:
            return Listing(zone.name, zone.text or "") if found else None
        try:
            said = " ".join(" ".join((await words)[:1]).split())[:_TEXT_LIMIT]
        except (ResolverError, TimeoutError) as error:
            self._failed(session, zone, f"query failed: {error}")
            said = ""
        if not found and not said:
            return None
        return Listing(zone.name, said or f"{session.remote_ip} is listed by {zone.name}")

    def _failed(self, session: Session, zone: Zone, why: str) -> None:
        policy.report(session, _NAME, f"error, {zone.name} {why}", 3)

    def _look_up(self, question: Coroutine[Any, Any, T]) -> Deferred[T]:
        return Deferred.fromCoroutine(question).addTimeout(self.timeout, self.clock)


_REJECTS: Final = {"0": Reject.NO, "naughty": Reject.NAUGHTY}


def _counts(zone: Zone, found: list[str]) -> bool:
    """Whether one of the answers is a return code that counts."""
    return any(each in codes for each in map(ip_address, found) for codes in zone.codes)


def _reversed(address: IPv4Address | IPv6Address) -> str:
    """The octets of an IPv4 address or the nibbles of an IPv6 address, in reverse order."""
    return address.reverse_pointer.rpartition(".")[0].rpartition(".")[0]


maker = PluginMaker(_NAME, DNSBL)

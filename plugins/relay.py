# -*- test-case-name: tests.plugins.test_relay -*-
"""Let clients relay by their address, and no others if one likes.

A client that may relay can send to any domain, and most plugins that test clients and
messages pass over it::

    relay
    relay only 1

Control files, each line an address, a network, or the first octets of addresses with a dot or
colon at the end::

    192.0.2.25
    198.51.100.0/24
    10.20.
    2001:db8:7:

``relayclients``
    Who may relay.
``morerelayclients`` and the constant database ``morerelayclients.cdb``
    The same. Keys of the database are addresses and first octets, not networks.
``norelayclients``
    Who may not, whatever else says so.

``::1`` may relay also without these files. Without the dot ``10.20`` is an error; with a number of
bits any address of a network names it, so ``10.20.1.1/8`` is all of ``10.0.0.0/8``.

Under tcpserver or inetd, where each client has a process, the variable ``RELAYCLIENT`` lets the
client relay, whatever its value. In the environment of a server for many clients it means
nothing: the Perl qpsmtpd let everybody relay then. qmail-smtpd appended the value to every
recipient; no recipient is changed here.

Arguments:

``only``
    ``1`` refuses every recipient of a client that may not relay with ``550 5.7.1``, and accepts
    every one of a client that may. The plugins behind this one are then not asked about
    recipients. Users who have authenticated may relay.

This is asked when a client connects, so list it before plugins that test at that moment. In the
Perl qpsmtpd the first and the last address of a network did not belong to it, ``norelayclients``
had no networks, and the file ``morerelayclients`` was not read. The database is read with
``cdbx`` (``pip install 'qpsmtpd[cdb]'``).
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from ipaddress import IPv6Address
from ipaddress import ip_network as network_around
from typing import Final

from zope.interface import alsoProvides, implementer

from qpsmtpd import policy
from qpsmtpd.component import (
    PluginMaker,
    argument,
    component,
    control_file,
    control_map,
    state,
)
from qpsmtpd.configuration.values import ConversionError, converter, ip_network, yes_no
from qpsmtpd.interfaces import IConnect, IRcpt
from qpsmtpd.networks import Network, NetworkTable
from qpsmtpd.session import Session, Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.verdicts import OK, Verdict, deny

_NAME: Final = "relay"
_LOCALHOST: Final = "::1"

#: What stands for a database that is not there.
_NONE: Final[frozenset[bytes]] = frozenset()


@converter("an address, a network, or the first octets of addresses as in 192.0.2.")
def clients(text: str) -> Network:
    """Take a line of ``relayclients`` or ``norelayclients``."""
    try:
        if text.endswith(".") and text.count(".") <= 3:
            octets = text.count(".")
            return ip_network(f"{text}{'.'.join('0' * (4 - octets))}/{8 * octets}")
        if ":" in text and "/" not in text and not _is_ipv6(text):
            groups = text.removesuffix(":").split(":")
            return ip_network(f"{':'.join(groups)}::/{16 * len(groups)}")
        # The Perl qpsmtpd's sample has 2001:DB8::1/32: any address of the network stands for it.
        return network_around(text, strict=False) if "/" in text else ip_network(text)
    except ValueError as error:
        raise ConversionError(str(error.__cause__ or error)) from None


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


@implementer(IConnect)
@component
class Relay:
    """Looks a client up once, when it connects."""

    only: bool = argument(yes_no, default=False, help="1 refuses whoever may not relay")
    relayclients: tuple[Network, ...] = control_file(
        "relayclients", clients, default=(), help="clients that may relay", example="10.20."
    )
    morerelayclients: tuple[Network, ...] = control_file(
        "morerelayclients", clients, default=(), help="more of them", example="192.0.2.25"
    )
    database: Container[bytes] = control_map("morerelayclients", default=_NONE, help="more of them")
    norelayclients: tuple[Network, ...] = control_file(
        "norelayclients",
        clients,
        default=(),
        help="clients that may not, whatever else says so",
        example="198.51.100.0/24",
    )
    _table: NetworkTable[tuple[bool, Network]] = state(lambda: NetworkTable(()))

    def __post_init__(self) -> None:
        self._table = NetworkTable(
            (each, (may, each))
            for may, networks in (
                (False, self.norelayclients),
                (True, self.relayclients),
                (True, self.morerelayclients),
            )
            for each in networks
        )
        if self.only:
            alsoProvides(self, IRcpt)

    def connect(self, session: Session) -> None:
        ip = session.remote_ip
        found = self._table.find(ip)
        if found is not None and not found[0]:
            session.relay_client = False
            policy.report(session, _NAME, "fail, disabled by norelayclients")
        elif "RELAYCLIENT" in session.environment:
            session.relay_client = True
            policy.report(session, _NAME, "pass, enabled by env")
        elif found is not None:
            session.relay_client = True
            policy.report(session, _NAME, f"pass, match in relayclients ({found[1]})")
        elif ip == _LOCALHOST:
            session.relay_client = True
            policy.report(session, _NAME, f"pass, octet matched localhost ({ip})")
        elif (form := self._in_database(ip)) is not None:
            session.relay_client = True
            policy.report(session, _NAME, f"pass, octet match in morerelayclients ({form})")
        else:
            policy.report(session, _NAME, "skip, no match")

    def rcpt(self, transaction: Transaction, recipient: Address) -> Verdict:
        if transaction.session.relay_client:
            return OK
        policy.report(transaction, _NAME, "fail, no relay client")
        return deny("Relaying denied: this server takes mail from known clients only", "5.7.1")

    def _in_database(self, ip: str) -> str | None:
        if self.database == _NONE:  # the forms of an IPv6 address cost half as much as a session
            return None
        return next((form for form in _forms(ip) if form.encode() in self.database), None)


def _forms(ip: str) -> Iterator[str]:
    """An address and its shorter forms, as keys of the database have them; the longest first."""
    yield ip
    if "." in ip:
        octets = ip.split(".")
        yield from (".".join(octets[:count]) + "." for count in (3, 2, 1))
    elif ip:  # the Perl qpsmtpd cut the address, written in full, digit by digit
        whole = IPv6Address(ip.partition("%")[0]).exploded
        yield from (whole[:length].removesuffix(":") for length in range(len(whole), 0, -1))
        groups = [f"{int(group, 16):x}" for group in whole.split(":")]  # as relayclients has them
        yield from (":".join(groups[:count]) + ":" for count in range(7, 0, -1))


maker = PluginMaker(_NAME, Relay)

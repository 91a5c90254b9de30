# -*- test-case-name: tests.test_networks -*-
"""Which of many networks an address is in."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final, Generic, TypeAlias, TypeVar

__all__ = ["Network", "NetworkTable", "client_address", "unmapped"]

Network: TypeAlias = IPv4Network | IPv6Network

T = TypeVar("T")

#: How addresses of IPv4 begin where a socket takes both protocols (RFC 4291, 2.5.5.2).
_MAPPED: Final = bytes(10) + b"\xff\xff"


def unmapped(ip: str) -> str:
    """An address as its own protocol writes it.

    A socket for both protocols has ``::ffff:192.0.2.1`` for ``192.0.2.1`` (RFC 4291, 2.5.5.2).
    """
    if ip[:2] != "::" or not ip.lower().startswith("::ffff:"):
        return ip
    mapped = IPv6Address(ip).ipv4_mapped
    return ip if mapped is None else str(mapped)


def client_address(remote_ip: str) -> IPv4Address | IPv6Address | None:
    """The address of a client; ``None`` for one that has none, on a UNIX socket.

    :param remote_ip: As ``Session.remote_ip`` has it. A zone behind ``%`` is left out, and a mapped
        address is one of IPv4.
    """
    try:
        address = ip_address(remote_ip.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class NetworkTable(Generic[T]):
    """A mapping from networks to values.

    Networks divide all addresses into ranges, each of which has one value. So a look-up is one
    search among the octets with which ranges begin, however many networks there are.
    """

    __slots__ = ("_any", "_ipv4", "_ipv6")

    def __init__(self, entries: Iterable[tuple[Network, T]]) -> None:
        """Take networks in the order in which they count."""
        found = [(_unmapped(network), value) for network, value in entries]
        self._any = bool(found)
        self._ipv4 = _ranges(4, [entry for entry in found if entry[0].version == 4])
        self._ipv6 = _ranges(16, [entry for entry in found if entry[0].version == 6])

    def __bool__(self) -> bool:
        return self._any

    def find(self, ip: str) -> T | None:
        """The value of the first network that an address is in; ``None`` if it is in none.

        :param ip: As ``Session.remote_ip`` has it: ``""`` is in no network.
        """
        if not ip or not self._any:
            return None
        starts, values = self._ipv4
        if ":" in ip:
            octets = inet_pton(AF_INET6, ip.partition("%")[0])
            if octets.startswith(_MAPPED):
                octets = octets[12:]
            else:
                starts, values = self._ipv6
        else:
            octets = inet_pton(AF_INET, ip)
        return values[bisect_right(starts, octets) - 1]


def _ranges(size: int, entries: Iterable[tuple[Network, T]]) -> tuple[list[bytes], list[T | None]]:
    """The octets with which each range of addresses begins, and its value.

    :param size: Octets of an address.
    """
    starts = [bytes(size)]
    values: list[T | None] = [None]
    #: Networks around the address at hand, the widest first: where each ends; and the place
    #: and the value of the one that counts, of it and those around it.
    around: list[tuple[int, int, T]] = []

    def begin(address: int, value: T | None) -> None:
        octets = address.to_bytes(size, "big")
        if starts[-1] == octets:
            values[-1] = value
        else:
            starts.append(octets)
            values.append(value)

    def leave() -> None:
        end, _, _ = around.pop()
        if end < 1 << 8 * size:
            begin(end, around[-1][2] if around else None)

    numbered = [
        (int(network.network_address), network.num_addresses, place, value)
        for place, (network, value) in enumerate(entries)
    ]
    # Of those that begin alike the widest comes first.
    for first, count, place, value in sorted(numbered, key=lambda each: (each[0], -each[1])):
        while around and around[-1][0] <= first:
            leave()
        if around and around[-1][1] < place:
            _, place, value = around[-1]
        around.append((first + count, place, value))
        begin(first, value)
    while around:
        leave()
    return starts, values


def _unmapped(network: Network) -> Network:
    address = network.network_address
    if isinstance(address, IPv6Address) and address.ipv4_mapped and network.prefixlen >= 96:
        return IPv4Network((address.ipv4_mapped, network.prefixlen - 96))
    return network

# -*- test-case-name: tests.test_networks -*-
"""Which of many networks an address is in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final, Generic, TypeAlias, TypeVar

__all__ = ["Network", "NetworkTable", "client_address", "unmapped"]

Network: TypeAlias = IPv4Network | IPv6Network

T = TypeVar("T")

#: How addresses of IPv4 begin where a socket takes both protocols (RFC 4291, 2.5.5.2).
_MAPPED: Final = bytes(10) + b"\xff\xff"

#: For each length of prefix, how far an address is shifted; then what is found there.
_Sizes: TypeAlias = dict[int, dict[int, tuple[int, T]]]

#: The same to go through: each length with the look-up in its networks.
_LookUps: TypeAlias = tuple[tuple[int, Callable[[int], tuple[int, T] | None]], ...]


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

    One look-up for each length of prefix that occurs, however many networks there are.
    """

    __slots__ = ("_ipv4", "_ipv6")

    def __init__(self, entries: Iterable[tuple[Network, T]]) -> None:
        """Take networks in the order in which they count."""
        ipv4: _Sizes[T] = {}
        ipv6: _Sizes[T] = {}
        for place, (network, value) in enumerate(entries):
            network = _unmapped(network)
            sizes = ipv4 if network.version == 4 else ipv6
            shift = network.max_prefixlen - network.prefixlen
            found = sizes.setdefault(shift, {})
            found.setdefault(int(network.network_address) >> shift, (place, value))
        self._ipv4: _LookUps[T] = tuple((shift, found.get) for shift, found in ipv4.items())
        self._ipv6: _LookUps[T] = tuple((shift, found.get) for shift, found in ipv6.items())

    def __bool__(self) -> bool:
        return bool(self._ipv4 or self._ipv6)

    def find(self, ip: str) -> T | None:
        """The value of the first network that an address is in; ``None`` if it is in none.

        :param ip: As ``Session.remote_ip`` has it: ``""`` is in no network.
        """
        look_ups = self._ipv4
        if ":" in ip:
            if not self:
                return None
            octets = inet_pton(AF_INET6, ip.partition("%")[0])
            if octets.startswith(_MAPPED):
                octets = octets[12:]
            else:
                look_ups = self._ipv6
        elif look_ups and ip:
            octets = inet_pton(AF_INET, ip)
        else:
            return None
        number = int.from_bytes(octets, "big")
        first: tuple[int, T] | None = None
        for shift, found_at in look_ups:
            found = found_at(number >> shift)
            if found is not None and (first is None or found[0] < first[0]):
                first = found
        return None if first is None else first[1]


def _unmapped(network: Network) -> Network:
    address = network.network_address
    if isinstance(address, IPv6Address) and address.ipv4_mapped and network.prefixlen >= 96:
        return IPv4Network((address.ipv4_mapped, network.prefixlen - 96))
    return network

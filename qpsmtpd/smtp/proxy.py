# -*- test-case-name: tests.smtp.test_proxy -*-
"""The PROXY protocol: a load balancer says first for whom it connects.

Both versions are read: version 1 is a line of text, version 2 is binary. They stand before
anything else on the connection, TLS included. The specification is HAProxy's
``proxy-protocol.txt``; section numbers here are its.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

__all__ = ["MAX_V1", "MAX_V2", "Proxied", "ProxyError", "parse_proxy"]

#: Octets of a header of version 1 with its CR LF (2.1).
MAX_V1: Final = 107

#: Octets of a header of version 2 that we wait for. It may announce up to 64 KiB; real
#: ones, with certificates' names in them, have some hundred.
MAX_V2: Final = 16 + 4096

_V1: Final = b"PROXY "
_V2: Final = b"\r\n\r\n\0\r\nQUIT\n"

_LINE: Final = re.compile(
    rb"PROXY TCP(?:(4) ([0-9.]{7,15}) ([0-9.]{7,15})|6 ([0-9A-Fa-f:.]{2,39}) ([0-9A-Fa-f:.]{2,39}))"
    rb" (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})"
)
_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN(?: [ -~]*)?")

#: Octets of two addresses and two ports, by the octet of family and transport (2.2).
_IPV4: Final = 0x11
_IPV6: Final = 0x21
_UNIX: Final = 0x31
_SIZES: Final = {0x00: 0, _IPV4: 12, _IPV6: 36, _UNIX: 216}


class ProxyError(ValueError):
    """What came first is no PROXY header; the sentence repeats nothing of it."""


class Proxied(NamedTuple):
    """For whom a connection was made.

    The addresses are empty where the header has none of TCP: then the connection's own
    addresses are the best that is known.

    :ivar source_ip: The client's address.
    :ivar source_port: The client's port.
    :ivar destination_ip: The address that the client connected to.
    :ivar destination_port: The port that the client connected to.
    :ivar local: Whether the balancer speaks for itself, as in a health check.
    """

    source_ip: str = ""
    source_port: int = 0
    destination_ip: str = ""
    destination_port: int = 0
    local: bool = False


def parse_proxy(octets: bytes) -> tuple[Proxied, int] | None:
    """Read the header that a connection begins with.

    Whatever else a header of version 2 carries (the client's TLS session, names, checksums)
    is passed over.

    :param octets: What has arrived so far, from the first octet on.

    :returns: The header and how many octets it has; ``None`` if more of it has to come.
    :raises ProxyError: It is none, or too long; nothing else is raised, whatever the octets.
    """
    if octets[:1] == b"P":
        return _version_1(octets)
    if octets:
        return _version_2(octets)
    return None


def _version_1(octets: bytes) -> tuple[Proxied, int] | None:
    if not octets.startswith(_V1[: len(octets)]):
        raise ProxyError("no PROXY header")
    end = octets.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(octets) >= MAX_V1:
            raise ProxyError(f"a PROXY line has at most {MAX_V1} octets")
        return None
    if _UNKNOWN.fullmatch(octets, 0, end):
        return Proxied(), end + 2
    line = _LINE.fullmatch(octets, 0, end)
    if line is None:
        raise ProxyError("a PROXY line that is not well-formed")
    four, source4, destination4, source6, destination6, source_port, destination_port = (
        "" if group is None else group.decode("ascii") for group in line.groups()
    )
    try:
        source: IPv4Address | IPv6Address
        destination: IPv4Address | IPv6Address
        if four:
            source, destination = IPv4Address(source4), IPv4Address(destination4)
        else:
            source, destination = IPv6Address(source6), IPv6Address(destination6)
    except ValueError:
        raise ProxyError("a PROXY line with an address that does not exist") from None
    ports = int(source_port), int(destination_port)
    if max(ports) > 65535:
        raise ProxyError("a PROXY line with a port that does not exist")
    return Proxied(str(source), ports[0], str(destination), ports[1]), end + 2


def _version_2(octets: bytes) -> tuple[Proxied, int] | None:
    if not octets.startswith(_V2[: len(octets)]):
        raise ProxyError("no PROXY header")
    if len(octets) < 16:
        return None
    command, family = octets[12], octets[13]
    size = 16 + int.from_bytes(octets[14:16], "big")
    if command not in (0x20, 0x21):
        raise ProxyError("a PROXY header of another version, or with an unknown command")
    if size > MAX_V2:
        raise ProxyError(f"a PROXY header has at most {MAX_V2} octets here")
    local = command == 0x20
    if not local:
        if family not in _SIZES:
            raise ProxyError("a PROXY header for something other than a stream")
        if size < 16 + _SIZES[family]:
            raise ProxyError("a PROXY header without room for its addresses")
    if len(octets) < size:
        return None
    if local or family not in (_IPV4, _IPV6):
        return Proxied(local=local), size
    kind, width = (IPv4Address, 4) if family == _IPV4 else (IPv6Address, 16)
    ports = 16 + 2 * width
    return Proxied(
        str(kind(octets[16 : 16 + width])),
        int.from_bytes(octets[ports : ports + 2], "big"),
        str(kind(octets[16 + width : ports])),
        int.from_bytes(octets[ports + 2 : ports + 4], "big"),
    ), size

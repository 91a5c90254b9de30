# -*- test-case-name: tests.server.test_proxy -*-
"""Connections through a load balancer: the PROXY header comes first, then the session.

The header has to be the first thing on the connection. On an ``ssl:`` endpoint the first
thing that a factory sees is what comes inside TLS, and balancers send the header outside.
So behind a balancer let clients use STARTTLS, or TLS that the balancer ends, or a plugin
that begins TLS at ``pre_connection``: all of these start after the header.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from twisted.internet.interfaces import IHandshakeListener, IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from qpsmtpd.networks import unmapped
from qpsmtpd.smtp.proxy import Proxied, ProxyError, parse_proxy

if TYPE_CHECKING:
    from qpsmtpd.server.factory import SMTPFactory

__all__ = ["ProxyFrom", "ProxyProtocol", "Trusted"]

log: Final = Logger()

#: Seconds that a load balancer may take for its header.
HEADER_TIME: Final = 10.0

#: Whose connections begin with a PROXY header: networks, and ``"unix"`` for UNIX sockets.
ProxyFrom: TypeAlias = Iterable[IPv4Network | IPv6Network | Literal["unix"]]


class Trusted:
    """Who is trusted to say who the client is. False if nobody is."""

    __slots__ = ("_ipv4", "_ipv6", "_unix")

    def __init__(self, proxy_from: ProxyFrom) -> None:
        members = list(proxy_from)
        self._ipv4 = [each for each in members if isinstance(each, IPv4Network)]
        self._ipv6 = [each for each in members if isinstance(each, IPv6Network)]
        self._unix = "unix" in members

    def __bool__(self) -> bool:
        return bool(self._ipv4 or self._ipv6 or self._unix)

    def __contains__(self, ip: str) -> bool:
        """Whether an address is trusted; the empty one is that of a UNIX socket."""
        if not ip:
            return self._unix
        try:
            address = ip_address(unmapped(ip))
        except ValueError:
            return False
        networks = self._ipv6 if isinstance(address, IPv6Address) else self._ipv4
        return any(address in network for network in networks)


@implementer(IProtocol, IHandshakeListener)
class ProxyProtocol:
    """Reads the header and then steps aside: what the transport calls is the session's.

    A client learns nothing before the header was read, and nothing if it is wrong.
    """

    def __init__(self, factory: SMTPFactory, ip: str, port: int) -> None:
        """Make one.

        :param ip: The load balancer's address; empty for a UNIX socket.
        :param port: Its port.
        """
        self.factory = factory
        self.transport: Any = None
        self._ip = ip
        self._port = port
        self._octets = b""
        self._inner: Any = None
        self._secured = False
        self._late: Any = None

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        """Wait for the header."""
        self.factory.expected.add(self)
        self._late = self.factory.clock.callLater(HEADER_TIME, self._give_up, "nothing came")

    def handshakeCompleted(self) -> None:
        self._secured = True
        if self._inner is not None:
            self._inner.handshakeCompleted()

    def dataReceived(self, data: bytes) -> None:
        self._octets += data
        try:
            found = parse_proxy(self._octets)
        except ProxyError as error:
            self._give_up(str(error))
            return
        if found is not None:
            proxied, size = found
            octets, self._octets = self._octets, b""
            self._hand_over(proxied, octets[size:])

    def connectionLost(self, reason: Failure) -> None:
        self._done()

    def _hand_over(self, proxied: Proxied, octets: bytes) -> None:
        self._done()
        transport = self.transport
        self._inner = inner = self.factory.session(
            proxied.source_ip or self._ip,
            proxied.source_port if proxied.source_ip else self._port,
            proxied.destination_ip,
            proxied.destination_port,
        )
        # From here on the transport calls the session. Setting the transport's protocol instead
        # would have to know how each sort of transport names it.
        self.dataReceived = inner.dataReceived  # type: ignore[method-assign]
        self.connectionLost = inner.connectionLost  # type: ignore[method-assign]
        inner.early = octets
        inner.makeConnection(transport)
        if self._secured and IHandshakeListener.providedBy(inner):
            inner.handshakeCompleted()

    def _give_up(self, why: str) -> None:
        log.warn(
            "No PROXY header from {ip}: {why}",
            ip=self._ip or "a UNIX socket",
            why=why,
        )
        self._done()
        self._octets = b""
        self.dataReceived = _ignore  # type: ignore[method-assign]
        self.transport.abortConnection()

    def _done(self) -> None:
        self.factory.expected.discard(self)
        if self._late is not None and self._late.active():
            self._late.cancel()


def _ignore(data: bytes) -> None:
    pass

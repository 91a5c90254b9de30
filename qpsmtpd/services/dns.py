# -*- test-case-name: tests.services.test_dns -*-
"""Ask the DNS, remember the answers, and survive whatever they hold.

:class:`Resolver` is a stub resolver (RFC 1034, 5.3.1): it asks the recursive
servers of ``/etc/resolv.conf``. Messages are read and written by
:mod:`twisted.names.dns`. Its :class:`twisted.names.client.Resolver` is not used:
a server that truncates over TCP as well keeps it asking for ever, one that
answers SERVFAIL keeps it from asking the next, and a question that was cancelled
goes on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

from twisted.internet import error
from twisted.internet.defer import Deferred, DeferredSemaphore, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import ClientFactory, DatagramProtocol, connectionDone
from twisted.names import dns
from twisted.protocols.basic import Int16StringReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from qpsmtpd.services.interfaces import IResolver, ResolverError

__all__ = ["Resolver", "nameservers", "wire_name"]

#: An address and a port.
Server: TypeAlias = tuple[str, int]

_Key: TypeAlias = tuple[bytes, int]

#: Aliases followed for one question; resolvers in use give up between 8 and 17.
ALIAS_LIMIT: Final = 8

#: Seconds that a negative answer is kept at most. RFC 2308, 5 finds one to three hours
#: sensible; a sender who just mended his zone should not have to wait so long.
NEGATIVE_LIMIT: Final = 15 * 60

#: Seconds that an answer is kept at most, whatever its time to live.
POSITIVE_LIMIT: Final = 24 * 60 * 60

#: Answers of more characters are not kept, so that the cache has a size.
KEPT_SIZE: Final = 8192

#: Characters of a name without the dot at its end (RFC 1035, 2.3.4: 255 octets on the wire).
NAME_LIMIT: Final = 253

_NETWORK_FAILED: Final = (
    TimeoutError,
    OSError,
    error.ConnectError,
    error.ConnectionClosed,
    error.CannotListenError,
    error.InvalidAddressError,
)


def nameservers(path: str = "/etc/resolv.conf") -> list[Server]:
    """Return the servers that a file in the format of ``resolv.conf(5)`` names.

    As in the C library, a file that is absent or names none stands for the
    server of this machine.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            fields = [line.split() for line in file]
    except OSError:
        fields = []
    named = [(field[1], dns.PORT) for field in fields if field[:1] == ["nameserver"] and field[1:]]
    return named or [("127.0.0.1", dns.PORT)]


@implementer(IResolver)
class Resolver:
    """Answers :class:`IResolver` from the network and from memory.

    Questions that are the same and asked at the same time cost one query. An
    answer is kept for as long as its time to live allows; so is a negative one
    that comes with an SOA record (RFC 2308).
    """

    def __init__(
        self,
        servers: Sequence[Server] | None = None,
        *,
        timeouts: Sequence[float] = (1.0, 3.0, 5.0),
        limit: float = 10.0,
        at_once: int = 100,
        waiting: int = 1000,
        kept: int = 4096,
        reactor: Any = None,
        clock: IReactorTime | None = None,
    ) -> None:
        """Read ``/etc/resolv.conf``; nothing is sent yet.

        :param servers: Addresses and ports of the servers to ask instead.
        :param timeouts: Seconds to wait for one server, round by round: each
            server is asked once in a round.
        :param limit: Seconds after which a question fails, all rounds together.
        :param at_once: Queries under way at the same time.
        :param waiting: Questions that wait for their turn; one more fails.
        :param kept: Answers kept in memory.
        :param reactor: Where sockets come from.
        :param clock: What time it is; the reactor's time by default.
        """
        if reactor is None:
            from twisted.internet import reactor
        self._reactor = reactor
        self._clock: IReactorTime = reactor if clock is None else clock
        self._servers = list(nameservers() if servers is None else servers)
        self._timeouts = tuple(timeouts)
        self._limit = limit
        self._turns = DeferredSemaphore(at_once)
        self._waiting = waiting
        self._kept = kept
        self._cache: dict[_Key, tuple[float, list[Any]]] = {}
        self._open: dict[_Key, _Question] = {}

    async def a(self, name: str) -> list[str]:
        return await self._ask(wire_name(name), dns.A)

    async def aaaa(self, name: str) -> list[str]:
        return await self._ask(wire_name(name), dns.AAAA)

    async def txt(self, name: str) -> list[str]:
        return await self._ask(wire_name(name), dns.TXT)

    async def mx(self, name: str) -> list[tuple[int, str]]:
        return sorted(await self._ask(wire_name(name), dns.MX))

    async def ns(self, name: str) -> list[str]:
        return await self._ask(wire_name(name), dns.NS)

    async def ptr(self, address: str) -> list[str]:
        return await self._ask(_reverse_name(address), dns.PTR)

    async def _ask(self, name: bytes | None, kind: int) -> list[Any]:
        if name is None:
            return []
        found = self._remembered((name, kind))
        if found is None:
            found = await self._shared((name, kind))
        return list(found)

    def _remembered(self, key: _Key) -> list[Any] | None:
        entry = self._cache.get(key)
        if entry is None:
            return None
        until, values = entry
        if until > self._clock.seconds():
            return values
        del self._cache[key]
        return None

    def _remember(self, key: _Key, lifetime: float, values: list[Any]) -> None:
        if lifetime <= 0 or sum(len(str(value)) for value in values) > KEPT_SIZE:
            return
        self._cache.pop(key, None)
        if len(self._cache) >= self._kept:
            del self._cache[next(iter(self._cache))]  # the oldest
        self._cache[key] = (self._clock.seconds() + lifetime, values)

    def _shared(self, key: _Key) -> Deferred[list[Any]]:
        question = self._open.get(key)
        if question is not None:
            return question.join()
        question = self._open[key] = _Question()
        answer = question.join()
        # Bounded as a whole: waiting for a turn, every server, every alias.
        work = Deferred.fromCoroutine(self._resolve(key)).addTimeout(self._limit, self._clock)

        def finished(result: Any) -> None:
            del self._open[key]
            question.finish(result)

        question.abandon = work.cancel
        work.addBoth(finished)
        return answer

    async def _resolve(self, key: _Key) -> list[Any]:
        if len(self._turns.waiting) >= self._waiting:
            raise ResolverError("too many questions wait for an answer")
        await self._turns.acquire()
        try:
            lifetime, values = await self._follow(*key)
        finally:
            self._turns.release()
        self._remember(key, lifetime, values)
        return values

    async def _follow(self, name: bytes, kind: int) -> tuple[float, list[Any]]:
        """Ask until a name is no alias; servers usually answer all of it at once."""
        lifetime = float(POSITIVE_LIMIT)
        aliases = 0
        while True:
            message = await self._exchange(dns.Query(name, kind, dns.IN))
            records = [record for record in message.answers if record.cls == dns.IN]
            targets = {_lower(r.name): r for r in records if r.type == dns.CNAME}
            asked = name
            while name in targets:
                aliases += 1
                if aliases > ALIAS_LIMIT:
                    raise ResolverError(f"{_shown(asked)} is an alias of an alias, without end")
                lifetime = min(lifetime, _lifetime(targets[name]))
                name = _lower(_payload(targets[name]).name)
            own = [r for r in records if r.type == kind and _lower(r.name) == name]
            if own:
                lifetime = min(lifetime, *map(_lifetime, own))
                return lifetime, list(_values(kind, own))
            negative = _negative_lifetime(message)
            ended = name == asked or negative or message.rCode == dns.ENAME
            if ended or not _presentable(name):
                return min(lifetime, negative), []

    async def _exchange(self, query: dns.Query) -> dns.Message:
        servers = list(self._servers)
        reason = "there is no server to ask"
        for seconds in self._timeouts:
            for server in tuple(servers):
                try:
                    message = await self._query(server, query, seconds)
                except _NETWORK_FAILED as problem:
                    reason = f"{server[0]} did not answer: {problem or type(problem).__name__}"
                    self._ask_last(server)
                else:
                    if message.rCode in (dns.OK, dns.ENAME):
                        return message
                    reason = f"{server[0]} answered with code {message.rCode}"
                    servers.remove(server)  # it would only say so again
        raise ResolverError(f"{_shown(query.name.name)}: {reason}")

    def _ask_last(self, server: Server) -> None:
        """Let the next question begin with a server that may be alive."""
        self._servers.remove(server)
        self._servers.append(server)

    async def _query(self, server: Server, query: dns.Query, seconds: float) -> dns.Message:
        exchange = _Exchange(query)
        message = await self._over_udp(server, exchange, seconds)
        if not message.trunc:
            return message
        message = await self._over_tcp(server, _Exchange(query), seconds)
        if message.trunc:
            raise OSError("the answer is truncated over TCP too")
        return message

    async def _over_udp(self, server: Server, exchange: _Exchange, seconds: float) -> dns.Message:
        # A socket of its own, with a port that the system chose, for each question: with
        # the random id it is what a forged answer has to guess (RFC 5452, 9.2).
        port = self._reactor.listenUDP(
            0, _Datagram(server, exchange), interface="::" if ":" in server[0] else ""
        )
        try:
            return await exchange.answer.addTimeout(seconds, self._clock)
        finally:
            port.stopListening()

    async def _over_tcp(self, server: Server, exchange: _Exchange, seconds: float) -> dns.Message:
        connector = self._reactor.connectTCP(*server, _StreamFactory(exchange), timeout=seconds)
        try:
            return await exchange.answer.addTimeout(seconds, self._clock)
        finally:
            connector.disconnect()


class _Question:
    """What several ask at the same time, and the last one to leave gives up."""

    def __init__(self) -> None:
        self.abandon: Callable[[], None] = lambda: None
        self._askers: list[Deferred[list[Any]]] = []

    def join(self) -> Deferred[list[Any]]:
        asker: Deferred[list[Any]] = Deferred(self._leave)
        self._askers.append(asker)
        return asker

    def _leave(self, asker: Deferred[list[Any]]) -> None:
        self._askers.remove(asker)
        if not self._askers:
            self.abandon()

    def finish(self, result: list[Any] | Failure) -> None:
        askers, self._askers = self._askers, []
        for asker in askers:
            if not isinstance(result, Failure):
                asker.callback(result)
            elif isinstance(result.value, TimeoutError):
                asker.errback(ResolverError("no answer in time"))
            else:
                asker.errback(result)


class _Exchange:
    """One query and the message that answers it."""

    def __init__(self, query: dns.Query) -> None:
        self.answer: Deferred[dns.Message] = Deferred()
        self._query = query
        self._id = dns.randomSource()
        self._over = False

    def octets(self) -> bytes:
        message = dns.Message(self._id, recDes=1)
        message.queries = [self._query]
        return message.toStr()

    def received(self, octets: bytes) -> None:
        """Take octets that may be the answer; any others are as if they never came."""
        message = dns.Message()
        try:
            message.fromStr(octets)
        except Exception:  # the parser of a hostile message fails in many ways
            return
        expected = message.answer and message.id == self._id and message.queries == [self._query]
        if expected and not self._over:
            self._over = True
            self.answer.callback(message)

    def failed(self, reason: Exception) -> None:
        if not self._over:
            self._over = True
            self.answer.errback(reason)


class _Datagram(DatagramProtocol):
    def __init__(self, server: Server, exchange: _Exchange) -> None:
        self._server = server
        self._exchange = exchange

    def startProtocol(self) -> None:  # noqa: N802 - Twisted calls it
        try:
            # Connected, so that the system drops what others send and tells of refusals.
            transport: Any = self.transport
            transport.connect(*self._server)
            transport.write(self._exchange.octets())
        except (OSError, error.InvalidAddressError) as problem:
            self._exchange.failed(problem)

    def datagramReceived(self, datagram: bytes, address: object) -> None:  # noqa: N802
        self._exchange.received(datagram)

    def connectionRefused(self) -> None:  # noqa: N802
        self._exchange.failed(ConnectionRefusedError("connection refused"))

    def stopProtocol(self) -> None:  # noqa: N802
        self._exchange.failed(error.ConnectionLost())


class _Stream(Int16StringReceiver):
    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    def connectionMade(self) -> None:  # noqa: N802
        self.sendString(self._exchange.octets())

    def stringReceived(self, string: bytes) -> None:  # noqa: N802
        self._exchange.received(string)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self._exchange.failed(error.ConnectionLost())


class _StreamFactory(ClientFactory):
    noisy = False

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    def buildProtocol(self, address: object) -> _Stream:  # noqa: N802
        return _Stream(self._exchange)

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:  # noqa: N802
        self._exchange.failed(ConnectionError(reason.getErrorMessage()))


def wire_name(name: str) -> bytes | None:
    """Return a name as DNS carries it, or ``None`` when it cannot.

    Labels in Unicode are written in ASCII (RFC 3490).
    """
    name = name.removesuffix(".").lower()
    if not name or len(name) > NAME_LIMIT:
        return None
    try:
        wire = name.encode("idna")
    except UnicodeError:  # an empty label, or one of more than 63 characters
        return None
    return wire if _presentable(wire) else None


def _reverse_name(address: str) -> bytes | None:
    """Return where the names of an address stand (RFC 1035, 3.5; RFC 3596, 2.5)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return parsed.reverse_pointer.encode("ascii")


def _presentable(name: bytes) -> bool:
    # A label may hold any octet (RFC 2181, 11), a line end too; names go into logs and fields.
    return len(name) <= NAME_LIMIT and all(33 <= octet <= 126 for octet in name)


def _payload(record: dns.RRHeader) -> Any:
    return record.payload  # declared as what all types have in common, which is nothing


def _lower(name: dns.Name) -> bytes:
    return bytes(name.name).lower()


def _shown(name: bytes) -> str:
    return name.decode("ascii", "replace")


def _lifetime(record: dns.RRHeader) -> float:
    # RFC 2181, 8: a time to live with the highest bit set counts as zero.
    return record.ttl if record.ttl < 1 << 31 else 0


def _negative_lifetime(message: dns.Message) -> float:
    """Return how long an answer without records holds (RFC 2308, 5); 0 when it does not say."""
    for record in message.authority:
        if record.type == dns.SOA:
            minimum = float(_payload(record).minimum)
            return max(0.0, min(_lifetime(record), minimum, NEGATIVE_LIMIT))
    return 0


def _values(kind: int, records: Iterable[dns.RRHeader]) -> Iterable[Any]:
    for record in records:
        payload = _payload(record)
        if kind == dns.A:
            yield payload.dottedQuad()
        elif kind == dns.AAAA:
            yield str(ipaddress.IPv6Address(payload.address))
        elif kind == dns.TXT:
            yield b"".join(payload.data).decode("latin-1")
        elif _presentable(payload.name.name):
            name = _lower(payload.name).decode("ascii")
            if kind == dns.MX:
                yield payload.preference, name or "."
            elif name:
                yield name

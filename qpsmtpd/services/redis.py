# -*- test-case-name: tests.services.test_redis -*-
"""Keep shared state in Redis, for several machines.

Needs the extra ``redis``: ``pip install 'qpsmtpd[redis]'``, and Redis 6 or newer. Time is the Redis
server's. Each operation is one command or one script, which Redis runs alone.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger
from zope.interface import implementer

from qpsmtpd.services.interfaces import IStore, StoreError
from qpsmtpd.services.store import NamespacedStore, counter

__all__ = ["RedisAddress", "RedisStore"]

log = Logger()

#: What every key begins with, so that others can use the same Redis.
PREFIX: Final = b"qpsmtpd:"

#: Milliseconds that Redis counts for each second of a lifetime.
MILLISECONDS: Final = 1000

#: Seconds that an operation may take, the wait for a connection included.
LIMIT: Final = 5.0

#: Keys that Redis looks at before it serves others again.
_SCANNED: Final = 1000

#: Gives KEYS[1] the value ARGV[2] if it has ARGV[1]. ARGV[3] is its lifetime: milliseconds,
#: ``none`` or ``keep``.
_REPLACE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == 'keep' then redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
elseif ARGV[3] == 'none' then redis.call('SET', KEYS[1], ARGV[2])
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""

#: Adds ARGV[1] to KEYS[1], which has the lifetime ARGV[2] if it begins now. Gives the count; or
#: nothing if Redis, which counts with 64 bits, might not reach it.
_INCREMENT: Final = """
local value = redis.call('GET', KEYS[1])
if #ARGV[1] > 17 then return false end
if not value then
    if ARGV[2] == 'none' then redis.call('SET', KEYS[1], ARGV[1])
    else redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
    return ARGV[1]
end
if #value > 17 or not (value == '0' or string.match(value, '^-?[1-9]%d*$')) then return false end
redis.call('INCRBY', KEYS[1], ARGV[1])
return redis.call('GET', KEYS[1])
"""


@dataclass(frozen=True)
class RedisAddress:
    """Where a Redis is, and who we are there.

    :ivar host: A host's name or address, or the path of a UNIX socket.
    :ivar port: 0 for a UNIX socket.
    """

    host: str
    port: int
    database: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> RedisAddress:
        """Read ``redis://[USER][:PASSWORD@]HOST[:PORT][/DB]`` or ``unix://[...@]PATH[?db=DB]``.

        :raises ValueError: It is neither. The text does not repeat it: it may hold a password.
        """
        expected = (
            "expected redis://[:PASSWORD@]HOST[:PORT][/DB] or unix://[:PASSWORD@]PATH[?db=DB]"
        )
        try:
            parts = urlsplit(text)
            user, password = (unquote(each) if each else None for each in _login(parts.netloc))
            if parts.scheme == "redis" and parts.hostname and re.fullmatch(r"(/\d*)?", parts.path):
                database = int(parts.path[1:] or 0)
                return cls(parts.hostname, parts.port or 6379, database, user, password)
            if parts.scheme == "unix" and parts.path != "/" and parts.path.startswith("/"):
                database = int(parse_qs(parts.query).get("db", ["0"])[0])
                return cls(unquote(parts.path), 0, database, user, password)
        except ValueError:
            pass
        raise ValueError(expected)

    def __str__(self) -> str:
        """Where it is, without who we are."""
        if not self.port:
            return f"unix://{self.host}?db={self.database}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis://{host}:{self.port}/{self.database}"


def _login(netloc: str) -> tuple[str, str]:
    user, _, password = netloc.rpartition("@")[0].partition(":")
    return user, password


@implementer(IStore)
class RedisStore:
    """State in a Redis that several machines share.

    It is connected to with the first operation. While it is away an operation waits, and fails
    when its time is over.
    """

    def __init__(self, address: RedisAddress, reactor: Any = None, limit: float = LIMIT) -> None:
        """Name the Redis.

        :param limit: Seconds that an operation may take.
        """
        if reactor is None:
            from twisted.internet import reactor
        self._address = address
        self._reactor = reactor
        self._limit = limit
        self._connection: Any = None
        self._closed = False

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._ask("GET", _name(key))
        return value

    async def set(self, key: str, value: bytes, expires: float | None = None) -> None:
        await self._ask("SET", _name(key), value, *_lifetime(expires))

    async def add(self, key: str, value: bytes, expires: float | None = None) -> bool:
        return await self._ask("SET", _name(key), value, "NX", *_lifetime(expires)) is not None

    async def increment(self, key: str, by: int = 1, expires: float | None = None) -> int:
        lifetime = _milliseconds(expires)
        while True:
            counted = await self._run(_INCREMENT, key, b"%d" % by, lifetime)
            if counted is not None:
                return int(counted)
            # The count is too long for Redis, or none.
            old = await self.get(key)
            count = by if old is None else counter(key, old) + by
            if old is None:
                done = await self.add(key, b"%d" % count, expires)
            else:
                done = await self._run(_REPLACE, key, old, b"%d" % count, b"keep") == 1
            if done:
                return count

    async def replace(
        self, key: str, old: bytes | None, new: bytes, expires: float | None = None
    ) -> bool:
        if old is None:
            return await self.add(key, new, expires)
        done: bool = await self._run(_REPLACE, key, old, new, _milliseconds(expires)) == 1
        return done

    async def delete(self, key: str) -> bool:
        done: bool = await self._ask("DEL", _name(key)) == 1
        return done

    async def keys(self, prefix: str) -> list[str]:
        pattern = re.sub(rb"([][*?\\^-])", rb"\\\1", _name(prefix)) + b"*"
        found: set[bytes] = set()
        cursor: int | bytes = 0
        while True:
            cursor, some = await self._ask("SCAN", cursor, "MATCH", pattern, "COUNT", _SCANNED)
            found.update(some)
            if int(cursor) == 0:
                names = (name.removeprefix(PREFIX) for name in found)
                return sorted(name.decode("utf-8", "surrogatepass") for name in names)

    def namespace(self, name: str) -> IStore:
        return NamespacedStore(self, f"{name}:")

    async def close(self) -> None:
        """Close the connection; later operations fail."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect()

    async def _run(self, script: str, key: str, *arguments: bytes) -> Any:
        return await self._do("eval", script, [_name(key)], list(arguments))

    async def _ask(self, *words: str | bytes | int) -> Any:
        return await self._do("execute_command", *words)

    async def _do(self, method: str, *arguments: Any) -> Any:
        """Have Redis do something, and wait for what it says.

        :raises StoreError: It did not, or not in time.
        """
        if self._closed:
            raise StoreError("the store is closed")
        from txredisapi import ConnectionError, RedisError  # imported here: it imports the reactor

        connection = self._connection
        if connection is None:
            connection = self._connection = self._connect()
        asked: Deferred[Any] = getattr(connection, method)(*arguments)
        asked.addTimeout(self._limit, self._reactor)
        try:
            return await asked
        except (TimeoutError, ConnectionError) as problem:
            self._discard(connection)
            late = f"no answer in {self._limit:g} seconds"
            text = late if isinstance(problem, TimeoutError) else problem
            raise StoreError(f"{self._address}: {text}") from problem
        except RedisError as problem:
            raise StoreError(f"{self._address}: {problem}") from problem

    def _discard(self, connection: Any) -> None:
        """Let the next operation connect anew.

        Left alone, the client would wait ever longer before it does, and would give up for good
        after a password that was refused or a login that took too long.
        """
        if connection is self._connection:
            self._connection = None
            connection.disconnect().addErrback(
                lambda failure: log.failure("{address}", failure, address=self._address)
            )

    def _connect(self) -> Any:
        from txredisapi import lazyConnection, lazyUnixConnection

        address = self._address
        settings: dict[str, Any] = {
            "dbid": address.database,
            "charset": None,
            "username": address.user,
            "password": address.password,
            "connectTimeout": self._limit,
            "replyTimeout": self._limit,
            "convertNumbers": False,
        }
        connection: Any
        if address.port:
            connection = lazyConnection(address.host, address.port, **settings)
        else:
            connection = lazyUnixConnection(address.host, **settings)
        # A login that fails is logged, and those who wait are told; nobody asks for this one.
        connection._connected.addErrback(lambda failure: None)
        return connection


def _name(key: str) -> bytes:
    return PREFIX + key.encode("utf-8", "surrogatepass")


def _milliseconds(expires: float | None) -> bytes:
    # Redis takes no lifetime that is not above 0.
    return b"none" if expires is None else b"%d" % max(1, math.ceil(expires * MILLISECONDS))


def _lifetime(expires: float | None) -> tuple[str | bytes, ...]:
    return () if expires is None else ("PX", _milliseconds(expires))

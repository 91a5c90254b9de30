# ruff: noqa: N805 -- interface methods take no self
"""The services that components ask the world through: DNS, shared state and settings.

:mod:`qpsmtpd.interfaces` hands these on; a component imports them from there.
"""

from collections.abc import Coroutine
from typing import Any

from zope.interface import Interface

from qpsmtpd.smtp.address import Address

__all__ = ["IConfiguration", "IResolver", "IStore", "ResolverError", "StoreError"]


class ResolverError(Exception):
    """DNS gave no answer this time: no server replied, or none could say.

    It says nothing about the name. A component lets it pass, and the client is
    told to try again, unless its policy has something better to do.
    """


class StoreError(Exception):
    """The store could not do what was asked: it is closed, broken or has too much to do."""


class IResolver(Interface):
    """Questions to the DNS (RFC 1035).

    Every answer is a list, and an empty one says that there is no such name or
    that it has no record of this type; the difference never matters to mail.
    Names in answers are in lower case, without a dot at the end. A name that
    DNS cannot carry does not exist. An alias is followed.

    Each method raises :exc:`ResolverError` when there is no answer to be had,
    and what awaits it may be cancelled.
    """

    def a(name: str) -> Coroutine[Any, Any, list[str]]:
        """Return the IPv4 addresses of a name as text."""

    def aaaa(name: str) -> Coroutine[Any, Any, list[str]]:
        """Return the IPv6 addresses of a name as text, in the form of RFC 5952."""

    def txt(name: str) -> Coroutine[Any, Any, list[str]]:
        """Return the texts of a name.

        The strings of one record are joined without a space (RFC 7208, 3.3).
        Octets outside ASCII are decoded as Latin-1, one character each.
        """

    def mx(name: str) -> Coroutine[Any, Any, list[tuple[int, str]]]:
        """Return the mail exchangers of a domain, the most preferred first.

        :returns: Pairs of preference and name. A null MX (RFC 7505) is
            ``(0, ".")``. Without any, a sender turns to the addresses of the
            domain itself (RFC 5321, 5.1); that is left to the caller.
        """

    def ns(name: str) -> Coroutine[Any, Any, list[str]]:
        """Return the names of the servers of a zone."""

    def ptr(address: str) -> Coroutine[Any, Any, list[str]]:
        """Return the names of an IPv4 or IPv6 address.

        What the owner of the address says; nobody has checked it. Text that is
        no address has no name.
        """


class IStore(Interface):
    """State that outlives a session and is shared by all of them: keys to octets.

    With a store of several processes or machines, each operation is atomic
    among all of them. ``expires`` is a number of seconds from now after which
    the key is absent again; ``None`` keeps it.

    Each coroutine raises :exc:`StoreError` when the store fails. One that is
    cancelled may have taken effect.
    """

    def get(key: str) -> Coroutine[Any, Any, bytes | None]:
        """Return the value of a key, or ``None`` when it is absent."""

    def set(key: str, value: bytes, expires: float | None = None) -> Coroutine[Any, Any, None]:
        """Give a key this value and this lifetime, whatever it had before."""

    def add(key: str, value: bytes, expires: float | None = None) -> Coroutine[Any, Any, bool]:
        """Give a key a value if it is absent.

        :returns: Whether it was.
        """

    def increment(key: str, by: int = 1, expires: float | None = None) -> Coroutine[Any, Any, int]:
        """Add to a counter and return what it is then.

        The value is kept as decimal text. An absent counter is zero.

        :param by: How much; may be negative or zero.
        :param expires: Lifetime of a counter that this call begins. Going on
            counting does not prolong it, so it is the window of a rate limit.
        :raises StoreError: also when the value is not a number.
        """

    def replace(
        key: str, old: bytes | None, new: bytes, expires: float | None = None
    ) -> Coroutine[Any, Any, bool]:
        """Give a key the value ``new`` if its value is ``old``.

        :param old: What the caller read; ``None`` stands for an absent key.
        :returns: Whether it was, so that one who lost reads again and retries.
        """

    def delete(key: str) -> Coroutine[Any, Any, bool]:
        """Make a key absent.

        :returns: Whether it was there.
        """

    def keys(prefix: str) -> Coroutine[Any, Any, list[str]]:
        """Return the keys that begin with a text, sorted.

        For tools: it may walk through the whole store.
        """

    def namespace(name: str) -> "IStore":
        """Return a view of this store that puts ``name:`` before every key.

        Two components given different names cannot meet.
        """


class IConfiguration(Interface):
    """Settings that a component wants to know while it works, for an address above all.

    What is the same for everybody is declared with ``control_file`` instead: that is read and
    checked before the server starts.

    Asked are the hook ``user_config``, with an address only, then the hook ``config``, then the
    control files, then the built-in default. The first that has an answer is heard, and its
    answer may be that there is no value.

    A component that fails at one of the hooks is logged by its name, and the error reaches
    whoever asks; so does a ``ConfigurationError`` for a file that cannot be read.
    """

    def lines(name: str, address: Address | None = None) -> Coroutine[Any, Any, tuple[str, ...]]:
        """Return the lines of a setting; none where it has no value.

        :param name: A control file's name. Not from a client: each is remembered.
        :param address: On whose behalf.
        """

    def first(name: str, address: Address | None = None) -> Coroutine[Any, Any, str | None]:
        """Return the first line of a setting, for one that is a single value."""

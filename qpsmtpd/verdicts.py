# -*- test-case-name: tests.test_verdicts -*-
"""Verdicts: what a component says at a hook.

``None`` declines and lets the next component be asked. Everything else is a
:class:`Verdict`, an immutable value, and ends the asking::

    return None                                  # no opinion
    return OK                                    # accepted
    return deny("no such user", "5.1.1")         # permanent: 5xx
    return defer("come back later", "4.7.1")     # temporary: 4xx
    return deny("go away", disconnect=True)      # and the connection closes

Each hook knows the reply code that stands for its refusals, so a component
names a code only where it wants another one. The names DENY, DENYSOFT,
DENY_DISCONNECT and DENYSOFT_DISCONNECT of the Perl qpsmtpd are
``deny``/``defer`` with ``disconnect`` false or true.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from qpsmtpd.smtp.reply import Reply, class_of

__all__ = ["DONE", "OK", "Kind", "Verdict", "accept", "answer", "defer", "deny"]


class Kind(Enum):
    """The four things a verdict can say."""

    OK = "OK"
    DENY = "DENY"
    DEFER = "DEFER"
    DONE = "DONE"


class Verdict:
    """What a component decided, with the reply it wants.

    :ivar kind: Accepted, refused for good, refused for now, or already answered.
    :ivar text: Text for the client; ``""`` leaves it to the hook's default.
        Newlines make a reply of several lines.
    :ivar status: Enhanced status code (RFC 3463) or ``None`` for the hook's default.
    :ivar code: Reply code or ``None`` for the hook's default.
    :ivar disconnect: Whether the connection closes after the reply.
    :ivar reply: The reply of an ``answer``; ``None`` in all other verdicts.
    """

    __slots__ = ("code", "disconnect", "kind", "name", "reply", "status", "text")

    kind: Kind
    text: str
    status: str | None
    code: int | None
    disconnect: bool
    reply: Reply | None
    #: The verdict's name in logs: upstream's constants.
    name: str

    def __init__(
        self,
        kind: Kind,
        text: str = "",
        status: str | None = None,
        code: int | None = None,
        disconnect: bool = False,
        reply: Reply | None = None,
    ) -> None:
        _check(kind, status, code)
        fill = object.__setattr__
        fill(self, "kind", kind)
        fill(self, "text", text)
        fill(self, "status", status)
        fill(self, "code", code)
        fill(self, "disconnect", disconnect)
        fill(self, "reply", reply)
        fill(self, "name", _NAMES[kind] + ("_DISCONNECT" if disconnect else ""))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a verdict does not change")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a verdict does not change")

    @property
    def refuses(self) -> bool:
        """Whether the verdict is a refusal, for good or for now."""
        return self.kind is Kind.DENY or self.kind is Kind.DEFER

    def _key(self) -> tuple[object, ...]:
        octets = self.reply.octets if self.reply is not None else None
        return (self.kind, self.text, self.status, self.code, self.disconnect, octets)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Verdict):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        parts = [self.name]
        parts += [str(part) for part in (self.code, self.status) if part is not None]
        if self.text:
            parts.append(repr(self.text))
        if self.reply is not None:
            parts.append(repr(self.reply))
        return f"<Verdict {' '.join(parts)}>"


_NAMES: Final = {Kind.OK: "OK", Kind.DENY: "DENY", Kind.DEFER: "DENYSOFT", Kind.DONE: "DONE"}

#: The first digit that codes and enhanced status codes of a kind carry.
_CLASSES: Final = {Kind.OK: 2, Kind.DENY: 5, Kind.DEFER: 4}


def _check(kind: Kind, status: str | None, code: int | None) -> None:
    digit = _CLASSES.get(kind)
    if digit is None:
        return
    if status is not None and class_of(status) != digit:
        raise ValueError(f"{kind.value} with the enhanced status code {status}")
    if code is not None and code // 100 != digit:
        raise ValueError(f"{kind.value} with the reply code {code}")


def accept(text: str = "", status: str | None = None) -> Verdict:
    """Accept with a text of the component's own; plain ``OK`` has none.

    :param text: Text for the client in place of the hook's default.
    :param status: Enhanced status code, ``2.x.x``.
    """
    return Verdict(Kind.OK, text, status)


def deny(
    text: str = "", status: str | None = None, *, code: int | None = None, disconnect: bool = False
) -> Verdict:
    """Refuse for good; the client should not try again.

    :param text: Why, for the person whose mail was refused.
    :param status: Enhanced status code, ``5.x.x`` (RFC 3463).
    :param code: Reply code, 5xx, where the hook's default does not fit.
    :param disconnect: Close the connection after the reply.
    """
    return Verdict(Kind.DENY, text, status, code, disconnect)


def defer(
    text: str = "", status: str | None = None, *, code: int | None = None, disconnect: bool = False
) -> Verdict:
    """Refuse for now; the client may try again later.

    :param text: Why.
    :param status: Enhanced status code, ``4.x.x`` (RFC 3463).
    :param code: Reply code, 4xx, where the hook's default does not fit.
    :param disconnect: Close the connection after the reply.
    """
    return Verdict(Kind.DEFER, text, status, code, disconnect)


def answer(reply: Reply, *, disconnect: bool = False) -> Verdict:
    """Answer the command with exactly this reply and ask nobody else.

    This is how a component adds a command of its own at
    ``unrecognized_command``.
    """
    return Verdict(Kind.DONE, disconnect=disconnect, reply=reply)


#: Accepted, with the hook's default text.
OK: Final = Verdict(Kind.OK)

#: The component has already replied, with :meth:`Session.reply`.
DONE: Final = Verdict(Kind.DONE)

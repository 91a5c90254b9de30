"""The trace: which component decided what, and how long it took."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Decision", "describe"]


class Decision(NamedTuple):
    """One entry of a trace.

    :ivar hook: The hook that was asked.
    :ivar component: The name of the component that answered or failed.
    :ivar answer: What it said: a verdict's name, ``waited`` for one that declined
        after waiting, or ``fault`` with the error.
    :ivar seconds: From the question to the answer.
    """

    hook: str
    component: str
    answer: str
    seconds: float


def describe(trace: Iterable[Decision]) -> str:
    """A trace on one line: ``rcpt=rcpt_ok:OK/0.1ms queue=maildir:OK/4.2ms``."""
    return " ".join(
        f"{entry.hook}={entry.component}:{entry.answer}/{entry.seconds * 1000:.1f}ms"
        for entry in trace
    )

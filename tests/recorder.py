"""A component with any hooks, which notes that it was asked and answers as told."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import directlyProvides

from qpsmtpd.interfaces import HOOKS


class Recorder:
    """Has the hooks it is given, and no others.

    An answer that is an exception is raised, one that can be called is called with the hook's
    arguments, and any other is given.

    :ivar asked: The hooks at which it was asked, in order.
    :ivar calls: What it was asked, hook by hook.
    """

    def __init__(self, *hooks: str, **answers: Any) -> None:
        self.asked: list[str] = []
        self.calls: dict[str, list[tuple[Any, ...]]] = {}
        self.answers = answers
        names = dict.fromkeys((*hooks, *answers))
        directlyProvides(self, *[HOOKS[name].interface for name in names])

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in HOOKS:
            raise AttributeError(name)
        return partial(self._ask, name)

    def _ask(self, hook: str, *arguments: Any) -> Any:
        self.asked.append(hook)
        self.calls.setdefault(hook, []).append(arguments)
        answer = self.answers.get(hook)
        if isinstance(answer, Exception):
            raise answer
        return answer(*arguments) if callable(answer) else answer


class Later:
    """Answers at one hook when the test says so.

    :ivar answer: What to fire with an answer.
    :ivar cancelled: Whether whoever asked has given up.
    """

    def __init__(self, hook: str) -> None:
        self.hook = hook
        self.cancelled = False
        self.answer: Deferred[Any] = Deferred(self._cancel)
        directlyProvides(self, HOOKS[hook].interface)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in HOOKS:
            raise AttributeError(name)
        return lambda *arguments: self.answer

    def _cancel(self, _: Deferred[Any]) -> None:
        self.cancelled = True

# -*- test-case-name: tests.test_chain -*-
"""The chain: components in an order, compiled into one callable for each hook.

::

    chain = Chain([Link(DNSBL(...), "dnsbl"), Link(Maildir(...), "queue/maildir")])
    ask = chain.rcpt                         # None: no component has this hook
    answer = ask(transaction, recipient)     # an answer, or a Deferred of one

A chain is compiled once. A hook that nobody has costs one attribute look-up; n plain
components cost n direct calls. Coroutines, Deferreds and clocks come into it only when a
component waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import directlyProvides

from qpsmtpd.deadlines import Deadlines
from qpsmtpd.interfaces import HOOKS, Call, Hook, ILifecycle, IMiddleware, Proceed
from qpsmtpd.logs import Shift
from qpsmtpd.scope import Scope
from qpsmtpd.trace import Decision
from qpsmtpd.verdicts import Verdict, defer
from qpsmtpd.waiting import (
    SETTINGS,
    Ask,
    ComponentError,
    ComponentTimeoutError,
    NoVerdictError,
    Place,
    Said,
    Wait,
    begun,
    checked,
    late,
    new_tuple,
    nobody_asks,
    note,
    record,
    settle,
    waited_enough,
)

__all__ = [
    "TEMPFAIL",
    "Ask",
    "Chain",
    "ComponentError",
    "ComponentTimeoutError",
    "Link",
    "NoVerdictError",
]

log: Final = Logger()

#: What a fault stands for where the fault policy is ``tempfail``.
TEMPFAIL: Final = defer("Internal error, try again later", "4.3.0", code=451)


#: Hooks that tell of what happened to others, and in the middle of it: nobody can wait there.
_TOLD: Final = frozenset({"logging", "deny", "ok"})


class Link:
    """A component in a chain, with its name there and what its faults stand for.

    :ivar component: The component.
    :ivar name: The name in logs and traces: the line of the ``plugins`` file.
    :ivar skip_faults: Whether it is passed over when it fails; otherwise the client is told to
        come back later.
    :ivar time_limit: Seconds it may take for one answer; 0 is the chain's limit, and for
        middleware none.
    :ivar log_shift: What becomes of the levels of what it logs; ``None`` changes nothing.
    """

    __slots__ = ("component", "log_shift", "name", "skip_faults", "time_limit")

    def __init__(
        self,
        component: object,
        name: str | None = None,
        *,
        skip_faults: bool = False,
        time_limit: float = 0,
        log_shift: Shift | None = None,
    ) -> None:
        self.component = component
        self.name = name or getattr(component, "name", None) or type(component).__name__
        self.skip_faults = skip_faults
        self.time_limit = time_limit
        self.log_shift = log_shift

    def wraps(self, hook: Hook) -> bool:
        """Whether the component stands around the rest of the chain at a hook."""
        if not IMiddleware.providedBy(self.component):
            return False
        hooks = getattr(self.component, "hooks", None)
        return hook.name not in _TOLD if hooks is None else hook.name in hooks

    def named(self) -> bool:
        """Whether it names the hook, and so is asked where nobody stands after it."""
        return getattr(self.component, "hooks", None) is not None

    def answers(self, hook: Hook) -> bool:
        """Whether the component is asked at a hook."""
        if isinstance(self.component, Chain):
            return getattr(self.component, hook.name) is not None
        return bool(hook.interface.providedBy(self.component))

    def __repr__(self) -> str:
        return f"<Link {self.name}>"


class Chain:
    """Components in the order in which they are asked. A chain is a component itself.

    For each hook there is an attribute of its name: what asks its components, or ``None``
    where no component has it.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Ask | None: ...

    else:
        __slots__ = (
            *HOOKS,
            "__weakref__",
            "_clock",
            "_deadlines",
            "_started",
            "_time_limit",
            "links",
            "__provides__",
        )

    def __init__(
        self,
        components: Iterable[object],
        *,
        clock: IReactorTime | None = None,
        time_limit: float = 120,
        started: Iterable[Link] = (),
    ) -> None:
        """Compile a chain.

        :param components: Components, or :class:`Link` objects that name them.
        :param clock: Measures the time limits; without one there are none.
        :param time_limit: Seconds a component may take for one answer, unless its link
            says otherwise; 0 for no limit.
        :param started: Links whose components have been started already.
        """
        self.links: tuple[Link, ...] = tuple(
            component if isinstance(component, Link) else Link(component)
            for component in components
        )
        self._clock = clock
        self._time_limit = time_limit
        #: By the length of the limit; there are as many as lengths in the configuration.
        self._deadlines: dict[float, Deadlines[Wait]] = {}
        self._started: list[Link] = [link for link in started if _has_lifecycle(link.component)]
        for name in ("deny", "ok"):
            setattr(self, name, self._compile(HOOKS[name]))
        for hook in HOOKS.values():
            if hook.name not in ("deny", "ok"):
                setattr(self, hook.name, self._compile(hook))
        provided = [hook.interface for hook in HOOKS.values() if getattr(self, hook.name)]
        directlyProvides(self, *provided)

    async def start(self) -> None:
        """Start the components that open things, in order.

        :raises Exception: What a component raised; those before it are stopped again.
        """
        try:
            for link in self.links:
                if _has_lifecycle(link.component) and link not in self._started:
                    await _call(link.component.start)  # type: ignore[attr-defined]
                    self._started.append(link)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the components that were started, in reverse order.

        An error of one does not keep the others.
        """
        started, self._started = self._started, []
        for link in reversed(started):
            try:
                await _call(link.component.stop)  # type: ignore[attr-defined]
            except Exception:
                log.failure("{plugin} did not stop", plugin=link.name)

    # Compiling.

    def _compile(self, hook: Hook) -> Ask | None:
        links = [link for link in self.links if link.wraps(hook) or link.answers(hook)]
        rest: Ask | None = None
        plain: list[Link] = []
        for link in reversed(links):
            if link.wraps(hook):
                rest = self._plain(hook, plain, rest)
                plain = []
                if rest is not None or link.named():
                    rest = self._wrapped(hook, link, rest)
            else:
                plain.insert(0, link)
        return self._plain(hook, plain, rest)

    def _plain(self, hook: Hook, links: Sequence[Link], rest: Ask | None) -> Ask | None:
        """Ask components one after the other, and then the rest of the chain."""
        if not links:
            return rest
        pairs = tuple((getattr(link.component, hook.name), link) for link in links)
        if hook.name in _TOLD:
            return self._told(hook, pairs)
        reports = getattr(self, "deny", None) is not None or getattr(self, "ok", None) is not None
        if len(hook.answers) <= 1 and not reports:
            return self._quick(hook, pairs, rest, *(hook.answers or (type(None),)))

        def ask(*arguments: Any) -> Any:
            return settle(self._asked(hook, pairs, arguments, rest))

        return ask

    def _quick(
        self, hook: Hook, pairs: Sequence[tuple[Ask, Link]], rest: Ask | None, wanted: type
    ) -> Ask:
        """The way of nearly all questions: direct calls until one has an answer.

        There is a function for each number of arguments that is common, because packing them
        costs as much as the call (benchmarks/hooks.py).
        """
        methods = tuple(method for method, _ in pairs)
        scoped = hook.name not in SETTINGS
        waited: dict[int, Place] = {}
        # By identity: one object may be in a chain twice, its bound methods are not.
        places = {id(method): place for place, method in enumerate(methods)}
        labels = {id(method): (hook.name, link.name) for method, link in pairs}

        def failed(method: Ask, arguments: tuple[Any, ...], began: float) -> Any:
            link = pairs[places[id(method)]][1]
            return self._fault(hook, link, arguments, Failure(), began)

        def answered(method: Ask, arguments: tuple[Any, ...], answer: Any, began: float) -> Any:
            if answer.__class__ is wanted:
                if scoped:
                    said = answer.name if answer.__class__ is Verdict else "answered"
                    entry = (*labels[id(method)], said, perf_counter() - began)
                    arguments[0].record(new_tuple(Decision, entry))
                return answer
            return late(waited.get(id(method)) or waits(method), arguments, answer)

        def waits(method: Ask) -> Place:
            """The place of a component that waits for the first time."""
            position = places[id(method)]
            link = pairs[position][1]
            behind = pairs[position + 1 :]
            then = self._quick(hook, behind, rest, wanted) if behind else rest
            limit = link.time_limit or self._time_limit
            place = waited[id(method)] = self._place(hook, link, then, limit)
            return place

        def ask_one(first: Any) -> Any:
            began = perf_counter()
            for method in methods:
                try:
                    answer = method(first)
                except Exception:
                    answer = failed(method, (first,), began)
                if answer is not None:
                    return answered(method, (first,), answer, began)
            return rest(first) if rest is not None else None

        def ask_two(first: Any, second: Any) -> Any:
            began = perf_counter()
            for method in methods:
                try:
                    answer = method(first, second)
                except Exception:
                    answer = failed(method, (first, second), began)
                if answer is not None:
                    return answered(method, (first, second), answer, began)
            return rest(first, second) if rest is not None else None

        def ask(*arguments: Any) -> Any:
            began = perf_counter()
            for method in methods:
                try:
                    answer = method(*arguments)
                except Exception:
                    answer = failed(method, arguments, began)
                if answer is not None:
                    return answered(method, arguments, answer, began)
            return rest(*arguments) if rest is not None else None

        asks: dict[int, Ask] = {1: ask_one, 2: ask_two}
        return asks.get(_arity(hook), ask)

    def _told(self, hook: Hook, pairs: Sequence[tuple[Ask, Link]]) -> Ask:
        """Tell components of what happened to others. They cannot wait, and nobody hears of it."""

        def tell(*arguments: Any) -> None:
            for method, _ in pairs:
                try:
                    method(*arguments)
                except Exception:
                    if hook.name != "logging":  # a log that fails must not log
                        log.failure("{hook} failed", hook=hook.name)

        return tell

    def _wrapped(self, hook: Hook, link: Link, rest: Ask | None) -> Ask:
        """Let a middleware stand around the rest of the chain."""
        middleware: Callable[..., Awaitable[Any]] = link.component  # type: ignore[assignment]

        def ask(*arguments: Any) -> Any:
            call = Call(hook.name, arguments)
            heard: list[Any] = []  # what the rest of the chain has answered
            given: list[Any] = []  # what the middleware has answered, if it did not fail

            async def proceed() -> Any:
                answer = rest(*call.arguments) if rest is not None else None
                if isinstance(answer, Deferred):
                    answer = await answer
                heard.append(answer)
                return answer

            async def kept(call: Call, proceed: Proceed) -> Any:
                answer = await middleware(call, proceed)
                given.append(answer)
                return answer

            async def wrapped() -> Any:
                began = perf_counter()
                # What it wraps has limits of its own; it has one only where its line says so.
                limit = link.time_limit
                answer = await self._answer(hook, link, arguments, kept, (call, proceed), limit)
                if answer is None and given != [None]:
                    # It failed and is passed over: the rest of the chain has its say.
                    return heard[-1] if heard else await proceed()
                if answer is not None and not (heard and heard[-1] is answer):
                    self._report(hook, link, arguments, answer)
                    record(hook, link, arguments, answer, began)
                return answer

            return settle(wrapped())

        return ask

    # Asking, where somebody waits or listens.

    async def _asked(
        self,
        hook: Hook,
        pairs: Sequence[tuple[Ask, Link]],
        arguments: tuple[Any, ...],
        rest: Ask | None,
    ) -> Any:
        """Ask components, and then the rest of the chain."""
        for method, link in pairs:
            began = perf_counter()
            limit = link.time_limit or self._time_limit
            answer = await self._answer(hook, link, arguments, method, arguments, limit)
            self._report(hook, link, arguments, answer)
            if answer is not None:
                record(hook, link, arguments, answer, began)
                return answer
        if rest is None:
            return None
        answer = rest(*arguments)
        return await answer if isinstance(answer, Deferred) else answer

    async def _answer(
        self,
        hook: Hook,
        link: Link,
        arguments: tuple[Any, ...],
        method: Ask,
        handed: tuple[Any, ...],
        time_limit: float,
    ) -> Any:
        """One component's answer, whatever it does: waits, fails or talks nonsense.

        :param handed: What the method receives.
        :param time_limit: Seconds; 0 for no limit.
        """
        began = perf_counter()
        try:
            answer = method(*handed)
            if answer is not None and answer.__class__ is not Verdict:
                place = self._place(hook, link, None, time_limit)
                answer = begun(Said, place, arguments, answer, began)
                if isinstance(answer, Deferred):
                    answer = await answer
                    waited_enough(hook, link, arguments, answer, began)
            return checked(hook, answer)
        except Exception as error:
            if nobody_asks(hook, arguments, error):
                raise
            return self._fault(hook, link, arguments, Failure(), began)

    def _place(self, hook: Hook, link: Link, rest: Ask | None, limit: float) -> Place:
        return Place(hook, link, rest, limit, self._deadlines_of(limit), self._fault)

    def _deadlines_of(self, limit: float) -> Deadlines[Wait] | None:
        """What watches time limits of a length."""
        if not limit or self._clock is None:
            return None
        deadlines = self._deadlines.get(limit)
        if deadlines is None:
            deadlines = self._deadlines[limit] = Deadlines(self._clock, limit)
        return deadlines

    def _fault(
        self, hook: Hook, link: Link, arguments: tuple[Any, ...], failure: Failure, began: float
    ) -> Any:
        """What a failed component stands for, by its fault policy."""
        scope = arguments[0] if arguments and isinstance(arguments[0], Scope) else None
        log.failure(
            "{plugin} failed at {hook}",
            failure,
            plugin=link.name,
            hook=hook.name,
            session=getattr(scope, "id", None),
        )
        note(hook, link, arguments, f"fault({type(failure.value).__name__})", began)
        failure.cleanFailure()  # its traceback holds the session
        if link.skip_faults or hook.notice:
            return None
        if hook.name in SETTINGS:  # who asked goes by no setting rather than by another one
            raise ComponentError(f"{link.name} failed at {hook.name}: {failure.value!r}")
        return TEMPFAIL if Verdict in hook.answers else None

    def _report(self, hook: Hook, link: Link, arguments: tuple[Any, ...], answer: Any) -> None:
        """Tell the components at ``deny`` and ``ok`` what another one said."""
        if hook.name in SETTINGS or hook.name == "post_fork":
            return
        refused = isinstance(answer, Verdict) and answer.refuses
        tell = self.deny if refused else self.ok
        if tell is not None:
            verdict = answer if isinstance(answer, Verdict) else None
            tell(arguments[0], link.name, hook.name, verdict)

    def __repr__(self) -> str:
        return f"<Chain {' '.join(link.name for link in self.links)}>"


def _has_lifecycle(component: object) -> bool:
    return isinstance(component, Chain) or bool(ILifecycle.providedBy(component))


def _arity(hook: Hook) -> int:
    """How many arguments a hook's method receives."""
    return len(hook.interface[hook.name].getSignatureInfo()["positional"])


async def _call(method: Callable[[], Awaitable[None] | None]) -> None:
    result = method()
    if result is not None:
        await result

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

import types
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextvars import copy_context
from inspect import isawaitable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from twisted.internet.defer import CancelledError, Deferred
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

__all__ = [
    "TEMPFAIL",
    "WAITING",
    "Ask",
    "Chain",
    "ComponentError",
    "ComponentTimeoutError",
    "Link",
    "NoVerdictError",
    "Wait",
    "settle",
]

log: Final = Logger()

#: Asks the components of a hook: gives an answer, ``None``, or a Deferred of either.
Ask: TypeAlias = Callable[..., Any]

#: What a fault stands for where the fault policy is ``tempfail``.
TEMPFAIL: Final = defer("Internal error, try again later", "4.3.0", code=451)


#: Hooks that tell of what happened to others, and in the middle of it: nobody can wait there.
_TOLD: Final = frozenset({"logging", "deny", "ok"})


#: Hooks that ask for settings, on nobody's behalf or on an address's.
_SETTINGS: Final = frozenset({"config", "user_config"})


#: Hooks that tell of what is over. The end of their scope does not end them.
_OVER: Final = frozenset({"queue_post", "reset_transaction", "disconnect", "post_connection"})


class ComponentError(Exception):
    """A component did not keep its contract."""


class NoVerdictError(ComponentError):
    """A component answered with something that its hook has no use for."""


class ComponentTimeoutError(ComponentError):
    """A component did not answer in time."""


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
        scoped = hook.name not in _SETTINGS
        waited: dict[int, _Place] = {}
        # By identity: one object may be in a chain twice, its bound methods are not.
        places = {id(method): place for place, method in enumerate(methods)}
        labels = {id(method): (hook.name, link.name) for method, link in pairs}

        def failed(method: Ask, arguments: tuple[Any, ...], began: float) -> Any:
            link = pairs[places[id(method)]][1]
            return self._fault(hook, link, arguments, _failure(), began)

        def answered(method: Ask, arguments: tuple[Any, ...], answer: Any, began: float) -> Any:
            if answer.__class__ is wanted:
                if scoped:
                    said = answer.name if answer.__class__ is Verdict else "answered"
                    entry = (*labels[id(method)], said, perf_counter() - began)
                    arguments[0].record(_new_tuple(Decision, entry))
                return answer
            return _late(waited.get(id(method)) or waits(method), arguments, answer)

        def waits(method: Ask) -> _Place:
            """The place of a component that waits for the first time."""
            position = places[id(method)]
            link = pairs[position][1]
            behind = pairs[position + 1 :]
            then = self._quick(hook, behind, rest, wanted) if behind else rest
            limit = link.time_limit or self._time_limit
            place = waited[id(method)] = _Place(self, hook, link, then, limit)
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
                    _record(hook, link, arguments, answer, began)
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
                _record(hook, link, arguments, answer, began)
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
                place = _Place(self, hook, link, None, time_limit)
                answer = _begun(_Said, place, arguments, answer, began)
                if isinstance(answer, Deferred):
                    answer = await answer
                    _waited_enough(hook, link, arguments, answer, began)
            return _checked(hook, answer)
        except Exception as error:
            if _nobody_asks(hook, arguments, error):
                raise
            return self._fault(hook, link, arguments, _failure(), began)

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
        _note(hook, link, arguments, f"fault({type(failure.value).__name__})", began)
        failure.cleanFailure()  # its traceback holds the session
        if link.skip_faults or hook.notice:
            return None
        if hook.name in _SETTINGS:  # who asked goes by no setting rather than by another one
            raise ComponentError(f"{link.name} failed at {hook.name}: {failure.value!r}")
        return TEMPFAIL if Verdict in hook.answers else None

    def _report(self, hook: Hook, link: Link, arguments: tuple[Any, ...], answer: Any) -> None:
        """Tell the components at ``deny`` and ``ok`` what another one said."""
        if hook.name in _SETTINGS or hook.name == "post_fork":
            return
        refused = isinstance(answer, Verdict) and answer.refuses
        tell = self.deny if refused else self.ok
        if tell is not None:
            verdict = answer if isinstance(answer, Verdict) else None
            tell(arguments[0], link.name, hook.name, verdict)

    def __repr__(self) -> str:
        return f"<Chain {' '.join(link.name for link in self.links)}>"


class _Place:
    """A component at a hook, where it may wait.

    :ivar label: The names of the hook and of the component.
    :ivar rest: Asks those that stand behind it.
    :ivar limit: Seconds that it may take; 0 for no limit.
    :ivar deadlines: What watches the limit; ``None`` for nothing.
    :ivar scoped: Whether the first argument is a scope, which has a trace.
    """

    __slots__ = ("chain", "deadlines", "hook", "label", "limit", "link", "rest", "scoped")

    def __init__(
        self, chain: Chain, hook: Hook, link: Link, rest: Ask | None, limit: float
    ) -> None:
        self.chain = chain
        self.hook = hook
        self.link = link
        self.label = (hook.name, link.name)
        self.rest = rest
        self.limit = limit
        self.deadlines = chain._deadlines_of(limit)
        self.scoped = hook.name not in _SETTINGS and hook.name != "post_fork"


def _late(place: _Place, arguments: tuple[Any, ...], answer: Any) -> Any:
    """Go on behind a component that gave something to wait for, or no answer at all.

    As :meth:`Chain._asked`, without coroutines of its own and Deferreds for them; what that saves
    stands at :class:`Wait`.

    :param answer: What the component has given.
    """
    began = perf_counter()
    hook, link = place.hook, place.link
    try:
        answer = _begun(Wait, place, arguments, answer, began)
        if answer.__class__ is Wait and not answer.called:
            return answer
        if isinstance(answer, Deferred):
            answer = _result(answer)
            _waited_enough(hook, link, arguments, answer, began)
        answer = _checked(hook, answer)
    except Exception as error:
        if _nobody_asks(hook, arguments, error):
            raise
        answer = place.chain._fault(hook, link, arguments, _failure(), began)
    return _go_on(place, arguments, answer, began)


def _go_on(place: _Place, arguments: tuple[Any, ...], answer: Any, began: float) -> Any:
    """A component's answer, or where it has none that of those behind it."""
    if answer is not None:
        _record(place.hook, place.link, arguments, answer, began)
        return answer
    return place.rest(*arguments) if place.rest is not None else None


def _begun(
    kind: type[Wait], place: _Place, arguments: tuple[Any, ...], answer: Any, began: float
) -> Any:
    """What a component says, if that is known already: itself or a Deferred that has fired.

    :returns: Otherwise, what waits for it.
    """
    if answer.__class__ is types.CoroutineType:
        coroutine = answer
        try:
            answer = coroutine.send(None)
        except StopIteration as stop:
            answer = stop.value
        else:
            if isinstance(answer, Deferred) and not answer.called:
                return kind(place, arguments, coroutine, answer, began)
            answer = Deferred.fromCoroutine(_resume(coroutine, answer))
    if answer is None:
        return None
    if not isinstance(answer, Deferred):
        if not isawaitable(answer):
            return answer
        answer = Deferred.fromCoroutine(_await(answer))
    if answer.called and not answer.paused:
        return answer
    return kind(place, arguments, None, answer, began)


class Wait(Deferred[Any]):
    """A Deferred of the answer of a component that waits, and of those behind it.

    It fires at once when it is cancelled, whatever the component does about that.

    It drives the component's coroutine itself, watches its time limit, and can tell one listener
    without callbacks. With a Deferred for each of these, what waiting costs beside the timer that
    is waited for is three times as much (89,000 machine instructions in place of 30,000, and
    16,000 of them are for callbacks instead of a listener).

    :ivar place: The component, and where it was asked.
    """

    __slots__ = (
        "_arguments",
        "_awaited",
        "_began",
        "_behind",
        "_context",
        "_coroutine",
        "_expired",
        "_listener",
        "_listener_arguments",
        "place",
    )

    def __init__(
        self,
        place: _Place,
        arguments: tuple[Any, ...],
        coroutine: types.CoroutineType[Any, Any, Any] | None,
        awaited: Deferred[Any],
        began: float,
    ) -> None:
        """Begin to wait.

        :param coroutine: What the component has begun; ``None`` if it has given a Deferred.
        :param awaited: What the coroutine has asked for, or the Deferred.
        :param began: When the component was asked.
        """
        Deferred.__init__(self)
        self.place = place
        self._arguments = arguments
        self._began = began
        self._coroutine = coroutine
        self._awaited = awaited
        self._expired = False
        #: The answer of those behind the component, when they wait in their turn.
        self._behind: Deferred[Any] | None = None
        self._listener: Callable[..., None] | None = None
        deadlines = place.deadlines
        if deadlines is not None:
            deadlines.add(self)
        if coroutine is None:
            awaited.addBoth(self._arrived)
        else:
            self._context = copy_context()
            awaited.addBoth(self._wake)

    def listen(self, listener: Callable[..., None], *arguments: Any) -> None:
        """Tell one listener of the answer, or of a failure.

        In place of callbacks, and only before anything was added to the Deferred.

        :param listener: Raises nothing.
        :param arguments: It receives them behind the answer.
        """
        self._listener = listener
        self._listener_arguments = arguments

    def cancel(self) -> None:
        """Wait no longer, and cancel what the component does."""
        if self.called:
            super().cancel()
        elif self._behind is not None:
            self._behind.cancel()
        else:
            self._give_up()
            self._conclude(Failure(CancelledError()))

    def expire(self) -> None:
        """The component's time is over."""
        self._expired = True
        self._give_up()
        self._arrived(None)  # nobody waits for it, even if it goes on all the same

    def _give_up(self) -> None:
        try:
            self._awaited.cancel()
        except Exception:
            log.failure("{plugin} cannot be cancelled", plugin=self.place.link.name)

    def _wake(self, result: Any) -> None:
        """Go on with the coroutine, as ``Deferred.fromCoroutine`` would.

        :param result: What it has waited for; a failure, if that has failed.
        """
        coroutine = self._coroutine
        assert coroutine is not None
        try:
            if isinstance(result, Failure):
                awaited = self._context.run(result.throwExceptionIntoGenerator, coroutine)
            else:
                awaited = self._context.run(coroutine.send, result)
        except StopIteration as stop:
            said = stop.value
        except BaseException:
            said = _failure()
        else:
            if isinstance(awaited, Deferred) and not awaited.called:
                self._awaited = awaited
                awaited.addBoth(self._wake)
            else:
                rest = _resume(coroutine, awaited)
                self._awaited = self._context.run(Deferred.fromCoroutine, rest)
                self._awaited.addBoth(self._arrived)
            return
        self._arrived(said)

    def _arrived(self, said: Any) -> None:
        """Take what the component says, or its failure. What it says when it is over is lost."""
        place = self.place
        if place.deadlines is not None:
            place.deadlines.discard(self)
        if self._expired:
            error = ComponentTimeoutError(f"no answer within {place.limit:g} seconds")
            self._conclude(Failure(error))
        else:
            self._conclude(said)
        if isinstance(said, Failure):
            said.cleanFailure()  # its traceback holds the session

    def _conclude(self, said: Any) -> None:
        """Go on with what was said, unless that was done already."""
        if self.called or self._behind is not None:
            return
        place, arguments = self.place, self._arguments
        try:
            if said is None and place.scoped and not arguments[0].ended:  # nearly always
                entry = (*place.label, "waited", perf_counter() - self._began)
                arguments[0].record(_new_tuple(Decision, entry))
                answer = place.rest(*arguments) if place.rest is not None else None
            else:
                answer = self._judged(said)
        except BaseException:
            answer = _failure()
        if answer.__class__ in WAITING:
            self._behind = answer
            answer.addBoth(self._pass_on)
            if self.called:  # one of those behind has ended the session, and another one waits
                answer.cancel()
        else:
            self._pass_on(answer)

    def _judged(self, said: Any) -> Any:
        """The answer that something said stands for, or where it is none that of those behind."""
        place, arguments, began = self.place, self._arguments, self._began
        hook, link = place.hook, place.link
        try:
            if isinstance(said, Failure):
                if _nobody_asks(hook, arguments, said.value):
                    return said
                answer = place.chain._fault(hook, link, arguments, said, began)
            else:
                _waited_enough(hook, link, arguments, said, began)
                answer = _checked(hook, said)
        except NoVerdictError:
            answer = place.chain._fault(hook, link, arguments, _failure(), began)
        return _go_on(place, arguments, answer, began)

    def _pass_on(self, answer: Any) -> None:
        """Give the answer, or a failure, to who waits for it."""
        listener = self._listener
        if listener is not None:
            self.called, self.result = True, None
            self._listener = None
            listener(answer, *self._listener_arguments)
        elif not self.called:  # it is where one of those behind has ended the session
            self.callback(answer)
        if isinstance(answer, Failure):
            answer.cleanFailure()


class _Said(Wait):
    """A Deferred of what a component says, whatever that stands for."""

    __slots__ = ()

    def _conclude(self, said: Any) -> None:
        if not self.called:
            self._pass_on(said)


#: What a chain may give while a component waits.
WAITING: Final = frozenset({Deferred, Wait})


def _has_lifecycle(component: object) -> bool:
    return isinstance(component, Chain) or bool(ILifecycle.providedBy(component))


def _arity(hook: Hook) -> int:
    """How many arguments a hook's method receives."""
    return len(hook.interface[hook.name].getSignatureInfo()["positional"])


async def _call(method: Callable[[], Awaitable[None] | None]) -> None:
    result = method()
    if result is not None:
        await result


def _scope_ended(hook: Hook, arguments: tuple[Any, ...]) -> bool:
    return (
        hook.name not in _OVER
        and bool(arguments)
        and isinstance(arguments[0], Scope)
        and arguments[0].ended
    )


def _nobody_asks(hook: Hook, arguments: tuple[Any, ...], error: BaseException | None) -> bool:
    """Whether an error of a component is nobody's fault, since nobody waits for its answer."""
    if not isinstance(error, Exception) or _scope_ended(hook, arguments):
        return True  # the client has gone; nobody is left to be told
    return hook.name in _SETTINGS and isinstance(error, CancelledError)  # who asked waits no more


def _waited_enough(
    hook: Hook, link: Link, arguments: tuple[Any, ...], answer: Any, began: float
) -> None:
    """Note that a component has waited.

    :raises CancelledError: The client has gone meanwhile.
    """
    if _scope_ended(hook, arguments):
        raise CancelledError  # whatever it says: nobody else shall be asked
    if answer is None:
        _note(hook, link, arguments, "waited", began)


def _checked(hook: Hook, answer: Any) -> Any:
    """An answer that the hook has a use for.

    :raises NoVerdictError: It has none for it.
    """
    if answer is None or hook.notice:
        return None
    if not isinstance(answer, hook.answers):
        raise NoVerdictError(f"{answer!r} is no answer at {hook.name}")
    return answer


_new_tuple = tuple.__new__  # a Decision at a third of the time of its constructor


def _record(hook: Hook, link: Link, arguments: tuple[Any, ...], answer: Any, began: float) -> None:
    said = answer.name if answer.__class__ is Verdict else "answered"
    _note(hook, link, arguments, said, began)


def _note(hook: Hook, link: Link, arguments: tuple[Any, ...], said: str, began: float) -> None:
    if arguments and isinstance(arguments[0], Scope):
        entry = (hook.name, link.name, said, perf_counter() - began)
        arguments[0].record(_new_tuple(Decision, entry))  # type: ignore[attr-defined]


def _failure() -> Failure:
    return Failure()


def _result(deferred: Deferred[Any]) -> Any:
    """What a Deferred has that has fired.

    :raises Exception: It has a failure.
    """
    got: list[Any] = []
    deferred.addBoth(got.append)
    if isinstance(got[0], Failure):
        got[0].raiseException()
    return got[0]


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def settle(coroutine: types.CoroutineType[Any, Any, Any] | Any) -> Any:
    """Run a coroutine as far as it goes: give its result, or a Deferred of it.

    Most coroutines end without waiting. For those no Deferred is made, which saves
    about four fifths of the time.
    """
    try:
        waiting = coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    return Deferred.fromCoroutine(_resume(coroutine, waiting))


def _resume(coroutine: Any, waiting: Any) -> Generator[Any, Any, Any]:
    """The rest of a coroutine that has already asked for something."""
    value: Any
    while True:
        try:
            result = yield waiting
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:
            step, value = coroutine.throw, error
        else:
            step, value = coroutine.send, result
        try:
            waiting = step(value)
        except StopIteration as stop:
            return stop.value
        finally:
            value = None  # an error's traceback holds this frame: together they would stay

"""The chain: whom it asks, what it makes of the answers, and of faults."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from typing import Any
from weakref import ref

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer, provider

from qpsmtpd.chain import (
    TEMPFAIL,
    Chain,
    ComponentTimeoutError,
    Link,
    NoVerdictError,
)
from qpsmtpd.interfaces import HOOKS, Call, ILifecycle, IMiddleware, IRcpt, Proceed
from qpsmtpd.session import Session
from qpsmtpd.verdicts import OK, Verdict, accept, defer, deny
from qpsmtpd.waiting import settle
from tests.recorder import Later, Recorder


class Wrapper:
    """Middleware out of a function."""

    def __init__(
        self,
        does: Callable[[Call, Proceed], Awaitable[Any]],
        hooks: tuple[str, ...] | None = ("noop",),
    ) -> None:
        self.does = does
        self.hooks = hooks

    def __call__(self, call: Call, proceed: Proceed) -> Awaitable[Any]:
        return self.does(call, proceed)


implementer(IMiddleware)(Wrapper)


class ChainTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.session = Session("192.0.2.1")
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)

    @provider(ILogObserver)
    def observe(self, event: LogEvent) -> None:
        self.events.append(event)

    def chain(self, *components: object, time_limit: float = 120) -> Chain:
        return Chain(components, clock=self.clock, time_limit=time_limit)

    def ask(self, *components: object, hook: str = "noop") -> Any:
        """What a chain answers; a Deferred if it waits."""
        asked = getattr(self.chain(*components), hook)
        assert asked is not None
        return asked(self.session, "argument")

    def assert_fault(self, error: type, name: str) -> None:
        """One fault was logged, with the component's name."""
        self.assertEqual(len(self.flushLoggedErrors(error)), 1)
        [event] = [event for event in self.events if "log_failure" in event]
        self.assertEqual(event["plugin"], name)
        self.assertEqual(event["session"], self.session.id)


class AskingTests(ChainTestCase):
    def test_order(self) -> None:
        """Components are asked in order until one has an answer."""
        asked: list[int] = []

        def answering(number: int, answer: Verdict | None) -> Recorder:
            def noop(*_: object) -> Verdict | None:
                asked.append(number)
                return answer

            return Recorder(noop=noop)

        recorders = [answering(*each) for each in enumerate([None, None, OK, deny()])]
        self.assertIs(self.ask(*recorders), OK)
        self.assertEqual(asked, [0, 1, 2])

    def test_arguments(self) -> None:
        """Each is asked with the hook's arguments."""
        one, two = Recorder("noop"), Recorder("noop")
        self.assertIsNone(self.ask(one, two))
        self.assertEqual(one.calls["noop"], [(self.session, "argument")])
        self.assertEqual(two.calls["noop"], [(self.session, "argument")])

    def test_every_hook(self) -> None:
        """A component is asked at each hook it has, with as many arguments as the hook has."""
        for name, hook in HOOKS.items():
            recorder, other = Recorder(name), Recorder(name)
            asked = getattr(self.chain(recorder, other), name)
            arguments = tuple(hook.interface[name].positional)
            asked(*arguments)
            self.assertEqual(recorder.calls[name], [arguments])
            self.assertEqual(other.calls[name], [arguments])

    def test_nobody(self) -> None:
        """A hook that nobody has is None."""
        self.assertIsNone(self.chain(Recorder("noop")).vrfy)
        self.assertIsNone(self.chain().noop)

    def test_not_declared(self) -> None:
        """A method without its interface is not asked."""

        class Undeclared:
            def noop(self, session: Session, argument: str) -> Verdict:
                return deny()

        self.assertIsNone(self.chain(Undeclared()).noop)

    def test_at_once(self) -> None:
        """Who answers at once is not waited for, even if it is a coroutine."""

        async def noop(*_: object) -> Verdict:
            return deny("at once")

        self.assertEqual(self.ask(Recorder(noop=noop)), deny("at once"))
        self.assertIs(self.ask(Recorder(noop=lambda *_: succeed(OK))), OK)

    def test_waits(self) -> None:
        """While one waits the next is not asked."""
        later, after = Later("noop"), Recorder(noop=OK)
        answer = self.ask(later, after)
        self.assertNoResult(answer)
        self.assertEqual(after.asked, [])
        later.answer.callback(None)
        self.assertIs(self.successResultOf(answer), OK)

    def test_waits_and_decides(self) -> None:
        """The answer of one who waited ends the asking, too."""
        later, after = Later("noop"), Recorder(noop=OK)
        answer = self.ask(later, after)
        later.answer.callback(deny())
        self.assertEqual(self.successResultOf(answer), deny())
        self.assertEqual(after.asked, [])

    def test_any_awaitable(self) -> None:
        """Whatever can be awaited is an answer to wait for."""

        class Awaited:
            def __await__(self) -> Any:
                return (yield from succeed(OK).__await__())

        self.assertIs(self.ask(Recorder(noop=lambda *_: Awaited())), OK)

    def test_questions(self) -> None:
        """A question is answered with a value of its types."""
        chain = self.chain(Recorder("mail_pre"), Recorder(mail_pre="<a@client.example>"))
        assert chain.mail_pre is not None
        self.assertEqual(chain.mail_pre(self.session, "", {}), "<a@client.example>")
        assert self.chain(Recorder(config=["a", "b"])).config is not None

    def test_notices(self) -> None:
        """A notice goes to everybody, and what they answer does not count."""
        one, two = Recorder(disconnect=deny()), Recorder(disconnect="thanks")
        chain = self.chain(one, two)
        assert chain.disconnect is not None
        self.assertIsNone(chain.disconnect(self.session))
        self.assertEqual((one.asked, two.asked), (["disconnect"], ["disconnect"]))

    def test_trace(self) -> None:
        """Who decided, waited or failed stands in the trace; who had no opinion does not."""
        later = Later("noop")
        answer = self.ask(
            Link(Recorder("noop"), "silent"),
            Link(later, "slow"),
            Link(Recorder(noop=ZeroDivisionError()), "broken", skip_faults=True),
            Link(Recorder(noop=deny()), "no"),
        )
        later.answer.callback(None)
        self.successResultOf(answer)
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertEqual(
            [(entry.component, entry.answer) for entry in self.session.trace or ()],
            [("slow", "waited"), ("broken", "fault(ZeroDivisionError)"), ("no", "DENY")],
        )


class LinkTests(SynchronousTestCase):
    def test_name(self) -> None:
        """A component's name is what its line says, or its own, or its class's."""
        named = Recorder("noop")
        self.assertEqual(Link(named, "line").name, "line")
        self.assertEqual(Link(named).name, "Recorder")
        named.__dict__["name"] = "own"
        self.assertEqual(Link(named).name, "own")


class FaultTests(ChainTestCase):
    def test_raises(self) -> None:
        """A component that raises is named in the log, and the client may come again."""
        broken = Link(Recorder(noop=ZeroDivisionError()), "broken")
        after = Recorder(noop=OK)
        self.assertIs(self.ask(broken, after), TEMPFAIL)
        self.assertEqual(after.asked, [])
        self.assert_fault(ZeroDivisionError, "broken")

    def test_raises_later(self) -> None:
        """So is one that fails after a while."""
        broken = Link(Recorder(noop=lambda *_: fail(ZeroDivisionError())), "broken")
        self.assertIs(self.ask(broken), TEMPFAIL)
        self.assert_fault(ZeroDivisionError, "broken")

    def test_nonsense(self) -> None:
        """So is one whose answer is no answer at that hook."""
        for nonsense in ("OK", 0, 1, 250, 901, False, True, (OK, "text"), object()):
            self.events.clear()
            self.assertIs(self.ask(Link(Recorder(noop=nonsense), "odd")), TEMPFAIL)
            self.assert_fault(NoVerdictError, "odd")

    def test_too_late(self) -> None:
        """So is one that takes longer than it may."""
        later = Later("noop")
        answer = self.ask(Link(later, "slow"))
        self.clock.advance(119)
        self.assertNoResult(answer)
        self.clock.advance(1)
        self.assertIs(self.successResultOf(answer), TEMPFAIL)
        self.assertTrue(later.cancelled)
        self.assert_fault(ComponentTimeoutError, "slow")

    def test_too_late_and_deaf(self) -> None:
        """Nobody waits for one that does not hear that its time is over."""

        async def deaf(*_: object) -> None:
            while True:
                try:
                    await Deferred()
                except CancelledError:
                    pass

        answer = self.ask(Link(Recorder(noop=deaf), "deaf"))
        self.clock.advance(120)
        self.assertIs(self.successResultOf(answer), TEMPFAIL)
        self.assert_fault(ComponentTimeoutError, "deaf")

    def test_too_late_with_an_answer(self) -> None:
        """An answer to being cancelled comes too late."""
        stubborn: Deferred[Verdict] = Deferred(lambda _: stubborn.callback(OK))
        answer = self.ask(Link(Recorder(noop=stubborn), "slow"))
        self.clock.advance(120)
        self.assertIs(self.successResultOf(answer), TEMPFAIL)
        self.assert_fault(ComponentTimeoutError, "slow")

    def test_chained_deferred(self) -> None:
        """The time limit holds for a Deferred that has fired and waits for another one."""
        chained = succeed(None).addCallback(lambda _: Deferred())
        answer = self.ask(Link(Recorder(noop=chained), "slow"))
        self.clock.advance(120)
        self.assertIs(self.successResultOf(answer), TEMPFAIL)
        self.assert_fault(ComponentTimeoutError, "slow")

    def test_own_limit(self) -> None:
        """A link may have a limit of its own."""
        answer = self.ask(Link(Later("noop"), "slow", time_limit=5))
        self.clock.advance(5)
        self.assertIs(self.successResultOf(answer), TEMPFAIL)
        self.assert_fault(ComponentTimeoutError, "slow")

    def test_each_its_own_time(self) -> None:
        """The limit is each component's, not the chain's."""
        one, two = Later("noop"), Later("noop")
        answer = self.ask(one, two)
        self.clock.advance(100)
        one.answer.callback(None)
        self.clock.advance(100)
        two.answer.callback(OK)
        self.assertIs(self.successResultOf(answer), OK)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_skip(self) -> None:
        """One that the configuration lets fail is passed over, and logged."""
        for fault in (ZeroDivisionError(), lambda *_: fail(ZeroDivisionError())):
            self.events.clear()
            broken = Link(Recorder(noop=fault), "broken", skip_faults=True)
            self.assertEqual(self.ask(broken, Recorder(noop=deny())), deny())
            self.assert_fault(ZeroDivisionError, "broken")

    def test_questions(self) -> None:
        """A question that is answered with a fault goes on to the next."""
        chain = self.chain(Recorder(mail_pre=ZeroDivisionError()), Recorder(mail_pre="<>"))
        assert chain.mail_pre is not None
        self.assertEqual(chain.mail_pre(self.session, "", {}), "<>")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_notices(self) -> None:
        """A notice that one fails at goes to the others, at once or after waiting."""
        for fault in (ZeroDivisionError(), lambda *_: fail(ZeroDivisionError())):
            after = Recorder("disconnect")
            chain = self.chain(Recorder(disconnect=fault), after)
            assert chain.disconnect is not None
            self.assertIsNone(chain.disconnect(self.session))
            self.assertEqual(after.asked, ["disconnect"])
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_session_has_ended(self) -> None:
        """What is cancelled because its session has ended is no fault."""
        answer = self.ask(Later("noop"), Recorder(noop=OK))
        self.session.end()
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class WaitTests(ChainTestCase):
    def test_context(self) -> None:
        """A coroutine keeps its context variables while it waits, and nobody else sees them."""
        variable: ContextVar[str] = ContextVar("variable", default="nobody's")
        gate: Deferred[None] = Deferred()
        seen: list[str] = []

        async def waits(*_: object) -> None:
            await gate
            variable.set("its own")
            await sleeps[0]
            seen.append(variable.get())

        sleeps: list[Deferred[None]] = [Deferred()]
        answer = self.ask(Recorder(noop=waits))
        gate.callback(None)
        self.assertEqual(variable.get(), "nobody's")
        sleeps[0].callback(None)
        self.assertIsNone(self.successResultOf(answer))
        self.assertEqual(seen, ["its own"])

    def test_anything(self) -> None:
        """A coroutine may wait for whatever Twisted can wait for, one after the other."""

        class Awaited:
            def __init__(self, *values: object) -> None:
                self.values = values

            def __await__(self) -> Generator[Any, Any, list[object]]:
                got = []
                for value in self.values:
                    got.append((yield value))
                return got

        one, two, three = Deferred[int](), Deferred[int](), Deferred[int]()
        heard: list[object] = []

        async def other() -> int:
            return await two

        async def waits(*_: object) -> Verdict:
            heard.append(await Awaited(one, succeed(2)))
            heard.append(await Awaited("text", other(), three))
            return OK

        answer = self.ask(Recorder(noop=waits))
        one.callback(1)
        two.callback(3)
        self.assertNoResult(answer)
        three.callback(4)
        self.assertIs(self.successResultOf(answer), OK)
        self.assertEqual(heard, [[1, 2], ["text", 3, 4]])

    def test_errors(self) -> None:
        """An error of what it waits for is raised in the coroutine, which may catch it."""
        one, two = Deferred[None](), Deferred[None]()

        async def waits(*_: object) -> Verdict:
            try:
                await one
            except ZeroDivisionError:
                await two
            return OK

        answer = self.ask(Link(Recorder(noop=waits), "catches"))
        one.errback(ZeroDivisionError())
        self.assertNoResult(answer)
        two.errback(KeyError())
        self.assertIs(self.successResultOf(answer), TEMPFAIL)
        self.assert_fault(KeyError, "catches")

    def test_those_behind_are_cancelled(self) -> None:
        """Who waits in turn for those behind a component cancels them."""
        one, two = Later("noop"), Later("noop")
        answer = self.ask(one, two)
        one.answer.callback(None)
        self.session.end()
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        self.assertEqual((one.cancelled, two.cancelled), (False, True))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        answer.cancel()  # a second time is nothing

    def test_ended_by_those_behind(self) -> None:
        """Who is behind a component may end the session: whatever he says, nobody waits for it."""
        for later in (None, Later("noop")):
            for listens in (False, True):
                self.session.ended = False
                self.assertEqual(self._ended(later, listens), CancelledError)
                self.assertEqual(self.clock.getDelayedCalls(), [])
            self.assertTrue(later is None or later.cancelled)

    def _ended(self, later: Later | None, listens: bool) -> Any:
        """Ask one that waits and one that ends the session; give the error of it."""
        gate: Deferred[None] = Deferred()

        async def waits(*_: object) -> None:
            await gate

        def ends(*_: object) -> Any:
            self.session.ended = True
            answer.cancel()
            return OK if later is None else later.answer

        told: list[Any] = []
        answer = self.ask(Recorder(noop=waits), Recorder(noop=ends))
        if listens:
            answer.listen(told.append)
        else:
            answer.addErrback(told.append)
        gate.callback(None)
        self.assertIsNone(self.successResultOf(gate))
        [failure] = told
        return failure.type

    def test_deaf(self) -> None:
        """One that goes on when it is cancelled is watched, and what it says is lost."""
        gate: Deferred[None] = Deferred()

        async def deaf(*_: object) -> Verdict:
            try:
                await Deferred()
            except CancelledError:
                await gate
            return OK

        answer = self.ask(Recorder(noop=deaf), after := Recorder("noop"))
        self.session.end()
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        gate.callback(None)
        self.assertEqual((self.clock.getDelayedCalls(), after.asked), ([], []))

    def test_given_up(self) -> None:
        """Where nobody has gone, one that is cancelled has failed; those behind are asked."""
        link = Link(Later("noop"), "slow", skip_faults=True)
        answer = self.ask(link, behind := Later("noop"))
        answer.cancel()
        self.assertNoResult(answer)
        self.assert_fault(CancelledError, "slow")
        self.clock.advance(100)
        behind.answer.callback(OK)
        self.assertIs(self.successResultOf(answer), OK)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_listener(self) -> None:
        """One listener is told, of an answer or of a failure, and once."""
        for gone in (False, True):
            told: list[object] = []
            later = Later("noop")
            answer = self.ask(Recorder("noop"), later)
            answer.listen(lambda *heard, told=told: told.extend(heard), "more")
            if gone:
                self.session.end()
                answer.cancel()
                self.assertEqual(told.pop(0).type, CancelledError)  # type: ignore[attr-defined]
            else:
                later.answer.callback(OK)
                self.assertIs(told.pop(0), OK)
            answer.cancel()
            self.assertEqual(told, ["more"])

    def test_freed(self) -> None:
        """What a component held is freed at once when it has failed or was cancelled."""

        class Held:
            pass

        held: list[ref[Held]] = []

        async def holds(gate: Deferred[None]) -> None:
            mine = Held()
            held.append(ref(mine))
            await gate

        gc.disable()
        self.addCleanup(gc.enable)
        gate: Deferred[None] = Deferred()
        answer = self.ask(Link(Recorder(noop=lambda *_: holds(gate)), "fails"))
        gate.errback(ZeroDivisionError())
        self.assertIs(self.successResultOf(answer), TEMPFAIL)
        self.flushLoggedErrors(ZeroDivisionError)
        self.events.clear()
        too_late = self.ask(Recorder(noop=lambda *_: holds(Deferred())))
        self.clock.advance(120)
        self.assertIs(self.successResultOf(too_late), TEMPFAIL)
        self.flushLoggedErrors(ComponentTimeoutError)
        self.events.clear()
        answer = self.ask(Recorder(noop=lambda *_: holds(Deferred())))
        self.session.end()
        answer.listen(lambda _: None)
        answer.cancel()
        self.assertEqual([each() for each in held], [None, None, None])


class MiddlewareTests(ChainTestCase):
    def test_order(self) -> None:
        """What stands before is asked before, what stands after when the middleware proceeds."""
        order: list[str] = []

        def mark(name: str) -> Recorder:
            return Recorder(noop=lambda *_: order.append(name))

        async def around(call: Call, proceed: Proceed) -> Any:
            order.append("in")
            answer = await proceed()
            order.append("out")
            return answer

        self.assertIsNone(self.ask(mark("one"), Wrapper(around), mark("two"), mark("three")))
        self.assertEqual(order, ["one", "in", "two", "three", "out"])

    def test_not_reached(self) -> None:
        """A decision before it keeps it from being asked."""
        inner = Recorder(noop=OK)
        self.assertEqual(self.ask(Recorder(noop=deny()), Wrapper(passing), inner), deny())
        self.assertEqual(inner.asked, [])

    def test_nested(self) -> None:
        """Middlewares stand around each other."""

        def adding(word: str) -> Wrapper:
            async def add(call: Call, proceed: Proceed) -> Verdict:
                return accept((await proceed()).text + word)

            return Wrapper(add)

        answer = self.ask(adding(" out"), adding(" in"), Recorder(noop=accept("centre")))
        self.assertEqual(answer.text, "centre in out")

    def test_changes_verdict(self) -> None:
        """It may answer something else than the rest of the chain."""

        async def soften(call: Call, proceed: Proceed) -> Any:
            answer = await proceed()
            return defer(answer.text) if answer is not None and answer.refuses else answer

        self.assertEqual(self.ask(Wrapper(soften), Recorder(noop=deny("no"))), defer("no"))

    def test_does_not_ask(self) -> None:
        """It may answer without asking the rest of the chain."""

        async def never(call: Call, proceed: Proceed) -> Verdict:
            return deny("never")

        inner = Recorder("noop")
        self.assertEqual(self.ask(Wrapper(never), inner), deny("never"))
        self.assertEqual(inner.asked, [])

    def test_asks_twice(self) -> None:
        """It may ask again."""

        async def insist(call: Call, proceed: Proceed) -> Any:
            return await proceed() or await proceed()

        answers = iter([None, OK])
        inner = Recorder(noop=lambda *_: next(answers))
        self.assertIs(self.ask(Wrapper(insist), inner), OK)
        self.assertEqual(inner.asked, ["noop", "noop"])

    def test_changes_arguments(self) -> None:
        """It may change what the rest of the chain is asked; its caller's are left alone."""

        async def shout(call: Call, proceed: Proceed) -> Any:
            call.arguments = (call.scope, call.arguments[1].upper())
            return await proceed()

        inner = Recorder("noop")
        self.ask(Wrapper(shout), inner)
        self.assertEqual(inner.calls["noop"], [(self.session, "ARGUMENT")])

    def test_waits(self) -> None:
        """It waits with the rest of the chain, and has no time limit of its own."""
        later = Later("noop")
        chain = self.chain(Wrapper(passing), Link(later, time_limit=1000))
        assert chain.noop is not None
        answer = chain.noop(self.session, "")
        self.clock.advance(500)
        self.assertNoResult(answer)
        later.answer.callback(OK)
        self.assertIs(self.successResultOf(answer), OK)

    def test_own_limit(self) -> None:
        """A middleware whose line gives it a time limit has to answer in it."""

        async def stuck(call: Call, proceed: Proceed) -> Any:
            return await Deferred()

        answer = self.ask(Link(Wrapper(stuck), "stuck", time_limit=5))
        self.clock.advance(5)
        self.assertIs(self.successResultOf(answer), TEMPFAIL)
        self.assert_fault(ComponentTimeoutError, "stuck")

    def test_named_hooks(self) -> None:
        """It stands around the hooks it names, also where nobody stands after it."""

        async def refuse(call: Call, proceed: Proceed) -> Verdict:
            return deny(call.hook)

        chain = self.chain(Wrapper(refuse, ("noop",)), Recorder(vrfy=OK))
        assert chain.noop is not None
        self.assertEqual(chain.noop(self.session, ""), deny("noop"))
        assert chain.vrfy is not None
        self.assertIs(chain.vrfy(self.session, ""), OK)

    def test_all_hooks(self) -> None:
        """One that names none stands around what stands after it, and adds nothing to the rest."""
        hooks: list[str] = []

        async def note(call: Call, proceed: Proceed) -> Any:
            hooks.append(call.hook)
            return await proceed()

        chain = self.chain(Recorder(help=OK), Wrapper(note, None), Recorder("vrfy", "disconnect"))
        assert chain.vrfy is not None
        chain.vrfy(self.session, "")
        assert chain.disconnect is not None
        chain.disconnect(self.session)
        self.assertEqual(hooks, ["vrfy", "disconnect"])
        self.assertIsNone(chain.auth)
        self.assertIsNone(chain.deny)

    def test_fault(self) -> None:
        """One that fails is named, and the client may come again."""
        self.assertIs(self.ask(Link(Wrapper(failing), "broken"), Recorder(noop=OK)), TEMPFAIL)
        self.assert_fault(ZeroDivisionError, "broken")

    def test_skip(self) -> None:
        """One that may fail is passed over: the rest of the chain has its say, once."""

        async def fails_after(call: Call, proceed: Proceed) -> Any:
            await proceed()
            raise ZeroDivisionError

        for does in (failing, fails_after):
            self.events.clear()
            inner = Recorder(noop=deny())
            self.assertEqual(
                self.ask(Link(Wrapper(does), "broken", skip_faults=True), inner), deny()
            )
            self.assertEqual(inner.asked, ["noop"])
            self.assert_fault(ZeroDivisionError, "broken")

    def test_fault_at_notice(self) -> None:
        """A notice that it fails at still goes to the rest of the chain."""
        inner = Recorder("disconnect")
        chain = self.chain(Wrapper(failing, ("disconnect",)), inner)
        assert chain.disconnect is not None
        chain.disconnect(self.session)
        self.assertEqual(inner.asked, ["disconnect"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_rest_fails(self) -> None:
        """It sees a fault of the rest of the chain as the verdict it stands for."""
        seen: list[Any] = []

        async def look(call: Call, proceed: Proceed) -> Any:
            seen.append(await proceed())
            return seen[-1]

        broken = Link(Recorder(noop=ZeroDivisionError()), "broken")
        self.assertIs(self.ask(Wrapper(look), broken), TEMPFAIL)
        self.assertEqual(seen, [TEMPFAIL])
        self.assert_fault(ZeroDivisionError, "broken")


async def passing(call: Call, proceed: Proceed) -> Any:
    """Middleware that changes nothing."""
    return await proceed()


async def failing(call: Call, proceed: Proceed) -> Any:
    """Middleware that fails before it asks."""
    raise ZeroDivisionError


class TellingTests(ChainTestCase):
    def test_answers_do_not_count(self) -> None:
        """Whatever one of them answers, all of them are told."""
        listeners = [Recorder(deny=answer, ok=answer) for answer in (OK, deny(), 1, None)]
        self.ask(*listeners, Recorder("noop"), Recorder(noop=defer()))
        for listener in listeners:
            self.assertEqual(listener.asked, ["ok", "deny"])

    def test_deny(self) -> None:
        """Components at deny learn who refused, where and how."""
        listener = Recorder("deny", "ok")
        self.ask(listener, Link(Recorder(noop=defer("later")), "slowly"))
        self.assertEqual(
            listener.calls, {"deny": [(self.session, "slowly", "noop", defer("later"))]}
        )

    def test_ok(self) -> None:
        """Components at ok learn who did not refuse, whether or not it had an opinion."""
        listener = Recorder("ok", "deny")
        self.ask(Link(Recorder("noop"), "one"), Link(Recorder(noop=OK), "two"), listener)
        self.assertEqual(
            listener.calls,
            {"ok": [(self.session, "one", "noop", None), (self.session, "two", "noop", OK)]},
        )

    def test_middleware(self) -> None:
        """They learn of a verdict that is a middleware's own, and of each verdict once."""

        async def refuse(call: Call, proceed: Proceed) -> Verdict:
            return deny("mine")

        listener = Recorder("deny")
        self.ask(listener, Link(Wrapper(refuse), "outer"), Recorder(noop=OK))
        self.assertEqual(listener.calls["deny"], [(self.session, "outer", "noop", deny("mine"))])
        listener = Recorder("deny")
        self.ask(listener, Wrapper(passing), Link(Recorder(noop=deny()), "inner"))
        self.assertEqual(listener.calls["deny"], [(self.session, "inner", "noop", deny())])

    def test_fault(self) -> None:
        """A fault is told as the refusal it stands for."""
        listener = Recorder("deny")
        self.ask(listener, Link(Recorder(noop=ZeroDivisionError()), "broken"))
        self.assertEqual(listener.calls["deny"], [(self.session, "broken", "noop", TEMPFAIL)])
        self.flushLoggedErrors(ZeroDivisionError)

    def test_listener_fails(self) -> None:
        """One that fails at it changes nothing, and the others are told."""
        listener = Recorder("deny")
        broken = Recorder(deny=ZeroDivisionError())
        self.assertEqual(self.ask(broken, listener, Recorder(noop=deny())), deny())
        self.assertEqual(listener.asked, ["deny"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_failing_log(self) -> None:
        """A logging component that fails is silent: a log about a log has no end."""
        after = Recorder("logging")
        chain = self.chain(Recorder(logging=ZeroDivisionError()), after)
        assert chain.logging is not None
        chain.logging(6, {})
        self.assertEqual(after.asked, ["logging"])
        self.assertEqual(self.flushLoggedErrors(), [])


class NestedTests(ChainTestCase):
    def test_component(self) -> None:
        """A chain is a component, asked at the hooks that its components have."""
        inner = self.chain(Recorder("noop"), Recorder(noop=deny("inner")))
        self.assertTrue(HOOKS["noop"].interface.providedBy(inner))
        self.assertFalse(IRcpt.providedBy(inner))
        self.assertEqual(self.ask(Recorder("noop"), inner, Recorder(noop=OK)), deny("inner"))
        self.assertIsNone(self.chain(inner).vrfy)

    def test_declines(self) -> None:
        """One in which nobody has an opinion has none, and the next component is asked."""
        self.assertIs(self.ask(self.chain(Recorder("noop")), Recorder(noop=OK)), OK)

    def test_waits(self) -> None:
        """One that waits is waited for."""
        later = Later("noop")
        answer = self.ask(self.chain(later), Recorder(noop=OK))
        later.answer.callback(None)
        self.assertIs(self.successResultOf(answer), OK)

    def test_middleware_stays_inside(self) -> None:
        """A middleware of an inner chain stands around the rest of that chain alone."""
        seen: list[Any] = []

        async def look(call: Call, proceed: Proceed) -> Any:
            seen.append(await proceed())
            return seen[-1]

        self.assertIs(self.ask(self.chain(Wrapper(look)), Recorder(noop=OK)), OK)
        self.assertEqual(seen, [None])

    def test_fault(self) -> None:
        """A fault is logged with the name of the component, not of its chain."""
        inner = self.chain(Link(Recorder(noop=ZeroDivisionError()), "broken"))
        self.assertIs(self.ask(Link(inner, "inner")), TEMPFAIL)
        self.assert_fault(ZeroDivisionError, "broken")


@implementer(ILifecycle)
class Lives:
    """Notes its start and its stop."""

    def __init__(self, log: list[str], name: str, fails: str = "") -> None:
        self.log = log
        self.name = name
        self.fails = fails

    def start(self) -> Deferred[None]:
        return self._note("start")

    def stop(self) -> Deferred[None]:
        return self._note("stop")

    def _note(self, what: str) -> Deferred[None]:
        self.log.append(f"{what} {self.name}")
        return fail(ZeroDivisionError()) if self.fails == what else succeed(None)


class LifecycleTests(ChainTestCase):
    def run_now(self, coroutine: Any) -> None:
        self.successResultOf(Deferred.fromCoroutine(coroutine))

    def test_order(self) -> None:
        """Components start in order and stop in reverse order, inner chains in their place."""
        log: list[str] = []
        chain = self.chain(
            Lives(log, "1"), self.chain(Lives(log, "2"), Lives(log, "3")), Recorder("noop")
        )
        self.run_now(chain.start())
        self.run_now(chain.stop())
        self.assertEqual(log, ["start 1", "start 2", "start 3", "stop 3", "stop 2", "stop 1"])

    def test_start_fails(self) -> None:
        """Where one does not start, those before it are stopped, and the error is known."""
        log: list[str] = []
        chain = self.chain(Lives(log, "1"), Lives(log, "2", "start"), Lives(log, "3"))
        self.failureResultOf(Deferred.fromCoroutine(chain.start()), ZeroDivisionError)
        self.assertEqual(log, ["start 1", "start 2", "stop 1"])

    def test_stop_fails(self) -> None:
        """One that does not stop does not keep the others from it, and is logged."""
        log: list[str] = []
        chain = self.chain(Lives(log, "1"), Lives(log, "2", "stop"))
        self.run_now(chain.start())
        self.run_now(chain.stop())
        self.assertEqual(log[2:], ["stop 2", "stop 1"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_stop_twice(self) -> None:
        """What was not started, or has stopped already, is not stopped."""
        log: list[str] = []
        chain = self.chain(Lives(log, "1"))
        self.run_now(chain.stop())
        self.run_now(chain.start())
        self.run_now(chain.stop())
        self.run_now(chain.stop())
        self.assertEqual(log, ["start 1", "stop 1"])


class SettleTests(SynchronousTestCase):
    def test_at_once(self) -> None:
        """A coroutine that does not wait gives its result."""

        async def answer() -> int:
            return 1

        self.assertEqual(settle(answer()), 1)

    def test_raises(self) -> None:
        """One that fails at once raises."""

        async def fails() -> None:
            raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, settle, fails())

    def test_waits(self) -> None:
        """One that waits gives a Deferred, and may wait often, and catch errors."""
        one: Deferred[int] = Deferred()
        two: Deferred[int] = Deferred()

        async def waits() -> int:
            try:
                await one
            except ZeroDivisionError:
                return await two
            return 0

        settled = settle(waits())
        one.errback(ZeroDivisionError())
        self.assertNoResult(settled)
        two.callback(2)
        self.assertEqual(self.successResultOf(settled), 2)

    def test_cancelled(self) -> None:
        """Cancelling reaches what it waits for, and what it does at the end."""
        done: list[str] = []

        async def waits() -> None:
            try:
                await Deferred()
            finally:
                done.append("cleaned up")

        settled = settle(waits())
        settled.cancel()
        self.failureResultOf(settled, CancelledError)
        self.assertEqual(done, ["cleaned up"])

"""Tests of quit_fortune."""

import os
import sys
from shlex import quote
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorProcess
from twisted.internet.task import Clock, deferLater

from qpsmtpd.plugins.quit_fortune import QuitFortune
from qpsmtpd.testing import ComponentTestCase


class QuitFortuneTests(ComponentTestCase):
    def program(self, source: str) -> str:
        path: str = os.path.abspath(self.mktemp())
        with open(path, "w") as file:
            # Not the interpreter itself: its path may have a space.
            file.write(f'#!/bin/sh\nexec {quote(sys.executable)} -S -c {quote(source)} "$@"\n')
        os.chmod(path, 0o755)
        return path

    def plugin(self, program: str, **settings: Any) -> QuitFortune:
        settings.setdefault("clock", self.clock)
        return QuitFortune(
            program=program, me="mail.example", reactor=IReactorProcess(reactor), **settings
        )

    async def ended(self, component: QuitFortune) -> None:
        for running in list(component._running):
            await running.ended

    async def test_cookie(self) -> None:
        """Who said HELO gets what the program prints, without control characters."""
        component = self.plugin(self.program(r"print('a cookie\n\t\x1b[1m\xe9')"))
        verdict = await self.asking(component, "quit", self.session(hello="helo"))
        self.assertEqual(
            verdict.text.split("\n")[:2], ["mail.example closing connection.", "  / a cookie"]
        )
        self.assertRegex(verdict.text.split("\n")[2], r"^  /         \?\[1m\?+$")
        await self.ended(component)

    async def test_argument(self) -> None:
        """The program is asked for something short."""
        component = self.plugin(self.program("import sys; print(sys.argv[1:])"))
        verdict = await self.asking(component, "quit", self.session(hello="helo"))
        self.assertIn("  / ['-s']", verdict.text)
        await self.ended(component)

    def test_not_asked(self) -> None:
        """Who said EHLO or nothing gets the usual goodbye, and so does everybody without it."""
        component = self.plugin(self.program("print('never')"))
        for hello in ("ehlo", ""):
            self.assertIsNone(self.ask(component, "quit", self.session(hello=hello)))
        missing = self.plugin("/nonexistent/fortune")
        self.assertIsNone(self.ask(missing, "quit", self.session(hello="helo")))

    async def test_too_slow(self) -> None:
        """A program that does not end is killed when its time is over."""
        clock = Clock()
        component = self.plugin(self.program("import time; time.sleep(600)"), clock=clock, wait=2)
        answer = self.asking(component, "quit", self.session(hello="helo"))
        clock.advance(1.9)
        self.assertNoResult(answer)
        clock.advance(0.2)
        self.assertIsNone(await answer)
        await self.ended(component)
        self.assertEqual(component._running, set())

    async def test_too_much(self) -> None:
        """A program that goes on printing is killed, and twenty lines are shown."""
        component = self.plugin(self.program("while True: print('x')"))
        verdict = await self.asking(component, "quit", self.session(hello="helo"))
        self.assertEqual(len(verdict.text.split("\n")), 21)
        await self.ended(component)

    async def test_fails(self) -> None:
        """What a program that fails has printed is not shown."""
        component = self.plugin(self.program("print('oops'); raise SystemExit(1)"))
        self.assertIsNone(await self.asking(component, "quit", self.session(hello="helo")))
        await self.ended(component)

    async def test_at_once(self) -> None:
        """Not more than some run at the same time."""
        component = self.plugin(self.program("print('one')"), at_once=1)
        first = self.asking(component, "quit", self.session(hello="helo"))
        self.assertIsNone(self.ask(component, "quit", self.session(hello="helo")))
        self.assertIn("one", (await first).text)
        await self.ended(component)

    async def test_client_goes(self) -> None:
        """A program that nobody waits for any more is killed."""
        component = self.plugin(self.program("import time; time.sleep(600)"))
        session = self.session(hello="helo")
        answer: Deferred[Any] = self.asking(component, "quit", session)
        await deferLater(reactor, 0)
        session.end()
        answer.addErrback(lambda _: None)
        answer.cancel()
        await self.ended(component)
        self.assertEqual(component._running, set())

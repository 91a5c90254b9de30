# -*- test-case-name: tests.plugins.test_quit_fortune -*-
"""Say goodbye with a fortune cookie.

::

    quit_fortune
    quit_fortune program /usr/local/bin/fortune  wait 1s

Who greeted with HELO, so most likely a person with a telnet, gets the output of ``fortune -s`` in
the reply to QUIT. Where the program is missing, takes longer than ``wait`` or runs four times
already, the goodbye is the usual one.
"""

from __future__ import annotations

import os
import re
import socket
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from qpsmtpd import policy
from qpsmtpd.component import PluginMaker, argument, component, control_file, service, state
from qpsmtpd.configuration.values import integer, path, seconds, text
from qpsmtpd.interfaces import Answer, IQuit
from qpsmtpd.session import Session
from qpsmtpd.verdicts import Verdict, accept

NAME = "quit_fortune"

#: Octets of the program's output, and lines of the reply; the rest is not for a goodbye.
OUTPUT_LIMIT: Final = 4096
LINES_LIMIT: Final = 20

_UNPRINTABLE: Final = re.compile(rb"[^\t\n -~]")


@implementer(IQuit)
@component
class QuitFortune:
    """Runs a program for a client, within limits."""

    program: str = argument(path, default="/usr/games/fortune", help="the program to run")
    wait: float = argument(seconds, default=2.0, help="how long the client waits for it")
    at_once: int = argument(integer, default=4, help="so many may run at the same time")
    me: str | None = control_file("me", text, first=True, help="the server's name")
    reactor: IReactorProcess = service(IReactorProcess)
    clock: IReactorTime = service(IReactorTime)
    _running: set[_Output] = state(set)

    def quit(self, session: Session) -> Answer:
        if session.hello != "helo" or len(self._running) >= self.at_once:
            return None
        if not os.access(self.program, os.X_OK):
            return None
        return self._goodbye(session)

    async def _goodbye(self, session: Session) -> Verdict | None:
        cookie = await self._cookie()
        if not cookie:
            policy.report(session, NAME, f"error, {self.program} gave nothing")
            return None
        lines = [f"{self.me or socket.gethostname()} closing connection."]
        return accept("\n".join(lines + [f"  / {line}" for line in cookie]))

    async def _cookie(self) -> list[str]:
        output = _Output()
        self.reactor.spawnProcess(output, self.program, [self.program, "-s"], {}, None)
        self._running.add(output)
        output.ended.addCallback(lambda _: self._running.discard(output))
        limit = self.clock.callLater(self.wait, output.give_up)
        try:
            octets = await output.complete
        finally:
            if limit.active():
                limit.cancel()
            output.give_up()
        cleaned = _UNPRINTABLE.sub(b"?", octets.replace(b"\r\n", b"\n")).decode("ascii")
        return cleaned.expandtabs().rstrip().split("\n")[:LINES_LIMIT] if cleaned.strip() else []


class _Output(ProcessProtocol):
    """What a program prints, until it ends, prints too much or takes too long.

    :ivar complete: Fires with the octets; with none if it was given up.
    :ivar ended: Fires when the program is gone.
    """

    def __init__(self) -> None:
        self.complete: Deferred[bytes] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self._octets = b""

    def connectionMade(self) -> None:  # noqa: N802 - Twisted calls it
        assert self.transport is not None
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted calls it
        self._octets += data
        if len(self._octets) >= OUTPUT_LIMIT:
            self._octets = self._octets[:OUTPUT_LIMIT]
            self._done(self._octets)
            self._kill()

    def processEnded(self, reason: Failure) -> None:  # noqa: N802 - Twisted calls it
        self._done(self._octets if reason.check(ProcessDone) else b"")
        self.ended.callback(None)

    def give_up(self) -> None:
        """Give what is there no further chance."""
        self._done(b"")
        self._kill()

    def _done(self, octets: bytes) -> None:
        if not self.complete.called:
            self.complete.callback(octets)

    def _kill(self) -> None:
        assert self.transport is not None
        try:
            self.transport.signalProcess("KILL")
        except ProcessExitedAlready:
            pass


maker = PluginMaker(NAME, QuitFortune)

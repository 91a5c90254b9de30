"""A factory on an endpoint as a service."""

from __future__ import annotations

import smtplib
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from qpsmtpd.interfaces import IConnect, ILifecycle, IQueue
from qpsmtpd.server.embedded import EndpointService
from qpsmtpd.server.factory import SMTPFactory
from qpsmtpd.session import Session, Transaction
from qpsmtpd.settings import Settings
from qpsmtpd.testing.cases import AcceptRecipients
from qpsmtpd.verdicts import OK, Verdict


@implementer(IConnect, IQueue, ILifecycle)
class Slow:
    """Starts, queues and stops when the test lets it; remembers in what order."""

    def __init__(self) -> None:
        self.starting: Deferred[None] = Deferred()
        self.queueing: Deferred[None] = Deferred()
        self.arrived: Deferred[None] = Deferred()
        self.happened: list[str] = []

    def start(self) -> Deferred[None]:
        self.happened.append("start")
        return self.starting

    def stop(self) -> None:
        self.happened.append("stop")

    def connect(self, session: Session) -> None:
        self.happened.append("connect")

    async def queue(self, transaction: Transaction) -> Verdict:
        self.arrived.callback(None)
        await self.queueing
        self.happened.append("queue")
        return OK


class EndpointServiceTests(TestCase):
    def setUp(self) -> None:
        self.component = Slow()
        self.service = self.serve("tcp:0:interface=127.0.0.1")
        self.addCleanup(self.service.stopService)

    def serve(self, endpoint: str) -> EndpointService:
        from twisted.internet import reactor

        factory = SMTPFactory([AcceptRecipients(), self.component], Settings(me="mail.example"))
        return EndpointService(serverFromString(reactor, endpoint), factory)

    def send(self, port: int) -> Deferred[Any]:
        def send() -> Any:
            client = smtplib.SMTP("127.0.0.1", port, "client.example")
            try:
                return client.sendmail("a@client.example", ["b@mail.example"], "Subject: a\n\nb\n")
            finally:
                client.close()  # no QUIT: the server may have closed the connection

        return deferToThread(send)

    async def test_order(self) -> None:
        """Components start before the first client is spoken to, and stop after its message."""
        self.service.privilegedStartService()
        port = self.service.port.getHost().port
        self.service.startService()
        sent = self.send(port)
        self.assertEqual(self.component.happened, ["start"])
        self.component.happened.append("started")
        self.component.starting.callback(None)
        await self.component.arrived
        stopped = self.service.stopService()
        self.assertIsNone(self.service.port)
        self.component.queueing.callback(None)
        self.assertEqual(await sent, {})
        await stopped
        self.assertEqual(self.component.happened, ["start", "started", "connect", "queue", "stop"])

    async def test_component_does_not_start(self) -> None:
        """If a component does not start, nobody is kept waiting on the port."""
        self.service.startService()
        number = self.service.port.getHost().port
        self.component.starting.errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        await self.service._starting  # type: ignore[misc]
        self.assertIsNone(self.service.port)
        with self.assertRaises(ConnectionRefusedError):
            await self.send(number)

    async def test_stopped_while_it_starts(self) -> None:
        """A service that is stopped while components start leaves nothing open."""
        self.service.startService()
        stopping = self.service.stopService()
        self.assertEqual(self.component.happened, ["start"])
        self.assertIsNone(self.service.port)
        await stopping

    def test_port_in_use(self) -> None:
        """A port that another has is an error at once."""
        self.service.privilegedStartService()
        other = self.serve(f"tcp:{self.service.port.getHost().port}:interface=127.0.0.1")
        self.assertRaises(CannotListenError, other.privilegedStartService)

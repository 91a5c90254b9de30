# -*- test-case-name: tests.server.test_embedded -*-
"""A factory on an endpoint as a service of an application that has others too."""

from __future__ import annotations

from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from qpsmtpd.server.factory import SMTPFactory

__all__ = ["EndpointService"]

log: Final = Logger()


class EndpointService(Service):
    """Starts the components, then serves; at the end, lets messages on their way arrive.

    ``StreamServerEndpointService`` knows nothing of components. As there, the socket is
    opened while the process is still privileged; nobody is spoken to before the
    components have started.

    :ivar factory: The factory.
    :ivar port: Where it listens; ``None`` while it does not.
    """

    def __init__(
        self, endpoint: IStreamServerEndpoint, factory: SMTPFactory, grace: float = 30.0
    ) -> None:
        """Make the service.

        :param grace: Seconds that messages on their way get at the stop.
        """
        self.factory = factory
        self.port: Any = None
        self._endpoint = endpoint
        self._grace = grace
        self._listening: Deferred[None] | None = None
        self._starting: Deferred[None] | None = None
        self._started = False

    def privilegedStartService(self) -> None:
        """Open the socket.

        :raises Exception: What keeps it from listening, if that is known at once.
        """
        failed: list[Failure] = []
        self._listening = self._endpoint.listen(self.factory).addCallback(self._bound)
        self._listening.addErrback(failed.append)
        if failed:
            failed[0].raiseException()
        self._listening.addCallback(lambda _: failed[0].raiseException() if failed else None)

    def _bound(self, port: IListeningPort) -> None:
        self.port = port
        self.port.stopReading()  # clients wait in the backlog

    def startService(self) -> None:
        """Start the components, and then speak to clients."""
        super().startService()
        if self._listening is None:
            self.privilegedStartService()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(lambda failure: Deferred.fromCoroutine(self._failed(failure)))

    async def _start(self) -> None:
        assert self._listening is not None
        await self._listening
        await self.factory.start()
        self._started = True
        self.port.startReading()

    async def _failed(self, failure: Failure) -> None:
        if self.running:
            log.failure("The mail server does not start", failure)
            await self._close()

    def stopService(self) -> Deferred[None]:
        """Stop to listen, let messages on their way arrive, stop the components."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        await self._close()
        if self._started:
            self._started = False
            await self.factory.stop(self._grace)

    async def _close(self) -> None:
        port, self.port = self.port, None
        self._listening = None
        if port is not None:
            stopped = port.stopListening()
            if stopped is not None:
                await stopped

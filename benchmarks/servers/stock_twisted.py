"""Stock ``twisted.mail.smtp`` with a delivery that accepts and discards.

It runs in the interpreter of the benchmarks, so with the Twisted that qpsmtpd
uses. As a program: ``stock_twisted.py PORT SECONDS``. The second argument is how
long each ``RCPT`` waits.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path


def main(port: int, wait: float) -> None:
    from twisted.internet import defer, reactor, task
    from twisted.mail import smtp
    from zope.interface import implementer

    @implementer(smtp.IMessage)
    class Nothing:
        def lineReceived(self, line):  # noqa: N802
            pass

        def eomReceived(self):  # noqa: N802
            return defer.succeed(None)

        def connectionLost(self):  # noqa: N802
            pass

    @implementer(smtp.IMessageDelivery)
    class Discard:
        def receivedHeader(self, helo, origin, recipients):  # noqa: N802
            return b"Received: discarded"

        def validateFrom(self, helo, origin):  # noqa: N802
            return origin

        def validateTo(self, user):  # noqa: N802
            return task.deferLater(reactor, wait, lambda: Nothing) if wait else Nothing

    class Factory(smtp.SMTPFactory):
        protocol = smtp.ESMTP

        def buildProtocol(self, addr):  # noqa: N802
            protocol = super().buildProtocol(addr)
            protocol.delivery = delivery
            return protocol

    delivery = Discard()
    factory = Factory()
    factory.noisy = False
    reactor.listenTCP(port, factory, backlog=4096, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
else:
    from benchmarks.servers.base import Command, Server

    def prepare(folder: Path, port: int, *, wait: float = 0) -> Command:
        return Command([sys.executable, "-P", __file__, str(port), str(wait)])

    SERVER = Server("stock twisted.mail.smtp", prepare)

    def waiting(seconds: float) -> Server:
        return Server(SERVER.title, partial(prepare, wait=seconds))

"""Wait some seconds at each ``RCPT``, as a look-up would, then leave it to the next component."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from qpsmtpd.component import PluginMaker, argument, component, service
from qpsmtpd.configuration.values import seconds
from qpsmtpd.interfaces import IRcpt
from qpsmtpd.session import Transaction
from qpsmtpd.smtp.address import Address


@implementer(IRcpt)
@component
class WaitRcpt:
    """Lets time pass, and nothing else."""

    wait: float = argument(
        seconds, default=0.2, positional=True, help="how long each RCPT waits, in seconds"
    )
    clock: IReactorTime = service(IReactorTime)

    async def rcpt(self, transaction: Transaction, recipient: Address) -> None:
        await deferLater(self.clock, self.wait, lambda: None)


maker = PluginMaker("wait_rcpt", WaitRcpt)

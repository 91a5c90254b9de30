"""Refuse mail from domains that declare, with a null MX, that they accept none.

Neither a reply nor a bounce to such a reverse-path has anywhere to go, so
RFC 7505, 4.2 lets a server refuse it::

    null_mx
    null_mx reject 0

Argument ``reject``: ``1`` (the default) refuses with 550, ``0`` only logs. The control file
``null_mx_exempt`` has domains that are not asked about, one on each line.
"""

from twisted.logger import Logger
from zope.interface import implementer

from qpsmtpd.component import PluginMaker, argument, component, control_file, service
from qpsmtpd.configuration.values import domain, yes_no
from qpsmtpd.interfaces import IMail, IResolver
from qpsmtpd.session import Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.verdicts import Verdict, deny

log = Logger()


@implementer(IMail)
@component
class NullMX:
    """Asks the resolver once for each reverse-path that names a domain."""

    reject: bool = argument(yes_no, default=True, help="0 logs the finding and takes the mail")
    exempt: tuple[str, ...] = control_file(
        "null_mx_exempt", domain, default=(), help="domains not to ask about"
    )
    resolver: IResolver = service(IResolver)

    async def mail(self, transaction: Transaction, reverse_path: Address) -> Verdict | None:
        sender = reverse_path.domain_lower
        if sender is None or sender in self.exempt:  # <> is a bounce; nobody answers it
            return None
        if await self.resolver.mx(sender) != [(0, ".")]:
            return None
        log.info("{domain} has a null MX", domain=sender)
        return deny(f"{sender} accepts no mail", "5.7.27") if self.reject else None


maker = PluginMaker("null_mx", NullMX)

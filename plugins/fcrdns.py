# -*- test-case-name: tests.plugins.test_fcrdns -*-
"""Check that the client's address has a name, and that the name leads back (RFC 8601, 3).

::

    fcrdns
    fcrdns reject naughty timeout 10

Of the names that the DNS has for the client's address, the first ten are looked up. What comes
out stands in the field Authentication-Results, as ``iprev``:

=============  ==============================================  =====
``iprev``      the DNS says                                    karma
=============  ==============================================  =====
``pass``       one of the names has the client's address       +1
``fail``       none of them has                                -1
``permerror``  the address has no name                         -1
``temperror``  nothing: it did not answer                      0
=============  ==============================================  =====

A name with an address of the same network as the client's, 24 bits of IPv4 or 64 of IPv6, costs no
karma and refuses nobody, although it is a ``fail``.

Arguments:

``reject``
    ``1`` refuses a client for ``fail`` and ``permerror``, ``naughty`` leaves that to the plugin
    ``naughty``. ``0`` (the default) only logs, and then nobody waits for the answer.
``reject_type``
    ``temp`` (the default), ``perm``, ``disconnect`` or ``temp_disconnect``.
``timeout``
    Seconds to wait for the DNS, 5 unless given.

Clients that are exempt from tests and those of this machine are not looked up. In the Perl qpsmtpd
``reject`` did nothing, IPv6 clients always failed, and a wrong address was logged as a pass.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from qpsmtpd import policy
from qpsmtpd.component import PluginMaker, argument, component, service
from qpsmtpd.configuration.values import seconds
from qpsmtpd.interfaces import Answer, IConnect, IResolver, ResolverError
from qpsmtpd.networks import client_address
from qpsmtpd.policy import Reject, RejectType
from qpsmtpd.session import Session
from qpsmtpd.verdicts import Verdict

_NAME: Final = "fcrdns"

#: Names of one address that are looked up; whoever owns the address chooses how many it has.
_NAMES: Final = 10

_KARMA: Final = {"pass": 1, "fail": -1, "permerror": -1}

_NETWORK: Final = {4: 24, 6: 64}


@implementer(IConnect)
@component
class FCrDNS:
    """Looks a client up when it connects; only ``reject 1`` makes it wait for that."""

    reject: Reject = argument(policy.reject, default=Reject.NO, help="1, 0 or naughty")
    reject_type: RejectType = argument(
        policy.reject_type,
        default=RejectType.TEMP,
        help="perm, temp, disconnect or temp_disconnect",
    )
    timeout: float = argument(seconds, default=5.0, help="seconds to wait for the DNS")
    resolver: IResolver = service(IResolver)
    clock: IReactorTime = service(IReactorTime)

    def connect(self, session: Session) -> Answer:
        if reason := policy.immunity(session):
            policy.report(session, _NAME, f"skip, {reason}")
            return None
        address = client_address(session.remote_ip)
        if address is None:
            policy.report(session, _NAME, "skip, no address")
            return None
        if address.is_loopback:
            policy.adjust_karma(session, _NAME, 1)
            policy.report(session, _NAME, "pass, is localhost")
            return None
        test = session.start(self._test(session, address))
        if self.reject is Reject.YES:
            return test
        if self.reject is Reject.NAUGHTY:
            policy.expect(session, test)
        return None

    async def _test(self, session: Session, address: IPv4Address | IPv6Address) -> Verdict | None:
        looked_up = Deferred.fromCoroutine(self._look_up(address))
        try:
            result, detail = await looked_up.addTimeout(self.timeout, self.clock)
        except (ResolverError, TimeoutError) as error:
            result, detail = "temperror", str(error)
        near = result == "near"
        if near:
            result = "fail"
        policy.add_auth_result(session, f"iprev={result} policy.iprev={_shown(address)}")
        if result == "temperror":
            policy.report(session, _NAME, f"error, {detail}")
            return None
        if near:
            policy.report(session, _NAME, f"fail, tolerated, {detail}")
            return None
        policy.adjust_karma(session, _NAME, _KARMA[result])
        if result == "pass":
            policy.report(session, _NAME, f"pass, {detail}")
            return None
        return policy.rejection(
            session,
            _NAME,
            f"The address {address} has no name that leads back to it",
            status="7.25",  # RFC 7372, 3.3
            reject=self.reject,
            kind=self.reject_type,
            detail=detail,
        )

    async def _look_up(self, address: IPv4Address | IPv6Address) -> tuple[str, str]:
        """What is published of an address, and why; ``near`` is a neighbour's."""
        names = [name for name in await self.resolver.ptr(str(address)) if "." in name][:_NAMES]
        if not names:
            return "permerror", "no rDNS"
        ask = self.resolver.a if address.version == 4 else self.resolver.aaaa
        found: list[str] = []
        failed: ResolverError | None = None
        for name in names:
            try:
                addresses = await ask(name)
            except ResolverError as error:
                failed = error
                continue
            if address in map(ip_address, addresses):
                return "pass", name
            found += addresses
        if failed is not None:
            raise failed
        network = ip_network((address, _NETWORK[address.version]), strict=False)
        if any(ip_address(each) in network for each in found):
            return "near", "forward network match"
        return "fail", "no PTR hosts have this forward DNS"


def _shown(address: IPv4Address | IPv6Address) -> str:
    return str(address) if address.version == 4 else f'"{address}"'  # a colon needs quotes


maker = PluginMaker(_NAME, FCrDNS)

# -*- test-case-name: tests.plugins.test_hosts_allow -*-
"""Accept or refuse clients by their address, before anything is said.

::

    hosts_allow
    hosts_allow max_conn_ip 5

The control file ``hosts_allow`` has on each line an address or network, a verdict and, if one
likes, a text for the client. The first line that the client's address is in counts::

    192.0.2.77      DECLINED
    192.0.2.0/24    DENYSOFT  Come back later
    2001:db8:7::/48 DENY      You know why

``DENY`` or ``DENY_DISCONNECT``
    554 5.7.1, and the connection closes. ``DENYHARD`` is the same.
``DENYSOFT`` or ``DENYSOFT_DISCONNECT``
    421 4.7.0, and the connection closes.
``DECLINED``
    The client may go on.
``OK``
    It may go on, and the plugins behind this one are not asked at this moment.

Arguments:

``max_conn_ip``
    Connections at once from one address; ``0``, the default, leaves it to
    ``connections_per_address`` in the control file ``limits``, which holds in any case. One
    connection more is told ``421 4.7.0``. Where the plugin ``karma`` stands before this
    one, a history above 5 allows three more, and one below 0 a single connection.

In the Perl qpsmtpd the number was an option of the server, and clients without a history got a
single connection. A line with an unknown verdict, or with an address that is not
the first of its network, had no effect; here it is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

from zope.interface import implementer

from qpsmtpd import policy
from qpsmtpd.component import PluginMaker, argument, component, control_file, state
from qpsmtpd.configuration.values import ConversionError, converter, integer, ip_network
from qpsmtpd.interfaces import IPreConnection
from qpsmtpd.networks import Network, NetworkTable
from qpsmtpd.session import Session
from qpsmtpd.verdicts import OK, Verdict, defer, deny

_NAME: Final = "hosts_allow"

#: The note of the plugin ``karma``: good connections of the past minus bad ones.
_HISTORY: Final = "karma_history"
_GOOD: Final = 5
_MORE: Final = 3

_deny: Final = partial(deny, status="5.7.1")
_defer: Final = partial(defer, status="4.7.0")

_VERDICTS: Final[Mapping[str, Callable[[str], Verdict | None]]] = {
    "OK": lambda text: OK,
    "DECLINED": lambda text: None,
    "DENY": _deny,
    "DENY_DISCONNECT": _deny,
    "DENYHARD": _deny,
    "DENYSOFT": _defer,
    "DENYSOFT_DISCONNECT": _defer,
}


class Entry(NamedTuple):
    """A line of the file."""

    network: Network
    verdict: Verdict | None


@converter("an address or network, a verdict, and perhaps a text for the client")
def entry(line: str) -> Entry:
    """Take a line of the file ``hosts_allow``."""
    where, *rest = line.split(None, 2)
    if not rest or rest[0] not in _VERDICTS:
        raise ConversionError(f"the verdict is one of {', '.join(_VERDICTS)}")
    try:
        network = ip_network(where)
    except ValueError as error:
        raise ConversionError(str(error.__cause__)) from None
    return Entry(network, _VERDICTS[rest[0]](rest[1] if len(rest) > 1 else ""))


@implementer(IPreConnection)
@component
class HostsAllow:
    """Looks a client up once, when it connects."""

    max_conn_ip: int = argument(
        integer, default=0, help="connections at once from one address; 0 for no limit"
    )
    entries: tuple[Entry, ...] = control_file(
        "hosts_allow",
        entry,
        default=(),
        example="192.0.2.0/24 DENY Not from there",
        help="networks, each with a verdict",
    )
    _table: NetworkTable[Entry] = state(lambda: NetworkTable(()))

    def __post_init__(self) -> None:
        self._table = NetworkTable((each.network, each) for each in self.entries)

    def pre_connection(self, session: Session) -> Verdict | None:
        if self.max_conn_ip and session.remote_ip:
            limit = self._limit(session)
            if session.connections > limit:
                return _too_many(session, limit)
        found = self._table.find(session.remote_ip)
        if found is None or found.verdict is None or not found.verdict.refuses:
            policy.report(session, _NAME, "pass", 7)
        else:
            policy.report(session, _NAME, f"fail, {found.verdict.text or found.network}")
        return found.verdict if found is not None else None

    def _limit(self, session: Session) -> int:
        history: int = session.notes[_HISTORY] or 0
        if history < 0:
            policy.report(session, _NAME, f"connect limit 1, karma {history}")
            return 1
        return self.max_conn_ip + (_MORE if history > _GOOD else 0)


def _too_many(session: Session, limit: int) -> Verdict:
    said = f"too many connections from {session.remote_ip}"
    policy.report(session, _NAME, f"fail: {said} ({session.connections} > {limit})")
    return _defer(f"{said}, try again later")


maker = PluginMaker(_NAME, HostsAllow)

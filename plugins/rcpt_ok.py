# -*- test-case-name: tests.plugins.test_rcpt_ok -*-
"""Accept recipients whose domain is ours and refuse all others.

This is the check that keeps the server from being an open relay. It answers for every
recipient, so it stands behind all other plugins that look at recipients::

    rcpt_ok

A recipient is accepted if

- the client may relay: it has authenticated, or ``relay`` knows its address;
- it is ``<postmaster>`` without a domain (RFC 5321, 4.5.1);
- its domain is the one in ``me`` or in ``rcpthosts``;
- a line of ``rcpthosts`` begins with a dot and the domain ends with it. ``.example.org``
  stands for every subdomain of ``example.org``, but not for ``example.org`` itself;
- the same goes for the lines of ``morercpthosts`` and for the keys of the constant database
  ``morercpthosts.cdb`` that qmail-newmrh makes of them.

Otherwise the client is told ``550 5.7.1 Relaying denied``. Without these files, only mail for
the domain in ``me`` is accepted; qmail-smtpd took mail for everybody then. Domains are the same
in any case of letters, with or without a dot at the end, and as U-labels or A-labels.

In the Perl qpsmtpd whitelisted hosts and senders could relay too. A sender is easily forged, so
here they cannot, unless ``whitelisted_may_relay_anywhere yes`` says so. It read
``morercpthosts.cdb`` only, without the subdomains that qmail-smtpd finds there. The database is
read with ``cdbx`` (``pip install 'qpsmtpd[cdb]'``). A local part such as ``user%other.example`` or
``other!user`` is passed on as it is; ``badrcptto`` can refuse those.
"""

from __future__ import annotations

import socket
from collections.abc import Container, Iterator

from zope.interface import implementer

from qpsmtpd import policy
from qpsmtpd.component import (
    PluginMaker,
    argument,
    component,
    control_file,
    control_map,
    state,
)
from qpsmtpd.configuration.values import ConversionError, converter, domain, yes_no
from qpsmtpd.interfaces import IRcpt
from qpsmtpd.session import Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.verdicts import OK, Verdict, deny

NAME = "rcpt_ok"


def _plain(host: str) -> str:
    """Write a domain in the one form that domains are compared in."""
    host = host.lower().removesuffix(".")
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return host


@converter("a domain as in example.org, or .example.org for all its subdomains")
def host_entry(text: str) -> str:
    """Take a line of ``rcpthosts``."""
    dot = "." if text.startswith(".") else ""
    host = _plain(text.removeprefix("."))
    if host.startswith("["):
        return str(Address("postmaster", host).domain_lower)
    try:
        return dot + domain(host)
    except ValueError as error:
        raise ConversionError(str(error)) from None


@implementer(IRcpt)
@component
class RcptOk:
    """The last word on every recipient."""

    whitelisted_may_relay_anywhere: bool = argument(
        yes_no,
        default=False,
        help="as in Perl: whoever forges a whitelisted sender may relay. An open relay",
    )
    rcpthosts: tuple[str, ...] = control_file(
        "rcpthosts", host_entry, help="domains that mail is accepted for", example=".example.org"
    )
    morercpthosts: tuple[str, ...] = control_file(
        "morercpthosts", host_entry, default=(), help="more of them", example="example.net"
    )
    database: Container[bytes] = control_map(
        "morercpthosts", default=frozenset(), help="more of them, as qmail-newmrh writes them"
    )
    me: str | None = control_file(
        "me",
        host_entry,
        first=True,
        help="the server's name; the machine's if there is no file",
        example="mail.example.org",
    )
    _hosts: frozenset[str] = state(frozenset)
    _suffixes: frozenset[str] = state(frozenset)

    def __post_init__(self) -> None:
        ours = {_plain(entry) for entry in (*self.rcpthosts, *self.morercpthosts)}
        self._suffixes = frozenset(entry for entry in ours if entry.startswith("."))
        self._hosts = frozenset(ours - self._suffixes) | {_plain(self.me or socket.gethostname())}

    def rcpt(self, transaction: Transaction, recipient: Address) -> Verdict | None:
        if self._may_relay(transaction):
            return OK
        if recipient.domain is None:
            return self._without_domain(recipient)
        host = _plain(recipient.domain)
        if host in self._hosts:
            policy.report(transaction, NAME, f"pass: {host} in rcpthosts")
            return OK
        if (suffix := self._suffix(host)) is not None:
            policy.report(transaction, NAME, f"pass: {host} in rcpthosts as {suffix}")
            return OK
        if self._in_database(host):
            policy.report(transaction, NAME, f"pass: {host} found in morercpthosts")
            return OK
        policy.report(transaction, NAME, f"fail: {host} not in rcpthosts")
        return deny(f"Relaying denied: mail for {host} is not accepted here", "5.7.1")

    def _may_relay(self, transaction: Transaction) -> bool:
        if not transaction.session.relay_client and not self.whitelisted_may_relay_anywhere:
            return False
        reason = policy.immunity(transaction)
        if reason is None:
            return False
        policy.report(transaction, NAME, f"skip, {reason}")
        return True

    def _without_domain(self, recipient: Address) -> Verdict:
        if recipient.is_null:
            return deny("A recipient is needed, not <>", "5.1.3")
        return OK

    def _suffix(self, host: str) -> str | None:
        if not self._suffixes:
            return None
        return next((each for each in _suffixes(host) if each in self._suffixes), None)

    def _in_database(self, host: str) -> bool:
        return any(each.encode() in self.database for each in (host, *_suffixes(host)))


def _suffixes(host: str) -> Iterator[str]:
    """What a domain ends with, from each of its dots on; the longest first."""
    dot = host.find(".")
    while dot >= 0:
        yield host[dot:]
        dot = host.find(".", dot + 1)


maker = PluginMaker(NAME, RcptOk)

# -*- test-case-name: tests.plugins.test_dont_require_anglebrackets -*-
"""Take addresses in MAIL and RCPT that lack the angle brackets of RFC 5321, 4.1.1.2.

::

    dont_require_anglebrackets

``MAIL FROM: anna@example.org`` is read as ``MAIL FROM:<anna@example.org>``, parameters behind the
address included. Hardly any honest client needs that, so each costs 2 of karma, except of clients
that are exempt from tests. No address at all stays an error; the Perl qpsmtpd made the sender of
bounces of it, and kept later plugins from looking at any path.
"""

from __future__ import annotations

from typing import Final

from zope.interface import implementer

from qpsmtpd import policy
from qpsmtpd.component import PluginMaker, component
from qpsmtpd.interfaces import IMailPre, IRcptPre, Parameters
from qpsmtpd.session import Session, Transaction

_NAME: Final = "dont_require_anglebrackets"


@implementer(IMailPre, IRcptPre)
@component
class DontRequireAngleBrackets:
    """Adds both brackets where both are missing; the parser refuses what is still wrong."""

    def mail_pre(self, session: Session, path: str, parameters: Parameters) -> str | None:
        return _bracketed(session, path, "MAIL")

    def rcpt_pre(self, transaction: Transaction, path: str, parameters: Parameters) -> str | None:
        return _bracketed(transaction, path, "RCPT")


def _bracketed(scope: Session | Transaction, path: str, verb: str) -> str | None:
    if not path or path.startswith("<") or path.endswith(">"):
        return None
    policy.report(scope, _NAME, f"fail, tolerated, added {verb} angle brackets")
    if policy.immunity(scope) is None:
        policy.adjust_karma(scope, _NAME, -2)
    return f"<{path}>"


maker = PluginMaker(_NAME, DontRequireAngleBrackets)

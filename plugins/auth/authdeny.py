# -*- test-case-name: tests.plugins.auth.test_authdeny -*-
"""Let nobody authenticate, and say so in the log.

::

    auth/authdeny

It stands behind the plugins that know users. On its own it makes the server offer AUTH with PLAIN,
LOGIN and CRAM-MD5, all of which fail: a net for those who guess passwords, when a program such as
fail2ban watches the log. It has no arguments and leaves the decision to the plugins behind it; when
none decides, the client is told 535 5.7.8.
"""

from __future__ import annotations

from typing import Final

from zope.interface import implementer

from qpsmtpd import policy
from qpsmtpd.component import PluginMaker, component
from qpsmtpd.interfaces import IAuth
from qpsmtpd.session import Session
from qpsmtpd.smtp.sasl import Credentials

_NAME: Final = "authdeny"
_WARNING: Final = 4


@implementer(IAuth)
@component
class AuthDeny:
    """Knows nobody."""

    def auth(self, session: Session, credentials: Credentials) -> None:
        policy.report(session, _NAME, "fail, cannot authenticate", _WARNING)


maker = PluginMaker("auth/authdeny", AuthDeny)

# -*- test-case-name: tests.plugins.test_loop -*-
"""Refuse a message that has passed through too many servers (RFC 5321, 6.3).

::

    loop
    loop 50

The argument is the number of hops that is too many; ``0`` is 100. A ``Received`` field is a hop,
the one that this server adds included, and so is a ``Delivered-To`` field. Fields that other
plugins add or remove make no difference. Reply: ``552 5.4.6 Too many hops``.
"""

from __future__ import annotations

import re
from typing import Final

from zope.interface import implementer

from qpsmtpd import policy
from qpsmtpd.component import PluginMaker, argument, component
from qpsmtpd.configuration.values import integer
from qpsmtpd.interfaces import IDataPost
from qpsmtpd.session import Transaction
from qpsmtpd.verdicts import Verdict, deny

_NAME: Final = "loop"
_DEFAULT: Final = 100

#: In lower case, because a pattern that ignores case is searched for slowly.
_HOP: Final = re.compile(rb"\r\n(?:received|delivered-to)[ \t]*:")


@implementer(IDataPost)
@component
class Loop:
    """Counts in what the client sent, without reading its fields one by one."""

    max_hops: int = argument(
        integer, default=_DEFAULT, positional=True, help="the number that is too many"
    )

    def data_post(self, transaction: Transaction) -> Verdict | None:
        assert transaction.message is not None
        hops = 1 + len(_HOP.findall(b"\r\n" + transaction.message.lowered_headers()))
        if hops < (self.max_hops or _DEFAULT):
            policy.report(transaction, _NAME, f"pass, {hops} hops")
            return None
        policy.report(transaction, _NAME, f"fail, {hops} hops")
        return deny("Too many hops", "5.4.6")


maker = PluginMaker(_NAME, Loop)

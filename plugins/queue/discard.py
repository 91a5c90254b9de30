# -*- test-case-name: tests.plugins.queue.test_discard -*-
"""Accept every message and forget it: for measurements and tests.

::

    queue/discard

The client is told ``250 2.0.0 Queued``, and the message is **lost**. It takes no arguments.
"""

from __future__ import annotations

from zope.interface import implementer

from qpsmtpd.component import PluginMaker, component
from qpsmtpd.interfaces import IQueue
from qpsmtpd.session import Transaction
from qpsmtpd.verdicts import OK, Verdict


@implementer(IQueue)
@component
class Discard:
    """Says yes."""

    def queue(self, transaction: Transaction) -> Verdict:
        return OK


maker = PluginMaker("queue/discard", Discard)

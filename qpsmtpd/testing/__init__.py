"""The test kit for components: a client in memory, a clock, and careful fakes.

::

    from qpsmtpd.testing import ComponentTestCase

A component is tested by what a client sees; see :class:`ComponentTestCase`.
"""

from qpsmtpd.testing.cases import (
    AcceptRecipients,
    ComponentTestCase,
    MemoryQueue,
    QueuedMessage,
)
from qpsmtpd.testing.client import Conversation, ParsedReply
from qpsmtpd.testing.fakes import FakeConfiguration, FakeResolver, FakeStore

__all__ = [
    "AcceptRecipients",
    "ComponentTestCase",
    "Conversation",
    "FakeConfiguration",
    "FakeResolver",
    "FakeStore",
    "MemoryQueue",
    "ParsedReply",
    "QueuedMessage",
]

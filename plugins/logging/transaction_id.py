# -*- test-case-name: tests.plugins.logging.test_connection_id -*-
"""Log to standard error, with the id of the mail transaction in front of each line.

::

    logging/transaction_id
    logging/transaction_id LOGINFO

A line is ``<id> <plugin> plugin: <text>``, or ``<id> <text>`` where no plugin speaks.
A transaction lasts from MAIL to the end of its message; lines before and after it have ``???`` for
the id. The id is the session's, a point, and a number. The Perl qpsmtpd's refuses to load.
"""

from __future__ import annotations

from typing import ClassVar

from qpsmtpd.component import PluginMaker, component
from qpsmtpd.plugins.logging.connection_id import ConnectionId

NAME = "logging/transaction_id"


@component
class TransactionId(ConnectionId):
    """The same, with another id."""

    field: ClassVar[str] = "transaction"


maker = PluginMaker(NAME, TransactionId)

# -*- test-case-name: tests.plugins.logging.test_apache -*-
"""Log to standard error, where the Perl qpsmtpd logged through Apache.

::

    logging/apache

There is no Apache here. So that a configuration that names it starts as it is, this is
``logging/warn``, and says so in the log. For structured logs there is ``logging/json``.
"""

from __future__ import annotations

from twisted.logger import Logger

from qpsmtpd.component import PluginMaker, component
from qpsmtpd.plugins.logging.warn import Warn

NAME = "logging/apache"

log = Logger()


@component
class Apache(Warn):
    """Writes what Apache's log would have got."""

    def start(self) -> None:
        log.warn(
            "there is no Apache: the log goes to standard error, as with logging/warn; "
            "logging/json writes structured logs"
        )


maker = PluginMaker(NAME, Apache)

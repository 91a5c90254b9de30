# -*- test-case-name: tests.plugins.logging.test_devnull -*-
"""Log nothing.

::

    logging/devnull

It takes the place of what the server writes without a logging plugin. Other logging plugins
write what they would.
"""

from __future__ import annotations

from typing import Any, Final

from zope.interface import implementer

from qpsmtpd.component import PluginMaker, component
from qpsmtpd.interfaces import ILogging

NAME = "logging/devnull"


@implementer(ILogging)
@component
class DevNull:
    """Listens to no level, so nothing is even made."""

    loglevel: Final = -1

    def logging(self, level: int, event: dict[str, Any]) -> None:
        pass  # only a louder plugin beside this one lets events come here


maker = PluginMaker(NAME, DevNull)

"""What a logging plugin writes of whole sessions."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from qpsmtpd import logs
from qpsmtpd.chain import Chain
from qpsmtpd.services.logs import LogService
from qpsmtpd.testing import ComponentTestCase


class ListeningTestCase(ComponentTestCase):
    """Has standard error, and a log service for as long as a test says."""

    def setUp(self) -> None:
        super().setUp()
        self.stream = io.StringIO()
        self.patch(sys, "stderr", self.stream)
        self.patch(logs.threshold, "level", 4)

    @contextmanager
    def listening(self, make: Callable[[], Any], *others: object) -> Iterator[Chain]:
        """Let a plugin write what is logged inside the ``with``.

        :param make: Makes the plugin, which takes standard error as it finds it.
        :param others: Components that stand behind it in the chain.
        """
        component = make()
        chain = Chain([component, *others])
        service = LogService.of(chain, 4)
        service.start()
        try:
            yield chain
        finally:
            service.stop()
            if hasattr(component, "stop"):
                component.stop()

    @property
    def lines(self) -> list[str]:
        """What was written to standard error, without the ids in front."""
        return [line.partition(" ")[2] for line in self.stream.getvalue().splitlines()]

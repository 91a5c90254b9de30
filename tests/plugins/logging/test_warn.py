"""Tests of logging/warn."""

import io
import os
import sys
from typing import Any

from qpsmtpd import logs, policy
from qpsmtpd.chain import Chain
from qpsmtpd.plugins.logging.warn import Warn
from qpsmtpd.services.logs import LogService
from qpsmtpd.testing import ComponentTestCase


def number(session: str) -> str:
    """The number that stands for a session: the process and six digits."""
    return f"{os.getpid()}{int(session.rpartition('-')[2], 16):06}"


class WarnTests(ComponentTestCase):
    def written(self, **settings: Any) -> tuple[str, list[str]]:
        """What a component writes of three events, and the id of the session they are from."""
        stream = io.StringIO()
        self.patch(sys, "stderr", stream)
        self.patch(logs.threshold, "level", 4)
        component = Warn(**settings)
        service = LogService.of(Chain([component]), 4)
        service.start()
        session = self.session()
        for level, text in ((4, "a warning"), (6, "pass"), (7, "details")):
            policy.report(session, "queue/maildir", text, level)
        service.stop()
        component.stop()
        return session.id, stream.getvalue().splitlines()

    def test_default(self) -> None:
        """Warnings and worse are written to standard error, with session and plugin."""
        session, lines = self.written()
        self.assertEqual(lines, [f"{number(session)} queue::maildir: a warning"])

    def test_level(self) -> None:
        """At another level, more is."""
        session, lines = self.written(loglevel=6)
        head = f"{number(session)} queue::maildir: "
        self.assertEqual(lines, [f"{head}a warning", f"{head}pass"])

    def test_session(self) -> None:
        """The session's id is written if asked for."""
        session, lines = self.written(session=True)
        self.assertEqual(lines, [f"{number(session)} [{session}] queue::maildir: a warning"])

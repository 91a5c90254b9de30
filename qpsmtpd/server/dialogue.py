# -*- test-case-name: tests.server.test_dialogue -*-
"""The dialogue of a session in the log: each command line, and each line of a reply.

A session gets a :class:`LoggedMachine` where somebody wants its dialogue when it begins; any
other has a plain machine, which does not even ask.
"""

from __future__ import annotations

import re
from typing import Final

from qpsmtpd import logs
from qpsmtpd.session import Session
from qpsmtpd.smtp.commands import PARSERS, Command
from qpsmtpd.smtp.extensions import Extensions
from qpsmtpd.smtp.limits import Limits
from qpsmtpd.smtp.machine import ServerMachine

__all__ = ["HIDDEN", "LoggedMachine"]

#: What stands for credentials in the log, as in the Perl qpsmtpd's.
HIDDEN: Final = "<hidden credentials>"

#: Only known mechanisms are shown: what stands in their place may be the credentials.
_AUTH: Final = re.compile(
    r"\s*auth(?:\s+(plain|login|cram-md5|digest-md5|scram-[\w-]+|xoauth2|oauthbearer|ntlm|gssapi|"
    r"external)(?!\S))?(\s.*)?",
    re.IGNORECASE | re.DOTALL,
)


class LoggedMachine(ServerMachine):
    """A machine that logs what is said."""

    __slots__ = ("_session", "_suspicious")

    def __init__(self, session: Session, limits: Limits, extensions: Extensions) -> None:
        super().__init__(limits, extensions)
        self._session = session
        #: Whether what is no command may be credentials: behind an AUTH that did not work,
        #: clients send them line by line all the same.
        self._suspicious = False
        self.said = _Said(session)
        self._at_once = 0  # the slower way comes past _line

    def _line(self, line: bytes) -> Command | None:
        logs.tell(self._session, f"dispatching {self._shown(line)}")
        return super()._line(line)

    def _shown(self, line: bytes) -> str:
        """A command line as it may be logged."""
        text = line.rstrip(b"\r\n").decode("utf-8", "replace")
        if text.lstrip()[:4].upper() == "AUTH":
            self._suspicious = True
            auth = _AUTH.fullmatch(text)
            if auth is None:  # AUTHPLAIN, AUTH=PLAIN: no command, but with credentials all the same
                return f"AUTH {HIDDEN}"
            mechanism = f" {auth[1].upper()}" if auth[1] else ""
            return f"AUTH{mechanism}{f' {HIDDEN}' if (auth[2] or '').strip() else ''}"
        verb = line.split(None, 1)[0].upper() if line.strip() else b""
        if verb in PARSERS or verb == b"RCPT":
            self._suspicious = False
        elif self._suspicious:
            return HIDDEN
        return text


class _Said(list[bytes]):
    """What is on its way to the client; each reply is logged when it is added."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def append(self, octets: bytes) -> None:
        super().append(octets)
        for line in octets.decode("utf-8", "replace").split("\r\n")[:-1]:
            logs.tell(self._session, line)

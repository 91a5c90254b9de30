# -*- test-case-name: tests.smtp.test_extensions -*-
"""Service extensions: the EHLO keywords, and the parameters that each adds to MAIL and RCPT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["MAIL_PARAMETERS", "RCPT_PARAMETERS", "Extensions", "Parameter"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One ``KEYWORD=value`` of MAIL or RCPT.

    :ivar extension: The EHLO keyword that allows it.
    :ivar value: What the value looks like; ``None`` for a parameter without one.
    """

    extension: str
    value: re.Pattern[bytes] | None


_XTEXT: Final = rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})"

#: Parameters of MAIL, by keyword.
MAIL_PARAMETERS: Final[Mapping[bytes, Parameter]] = {
    b"SIZE": Parameter("SIZE", re.compile(rb"[0-9]{1,20}")),  # RFC 1870, 4
    b"BODY": Parameter(  # RFC 6152, 2 and RFC 3030, 3
        "8BITMIME", re.compile(rb"(?i:7BIT|8BITMIME|BINARYMIME)")
    ),
    b"SMTPUTF8": Parameter("SMTPUTF8", None),  # RFC 6531, 3.4
    b"AUTH": Parameter("AUTH", re.compile(rb"<>|" + _XTEXT + rb"{1,500}")),  # RFC 4954, 5
    b"RET": Parameter("DSN", re.compile(rb"(?i:FULL|HDRS)")),  # RFC 3461, 4.3
    b"ENVID": Parameter("DSN", re.compile(_XTEXT + rb"{1,100}")),  # RFC 3461, 4.4
}

#: Parameters of RCPT, by keyword.
RCPT_PARAMETERS: Final[Mapping[bytes, Parameter]] = {
    b"NOTIFY": Parameter(  # RFC 3461, 4.1
        "DSN",
        re.compile(rb"(?i:NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY)){0,2})"),
    ),
    b"ORCPT": Parameter(  # RFC 3461, 4.2; RFC 6533, 3 for utf-8 addresses
        "DSN", re.compile(rb"[A-Za-z0-9-]{1,64};[!-~\x80-\xff]{1,500}")
    ),
}


@dataclass(frozen=True, slots=True)
class Extensions:
    """Which service extensions a session offers.

    :ivar size: Largest message in octets, told with SIZE; 0 offers SIZE without a number.
    :ivar recipients: Most recipients of a transaction, told with LIMITS (RFC 9422); 0 is silent.
    :ivar auth: SASL mechanisms that may be used now.
    :ivar starttls: Whether STARTTLS may be given now.
    :ivar chunking: BDAT (RFC 3030) instead of DATA.
    :ivar binarymime: ``BODY=BINARYMIME`` (RFC 3030); needs ``chunking``.
    :ivar dsn: The parameters of RFC 3461. Off until a queue can honour them.
    :ivar other: Keywords that components added, with their parameters, as sent.
    """

    size: int = 0
    recipients: int = 0
    auth: tuple[str, ...] = ()
    starttls: bool = False
    pipelining: bool = True
    eightbitmime: bool = True
    smtputf8: bool = True
    chunking: bool = True
    binarymime: bool = True
    dsn: bool = False
    other: tuple[str, ...] = ()

    def keywords(self) -> list[str]:
        """The lines of the EHLO reply behind the first."""
        lines: list[str] = []
        if self.pipelining:
            lines.append("PIPELINING")
        if self.eightbitmime:
            lines.append("8BITMIME")
        lines.append(f"SIZE {self.size}" if self.size else "SIZE")
        lines.append("ENHANCEDSTATUSCODES")
        if self.smtputf8:
            lines.append("SMTPUTF8")
        if self.chunking:
            lines.append("CHUNKING")
            if self.binarymime:
                lines.append("BINARYMIME")
        if self.dsn:
            lines.append("DSN")
        if self.recipients:
            lines.append(f"LIMITS RCPTMAX={self.recipients}")
        if self.starttls:
            lines.append("STARTTLS")
        lines.extend(self.other)
        if self.auth:
            lines.append("AUTH " + " ".join(self.auth))
        return lines

    def allows(self, extension: str) -> bool:
        """Whether the parameters of an extension may be given."""
        attribute = _FLAGS.get(extension)
        return attribute is None or bool(getattr(self, attribute))


#: The flag behind each keyword that brings parameters; SIZE is always there.
_FLAGS: Final = {
    "8BITMIME": "eightbitmime",
    "SMTPUTF8": "smtputf8",
    "DSN": "dsn",
    "AUTH": "auth",
}

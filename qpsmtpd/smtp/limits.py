# -*- test-case-name: tests.smtp.test_framing -*-
"""Every limit of a session, as a number, in one place."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["BareNewlines", "Limits"]


class BareNewlines(Enum):
    """What happens to a message with a CR or LF that is not part of CR LF.

    RFC 5321, 2.3.8 forbids both. Servers that disagree on whether such an octet
    ends a line let one client smuggle a second message through the other.
    """

    #: The message is refused with 550 5.6.0 when its end has come.
    REJECT = "reject"
    #: Each bare CR or LF becomes CR LF before anyone sees the content.
    REPLACE = "replace"
    #: The octets are stored as they came.
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one session. Sizes are in octets, times in seconds; 0 is no limit.

    Only ``command_line`` and ``auth_line`` cannot do without: a line is kept until it is whole.

    :ivar command_line: A command with its CR LF. RFC 5321, 4.5.3.1.4 asks for
        512 and for more with each extension; parameters may be long.
    :ivar auth_line: A line in an authentication exchange (RFC 4954, 4).
    :ivar text_line: A line of a message with its CR LF. RFC 5321, 4.5.3.1.6 asks
        for 1000; real mail has far longer ones and nothing here depends on it.
    :ivar header_size: The header section of a message.
    :ivar message_size: A message; offered with SIZE (RFC 1870). Control file ``databytes``.
    :ivar recipients: Recipients of one transaction (RFC 5321, 4.5.3.1.8 asks for 100).
    :ivar errors: Commands in one session that were malformed, out of sequence or not offered,
        and failed authentications. What policy refuses is not counted.
    :ivar auth_failures: Failed authentications in one session.
    :ivar auth_delay: How long the answer to a failed authentication waits, for each one that
        failed before it in the session.
    :ivar unknown_commands: Commands in one session that nobody knows.
    :ivar idle_commands: Commands between two messages that move no mail (RSET, NOOP,
        VRFY, HELP, EHLO, HELO, STARTTLS, AUTH).
    :ivar command_time: Waiting for a command (RFC 5321, 4.5.3.2.7 asks for 300).
    :ivar content_time: Waiting for more of a message (RFC 5321, 4.5.3.2.5 asks for 180).
    :ivar message_time: Receiving one message.
    :ivar session_time: One session.
    :ivar component_time: One component's answer at one hook.
    """

    command_line: int = 2048
    auth_line: int = 12288
    text_line: int = 1_048_576
    header_size: int = 1_048_576
    message_size: int = 134_217_728
    recipients: int = 1000
    errors: int = 20
    auth_failures: int = 5
    auth_delay: float = 1
    unknown_commands: int = 10
    idle_commands: int = 100
    bare_newlines: BareNewlines = BareNewlines.REJECT
    command_time: float = 300
    content_time: float = 180
    message_time: float = 3600
    session_time: float = 14400
    component_time: float = 120
    #: A message of so many octets is over none of the limits above; derived from them.
    harmless_size: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.command_line <= 0 or self.auth_line <= 0:
            raise ValueError("command_line and auth_line need a limit above 0")
        sizes = [self.text_line, self.header_size, self.message_size]
        harmless = min([size for size in sizes if size], default=sys.maxsize)
        object.__setattr__(self, "harmless_size", harmless)

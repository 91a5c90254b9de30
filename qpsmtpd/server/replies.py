# -*- test-case-name: tests.server.test_replies -*-
"""Verdicts to replies: what each hook's refusals are said with.

Codes and texts are the Perl qpsmtpd's, except where those contradict RFC 5321:
a connection is refused with 554 (3.1), and a temporary refusal that closes the
connection is a 421 (3.8) at every hook.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from qpsmtpd.smtp.reply import Reply
from qpsmtpd.verdicts import Kind, Verdict

__all__ = ["AUTH_FAILED", "INTERNAL_ERROR", "REFUSALS", "refusal"]

#: What a client and the log are told of a failed authentication. Programs that watch logs, such as
#: fail2ban, look for these words; they are the same whether or not there is such a user.
AUTH_FAILED: Final = "{mechanism} authentication failed for {user} from {ip}"


class _Refusals(NamedTuple):
    """How one hook refuses: code, text and enhanced status code, for good and for now."""

    deny: tuple[int, str, str]
    defer: tuple[int, str, str]
    #: Code and text of a ``deny`` that closes the connection, where they are others.
    deny_disconnect: int = 0
    deny_disconnect_text: str = ""


_MESSAGE: Final = _Refusals(
    (552, "Message denied", "5.7.1"), (452, "Message denied temporarily", "4.7.1")
)
_GREETING: Final = _Refusals(
    (550, "{subject}, not welcome here", "5.7.1"), (450, "{subject}, try again later", "4.7.1")
)

#: By hook. ``{subject}`` stands for the address or name that is refused.
REFUSALS: Final[dict[str, _Refusals]] = {
    "pre_connection": _Refusals(
        (554, "Sorry, service not available for you", "5.7.1"),
        (421, "Sorry, try again later", "4.7.0"),
    ),
    "connect": _Refusals(
        (554, "Connection from you denied, bye bye.", "5.7.1"),
        (421, "Connection from you temporarily denied, bye bye.", "4.7.0"),
    ),
    "ehlo": _GREETING,
    "helo": _GREETING,
    "auth": _Refusals(
        (535, AUTH_FAILED, "5.7.8"),
        (454, "Authentication is not possible now", "4.7.0"),
    ),
    "mail": _Refusals(
        (550, "{subject}, denied", "5.7.1"), (450, "{subject}, temporarily denied", "4.7.1")
    ),
    "rcpt": _Refusals(
        (550, "relaying denied", "5.7.1"),
        (450, "relaying denied", "4.7.1"),
        deny_disconnect_text="delivery denied",
    ),
    "data": _Refusals(
        (554, "Message denied", "5.7.1"), (451, "Message denied temporarily", "4.7.1")
    ),
    "content": _Refusals(
        (554, "Message denied", "5.7.1"), (451, "Message denied temporarily", "4.7.1")
    ),
    "data_headers_end": _Refusals(
        (554, "Message denied", "5.7.1"), (451, "Message denied temporarily", "4.7.1")
    ),
    "data_post": _MESSAGE,
    "queue_pre": _MESSAGE,
    "queue": _MESSAGE,
    "vrfy": _Refusals((554, "Access Denied", "5.7.1"), (450, "Try again later", "4.3.0")),
    "noop": _Refusals((500, "Stop wasting my time.", "5.5.1"), (450, "Try again later", "4.3.0")),
    "help": _Refusals(
        (500, "Syntax error, command not recognized", "5.5.1"), (450, "Try again later", "4.3.0")
    ),
    "unrecognized_command": _Refusals(
        (500, "Unrecognized command", "5.5.1"), (450, "Try again later", "4.3.0"), 521
    ),
}

#: What the client hears when the engine itself went wrong.
INTERNAL_ERROR: Final = Reply(451, "Internal error, try again later", "4.3.0")


def refusal(hook: str, verdict: Verdict, subject: object = "") -> Reply:
    """The reply that a refusing verdict stands for at a hook.

    :param subject: What is refused, for default texts that name it.
    """
    refusals = REFUSALS[hook]
    if verdict.kind is Kind.DENY:
        code, text, status = refusals.deny
        if verdict.disconnect:
            code = refusals.deny_disconnect or code
            text = refusals.deny_disconnect_text or text
    else:
        code, text, status = refusals.defer
        if verdict.disconnect:
            code = 421
    if not verdict.text:
        text = text.replace("{subject}", str(subject))
    if code != 421:
        code = verdict.code or code
    return Reply(code, verdict.text or text, verdict.status or status)

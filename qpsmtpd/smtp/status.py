# -*- test-case-name: tests.smtp.test_status -*-
"""Enhanced status codes: by the names that plugins know, and what each means.

RFC 3463 defines the codes; the registry that RFC 5248 opened has grown since. A code is
``class.subject.detail``; only the class says whether it is a success, so the tables here leave it
out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["ok", "defer", "deny"]

#: The class of a status code (RFC 3463, 3.1) for each way to answer.
CLASSES: Final[Mapping[Kind, str]] = MappingProxyType({"ok": "2", "defer": "4", "deny": "5"})


@dataclass(frozen=True, slots=True)
class Status:
    """One reason to answer as a component does.

    :ivar name: As plugins call it.
    :ivar detail: Subject and detail, such as ``7.1``.
    :ivar kind: How a component answers that gives no other kind.
    :ivar text: What the client reads when a component gives no other text.
    """

    name: str
    detail: str
    kind: Kind
    text: str

    def code(self, kind: Kind | None = None) -> str:
        """Give the whole code, such as ``5.7.1``.

        :param kind: In place of the status's own kind.
        """
        return f"{CLASSES[kind or self.kind]}.{self.detail}"


def _named(*statuses: Status) -> Mapping[str, Status]:
    return MappingProxyType({status.name: status for status in statuses})


#: Every status by its name; several names may share a code and differ in kind or text.
STATUSES: Final = _named(
    Status("unspecified", "0.0", "defer", "Other or undefined status"),
    Status("addr_unspecified", "1.0", "defer", "Other address status"),
    Status("no_such_user", "1.1", "deny", "No such user"),
    Status("addr_bad_dest_mbox", "1.1", "deny", "Bad destination mailbox address"),
    Status("addr_bad_dest_system", "1.2", "deny", "Bad destination system address"),
    Status("addr_bad_dest_syntax", "1.3", "deny", "Bad destination mailbox address syntax"),
    Status("addr_dest_ambiguous", "1.4", "defer", "Destination mailbox address ambiguous"),
    # The name as plugins for the Perl qpsmtpd had to spell it.
    Status("addr_dest_ambigous", "1.4", "defer", "Destination mailbox address ambiguous"),
    Status("addr_rcpt_ok", "1.5", "ok", "Destination address valid"),
    Status(
        "addr_mbox_moved", "1.6", "deny", "Destination mailbox has moved, no forwarding address"
    ),
    Status("addr_bad_from_syntax", "1.7", "deny", "Bad sender's mailbox address syntax"),
    Status("addr_bad_from_system", "1.8", "deny", "Bad sender's system address"),
    Status("mbox_unspecified", "2.0", "defer", "Other or undefined mailbox status"),
    Status("mbox_disabled", "2.1", "deny", "Mailbox disabled, not accepting messages"),
    Status("mbox_full", "2.2", "defer", "Mailbox full"),
    Status("mbox_msg_too_long", "2.3", "deny", "Message length exceeds administrative limit"),
    Status("mbox_list_expansion_problem", "2.4", "defer", "Mailing list expansion problem"),
    Status("sys_unspecified", "3.0", "defer", "Other or undefined mail system status"),
    Status("sys_disk_full", "3.1", "defer", "Mail system full"),
    Status("sys_not_accepting_mail", "3.2", "defer", "System not accepting network messages"),
    Status("sys_not_supported", "3.3", "defer", "System not capable of selected features"),
    Status("sys_msg_too_big", "3.4", "deny", "Message too big for system"),
    Status("net_unspecified", "4.0", "defer", "Other or undefined network or routing status"),
    Status("net_directory_server_failed", "4.3", "defer", "Directory server failure"),
    Status("temp_resolver_failed", "4.3", "defer", "Temporary address resolution failure"),
    Status("net_system_congested", "4.5", "defer", "Mail system congestion"),
    Status("net_routing_loop", "4.6", "deny", "Routing loop detected"),
    Status("too_many_hops", "4.6", "deny", "Too many hops"),
    Status("proto_unspecified", "5.0", "defer", "Other or undefined protocol status"),
    Status("proto_invalid_command", "5.1", "deny", "Invalid command"),
    Status("proto_syntax_error", "5.2", "deny", "Syntax error"),
    Status("proto_rcpt_list_too_long", "5.3", "defer", "Too many recipients"),
    Status("too_many_rcpts", "5.3", "defer", "Too many recipients"),
    Status("proto_invalid_cmd_args", "5.4", "deny", "Invalid command arguments"),
    Status("proto_wrong_version", "5.5", "defer", "Wrong protocol version"),
    Status("media_unspecified", "6.0", "defer", "Other or undefined media error"),
    Status("media_unsupported", "6.1", "deny", "Media not supported"),
    Status("media_conv_prohibited", "6.2", "deny", "Conversion required and prohibited"),
    Status("media_conv_unsupported", "6.3", "defer", "Conversion required but not supported"),
    Status("media_conv_lossy", "6.4", "defer", "Conversion with loss performed"),
    Status("sec_unspecified", "7.0", "defer", "Other or undefined security status"),
    Status("sec_sender_unauthorized", "7.1", "deny", "Delivery not authorized, message refused"),
    Status("bad_sender_ip", "7.1", "deny", "Bad sender's IP"),
    Status("relaying_denied", "7.1", "deny", "Relaying denied"),
    Status("sec_list_dest_prohibited", "7.2", "deny", "Mailing list expansion prohibited"),
    Status("sec_conv_failed", "7.3", "deny", "Security conversion required but not possible"),
    Status("sec_feature_unsupported", "7.4", "deny", "Security features not supported"),
    Status("sec_crypto_failure", "7.5", "deny", "Cryptographic failure"),
    Status(
        "sec_crypto_algorithm_unsupported", "7.6", "defer", "Cryptographic algorithm not supported"
    ),
    Status("sec_msg_integrity_failure", "7.7", "deny", "Message integrity failure"),
)

#: What each subject and detail means: RFC 3463, and the registry's additions with their source.
DESCRIPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "0.0": "Other undefined status",
        "1.0": "Other address status",
        "1.1": "Bad destination mailbox address",
        "1.2": "Bad destination system address",
        "1.3": "Bad destination mailbox address syntax",
        "1.4": "Destination mailbox address ambiguous",
        "1.5": "Destination address valid",
        "1.6": "Destination mailbox has moved, no forwarding address",
        "1.7": "Bad sender's mailbox address syntax",
        "1.8": "Bad sender's system address",
        "1.9": "Message relayed to non-compliant mailer",  # RFC 5248
        "1.10": "Recipient address has null MX",  # RFC 7505
        "2.0": "Other or undefined mailbox status",
        "2.1": "Mailbox disabled, not accepting messages",
        "2.2": "Mailbox full",
        "2.3": "Message length exceeds administrative limit",
        "2.4": "Mailing list expansion problem",
        "3.0": "Other or undefined mail system status",
        "3.1": "Mail system full",
        "3.2": "System not accepting network messages",
        "3.3": "System not capable of selected features",
        "3.4": "Message too big for system",
        "3.5": "System incorrectly configured",
        "3.6": "Requested priority was changed",  # RFC 6710
        "4.0": "Other or undefined network or routing status",
        "4.1": "No answer from host",
        "4.2": "Bad connection",
        "4.3": "Directory server failure",
        "4.4": "Unable to route",
        "4.5": "Mail system congestion",
        "4.6": "Routing loop detected",
        "4.7": "Delivery time expired",
        "5.0": "Other or undefined protocol status",
        "5.1": "Invalid command",
        "5.2": "Syntax error",
        "5.3": "Too many recipients",
        "5.4": "Invalid command arguments",
        "5.5": "Wrong protocol version",
        "5.6": "Authentication exchange line is too long",  # RFC 4954
        "6.0": "Other or undefined media error",
        "6.1": "Media not supported",
        "6.2": "Conversion required and prohibited",
        "6.3": "Conversion required but not supported",
        "6.4": "Conversion with loss performed",
        "6.5": "Conversion failed",
        "6.6": "Message content not available",  # RFC 4468
        # RFC 6531, 3.7.4.1; 6.10 is a synonym that must not be used.
        "6.7": "Non-ASCII addresses not permitted for that sender or recipient",
        "6.8": "UTF-8 string reply is required, but not permitted by the SMTP client",
        "6.9": "UTF-8 header message cannot be transferred to one or more recipients",
        "6.10": "UTF-8 string reply is required, but not permitted by the SMTP client",
        "7.0": "Other or undefined security status",
        "7.1": "Delivery not authorized, message refused",
        "7.2": "Mailing list expansion prohibited",
        "7.3": "Security conversion required but not possible",
        "7.4": "Security features not supported",
        "7.5": "Cryptographic failure",
        "7.6": "Cryptographic algorithm not supported",
        "7.7": "Message integrity failure",
        # RFC 4954 and RFC 5248
        "7.8": "Authentication credentials invalid",
        "7.9": "Authentication mechanism is too weak",
        "7.10": "Encryption needed",
        "7.11": "Encryption required for requested authentication mechanism",
        "7.12": "A password transition is needed",
        "7.13": "User account disabled",
        "7.14": "Trust relationship required",
        # RFC 6710
        "7.15": "Priority level is too low",
        "7.16": "Message is too big for the specified priority",
        # RFC 7293
        "7.17": "Mailbox owner has changed",
        "7.18": "Domain owner has changed",
        "7.19": "RRVS test cannot be completed",
        # RFC 7372
        "7.20": "No passing DKIM signature found",
        "7.21": "No acceptable DKIM signature found",
        "7.22": "No valid author-matched DKIM signature found",
        "7.23": "SPF validation failed",
        "7.24": "SPF validation error",
        "7.25": "Reverse DNS validation failed",
        "7.26": "Multiple authentication checks failed",
        "7.27": "Sender address has null MX",  # RFC 7505
        "7.28": "Mail flood detected",
        "7.29": "ARC validation failure",  # RFC 8617
        "7.30": "REQUIRETLS support required",  # RFC 8689
    }
)

_CODE = re.compile(r"[245]\.(([0-9]{1,3})\.[0-9]{1,3})")


def describe(status: str) -> str:
    """Say in words what a status such as ``5.7.1`` means.

    An unknown detail is described by its subject, an unknown subject as undefined.

    :raises ValueError: It does not have the form of a status code.
    """
    match = _CODE.fullmatch(status)
    if match is None:
        raise ValueError(f"{status!r} is not an enhanced status code such as '5.7.1'")
    detail, subject = match.groups()
    for key in (detail, f"{subject}.0"):
        if key in DESCRIPTIONS:
            return DESCRIPTIONS[key]
    return DESCRIPTIONS["0.0"]

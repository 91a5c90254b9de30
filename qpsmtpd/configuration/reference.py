# -*- test-case-name: tests.configuration.test_reference -*-
"""The engine's control files and the environment, as data: what each means and who knows it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["DEFAULTS", "ENGINE_FILES", "FILES_ONLY", "VARIABLES", "EngineFile", "Variable"]


@dataclass(frozen=True, slots=True)
class EngineFile:
    """A control file that the engine reads.

    :ivar effect: What it means.
    :ivar default: What holds where there is no such file, in words.
    :ivar example: A line of it that can be used.
    :ivar known_to: Who else reads a file of this name.
    """

    effect: str
    default: str
    example: str
    known_to: str = ""


_BOTH: Final = "qmail-smtpd, Perl"
_PERL: Final = "Perl"

#: The control files of the engine by their names; but for the first four, which are lists, and
#: ``extensions`` and ``limits``, the first line counts.
ENGINE_FILES: Final[Mapping[str, EngineFile]] = {
    "plugins": EngineFile(
        "The components, one on a line, in the order in which they are asked.",
        "the sample configuration, where no folder is named",
        "queue/maildir /var/mail/Maildir",
        _PERL,
    ),
    "logging": EngineFile(
        "Components that log, one on a line as in plugins; they come before those.",
        "lines on standard error",
        "logging/warn loglevel LOGINFO",
        _PERL,
    ),
    "plugin_dirs": EngineFile(
        "Folders that are searched for plugins before the bundled ones.",
        "the bundled ones alone",
        "/usr/local/lib/qpsmtpd",
        _PERL,
    ),
    "loglevel": EngineFile(
        "0 to 7: what is logged without a logging plugin.", "`4`, warnings", "6", _PERL
    ),
    "me": EngineFile(
        "The server's name, in the banner and in Received.",
        "the host's name",
        "mail.example.org",
        _BOTH,
    ),
    "me-auth-results": EngineFile(
        "The server's name in Authentication-Results; none leaves these fields alone.",
        "that in `me`",
        "example.org",
        _PERL,
    ),
    "smtpgreeting": EngineFile(
        "Text of the banner; hides the version.", "made of `me`", "mail.example.org ESMTP", _BOTH
    ),
    "localiphost": EngineFile(
        "The domain of a recipient whose domain is the address that the client connected to, as "
        "in box@[192.0.2.1].",
        "that in `me`",
        "mail.example.org",
        "qmail-smtpd",
    ),
    "databytes": EngineFile(
        "Octets of the largest message; 0 is no limit. DATABYTES in the environment wins.",
        "`128M`; no limit in Perl and qmail",
        "10M",
        _BOTH,
    ),
    "size_threshold": EngineFile(
        "Octets of a message that are kept in memory; 0 has every message in a file.",
        "`256k`",
        "10000",
        _PERL,
    ),
    "spool_dir": EngineFile(
        "Folder for larger messages while they are received; it is made.",
        "`tmp` in the user's home, if it is there and the user's own; else the system's",
        "/var/spool/qpsmtpd",
        _PERL,
    ),
    "spool_perms": EngineFile(
        "Mode of that folder, in octal; another one is a warning.", "`0700`", "0750", _PERL
    ),
    "timeout": EngineFile(
        "Seconds of waiting for the client, unless timeoutsmtpd says otherwise.",
        "`1200`",
        "600",
        _PERL,
    ),
    "timeoutsmtpd": EngineFile(
        "Seconds of waiting for the client, in commands and content; 0 leaves it to timeout.",
        "`timeout`",
        "300",
        _BOTH,
    ),
    "tls_before_auth": EngineFile("1 offers AUTH under TLS only.", "`0`", "1", _PERL),
    "reverse_dns": EngineFile(
        "1 looks the name of each client up in the DNS before it is greeted.", "`0`", "1"
    ),
    "store": EngineFile(
        "What holds shared state: redis://HOST, unix://PATH of a Redis, or sqlite PATH.",
        "store.sqlite in the folder of `--state`",
        "redis://redis.example.org",
    ),
    "extensions": EngineFile(
        "EHLO keywords: KEYWORD offers one, -KEYWORD does not.", "see EHLO", "-CHUNKING"
    ),
    "limits": EngineFile(
        "Further limits, a name and a number on a line.", "see below", "recipients 100"
    ),
}

#: What is needed before a component can be asked; it is read from files alone.
FILES_ONLY: Final = frozenset({"plugins", "plugin_dirs", "logging", "loglevel", "store"})

#: What stands for a file that is not there, where that is a value; as in the Perl qpsmtpd.
DEFAULTS: Final[Mapping[str, Callable[[], str]]] = {
    "me": socket.gethostname,
    "timeout": lambda: "1200",
}


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the environment.

    :ivar effect: What it means; or why it means nothing.
    :ivar holds_for: ``server``; ``client`` where tcpserver or inetd starts a process for each; or
        nothing where it is not used.
    :ivar example: A value.
    """

    effect: str
    holds_for: str
    example: str = ""


_SESSION: Final = "Facts of the connection, in place of the socket's."

#: The variables that the Perl qpsmtpd or qmail-smtpd knows.
VARIABLES: Final[Mapping[str, Variable]] = {
    "QMAIL": Variable(
        "Where `control/` is, in place of /var/qmail; unless `--config` is given.",
        "server",
        "/var/qmail",
    ),
    "QPSMTPD_CONFIG": Variable(
        "A folder whose control files win over others; unless `--config` is given. "
        "`USE-VIRTUAL-DOMAINS` was for Apache and is an error.",
        "server",
        "/etc/qpsmtpd",
    ),
    "PROCESS": Variable(
        "The program, beside which `config/` is looked for; without it, that is in the working "
        "folder.",
        "server",
        "/opt/qpsmtpd/qpsmtpd",
    ),
    "HOME": Variable("Where `tmp` is, for messages; see `spool_dir`.", "server", "/home/smtpd"),
    "LOGDIR": Variable("The same, without HOME.", "server"),
    "DATABYTES": Variable(
        "The limit of a message's octets, in place of `databytes`; as in qmail-smtpd. Perl did not "
        "look at it.",
        "server or client",
        "1000000",
    ),
    "RELAYCLIENT": Variable(
        "With the plugin `relay`, lets the client relay, whatever the value. qmail-smtpd appended "
        "the value to recipients; nothing is here. In the environment of a server for many "
        "clients it means nothing; with Perl it opened the server for all.",
        "client",
        "",
    ),
    "TCPREMOTEIP": Variable(_SESSION, "client", "192.0.2.1"),
    "TCPREMOTEHOST": Variable(_SESSION, "client", "client.example"),
    "TCPREMOTEINFO": Variable(_SESSION, "client", "ident"),
    "TCPREMOTEPORT": Variable(_SESSION, "client", "40000"),
    "TCPLOCALIP": Variable(_SESSION, "client", "192.0.2.25"),
    "TCPLOCALPORT": Variable(_SESSION, "client", "25"),
    "TCPLOCALHOST": Variable(
        "Not used: the server's name is that in `me`. qmail-smtpd wrote it into Received.", ""
    ),
    "RBLSMTPD": Variable(
        "With the plugin `dnsbl`, a finding in place of a look-up, as in rblsmtpd.",
        "server or client",
        "-Blocked",
    ),
    "WHITELISTCLIENT": Variable("Not used: for the plugin `whitelist`.", ""),
    "QMAILQUEUE": Variable("For the plugin `queue/qmail-queue`: the program to use.", "server"),
    "POSTFIXQUEUE": Variable("For the plugin `queue/postfix-queue`: cleanup's socket.", "server"),
    "PORT": Variable("Not used: for `auth/auth_cvm_unix_local` in Perl.", ""),
    "PATH": Variable("Left as it is. The Perl qpsmtpd replaced it.", ""),
    "SMTPS, TLSCIPHERS": Variable(
        "Not used: for a patched qmail-smtpd. See the plugin `tls` and its control files.", ""
    ),
    "LANG, LC_ALL, PERL_UNICODE": Variable(
        "Not used: dates and texts are the same in every locale.", ""
    ),
}

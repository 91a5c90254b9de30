# -*- test-case-name: tests.configuration.test_perl -*-
"""What the Perl qpsmtpd has, as data: its plugins, their old names, arguments it passed over.

From here the loader knows that a name which leads nowhere is no misspelling but a plugin of the
Perl qpsmtpd that is not there yet, and what goes without it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Final

__all__ = [
    "CONTROL_FILES",
    "IGNORED_ARGUMENTS",
    "MOVED",
    "OLD_NAMES",
    "PLUGINS",
    "TOOLS",
    "Task",
]


class Task(Enum):
    """What a plugin is for; its value says what a server without it does."""

    CLIENT = "no client is refused or marked by it"
    MESSAGE = "no message is refused, marked or changed by it"
    RECIPIENT = "no recipient is refused by it, and none is accepted"
    AUTHENTICATION = "nobody can authenticate by it"
    QUEUE = "no message is queued by it, and without another queue plugin every one is deferred"
    LOG = "it writes no log"
    SERVER = "what it does for the server is not done"


_NAMES: Final[Mapping[Task, str]] = {
    Task.CLIENT: """
        badmailfrom badmailfromto bogus_bounce count_unrecognized_commands dns_whitelist_soft
        dnsbl dont_require_anglebrackets earlytalker fcrdns greylisting helo hosts_allow
        ident/geoip ident/p0f karma loadcheck naughty noop_counter parse_addr_withhelo
        random_error relay resolvable_fromhost rhsbl sender_permitted_from tls whitelist
        """,
    Task.MESSAGE: """
        dkim dmarc domainkeys dspam headers loop milter spamassassin uribl
        virus/aveclient virus/bitdefender virus/clamav virus/clamdscan virus/hbedv
        virus/kavscanner virus/klez_filter virus/sophie virus/uvscan
        """,
    Task.RECIPIENT: "badrcptto qmail_deliverable rcpt_map rcpt_ok rcpt_regexp",
    Task.AUTHENTICATION: """
        auth/auth_checkpassword auth/auth_cvm_unix_local auth/auth_flat_file auth/auth_imap
        auth/auth_ldap_bind auth/auth_vpopmail auth/auth_vpopmail_sql auth/auth_vpopmaild
        auth/authdeny
        """,
    Task.QUEUE: """
        queue/exim-bsmtp queue/maildir queue/postfix-queue queue/qmail-queue queue/smtp-forward
        """,
    Task.LOG: """
        connection_time content_log logging/adaptive logging/apache logging/connection_id
        logging/devnull logging/file logging/syslog logging/transaction_id logging/warn
        """,
    Task.SERVER: "help http_config quit_fortune stunnel user_config",
}

#: The plugins that come with the Perl qpsmtpd, by the names that its ``plugins`` file has.
PLUGINS: Final[Mapping[str, Task]] = {
    name: task for task, names in _NAMES.items() for name in names.split()
}

#: The control files of its plugins, by their names, and the plugin that reads each; "" is none.
CONTROL_FILES: Final[Mapping[str, str]] = {
    "add_geoip_headers": "",
    "badhelo": "helo",
    "badmailfrom": "badmailfrom",
    "badmailfromto": "badmailfromto",
    "badrcptto": "badrcptto",
    "cleanup_sockets": "queue/postfix-queue",
    "content_log_enabled": "content_log",
    "content_log_file": "content_log",
    "denysoft_greylist": "greylisting",
    "dkim": "dkim",
    "dnsbl_allow": "dnsbl",
    "dnsbl_rejectmsg": "dnsbl",
    "dnsbl_zones": "dnsbl",
    "flat_auth_pw": "auth/auth_flat_file",
    "greylist_exclude_files": "greylisting",
    "hbedv_deny": "virus/hbedv",
    "hosts_allow": "hosts_allow",
    "invalid_resolvable_fromhost": "resolvable_fromhost",
    "karma_tlds": "karma",
    "kav_deny": "virus/kavscanner",
    "ldap": "auth/auth_ldap_bind",
    "log2sql": "",
    "morercpthosts": "rcpt_ok",
    "morercpthosts.cdb": "rcpt_ok",
    "morerelayclients": "relay",
    "morerelayclients.cdb": "relay",
    "norelayclients": "relay",
    "p0f_blocked_operating_systems": "ident/p0f",
    "public_suffix_list": "",
    "rcpt_regexp": "rcpt_regexp",
    "rcpthosts": "rcpt_ok",
    "relayclients": "relay",
    "resolvable_fromhost": "",
    "rhsbl_zones": "rhsbl",
    "smtpauth-checkpassword": "auth/auth_checkpassword",
    "spfbehavior": "sender_permitted_from",
    "subject_prefix": "spamassassin",
    "tls_ciphers": "tls",
    "tls_protocols": "tls",
    "uribl_whitelist_domains": "uribl",
    "uribl_zones": "uribl",
    "vpopmail_mysql_dsn": "auth/auth_vpopmail_sql",
    "vpopmail_mysql_pass": "auth/auth_vpopmail_sql",
    "vpopmail_mysql_user": "auth/auth_vpopmail_sql",
    "whitelist_zones": "dns_whitelist_soft",
    "whitelisthelo": "whitelist",
    "whitelisthosts": "whitelist",
    "whitelistrcpt": "whitelist",
    "whitelistsenders": "whitelist",
}

#: Names that plugins had in older versions, and what is read in their place. Debian's package
#: goes on to have the first ones, in its own sample configuration too.
OLD_NAMES: Final[Mapping[str, str]] = {
    "check_badmailfrom": "badmailfrom",
    "check_badrcptto": "badrcptto",
    "check_earlytalker": "earlytalker",
    "check_loop": "loop",
    "check_relay": "relay",
    "check_spamhelo": "helo",
    "check_basicheaders": "headers",
    "check_bogus_bounce": "bogus_bounce",
    "check_norelay": "relay",
    "relay_only": "relay only 1",
    "require_resolvable_fromhost": "resolvable_fromhost",
}

#: Plugins of older versions that read a file which nothing reads any more, and where its lines go.
MOVED: Final[Mapping[str, str]] = {
    "check_badmailfrom_patterns": "badmailfrom, with the lines of badmailfrom_patterns in its file",
    "check_badrcptto_patterns": "badrcptto, with the lines of badrcptto_patterns in its file",
}

#: What lies among the plugins and is none: programs, and plugins for another server.
TOOLS: Final = re.compile(r"karma_tool|tls_cert|async/.*")

#: Words that its sample configurations have on a plugin's line and that it passed over, with the
#: number of words behind each that belong to it. Any other word that means nothing is an error.
IGNORED_ARGUMENTS: Final[Mapping[str, Mapping[str, int]]] = {
    "headers": {"days": 1},
    "karma": {"penalty_box": 1},
    "relay": {"somearg": 0, "someotherarg": 0},
}

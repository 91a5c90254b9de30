# -*- test-case-name: tests.logtools.test_registry -*-
"""Names of plugins as logs have them, with the numbers and short names of the log tools.

The numbers order the columns of ``log summarize`` and are those of the tables of ``log sql``. Ids,
names and short names are the Perl qpsmtpd's, so that tools and databases which know them go on;
what it left out stands between them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

__all__ = ["PLUGINS", "UNKNOWN", "Plugin", "find"]


class Plugin(NamedTuple):
    """A plugin as log tools know it.

    :ivar id: Its place in the order of a session; 0 if it is not in the table.
    :ivar name: Its name in logs, such as ``queue::maildir``.
    :ivar short: At most three letters.
    :ivar longer: At most five letters.
    :ivar aliases: Other names that logs have for it.
    """

    id: int
    name: str
    short: str
    longer: str
    aliases: tuple[str, ...] = ()


#: The id of a plugin that is not in the table.
UNKNOWN: Final = 0

_TABLE: Final = """
201 hosts_allow alw allow
202 ident::geoip geo geoip
203 ident::p0f p0f p0f ident::p0f_3a0 ident::p0f_3a1
204 whitelist wht white dns_whitelist_soft
205 karma krm karma
206 dnsbl dbl dnsbl
207 relay rly relay check_relay check_norelay relay_only
208 fcrdns dns fcrdn
209 loadcheck lod load
300 earlytalker ear early check_earlytalker
301 helo hlo helo check_spamhelo
302 tls tls tls
303 parse_addr_withhelo pah adhlo
320 dont_require_anglebrackets rab drabs
321 unrecognized_commands cmd uncmd count_unrecognized_commands
322 noop nop noop noop_counter
323 random_error rnd rande
324 milter mlt mlter
325 content_log log colog
326 help hlp help
400 auth::auth_vpopmail_sql avq avsql
401 auth::auth_vpopmaild avd vpopd
402 auth::auth_vpopmail avp vpop
403 auth::auth_checkpassword ack chkpw
404 auth::auth_cvm_unix_local acv cvmul auth::auth_cvs_unix_local
405 auth::auth_flat_file aff aflat
406 auth::auth_ldap_bind ald aldap
407 auth::authdeny dny adeny
408 auth::auth_imap aim aimap
500 badmailfrom bmf badmf check_badmailfrom check_badmailfrom_patterns
501 badmailfromto bmt bfrto
502 rhsbl rbl rhsbl
504 resolvable_fromhost rfh rsvfh require_resolvable_fromhost
505 sender_permitted_from spf spf
600 badrcptto bto badto check_badrcptto check_badrcptto_patterns
601 rcpt_map rmp rcmap
602 rcpt_regexp rcx rcrex rcpt_regex
603 qmail_deliverable qmd qmd
605 rcpt_ok rok rcpok
608 bogus_bounce bog bogus check_bogus_bounce
609 greylisting gry greyl
700 headers hdr headr check_basicheaders
701 loop lop loop
702 uribl uri uribl
710 domainkeys dky dkey
711 dkim dkm dkim
712 dmarc dmc dmarc
720 spamassassin spm spama
721 dspam dsp dspam
770 virus::aveclient ave avirs
771 virus::bitdefender bit bitdf
772 virus::clamav cav clamv
773 virus::clamdscan clm clamd
774 virus::hbedv hbv hbedv
775 virus::kavscanner kav kavsc
776 virus::klez_filter klz vklez
777 virus::sophie sop sophe
778 virus::uvscan uvs uvscn
800 queue::qmail_2dqueue qqm queue queue::qmail-queue
801 queue::maildir qdr qudir
802 queue::postfix_2dqueue qpf qupfx queue::postfix-queue
803 queue::smtp_2dforward qfw qufwd queue::smtp-forward queue::smtp_2dqueue
804 queue::exim_2dbsmtp qxm qexim queue::exim-bsmtp
805 queue::discard qds qdisc
890 naughty nty nauty
900 quit_fortune for fortu
999 connection_time tim time
"""


def _plugin(line: str) -> Plugin:
    number, name, short, longer, *aliases = line.split()
    return Plugin(int(number), name, short, longer, tuple(aliases))


PLUGINS: Final = tuple(_plugin(line) for line in _TABLE.strip().splitlines())

_BY_NAME: Final = {name: plugin for plugin in PLUGINS for name in (plugin.name, *plugin.aliases)}

#: What sets several uses of one plugin apart, as in ``dnsbl:second``: ``:`` is logged as ``_3a``.
_INSTANCE: Final = re.compile("(?:_3a|:(?!:)).*$")


@lru_cache(maxsize=1000)
def find(name: str) -> Plugin:
    """A plugin by the name that a log has for it.

    Several uses of one plugin are the same plugin. One that is not in the table has the id
    :data:`UNKNOWN` and its own name.
    """
    plain = _INSTANCE.sub("", name.replace("::", "\0")).replace("\0", "::") or name
    return _BY_NAME.get(name) or _BY_NAME.get(plain) or Plugin(UNKNOWN, plain, plain, plain)

# -*- test-case-name: tests.smtp.test_grammar -*-
"""The productions of RFC 5321, 4.1.2 as compiled patterns of octets, one for each, under its name.

Use ``fullmatch``. A name that ends in ``_UTF8`` is the production as RFC 6531, 3.3 extends it. The
patterns need time linear in the length of what they look at; limits of length are not in the
grammar of the RFC and not here either, except that a label has at most 63 octets (RFC 1035, 2.3.4).
"""

import re
from typing import Final

# Fragments; what is public is compiled below. Possessive repeats (``++``) forbid backtracking. Only
# sets have them: Python 3.11.2, which Debian 12 has, takes a wrong way with a possessive group.
_ATEXT = rb"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]"
_UTF8_NON_ASCII = (
    rb"(?:[\xc2-\xdf][\x80-\xbf]"
    rb"|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
    rb"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})"
)
_QTEXT = rb"[ !#-\[\]-~]"
_QUOTED_PAIR = rb"\\[ -~]"
_LABEL = rb"(?!-)[A-Za-z0-9-]{1,63}+(?<!-)"
# A label outside ASCII is counted in characters: what the DNS limits is its shorter A-label.
_LABEL_UTF8 = rb"(?!-)(?:[A-Za-z0-9-]|" + _UTF8_NON_ASCII + rb"){1,63}(?<!-)"
_SNUM = rb"[0-9]{1,3}"
_KEYWORD = rb"[A-Za-z0-9][A-Za-z0-9-]*+"
_VALUE = rb"[!-<>-~]++"
_VALUE_UTF8 = rb"(?:[!-<>-~]|" + _UTF8_NON_ASCII + rb")+"


def _separated(item: bytes, separator: bytes) -> bytes:
    """One or more of an item, with a separator between them."""
    return item + rb"(?:" + separator + item + rb")*"


def _parameter(value: bytes) -> bytes:
    return rb"(" + _KEYWORD + rb")(?:=(" + value + rb"))?"


_ATEXT_UTF8 = rb"(?:" + _ATEXT + rb"|" + _UTF8_NON_ASCII + rb")"
_DOT_STRING = _separated(_ATEXT + rb"++", rb"\.")
_DOT_STRING_UTF8 = _separated(_ATEXT_UTF8 + rb"+", rb"\.")
_QUOTED_STRING = rb'"(?:' + _QTEXT + rb"|" + _QUOTED_PAIR + rb')*"'
_QUOTED_STRING_UTF8 = rb'"(?:' + _QTEXT + rb"|" + _QUOTED_PAIR + rb"|" + _UTF8_NON_ASCII + rb')*"'
_DOMAIN = _separated(_LABEL, rb"\.")
_DOMAIN_UTF8 = _separated(_LABEL_UTF8, rb"\.")
_IPV4 = _SNUM + rb"(?:\." + _SNUM + rb"){3}"
_IPV6 = rb"[Ii][Pp][Vv]6:[0-9A-Fa-f:.]{2,45}"
_ADDRESS_LITERAL = rb"\[(?:" + _IPV4 + rb"|" + _IPV6 + rb")\]"

#: An extension's name in the reply to ``EHLO`` and a parameter's name (RFC 5321, 4.1.1.1).
KEYWORD: Final = re.compile(_KEYWORD)
EHLO_KEYWORD: Final = KEYWORD
ESMTP_KEYWORD: Final = KEYWORD
ESMTP_VALUE: Final = re.compile(_VALUE)
ESMTP_VALUE_UTF8: Final = re.compile(_VALUE_UTF8)
#: One parameter of ``MAIL`` or ``RCPT``; its groups are the keyword and the value, or ``None``.
ESMTP_PARAM: Final = re.compile(_parameter(_VALUE))
ESMTP_PARAM_UTF8: Final = re.compile(_parameter(_VALUE_UTF8))

ATOM: Final = re.compile(_ATEXT + rb"++")
ATOM_UTF8: Final = re.compile(_ATEXT_UTF8 + rb"+")
DOT_STRING: Final = re.compile(_DOT_STRING)
DOT_STRING_UTF8: Final = re.compile(_DOT_STRING_UTF8)
QUOTED_STRING: Final = re.compile(_QUOTED_STRING)
QUOTED_STRING_UTF8: Final = re.compile(_QUOTED_STRING_UTF8)
#: Of ``VRFY``, ``EXPN``, ``HELP`` and ``NOOP`` (RFC 5321, 4.1.1).
STRING: Final = re.compile(rb"(?:" + _ATEXT + rb"++|" + _QUOTED_STRING + rb")")
STRING_UTF8: Final = re.compile(rb"(?:" + _ATEXT_UTF8 + rb"+|" + _QUOTED_STRING_UTF8 + rb")")
LOCAL_PART: Final = re.compile(rb"(?:" + _DOT_STRING + rb"|" + _QUOTED_STRING + rb")")
LOCAL_PART_UTF8: Final = re.compile(
    rb"(?:" + _DOT_STRING_UTF8 + rb"|" + _QUOTED_STRING_UTF8 + rb")"
)

SUB_DOMAIN: Final = re.compile(_LABEL)
SUB_DOMAIN_UTF8: Final = re.compile(_LABEL_UTF8)
DOMAIN: Final = re.compile(_DOMAIN)
DOMAIN_UTF8: Final = re.compile(_DOMAIN_UTF8)
#: The form only: whether each number and the IPv6 address are in range is not for a pattern.
IPV4_ADDRESS_LITERAL: Final = re.compile(_IPV4)
IPV6_ADDRESS_LITERAL: Final = re.compile(_IPV6)
#: Without ``General-address-literal``: no tag but ``IPv6`` has been registered.
ADDRESS_LITERAL: Final = re.compile(_ADDRESS_LITERAL)

#: The source route before a mailbox, which a server accepts and ignores (RFC 5321, 4.1.1.3).
A_D_L: Final = re.compile(_separated(rb"@" + _DOMAIN, rb","))
A_D_L_UTF8: Final = re.compile(_separated(rb"@" + _DOMAIN_UTF8, rb","))
#: A path of the usual kind: no source route, local part not quoted, domain not a literal.
PLAIN_PATH: Final = re.compile(rb"<" + _DOT_STRING + rb"@" + _DOMAIN + rb">")

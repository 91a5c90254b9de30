"""Logs that are written for tests, in the forms of this server and of the Perl qpsmtpd."""

from collections.abc import Iterable

from qpsmtpd.logtools.lines import Line, parse
from qpsmtpd.logtools.sessions import Session, Sessions

__all__ = ["PERL", "REFUSED", "TAKEN", "lines_of", "one_session", "sessions_of"]

#: A client whose message is taken, as this server logs it.
TAKEN = """\
2412000031 Accepted connection 1/1000 from 192.0.2.7 / mail.example.org
2412000031 Connection from mail.example.org [192.0.2.7]
2412000031 (connect) dnsbl: pass
2412000031 220 mx.example ESMTP qpsmtpd ready; send us your mail, but not your spam.
2412000031 dispatching EHLO mail.example.org
2412000031 dispatching MAIL FROM:<a@example.org>
2412000031 (mail) badmailfrom: pass
2412000031 250 2.1.0 <a@example.org>, sender OK - how exciting to get mail from you!
2412000031 dispatching RCPT TO:<b@example.com>
2412000031 (rcpt) rcpt_ok: pass: example.com in rcpthosts
2412000031 250 2.1.5 <b@example.com>, recipient ok
2412000031 dispatching RCPT TO:<c@example.com>
2412000031 (rcpt) rcpt_ok: pass: example.com in rcpthosts
2412000031 250 2.1.5 <c@example.com>, recipient ok
2412000031 dispatching DATA
2412000031 (queue) queue::maildir: <m1@example.org> is in the Maildir
2412000031 250 2.0.0 Queued
2412000031 transaction 65610d1a-96c-1f.1 trace: queue/maildir ok
2412000031 dispatching QUIT
2412000031 (post_connection) connection_time: 1.250 s.
2412000031 click, disconnecting
"""

#: One that is refused.
REFUSED = """\
2412000032 Connection from Unknown [2001:db8::7]
2412000032 dispatching HELO friend
2412000032 (helo) helo: fail, tolerated: not a full name
2412000032 dispatching MAIL FROM:<>
2412000032 (mail) badmailfrom: skip: null sender
2412000032 dispatching RCPT TO:<x@example.net>
2412000032 (rcpt) rcpt_ok: fail: example.net is not here
2412000032 550 5.7.1 <x@example.net> relaying denied
2412000032 Lost connection: Connection was closed cleanly.
2412000032 click, disconnecting
"""

#: The Perl qpsmtpd: a process takes one client, then another one.
PERL = """\
4021 Accepted connection 0/15 from 192.0.2.8 / one.example.org
4021 Connection from one.example.org [192.0.2.8]
4021 (connect) ident::geoip: NA, US, 1200 km
4021 (connect) ident::p0f: Linux 3.x
4021 (connect) karma: positive, 2
4021 dispatching HELO one.example.org
4021 dispatching MAIL FROM:<p@example.org> SIZE=100
4021 (mail) check_badmailfrom: pass
4021 dispatching RCPT TO:<q@example.com>
4021 (rcpt) rcpt_ok: pass
4021 (data_post) naughty: fail, seen before
4021 250 Queued! 1385000000 qp 4022 <m2@example.org>
4022 (queue) queue::qmail_2dqueue: (for 4021) Queuing to /var/qmail/bin/qmail-queue
4021 click, disconnecting
4000 cleaning up after 4021
4021 Accepted connection 0/15 from 192.0.2.9 / two.example.org
4021 Connection from two.example.org [192.0.2.9]
4021 (connect) earlytalker: fail, NAUGHTY
4021 450 Connecting host started transmitting before SMTP greeting
4021 Connection Timed Out
4000 cleaning up after 4021
"""


def lines_of(text: str) -> list[Line]:
    """Lines, taken apart."""
    return [parse(line.encode()) for line in text.splitlines()]


def sessions_of(text: str | Iterable[Line]) -> list[Session]:
    """The sessions that surely were there, as they end."""
    sessions = Sessions()
    found: list[Session] = []
    for line in lines_of(text) if isinstance(text, str) else text:
        found += sessions.feed(line)
    found += sessions.end()
    return [session for session in found if session.has_client]


def one_session(text: str) -> Session:
    """The one session of a log."""
    [session] = sessions_of(text)
    return session

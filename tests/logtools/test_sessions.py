"""Sessions, put together from lines."""

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.logtools import sessions
from qpsmtpd.logtools.sessions import Finding, Outcome, Session, Sessions, finding_of
from tests.logtools.logs import PERL, REFUSED, TAKEN, lines_of, one_session, sessions_of


def findings(session: Session) -> dict[str, str]:
    return {plugin.name: finding for plugin, (finding, _) in session.findings.items()}


class FindingTests(SynchronousTestCase):
    def test_words(self) -> None:
        """A plugin's line begins with the word for what it found."""
        for text, finding in {
            "pass": Finding.PASS,
            "PASS, x": Finding.PASS,
            "pass: x": Finding.PASS,
            "passed": Finding.OTHER,
            "fail, tolerated, x": Finding.TOLERATED,
            "fail, NAUGHTY": Finding.FAIL,
            "fail": Finding.FAIL,
            "skip, x": Finding.SKIP,
            "error: x": Finding.ERROR,
            "positive, 1": Finding.POSITIVE,
            "negative": Finding.NEGATIVE,
            "TLS setup returning": Finding.PASS,
            "info, x": Finding.OTHER,
            "": Finding.OTHER,
        }.items():
            self.assertEqual(finding_of(text), finding, text)


class SessionTests(SynchronousTestCase):
    def test_taken(self) -> None:
        """A session whose message was queued: who, what, to whom, and what plugins found."""
        session = one_session(TAKEN)
        self.assertEqual(
            (session.ip, session.hostname, session.helo),
            ("192.0.2.7", "mail.example.org", "mail.example.org"),
        )
        self.assertEqual(
            session.transactions, [("a@example.org", ["b@example.com", "c@example.com"])]
        )
        self.assertEqual((session.outcome, session.queued), (Outcome.QUEUED, 1))
        self.assertEqual(session.seconds, "1.250")
        self.assertEqual(
            findings(session),
            {
                "dnsbl": Finding.PASS,
                "badmailfrom": Finding.PASS,
                "rcpt_ok": Finding.PASS,
                "queue::maildir": Finding.OTHER,
                "connection_time": Finding.OTHER,
            },
        )

    def test_refused(self) -> None:
        """A session that was refused, with the reply."""
        session = one_session(REFUSED)
        self.assertEqual((session.ip, session.outcome), ("2001:db8::7", Outcome.REFUSED))
        self.assertEqual(session.transactions, [("", ["x@example.net"])])
        self.assertEqual(session.refusals, ["550 5.7.1 <x@example.net> relaying denied"])
        self.assertEqual(findings(session)["helo"], Finding.TOLERATED)

    def test_perl(self) -> None:
        """Sessions that one process of the Perl qpsmtpd had one after the other are two."""
        one, two = sessions_of(PERL)
        self.assertEqual((one.ip, two.ip), ("192.0.2.8", "192.0.2.9"))
        self.assertEqual((one.outcome, two.outcome), (Outcome.QUEUED, Outcome.TIMEOUT))
        self.assertEqual(one.distance, "1200")
        self.assertEqual(
            findings(one),
            {
                "ident::geoip": Finding.OTHER,
                "ident::p0f": Finding.OTHER,
                "karma": Finding.POSITIVE,
                "badmailfrom": Finding.PASS,
                "rcpt_ok": Finding.PASS,
                "queue::qmail_2dqueue": Finding.OTHER,
            },
        )
        self.assertEqual(findings(two), {"earlytalker": Finding.FAIL})

    def test_mixed(self) -> None:
        """Lines of sessions at the same time are told apart."""
        mixed = [
            line for pair in zip(lines_of(TAKEN), lines_of(REFUSED), strict=False) for line in pair
        ]
        mixed += lines_of(TAKEN)[len(lines_of(REFUSED)) :]
        self.assertEqual(
            {session.ip: session.outcome for session in sessions_of(mixed)},
            {"192.0.2.7": Outcome.QUEUED, "2001:db8::7": Outcome.REFUSED},
        )

    def test_first_counts(self) -> None:
        """The first line of a plugin counts, unless it says nothing and a later one does."""
        head = "2412000001 Connection from Unknown [192.0.2.1]\n"
        for texts, finding in {
            ("pass", "fail"): Finding.PASS,
            ("info, x", "fail"): Finding.FAIL,
            ("error", "skip"): Finding.SKIP,
            ("info", "hello"): Finding.OTHER,
        }.items():
            lines = "".join(f"2412000001 (rcpt) rcpt_ok: {text}\n" for text in texts)
            self.assertEqual(findings(one_session(head + lines)), {"rcpt_ok": finding}, texts)

    def test_forged_address(self) -> None:
        """What ident says of a client cannot stand in for its address."""
        session = one_session("2412000001 Connection from x [192.0.2.99]@Unknown [192.0.2.1]")
        self.assertEqual(session.ip, "192.0.2.1")

    def test_own_lines_of_processes(self) -> None:
        """What a process says that serves nobody is no session."""
        self.assertEqual(
            sessions_of("2412 Listening on x\n2412 (config) dnsbl: pass\n2412 tls: x"), []
        )

    def test_when(self) -> None:
        """A session is given when it is over for a while, when nothing happens, or at the end."""
        taken = Sessions()
        found = [session for line in lines_of(TAKEN) for session in taken.feed(line)]
        self.assertEqual(found, [])
        [session] = taken.idle()
        self.assertEqual(session.ip, "192.0.2.7")
        self.assertEqual(list(taken.end()), [])
        later = Sessions()
        noise = "2412000099 Connection from Unknown [192.0.2.9]\n" + "2412000099 noise\n" * 200
        found = [s for line in lines_of(TAKEN + noise) for s in later.feed(line)]
        self.assertEqual([session.ip for session in found], ["192.0.2.7"])

    def test_endless(self) -> None:
        """Sessions that never end are given as they are when there are too many."""
        self.patch(sessions, "OPEN_LIMIT", 10)
        many = Sessions()
        found = [
            session
            for number in range(100)
            for session in many.feed(
                lines_of(f"2412{number:06} Connection from Unknown [192.0.2.1]")[0]
            )
        ]
        self.assertEqual(len(found), 90)
        self.assertEqual(len(list(many.end())), 10)

    def test_greedy(self) -> None:
        """Of a session that says much, and of many that say much, only so much is kept."""
        self.patch(sessions, "KEPT_LIMIT", 5)
        text = "2412000001 Connection from x [192.0.2.1]\n2412000001 dispatching MAIL FROM:<>\n"
        text += "2412000001 dispatching RCPT TO:<a@example.com>\n" * 50
        text += "2412000001 550 no\n" * 50
        session = one_session(text)
        self.assertEqual((len(session.recipients), session.refusals), (4, ["550 no"]))
        self.patch(sessions, "ALL_KEPT_LIMIT", 5)
        lines = [
            line
            for number in range(10)
            for line in lines_of(f"2412{number:06} dispatching MAIL FROM:<{'x' * 1000}@y>")
        ]
        many = Sessions()
        found = [session for line in lines for session in many.feed(line)]
        self.assertEqual((len(found), len(found[0].reverse_path or "")), (5, sessions.TEXT_LIMIT))

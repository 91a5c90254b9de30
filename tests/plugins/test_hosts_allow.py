"""The plugin hosts_allow."""

from qpsmtpd.plugins.hosts_allow import HostsAllow, entry
from qpsmtpd.testing import ComponentTestCase


class HostsAllowTests(ComponentTestCase):
    def verdict(self, ip: str, *lines: str) -> object:
        plugin = HostsAllow(entries=tuple(map(entry, lines)))
        return self.ask(plugin, "pre_connection", self.session(remote_ip=ip))

    def counted(self, connections: int, history: int | None = None) -> object:
        """The verdict on one of several connections, where three are allowed."""
        session = self.session(connections=connections)
        if history is not None:
            session.notes["karma_history"] = history
        return self.ask(HostsAllow(max_conn_ip=3), "pre_connection", session)

    def test_refused(self) -> None:
        """A listed client is told the text of its line instead of a greeting."""
        self.converse(
            [HostsAllow(entries=(entry("192.0.2.0/24 DENYSOFT  Come back later"),))],
            """
            S: 421 4.7.0 Come back later
            S: [closes]
            """,
        )
        self.converse(
            [HostsAllow(entries=(entry("192.0.2.1 DENY"),))],
            """
            S: 554 5.7.1 Sorry, service not available for you
            S: [closes]
            """,
        )

    def test_first_line(self) -> None:
        """The first line with the client's address counts, whatever follows."""
        lines = ("192.0.2.77 DECLINED", "192.0.2.0/24 DENY no", "0.0.0.0/0 DENYSOFT later")
        self.assertDeclined(self.verdict("192.0.2.77", *lines))
        self.assertDenied(self.verdict("192.0.2.78", *lines), "no")
        self.assertDeferred(self.verdict("198.51.100.1", *lines), "later")
        self.assertDeclined(self.verdict("2001:db8::1", *lines))

    def test_ipv6(self) -> None:
        """Networks of IPv6 are listed like those of IPv4."""
        line = "2001:db8:7::/48 DENYHARD no"
        self.assertDenied(self.verdict("2001:db8:7::", line), "no")
        self.assertDeclined(self.verdict("2001:db8:8::", line))

    def test_verdicts(self) -> None:
        """The verdicts are those of the Perl qpsmtpd; each name is one of them."""
        for name in ("DENY", "DENY_DISCONNECT", "DENYHARD"):
            verdict = self.verdict("192.0.2.1", f"192.0.2.1 {name} go away")
            self.assertDenied(verdict, "go away", status="5.7.1")
        for name in ("DENYSOFT", "DENYSOFT_DISCONNECT"):
            verdict = self.verdict("192.0.2.1", f"192.0.2.1 {name} go away")
            self.assertDeferred(verdict, "go away", status="4.7.0")
        self.assertAccepted(self.verdict("192.0.2.1", "192.0.2.1 OK"))

    def test_bad_lines(self) -> None:
        """A line that could have no effect is an error when the server starts."""
        for line in ("192.0.2.1", "192.0.2.1 deny x", "192.0.2.1 903 x", "192.0.2.1 DONE"):
            self.assertRaisesRegex(ValueError, "verdict is one of OK, DECLINED, DENY,", entry, line)
        self.assertRaisesRegex(ValueError, "address is 192.0.2.0/24", entry, "192.0.2.5/24 DENY no")
        self.assertRaisesRegex(ValueError, "expected an address", entry, "mail.example DENY no")

    def test_connections(self) -> None:
        """With max_conn_ip an address has no more connections at once; without, any number."""
        plugin = HostsAllow(max_conn_ip=2)
        first, second, third = self.open(plugin), None, None
        second = self.join(first)
        third = self.join(first)
        other = self.join(first, remote_ip="192.0.2.2")
        self.assertEqual([each.closed for each in (first, second, third)], [False, False, True])
        self.assertReply(
            third.replies[0],
            421,
            "4.7.0",
            "too many connections from 192.0.2.1, try again later",
        )
        self.assertFalse(other.closed)
        many = self.session(connections=10000)
        self.assertDeclined(self.ask(HostsAllow(), "pre_connection", many))

    def test_history(self) -> None:
        """A good history allows three connections more, a bad one a single one."""
        self.assertDeclined(self.counted(3))
        self.assertDeferred(self.counted(4), "too many connections from 192.0.2.1, ...")
        self.assertDeclined(self.counted(3, history=0))
        self.assertDeferred(self.counted(4, history=5))
        self.assertDeclined(self.counted(6, history=6))
        self.assertDeferred(self.counted(7, history=6))
        self.assertDeclined(self.counted(1, history=-1))
        self.assertDeferred(self.counted(2, history=-1))

    def test_unix_socket(self) -> None:
        """Clients of a UNIX socket have no address: no line is about them, and none counts them."""
        plugin = HostsAllow(max_conn_ip=1, entries=(entry("0.0.0.0/0 DENY"),))
        session = self.session(remote_ip="", connections=9)
        self.assertDeclined(self.ask(plugin, "pre_connection", session))

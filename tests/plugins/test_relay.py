"""The plugin relay."""

import os
from collections.abc import Container, Iterator
from typing import Any

from qpsmtpd.plugins import relay as relay_module
from qpsmtpd.plugins.rcpt_ok import RcptOk
from qpsmtpd.plugins.relay import Relay, clients
from qpsmtpd.testing import ComponentTestCase


class RelayTests(ComponentTestCase):
    def may(
        self,
        ip: str,
        *lines: str,
        no: tuple[str, ...] = (),
        more: tuple[str, ...] = (),
        keys: Container[bytes] = (),
        **facts: Any,
    ) -> bool:
        """Whether a client may relay, with these lines in relayclients and norelayclients."""
        plugin = Relay(
            relayclients=tuple(map(clients, lines)),
            norelayclients=tuple(map(clients, no)),
            morerelayclients=tuple(map(clients, more)),
            database=keys,
        )
        session = self.session(remote_ip=ip, **facts)
        self.assertDeclined(self.ask(plugin, "connect", session))
        return session.relay_client

    def test_conversation(self) -> None:
        """A client that is listed can send to any domain, another one to ours only."""
        plugins = [
            Relay(relayclients=(clients("192.0.2.0/28"),)),
            RcptOk(me="mail.example", rcpthosts=()),
        ]
        for ip, said in (("192.0.2.1", "250 2.1.5 ..."), ("192.0.2.16", "550 5.7.1 ...")):
            self.converse(
                plugins,
                f"""
                C: EHLO client.example
                S: 250 mail.example ...
                C: MAIL FROM:<a@client.example>
                S: 250 2.1.0 ...
                C: RCPT TO:<b@other.example>
                S: {said}
                """,
                alone=True,
                remote_ip=ip,
            )

    def test_lines(self) -> None:
        """A line is an address, a network with its first and last, or the first octets."""
        for line, ip, may in (
            ("192.0.2.25", "192.0.2.25", True),
            ("192.0.2.25", "192.0.2.250", False),
            ("192.0.2.0/24", "192.0.2.0", True),
            ("192.0.2.0/24", "192.0.2.255", True),
            ("192.0.2.0/24", "192.0.3.0", False),
            ("192.0.2.7/32", "192.0.2.7", True),
            ("192.0.", "192.0.1.1", True),
            ("192.0.", "192.51.1.1", False),
            ("192.0.2.", "::ffff:192.0.2.9", True),
            ("2001:db8::/32", "2001:db8::", True),
            ("2001:0DB8:", "2001:db8:ffff::5", True),
            ("2001:0db8", "2001:db8::5", True),
            ("2001:db8:e431:ae06:", "2001:db8:e431:ae06:a1::1", True),
            ("2001:db8:e431:ae06:", "2001:db8:e431:be17::", False),
            ("2001:db8:e431:ae06::", "2001:db8:e431:ae06:a1::", False),
        ):
            self.assertEqual(self.may(ip, line), may, (line, ip))
            self.assertEqual(self.may(ip, no=(line,), relay_client=True), not may, (line, ip))

    def test_no_prefix(self) -> None:
        """Octets without a dot at the end are an error, for they may mean either."""
        for line in ("192.0.2", "10", ".", "192.0.2.1.", "192.0..", "2001:db8::1:", "mail.example"):
            self.assertRaisesRegex(ValueError, "expected an address", clients, line)
        self.assertEqual(clients("192.0.2.9/24"), clients("192.0.2.0/24"))
        self.assertEqual(clients("2001:DB8::1/32"), clients("2001:db8::/32"))

    def test_norelayclients(self) -> None:
        """Whoever may not relay may not, whatever else says so."""
        self.assertFalse(self.may("192.0.2.5", "192.0.2.", no=("192.0.2.5",), relay_client=True))
        self.assertTrue(self.may("192.0.2.6", "192.0.2.", no=("192.0.2.5",)))
        self.assertFalse(self.may("192.0.2.5", "192.0.2.5", no=("192.0.2.",)))
        self.assertFalse(self.may("::1", no=("::1",)))

    def test_otherwise(self) -> None:
        """What has been decided before stays for a client that no line is about."""
        self.assertTrue(self.may("192.0.2.1", "198.51.100.", relay_client=True))
        self.assertFalse(self.may("192.0.2.1", "198.51.100."))
        self.assertFalse(self.may("", "0.0.0.0/0", "::/0"))

    def test_localhost(self) -> None:
        """::1 may relay without being listed; the loopback of IPv4 may not."""
        self.assertTrue(self.may("::1"))
        self.assertFalse(self.may("127.0.0.1"))

    def test_environment(self) -> None:
        """RELAYCLIENT of a client's own process lets it relay, whatever the value, or empty."""
        for value in ("", "@mx.example"):
            here = {"RELAYCLIENT": value}
            self.assertTrue(self.may("192.0.2.5", environment=here))
            self.assertFalse(self.may("192.0.2.5", no=("192.0.2.",), environment=here))

    def test_environment_of_daemon(self) -> None:
        """RELAYCLIENT in the environment of the whole server opens it for nobody."""
        self.patch(os, "environ", {"RELAYCLIENT": ""})
        self.assertFalse(self.may("192.0.2.5"))

    def test_more(self) -> None:
        """``morerelayclients`` counts like ``relayclients``, behind ``norelayclients``."""
        self.assertTrue(self.may("192.0.2.5", more=("192.0.2.0/24",)))
        self.assertFalse(self.may("192.0.2.5", more=("192.0.2.0/24",), no=("192.0.2.5",)))

    def test_no_database(self) -> None:
        """Without a database nobody's address is written in all the forms that keys may have."""
        asked: list[str] = []

        def forms(ip: str) -> Iterator[str]:
            asked.append(ip)
            return iter(())

        self.patch(relay_module, "_forms", forms)
        self.assertFalse(self.may("2001:db8::1", keys=frozenset()))
        self.assertEqual(asked, [])
        self.assertFalse(self.may("2001:db8::1", keys={b"192.0.2.1"}))
        self.assertEqual(asked, ["2001:db8::1"])

    def test_database(self) -> None:
        """Keys of ``morerelayclients.cdb`` are addresses, or what those begin with."""
        for key, ip, may in (
            ("192.0.2.5", "192.0.2.5", True),
            ("192.0.2.5", "192.0.2.50", False),
            ("192.0.2.", "192.0.2.50", True),
            ("192.", "192.0.2.50", True),
            ("192.0.2", "192.0.2.50", False),
            ("2001:0db8", "2001:db8::5", True),
            ("2001:0db8:0000:0000:0000:0000:0000:0005", "2001:db8::5", True),
            ("2001:db8::5", "2001:db8::5", True),
            ("2001:db8:", "2001:db8::5", True),
            ("2001:db8:", "2001:db80::5", False),
            ("", "192.0.2.5", False),
        ):
            self.assertEqual(self.may(ip, keys={key.encode()}), may, (key, ip))
        self.assertFalse(self.may("", keys={b"192."}))
        self.assertFalse(self.may("192.0.2.5", keys={b"192.0.2.5"}, no=("192.0.2.5",)))

    def test_only(self) -> None:
        """With only, recipients are accepted from clients that may relay, and from no others."""
        for ip, said in (("192.0.2.1", "250 2.1.5 ..."), ("192.0.2.2", "550 5.7.1 Relaying ...")):
            self.converse(
                [Relay(only=True, relayclients=(clients("192.0.2.1"),))],
                f"""
                C: HELO client.example
                S: 250 ...
                C: MAIL FROM:<a@client.example>
                S: 250 2.1.0 ...
                C: RCPT TO:<b@other.example>
                S: {said}
                """,
                alone=True,
                remote_ip=ip,
            )

    def test_not_only(self) -> None:
        """Without it nothing is said about recipients."""
        self.converse(
            [Relay(relayclients=(clients("192.0.2.1"),))],
            """
            C: HELO client.example
            S: 250 ...
            C: MAIL FROM:<a@client.example>
            S: 250 2.1.0 ...
            C: RCPT TO:<b@other.example>
            S: 450 ...
            """,
            alone=True,
        )

"""Tests of rcpt_ok."""

from collections.abc import Callable
from typing import Any

from twisted.logger import capturedLogs

from qpsmtpd import logs
from qpsmtpd.plugins.rcpt_ok import RcptOk, host_entry
from qpsmtpd.testing import ComponentTestCase
from qpsmtpd.verdicts import OK, Verdict


def plugin(*rcpthosts: str, **settings: Any) -> RcptOk:
    return RcptOk(
        rcpthosts=tuple(map(host_entry, rcpthosts)), **{"me": host_entry("mx.example"), **settings}
    )


class RcptOkTests(ComponentTestCase):
    completed = False

    def ask_for(self, component: RcptOk, recipient: str, **facts: Any) -> Verdict:
        session = self.session(**facts)
        transaction = self.transaction(session=session)
        address = self.transaction("", recipient).recipients[0]
        verdict = self.ask(component, "rcpt", transaction, address)
        assert isinstance(verdict, Verdict)
        return verdict

    def assert_taken(self, component: RcptOk, *recipients: str, **facts: Any) -> None:
        for recipient in recipients:
            self.assertEqual(self.ask_for(component, recipient, **facts), OK, recipient)

    def assert_refused(self, component: RcptOk, *recipients: str, **facts: Any) -> None:
        for recipient in recipients:
            verdict = self.ask_for(component, recipient, **facts)
            self.assertTrue(verdict.refuses, recipient)
            self.assertEqual(verdict.status, "5.7.1")

    def test_transcript(self) -> None:
        """A client hears which domain the server takes no mail for."""
        self.converse(
            [plugin("example.org")],
            """
            C: EHLO client.example
            S: 250 mail.example ...
            C: MAIL FROM:<a@client.example>
            S: 250 ...
            C: RCPT TO:<b@example.net>
            S: 550 5.7.1 Relaying denied: mail for example.net is not accepted here
            C: RCPT TO:<b@Example.ORG>
            S: 250 ...
            C: RCPT TO:<Postmaster>
            S: 250 ...
            """,
            alone=True,
        )

    def test_more(self) -> None:
        """``morercpthosts`` and the keys of its database count like ``rcpthosts``."""
        more = plugin(
            "example.org",
            morercpthosts=(host_entry("example.net"), host_entry(".sub.example")),
            database={b"listed.example", b".below.example"},
        )
        self.assert_taken(more, "a@example.org", "a@Example.NET", "a@x.sub.example")
        self.assert_taken(more, "a@Listed.example", "a@x.y.below.example")
        self.assert_refused(more, "a@sub.example", "a@x.listed.example", "a@below.example")
        self.assert_refused(more, "a@other.example")

    def test_domains(self) -> None:
        """A listed domain and the one in me are ours, in any case; their subdomains are not."""
        component = plugin("Example.com")
        self.assert_taken(component, "x@example.com", "x@EXAMPLE.COM", "x@mx.example")
        self.assert_refused(component, "x@a.example.com", "x@evilexample.com", "x@com")

    def test_subdomains(self) -> None:
        """A line with a dot in front stands for all subdomains, but not for the domain."""
        component = plugin(".Sub.example")
        self.assert_taken(component, "x@a.sub.example", "x@b.a.SUB.example")
        self.assert_refused(component, "x@sub.example", "x@evilsub.example")

    def test_no_rcpthosts(self) -> None:
        """Without rcpthosts, only mail for the domain in me is accepted."""
        component = plugin()
        self.assert_taken(component, "x@mx.example", "postmaster")
        self.assert_refused(component, "x@example.com")

    def test_machine_name(self) -> None:
        """Without me, the name of the machine is ours."""
        self.patch(__import__("socket"), "gethostname", lambda: "Box.example")
        self.assert_taken(plugin(me=None), "x@box.example")

    def test_international(self) -> None:
        """A domain is the same as U-labels and as A-labels."""
        for line in ("bücher.example", "xn--bcher-kva.example"):
            component = plugin(line)
            self.assert_taken(component, "x@bücher.example", "x@xn--bcher-kva.example")

    def test_address_literal(self) -> None:
        """An address literal can be listed."""
        self.assert_taken(plugin("[192.0.2.25]"), "x@[192.0.2.25]")

    def test_relay_client(self) -> None:
        """A relay client may send to any domain."""
        self.assert_taken(plugin(), "x@example.com", relay_client=True)

    def test_whitelisted(self) -> None:
        """A whitelisted host cannot relay, unless the operator said so in so many words."""
        component = plugin()
        transaction = self.transaction("friend@example.net", "x@example.com")
        transaction.session.notes["whitelisthost"] = True
        transaction.notes["whitelistsender"] = True
        recipient = transaction.recipients[0]
        self.assertTrue(self.ask(component, "rcpt", transaction, recipient).refuses)
        component = plugin(whitelisted_may_relay_anywhere=True)
        self.assertEqual(self.ask(component, "rcpt", transaction, recipient), OK)

    def test_log(self) -> None:
        """The finding is logged, and why."""
        self.patch(logs.threshold, "level", 6)
        component = plugin("example.org", ".example.org")
        with capturedLogs() as events:
            self.assert_taken(component, "x@example.org", "x@a.example.org")
            self.assert_refused(component, "x@example.net")
        self.assertEqual(
            [event["text"] for event in events],
            [
                "pass: example.org in rcpthosts",
                "pass: a.example.org in rcpthosts as .example.org",
                "fail: example.net not in rcpthosts",
            ],
        )

    def test_lines(self) -> None:
        """A line that is no domain is an error that says what it should be."""
        wrong: Callable[[str], object] = host_entry
        for line in ("two words", "*", ".", "user@example.org"):
            with self.assertRaisesRegex(ValueError, "expected a domain as in example.org"):
                wrong(line)

"""Recipients at the address of the server itself (RFC 5321, 4.1.3)."""

from dataclasses import replace
from typing import Any

from qpsmtpd.plugins.rcpt_ok import RcptOk
from qpsmtpd.settings import Settings
from qpsmtpd.testing import ComponentTestCase

OURS = "2.1.5 <box@mail.example>, recipient ok"


class LocalIPHostTests(ComponentTestCase):
    def hear(self, path: str, local_ip: str = "192.0.2.25", **settings: Any) -> str:
        """What the server says of a recipient; it takes mail for mail.example alone."""
        self.patch(type(self), "settings", replace(Settings(me="mail.example"), **settings))
        conversation = self.open(
            RcptOk(rcpthosts=(), me="mail.example"), alone=True, local_ip=local_ip
        )
        conversation.send("EHLO client.example")
        conversation.send("MAIL FROM:<a@client.example>")
        conversation.said.clear()
        conversation.send(f"RCPT TO:<{path}>")
        [said] = conversation.said
        return said

    def test_transcript(self) -> None:
        """Such a recipient is taken as one at the server's name, and nobody else's address is."""
        self.converse(
            [RcptOk(rcpthosts=(), me="mail.example")],
            """
            C: EHLO client.example
            S: 250 ...
            C: MAIL FROM:<a@client.example>
            S: 250 ...
            C: RCPT TO:<box@[192.0.2.25]>
            S: 250 2.1.5 <box@mail.example>, recipient ok
            C: RCPT TO:<box@[192.0.2.26]>
            S: 550 5.7.1 ...
            C: DATA
            S: 354 ...
            C: Subject: x
            C:
            C: x
            C: .
            S: 250 ...
            """,
            local_ip="192.0.2.25",
        )
        for message in self.queue.messages:
            self.assertEqual([str(each) for each in message.recipients], ["<box@mail.example>"])

    def test_forms(self) -> None:
        """An address is the same however it is written."""
        for literal, local_ip, ours in (
            ("192.0.2.25", "192.0.2.25", True),
            ("192.0.2.2", "192.0.2.25", False),
            ("IPv6:2001:db8::25", "2001:db8::25", True),
            ("ipv6:2001:0DB8:0:0:0:0:0:25", "2001:db8::25", True),
            ("IPv6:2001:db8::26", "2001:db8::25", False),
            ("IPv6:::ffff:192.0.2.25", "192.0.2.25", True),
            ("192.0.2.25", "", False),
        ):
            said = self.hear(f"box@[{literal}]", local_ip)
            self.assertEqual(OURS in said, ours, (literal, local_ip, said))

    def test_file(self) -> None:
        """``localiphost`` names another domain, which is subject to ``rcpthosts`` as any."""
        self.assertIn(
            OURS, self.hear("box@[192.0.2.25]", me="x.example", localiphost="mail.example")
        )
        said = self.hear("box@[192.0.2.25]", localiphost="other.example")
        self.assertIn("mail for other.example is not accepted here", said)

    def test_no_domain(self) -> None:
        """Where the server's name is no domain, the recipient stays what it was."""
        said = self.hear("box@[192.0.2.25]", me="my host")
        self.assertIn("mail for [192.0.2.25] is not accepted here", said)

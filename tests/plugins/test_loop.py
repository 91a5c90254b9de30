"""The plugin loop."""

from qpsmtpd.plugins.loop import Loop
from qpsmtpd.testing import ComponentTestCase

HOP = "Received: from a.example by b.example;\n\tThu, 1 Jan 2026 00:00:00 +0000\n"
REST = "From: <a@client.example>\n\nHello\n"


class LoopTests(ComponentTestCase):
    def verdict(self, message: str, **settings: int) -> object:
        transaction = self.transaction(message=message)
        return self.ask(Loop(**settings), "data_post", transaction)

    def test_conversation(self) -> None:
        """A message with too many hops is refused; the field of this server is one of them."""
        for count, code in ((1, 250), (2, 552)):
            reply = self.open(Loop(max_hops=3)).message(HOP * count + REST)
            self.assertReply(reply, code)
        self.assertReply(reply, 552, "5.4.6", "Too many hops")

    def test_default(self) -> None:
        """Without an argument, and with 0, the hundredth hop is too many."""
        for settings in ({}, {"max_hops": 0}):
            self.assertDeclined(self.verdict(HOP * 98 + REST, **settings))
            self.assertDenied(self.verdict(HOP * 99 + REST, **settings), "Too many hops")

    def test_fields(self) -> None:
        """Received and Delivered-To are hops, in any case of letters, wherever they stand."""
        for field in ("Received: x", "RECEIVED:", "delivered-to: <a@b.example>", "Received : x"):
            for message in (f"{field}\n{REST}", f"Subject: x\n{field}\n{REST}", f"{field}\n"):
                self.assertDenied(self.verdict(message, max_hops=2), "Too many hops")

    def test_other_fields(self) -> None:
        """Other fields are no hops, nor are folded lines and what stands in the body."""
        for message in (
            "X-Received: x\n" + REST,
            "Received-SPF: pass\n" + REST,
            "Subject: x\n\tReceived: x\n" + REST,
            REST + HOP,
            "\n" + HOP,
            "no header section\n" + HOP,
        ):
            self.assertDeclined(self.verdict(message, max_hops=2))

    def test_long_header_section(self) -> None:
        """All of a header section is looked at, however it arrives."""
        message = f"X: {'x' * 70}\n" * 5000 + HOP + REST
        self.assertDeclined(self.verdict(message, max_hops=3))
        self.assertDenied(self.verdict(message, max_hops=2))

"""The plugin null_mx."""

from qpsmtpd.plugins.null_mx import NullMX
from qpsmtpd.testing import ComponentTestCase, FakeResolver


class NullMXTests(ComponentTestCase):
    """What a client sees."""

    resolver = FakeResolver(
        mx={"silent.example": [(0, ".")], "other.example": [(10, "mx.other.example")]},
        fails={"broken.example"},
    )

    def test_refused(self) -> None:
        """A reverse-path whose domain has a null MX is refused, and others are accepted."""
        self.converse(
            [NullMX(resolver=self.resolver)],
            """
            C: EHLO client.example
            S: 250 mail.example ...
            C: MAIL FROM:<a@Silent.example>
            S: 550 5.7.27 silent.example accepts no mail
            C: MAIL FROM:<a@other.example>
            S: 250 2.1.0 ...
            C: RSET
            S: 250 ...
            C: MAIL FROM:<>
            S: 250 2.1.0 ...
            """,
        )

    def test_reject_0(self) -> None:
        """With reject 0 the mail is taken."""
        plugin = NullMX(resolver=self.resolver, reject=False)
        transaction = self.transaction("a@silent.example")
        self.assertDeclined(self.ask(plugin, "mail", transaction, transaction.reverse_path))

    def test_exempt(self) -> None:
        """Exempt domains are not asked about."""
        resolver = FakeResolver(mx={"silent.example": [(0, ".")]})
        plugin = NullMX(resolver=resolver, exempt=("silent.example",))
        transaction = self.transaction("a@silent.example")
        self.assertDeclined(self.ask(plugin, "mail", transaction, transaction.reverse_path))
        self.assertEqual(resolver.questions, [])

    def test_resolver_fails(self) -> None:
        """When DNS has no answer, the client is told to come back."""
        conversation = self.open(NullMX(resolver=self.resolver))
        conversation.greet()
        self.assertReply(conversation.command("MAIL FROM:<a@broken.example>"), 451)
        self.assertEqual(len(self.flushLoggedErrors()), 1)

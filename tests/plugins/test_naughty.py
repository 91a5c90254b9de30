"""The plugin naughty, and the marks that it refuses."""

from typing import Any

from twisted.internet.defer import Deferred

from qpsmtpd import policy
from qpsmtpd.plugins.naughty import Naughty
from qpsmtpd.policy import Reject, RejectType
from qpsmtpd.session import Session, Transaction
from qpsmtpd.testing import ComponentTestCase


def mark(scope: Session | Transaction, text: str = "bad", kind: RejectType | None = None) -> None:
    """Fail a test, as plugins with ``reject naughty`` do."""
    policy.rejection(scope, "dnsbl", text, reject=Reject.NAUGHTY, kind=kind)


class NaughtyTests(ComponentTestCase):
    def answer(self, plugin: Naughty, hook: str, transaction: Transaction) -> Any:
        arguments: dict[str, tuple[object, ...]] = {
            "connect": (transaction.session,),
            "mail": (transaction, transaction.reverse_path),
            "rcpt": (transaction, transaction.reverse_path),
        }
        return self.ask(plugin, hook, *arguments.get(hook, (transaction,)))

    def test_each_moment(self) -> None:
        """The argument reject names the moment at which a marked client is refused."""
        for hook in ("connect", "mail", "rcpt", "data", "data_post"):
            transaction = self.transaction()
            mark(transaction.session)
            plugin = Naughty(reject=hook)
            self.assertDenied(self.answer(plugin, hook, transaction), "(dnsbl) bad")

    def test_safety_net(self) -> None:
        """Who was marked later than the chosen moment is refused at the end of the message."""
        transaction = self.transaction()
        plugin = Naughty(reject="mail")
        self.assertDeclined(self.answer(plugin, "mail", transaction))
        mark(transaction.session)
        self.assertDenied(self.answer(plugin, "data_post", transaction))

    def test_unmarked(self) -> None:
        """A client without a mark is not refused."""
        self.assertDeclined(self.answer(Naughty(), "rcpt", self.transaction()))

    def test_types(self) -> None:
        """How it is refused is what the plugin that left the mark was configured for."""
        for kind, code, closes in (
            (RejectType.PERM, "5.7.1", False),
            (RejectType.TEMP, "4.7.1", False),
            (RejectType.DISCONNECT, "5.7.1", True),
            (RejectType.TEMP_DISCONNECT, "4.7.1", True),
        ):
            transaction = self.transaction()
            mark(transaction.session, kind=kind)
            verdict = self.answer(Naughty(), "rcpt", transaction)
            self.assertEqual((verdict.status, verdict.disconnect), (code, closes))

    def test_own_type(self) -> None:
        """A mark without a type gets the type given here, and the connection closes by default."""
        for plugin, closes in ((Naughty(), True), (Naughty(reject_type=RejectType.PERM), False)):
            transaction = self.transaction()
            mark(transaction.session)
            verdict = self.answer(plugin, "rcpt", transaction)
            self.assertDenied(verdict, disconnect=closes)

    def test_several_reasons(self) -> None:
        """The client hears all reasons, those about it before those about its mail."""
        transaction = self.transaction()
        mark(transaction, "bad sender")
        mark(transaction.session, "listed")
        mark(transaction.session, "and worse")
        verdict = self.answer(Naughty(), "rcpt", transaction)
        self.assertDenied(verdict, "(dnsbl) listed\n(dnsbl) and worse\n(dnsbl) bad sender")

    def test_mark_on_a_message(self) -> None:
        """What was wrong with one message or its sender is not held against the next."""
        transaction = self.transaction()
        mark(transaction)
        self.assertDenied(self.answer(Naughty(), "data_post", transaction))
        following = self.transaction(session=transaction.session)
        self.assertDeclined(self.answer(Naughty(), "data_post", following))

    def test_relay_clients(self) -> None:
        """A client that may relay, for instance because it has authenticated, is not refused."""
        transaction = self.transaction()
        mark(transaction.session)
        transaction.session.relay_client = True
        self.assertDeclined(self.answer(Naughty(), "rcpt", transaction))

    def test_waits_for_tests(self) -> None:
        """A test that still goes on is waited for."""
        transaction = self.transaction()
        session = transaction.session
        found: Deferred[None] = Deferred()
        policy.expect(session, session.start(found))
        answer = self.asking(Naughty(), "rcpt", transaction, transaction.reverse_path)
        self.assertNoResult(answer)
        mark(session)
        found.callback(None)
        self.assertDenied(self.successResultOf(answer))

    def test_exempt_recipient(self) -> None:
        """A recipient that must be reachable is accepted, and so is a message for it alone."""
        transaction = self.transaction("a@client.example", "postmaster@here.example")
        postmaster = transaction.recipients[0]
        mark(transaction.session)
        policy.exempt(transaction, postmaster)
        plugin = Naughty()
        self.assertDeclined(self.ask(plugin, "rcpt", transaction, postmaster))
        self.assertDeclined(self.ask(plugin, "data_post", transaction))
        other = self.transaction("a@client.example", "user@here.example").recipients[0]
        self.assertDenied(self.ask(plugin, "rcpt", transaction, other))
        transaction.recipients.append(other)
        self.assertDenied(self.ask(plugin, "data_post", transaction))

    def test_conversation(self) -> None:
        """A client hears the refusal in reply to the command of the chosen moment, and goes."""
        plugin = Naughty(reject="mail")
        conversation = self.open(plugin)
        conversation.greet()
        mark(conversation.session, "one", RejectType.DISCONNECT)
        mark(conversation.session, "two")
        conversation.send("MAIL FROM:<a@client.example>")
        self.assertEqual(conversation.said, ["550-5.7.1 (dnsbl) one", "550 5.7.1 (dnsbl) two"])
        self.assertTrue(conversation.closed)

"""What policy plugins share."""

from twisted.internet.defer import Deferred, succeed
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd import logs, policy
from qpsmtpd.policy import Reject, RejectType
from qpsmtpd.session import Session, Transaction
from qpsmtpd.smtp.address import NULL_PATH, Address
from qpsmtpd.verdicts import defer, deny


class PolicyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.session = Session("192.0.2.1")
        self.transaction = self.following()
        self.patch(logs.threshold, "level", 6)

    def following(self) -> Transaction:
        """Begin another transaction in the session."""
        transaction = self.session.transaction = Transaction(self.session, NULL_PATH, {})
        return transaction

    def test_reject(self) -> None:
        """The argument reject: 0 and nothing are no, naughty is naughty, other words are yes."""
        words = ("0", "", "naughty", "1", "yes", "off")
        wanted = [Reject.NO, Reject.NO, Reject.NAUGHTY, Reject.YES, Reject.YES, Reject.YES]
        self.assertEqual([policy.reject(word) for word in words], wanted)

    def test_reject_type(self) -> None:
        """The argument reject_type has two words that are old names; others are an error."""
        self.assertIs(policy.reject_type("Soft"), RejectType.TEMP)
        self.assertIs(policy.reject_type("hard"), RejectType.PERM)
        self.assertIs(policy.reject_type("temp_disconnect"), RejectType.TEMP_DISCONNECT)
        self.assertRaisesRegex(ValueError, "expected perm, temp", policy.reject_type, "perhaps")

    def test_rejection(self) -> None:
        """A failed test is refused as the operator asked for, for good unless told otherwise."""
        for kind, verdict in (
            (None, deny("no", "5.7.1")),
            (RejectType.PERM, deny("no", "5.7.1")),
            (RejectType.TEMP, defer("no", "4.7.1")),
            (RejectType.DISCONNECT, deny("no", "5.7.1", disconnect=True)),
            (RejectType.TEMP_DISCONNECT, defer("no", "4.7.1", disconnect=True)),
        ):
            self.assertEqual(policy.rejection(self.session, "p", "no", kind=kind), verdict)

    def test_log(self) -> None:
        """The log says what became of a failed test, in words that log tools know."""
        with capturedLogs() as events:
            for reject in Reject:
                policy.rejection(self.session, "p", "no", reject=reject, detail="why")
        said = [event["text"] for event in events]
        self.assertEqual(said, ["fail, tolerated, why", "fail, why", "fail, NAUGHTY, why"])
        self.assertEqual({event["plugin"] for event in events}, {"p"})

    def test_tolerated(self) -> None:
        """A tolerated failure leaves no mark."""
        self.assertIsNone(policy.rejection(self.session, "p", "no", reject=Reject.NO))
        self.assertFalse(policy.naughty(self.session))

    def test_deferred(self) -> None:
        """Deferred rejections add up; the first that has a type gives the type of all."""
        for name, kind in (("one", None), ("two", RejectType.TEMP), ("three", RejectType.PERM)):
            policy.rejection(self.session, name, "no", reject=Reject.NAUGHTY, kind=kind)
        self.assertEqual(self.session.note(policy.NAUGHTY), "(one) no\n(two) no\n(three) no")
        self.assertIs(self.session.note(policy.NAUGHTY_TYPE), RejectType.TEMP)

    def test_scopes(self) -> None:
        """A mark on a transaction ends with it, and one on a session stays."""
        policy.rejection(self.transaction, "p", "no", reject=Reject.NAUGHTY)
        self.assertTrue(policy.naughty(self.session))
        self.assertTrue(policy.naughty(self.transaction))
        following = self.following()
        self.assertFalse(policy.naughty(following))
        policy.rejection(self.session, "p", "no", reject=Reject.NAUGHTY)
        self.assertTrue(policy.naughty(following))

    def test_tests_done(self) -> None:
        """Whoever refuses waits for all tests that were announced, and does so once."""
        slow: Deferred[None] = Deferred()
        for test in (succeed(None), slow):
            policy.expect(self.session, self.session.start(test))
        waiting = Deferred.fromCoroutine(policy.tests_done(self.session))
        self.assertNoResult(waiting)
        slow.callback(None)
        self.successResultOf(waiting)
        self.successResultOf(Deferred.fromCoroutine(policy.tests_done(self.session)))

    def test_exempt(self) -> None:
        """Recipients are exempt in one transaction, and a message if all of its recipients are."""
        one, two = Address("postmaster", None), Address("user", "here.example")
        policy.exempt(self.transaction, one)
        self.assertTrue(policy.is_exempt(self.transaction, [one]))
        self.assertFalse(policy.is_exempt(self.transaction, [one, two]))
        self.assertFalse(policy.is_exempt(self.transaction, []))
        self.assertFalse(policy.is_exempt(self.following(), [one]))

    def test_immunity(self) -> None:
        """Relay clients, whitelisted hosts and whitelisted senders are exempt from tests."""
        self.assertIsNone(policy.immunity(self.transaction))
        self.transaction.notes["whitelistsender"] = 1
        self.assertEqual(policy.immunity(self.transaction), "whitelisted sender")
        self.session.notes["whitelisthost"] = 1
        self.assertEqual(policy.immunity(self.session), "whitelisted host")
        self.session.relay_client = True
        self.assertEqual(policy.immunity(self.transaction), "relay client")

    def test_naughty_is_not_immune(self) -> None:
        """A deferred rejection does not keep other plugins from testing."""
        policy.rejection(self.session, "p", "no", reject=Reject.NAUGHTY)
        self.assertIsNone(policy.immunity(self.session))

    def test_karma(self) -> None:
        """Karma adds up over the session."""
        policy.adjust_karma(self.session, "p", -1)
        policy.adjust_karma(self.transaction, "p", -2)
        self.assertEqual(self.session.note("karma"), -3)

    def test_auth_results(self) -> None:
        """Results are kept with what they are about, in order."""
        policy.add_auth_result(self.session, "iprev=pass")
        policy.add_auth_result(self.transaction, "spf=pass")
        policy.add_auth_result(self.transaction, "dkim=fail (a; b)")
        self.assertEqual(self.session.notes[policy.AUTH_RESULTS], ["iprev=pass"])
        self.assertEqual(
            self.transaction.notes[policy.AUTH_RESULTS], ["spf=pass", "dkim=fail (a? b)"]
        )

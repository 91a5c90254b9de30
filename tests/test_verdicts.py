"""What a component says at a hook."""

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.smtp.reply import Reply
from qpsmtpd.verdicts import DONE, OK, Kind, Verdict, accept, answer, defer, deny


class VerdictTests(SynchronousTestCase):
    def test_equal(self) -> None:
        """Verdicts that say the same are equal, and none other are."""
        self.assertEqual(deny("no", "5.1.1"), deny("no", "5.1.1"))
        self.assertEqual(hash(deny("no")), hash(deny("no")))
        self.assertEqual(accept(), OK)
        self.assertEqual(answer(Reply(250, "a")), answer(Reply(250, "a")))
        different = [
            OK,
            DONE,
            deny(),
            deny("no"),
            deny("no", "5.1.1"),
            deny("no", code=553),
            deny("no", disconnect=True),
            defer("no"),
            answer(Reply(250, "a")),
            answer(Reply(250, "b")),
        ]
        self.assertEqual(len(set(different)), len(different))
        self.assertNotEqual(deny(), "DENY")

    def test_immutable(self) -> None:
        """A verdict does not change: one object serves every session."""
        with self.assertRaises(AttributeError):
            OK.text = "fine"
        with self.assertRaises(AttributeError):
            del OK.text
        with self.assertRaises(AttributeError):
            OK.note = 1

    def test_refuses(self) -> None:
        """Deny and defer refuse, the others do not."""
        self.assertTrue(deny().refuses and defer().refuses)
        self.assertFalse(OK.refuses or DONE.refuses or answer(Reply(550, "no")).refuses)

    def test_names(self) -> None:
        """In logs verdicts have the names that the Perl qpsmtpd gives them."""
        verdicts = [OK, deny(), defer(), deny(disconnect=True), defer(disconnect=True), DONE]
        self.assertEqual(
            [verdict.name for verdict in verdicts],
            ["OK", "DENY", "DENYSOFT", "DENY_DISCONNECT", "DENYSOFT_DISCONNECT", "DONE"],
        )

    def test_contradictions(self) -> None:
        """A code or status of another class than the verdict's is an error of the component."""
        self.assertRaises(ValueError, deny, "", "4.7.1")
        self.assertRaises(ValueError, defer, "", "5.7.1")
        self.assertRaises(ValueError, accept, "", "5.7.1")
        self.assertRaises(ValueError, deny, code=450)
        self.assertRaises(ValueError, defer, code=550)
        self.assertRaises(ValueError, Verdict, Kind.OK, code=550)

    def test_nonsense(self) -> None:
        """So is one that does not exist: no reply could be made of it."""
        for status in ("5.7", "5.7.1 x", "5.7.1.1", "5.a.1", ""):
            self.assertRaises(ValueError, deny, "", status)
        self.assertRaises(ValueError, deny, code=5500)
        self.assertRaises(ValueError, accept, "", "2.0")

    def test_repr(self) -> None:
        """A verdict in a failing test explains itself."""
        self.assertEqual(
            repr(deny("no", "5.1.1", code=553, disconnect=True)),
            "<Verdict DENY_DISCONNECT 553 5.1.1 'no'>",
        )
        self.assertEqual(repr(OK), "<Verdict OK>")

    def test_answer(self) -> None:
        """An answer carries its reply, of whatever class."""
        reply = Reply(550, "no", "5.1.1")
        verdict = answer(reply, disconnect=True)
        self.assertIs(verdict.reply, reply)
        self.assertIs(verdict.kind, Kind.DONE)
        self.assertTrue(verdict.disconnect)

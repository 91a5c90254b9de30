"""What each hook's refusals are said with."""

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.interfaces import HOOKS
from qpsmtpd.server.replies import REFUSALS, refusal
from qpsmtpd.verdicts import Verdict, defer, deny


class RefusalTests(SynchronousTestCase):
    def test_classes(self) -> None:
        """A refusal for good is a 5yz and one for now a 4yz, at every hook (RFC 5321, 4.2.1)."""
        for hook in REFUSALS:
            for disconnect in (False, True):
                for verdict, first in (
                    (deny(disconnect=disconnect), "5"),
                    (defer(disconnect=disconnect), "4"),
                ):
                    reply = refusal(hook, verdict, "someone")
                    self.assertEqual((str(reply.code)[0], (reply.status or "")[0]), (first, first))

    def test_hooks(self) -> None:
        """Only hooks that decide something refuse something."""
        for hook in REFUSALS:
            self.assertIn(Verdict, HOOKS[hook].answers)

    def test_closing(self) -> None:
        """A temporary refusal that closes the connection is a 421, whoever says so."""
        for hook in REFUSALS:
            self.assertEqual(refusal(hook, defer(disconnect=True)).code, 421)
            self.assertEqual(refusal(hook, defer(code=451, disconnect=True)).code, 421)

    def test_own_text(self) -> None:
        """A text changes neither the code nor the status, at any hook."""
        for hook in REFUSALS:
            for verdict in (deny, defer):
                for disconnect in (False, True):
                    plain = refusal(hook, verdict(disconnect=disconnect))
                    said = refusal(hook, verdict("because", disconnect=disconnect))
                    self.assertEqual((said.code, said.status), (plain.code, plain.status), hook)
                    self.assertEqual(said.lines, ("because",))
                    self.assertNotEqual(plain.lines, ("",))

    def test_greeting(self) -> None:
        """A connection is refused with 554 or 421 (RFC 5321, 3.1 and 3.8)."""
        for hook in ("pre_connection", "connect"):
            self.assertEqual(refusal(hook, deny()).code, 554)
            self.assertEqual(refusal(hook, defer(code=451)).code, 421)

    def test_subject(self) -> None:
        """A default text names what is refused; a text of one's own is left alone."""
        self.assertEqual(refusal("mail", deny(), "<a@b.example>").lines, ("<a@b.example>, denied",))
        self.assertEqual(refusal("mail", deny("{subject}"), "<a@b.example>").lines, ("{subject}",))

    def test_subject_with_braces(self) -> None:
        """A client's name is text, whatever it looks like."""
        self.assertEqual(
            refusal("helo", deny(), "{subject}{0}").lines, ("{subject}{0}, not welcome here",)
        )

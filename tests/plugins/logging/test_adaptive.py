"""Tests of logging/adaptive."""

from typing import Any

from qpsmtpd import policy
from qpsmtpd.plugins.logging.adaptive import Adaptive
from qpsmtpd.verdicts import OK, deny
from tests.plugins.logging.listening import ListeningTestCase
from tests.recorder import Recorder


def tested(transaction: Any, recipient: Any) -> Any:
    policy.report(transaction, "badrcptto", f"fail {recipient}", 4)
    policy.report(transaction, "badrcptto", "details", 6)
    return deny("no") if recipient.local_part == "bad" else OK


class AdaptiveTests(ListeningTestCase):
    def converse_with(self, *recipients: str, **settings: Any) -> list[str]:
        """One session with a message for each recipient; lines of the tester only."""
        with self.listening(lambda: Adaptive(**settings), Recorder(rcpt=tested, queue=OK)) as chain:
            conversation = self.open(chain)
            conversation.greet()
            for recipient in recipients:
                conversation.send("MAIL FROM:<a@client.example>")
                conversation.send(f"RCPT TO:<{recipient}@mail.example>")
                if recipient == "bad":
                    conversation.send("RSET")
                else:
                    conversation.send("DATA")
                    conversation.send("Subject: x", "", ".")
            conversation.send("QUIT")
            [component] = [each.component for each in chain.links[:1]]
            self.assertEqual(component._sessions, {})  # type: ignore[attr-defined]
        return [line for line in self.lines if "plugin:" in line]

    def test_accepted(self) -> None:
        """What is accepted is told at once up to one level, and again up to the other."""
        self.assertEqual(
            self.converse_with("good", accept=4, reject=6),
            [
                "badrcptto plugin: fail <good@mail.example>",
                "badrcptto plugin: details",
                "` badrcptto plugin: fail <good@mail.example>",
            ],
        )

    def test_refused(self) -> None:
        """What is refused is told once."""
        self.assertEqual(
            self.converse_with("bad", accept=6, reject=6, prefix="!"),
            ["badrcptto plugin: fail <bad@mail.example>", "badrcptto plugin: details"],
        )

    def test_refusal_is_over(self) -> None:
        """A refusal is about its message, not about the next one."""
        lines = self.converse_with("bad", "good", accept=4, reject=4)
        self.assertEqual(
            lines,
            [
                "badrcptto plugin: fail <bad@mail.example>",
                "badrcptto plugin: fail <good@mail.example>",
                "` badrcptto plugin: fail <good@mail.example>",
            ],
        )

    def test_default(self) -> None:
        """Without arguments, warnings are told once and errors would be told again."""
        self.assertEqual(self.converse_with("good"), ["badrcptto plugin: fail <good@mail.example>"])

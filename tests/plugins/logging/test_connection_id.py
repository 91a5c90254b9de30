"""Tests of logging/connection_id and logging/transaction_id."""

from typing import Any

from qpsmtpd import policy
from qpsmtpd.plugins.logging.connection_id import ConnectionId
from qpsmtpd.plugins.logging.transaction_id import TransactionId
from qpsmtpd.verdicts import OK
from tests.plugins.logging.listening import ListeningTestCase
from tests.recorder import Recorder


def tested(transaction: Any, recipient: Any) -> Any:
    policy.report(transaction, "queue/maildir", "pass")
    return OK


class IdTests(ListeningTestCase):
    def written(self, make: Any) -> tuple[str, list[str]]:
        with self.listening(make, Recorder(rcpt=tested)) as chain:
            conversation = self.open(chain)
            conversation.envelope()
            session = conversation.session.id
        return session, self.stream.getvalue().splitlines()

    def test_connection(self) -> None:
        """Each line of a session has its id in front."""
        session, lines = self.written(lambda: ConnectionId(loglevel=6))
        self.assertGreater(len(lines), 5)
        self.assertEqual({line.partition(" ")[0] for line in lines}, {session})
        self.assertIn(f"{session} queue::maildir plugin: pass", lines)
        self.assertTrue(any(line.startswith(f"{session} dispatching MAIL") for line in lines))

    def test_transaction(self) -> None:
        """Lines of a transaction have its id in front, the others question marks."""
        session, lines = self.written(lambda: TransactionId(loglevel=6))
        self.assertTrue(lines[0].startswith("??? Accepted connection "), lines)
        self.assertIn(f"{session}.1 queue::maildir plugin: pass", lines)
        self.assertEqual({line.partition(" ")[0] for line in lines}, {"???", f"{session}.1"})

    def test_default(self) -> None:
        """Without a level, warnings and worse."""
        for make in (ConnectionId, TransactionId):
            self.assertEqual(self.written(make)[1], [])

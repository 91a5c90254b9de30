"""Sessions and mail transactions, as components see them."""

import os

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.message import Message
from qpsmtpd.session import TRACE_LIMIT, Session, Transaction
from qpsmtpd.smtp.address import NULL_PATH
from qpsmtpd.smtp.commands import NO_PARAMETERS
from qpsmtpd.smtp.reply import Reply
from qpsmtpd.spool import Spool
from qpsmtpd.trace import Decision, describe


def transaction(session: Session) -> Transaction:
    """A transaction of a session."""
    return Transaction(session, NULL_PATH, NO_PARAMETERS)


class SessionTests(SynchronousTestCase):
    def test_remote_name(self) -> None:
        """A client is called by its name, and its user where ident has told."""
        session = Session()
        self.assertEqual(session.remote_name, "Unknown")
        session.remote_info = "joe"
        self.assertEqual(session.remote_name, "joe@Unknown")
        session.remote_host = "client.example"
        self.assertEqual(session.remote_name, "joe@client.example")

    def test_id(self) -> None:
        """No two sessions have the same name in the log, and none changes it."""
        sessions = [Session(started=1000) for _ in range(100)]
        self.assertEqual(len({session.id for session in sessions}), 100)
        self.assertEqual(sessions[0].id, sessions[0].id)

    def test_id_of_another_process(self) -> None:
        """Nor has a session of a process that was forked."""
        heard, said = os.pipe()
        child = os.fork()
        if not child:
            os.write(said, Session().id.encode("ascii"))
            os._exit(0)
        os.waitpid(child, 0)
        self.assertEqual(os.read(heard, 100).split(b"-")[1], b"%x" % child)
        self.assertEqual(Session().id.split("-")[1], f"{os.getpid():x}")
        os.close(heard)
        os.close(said)

    def test_transaction_id(self) -> None:
        """A transaction's name is its session's with a number."""
        session = Session()
        self.assertEqual(
            [transaction(session).id for _ in range(2)], [f"{session.id}.1", f"{session.id}.2"]
        )

    def test_beginning(self) -> None:
        """A new session has not greeted, is nobody and may not relay."""
        session = Session("192.0.2.1", 49152)
        self.assertEqual((session.hello, session.auth_user, session.tls), ("", None, None))
        self.assertFalse(session.relay_client)
        self.assertFalse(session.ended)

    def test_no_other_attributes(self) -> None:
        """What components add to a session are notes; a misspelt attribute is an error."""
        with self.assertRaises(AttributeError):
            Session().relay_cleint = True  # type: ignore[attr-defined]

    def test_reply(self) -> None:
        """A reply that a component gave is taken once."""
        session = Session()
        self.assertIsNone(session.take_reply())
        reply = Reply(250, "mine")
        session.reply(reply)
        self.assertIs(session.take_reply(), reply)
        self.assertIsNone(session.take_reply())


class NotesTests(SynchronousTestCase):
    def test_absent(self) -> None:
        """A note that was never made reads as None, and looking for it makes none."""
        session = Session()
        self.assertIsNone(session.notes["whitelisthost"])
        self.assertIsNone(session.note("whitelisthost"))
        self.assertEqual(session.notes, {})

    def test_kept(self) -> None:
        """Notes are kept for the time of the session, and of the transaction."""
        session = Session()
        one = transaction(session)
        session.notes["a"] = 1
        one.notes["a"] = 2
        self.assertEqual((session.note("a"), one.note("a")), (1, 2))
        self.assertIsNone(transaction(session).note("a"))


class TransactionTests(SynchronousTestCase):
    def test_end(self) -> None:
        """The message is released when its transaction ends."""
        one = transaction(Session())
        one.message = Message(Spool(100, None))
        one.end()
        self.assertTrue(one.message.spool.closed)
        self.assertTrue(one.ended)

    def test_end_twice(self) -> None:
        """Ending twice changes nothing, with a message or without."""
        one = transaction(Session())
        one.end()
        one.message = Message(Spool(100, None))
        one.end()
        one.end()
        self.assertTrue(one.ended)

    def test_session_goes_on(self) -> None:
        """The end of a transaction is not the end of its session."""
        session = Session()
        transaction(session).end()
        self.assertFalse(session.ended)


class TraceTests(SynchronousTestCase):
    def test_line(self) -> None:
        """A trace is one line, in the order of decisions."""
        session = Session()
        self.assertIsNone(session.trace)
        session.record(Decision("rcpt", "rcpt_ok", "OK", 0.0001))
        session.record(Decision("queue", "maildir", "OK", 0.0042))
        self.assertEqual(
            describe(session.trace or ()), "rcpt=rcpt_ok:OK/0.1ms queue=maildir:OK/4.2ms"
        )

    def test_long(self) -> None:
        """A client that makes components decide without end does not fill the memory."""
        session = Session("192.0.2.1")
        for number in range(3 * TRACE_LIMIT):
            session.record(Decision("rcpt", "rcpt_ok", f"DENY {number}", 0.0001))
        assert session.trace is not None
        self.assertLessEqual(len(session.trace), TRACE_LIMIT)
        self.assertEqual(session.trace[-1].answer, f"DENY {3 * TRACE_LIMIT - 1}")

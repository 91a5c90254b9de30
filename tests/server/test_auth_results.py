"""The Authentication-Results field: this server's own, and others'."""

from __future__ import annotations

from base64 import b64encode

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.message import HeaderSection, Message
from qpsmtpd.policy import add_auth_result
from qpsmtpd.server.auth_results import clean, server_of
from qpsmtpd.session import Transaction
from qpsmtpd.spool import Spool
from qpsmtpd.testing import ComponentTestCase
from qpsmtpd.verdicts import OK, deny
from tests.recorder import Recorder

ID = "mail.example"
NAME = "Authentication-Results"
PLAIN = "AUTH PLAIN " + b64encode(b"\0anna@example.org\0secret").decode()


class OwnFieldTests(ComponentTestCase):
    def field(self, *components: object, auth: bool = False) -> str:
        """The field that a message gets, unfolded."""
        conversation = self.open(*components, authserv_id=ID)
        conversation.greet()
        if auth:
            conversation.command(PLAIN)
        conversation.message("Subject: test\r\n\r\nwords")
        octets = self.queue.messages[-1].octets
        self.assertTrue(octets.startswith(b"Authentication-Results: "), octets)
        field = octets[: octets.index(b"\r\nReceived: ")].decode("ascii")
        return field.replace("\r\n", "")

    def test_nothing_known(self) -> None:
        """It stands above Received, and says so when the client did not authenticate."""
        self.assertEqual(self.field(), "Authentication-Results: mail.example; auth=none")

    def test_authenticated(self) -> None:
        """Who authenticated is told, and how."""
        field = self.field(Recorder(auth=OK), auth=True)
        self.assertTrue(field.endswith("; auth=pass (plain) smtp.auth=anna@example.org"), field)

    def test_failed(self) -> None:
        """Who failed to, is told as well, with mechanism and name."""
        field = self.field(Recorder(auth=deny()), auth=True)
        self.assertTrue(field.endswith("; auth=fail (plain) smtp.auth=anna@example.org"), field)

    def test_hostile_user(self) -> None:
        """A user's name ends neither its value nor the field."""
        conversation = self.open(Recorder(auth=OK), authserv_id=ID)
        conversation.greet()
        name = 'a"; spf=pass é\\'.encode()
        conversation.command("AUTH PLAIN " + b64encode(b"\0" + name + b"\0x").decode())
        conversation.message()
        octets = self.queue.messages[-1].octets
        self.assertIn(b' smtp.auth="a\\"; spf=pass ?\\\\"\r\nReceived: ', octets)

    def test_results(self) -> None:
        """Results of components follow: of the session for each message, of one for that one."""

        def add(transaction: Transaction) -> None:
            add_auth_result(transaction, f"dkim=pass header.i=@{transaction.id}")

        conversation = self.open(Recorder(data_post=add), authserv_id=ID)
        add_auth_result(conversation.session, "iprev=pass")
        for _ in range(2):
            conversation.message()
        for number, message in enumerate(self.queue.messages, 1):
            head = message.octets[: message.octets.index(b"\r\nReceived")].decode()
            self.assertEqual(head.count("dkim="), 1)
            self.assertIn(";\r\n auth=none;\r\n iprev=pass;\r\n dkim=pass header.i=@", head)
            self.assertTrue(head.endswith(f".{number}"))

    def test_hostile_result(self) -> None:
        """A result cannot begin another one, another field or the body."""
        transaction = self.transaction()
        add_auth_result(transaction, "spf=fail (a\r\nX: y\r\n\r\né;) reason=;dkim=pass")
        self.assertEqual(
            transaction.notes["authentication_results"],
            ["spf=fail (a??X: y??????) reason=?dkim=pass"],
        )

    def test_long_result(self) -> None:
        """A result without end does not make a line that is too long (RFC 5322, 2.1.1)."""
        conversation = self.open(authserv_id=ID)
        add_auth_result(conversation.session, "x-test=pass (" + "word " * 500 + ")")
        conversation.message()
        lines = self.queue.messages[-1].octets.split(b"\r\n")
        self.assertLessEqual(max(map(len, lines)), 998)

    def test_off(self) -> None:
        """Without a name there is no field, and others' are left alone."""
        conversation = self.open()
        conversation.message("Authentication-Results: mail.example; spf=pass\r\n\r\nwords")
        octets = self.queue.messages[-1].octets
        self.assertTrue(octets.startswith(b"Received: "))
        self.assertIn(b"\r\nAuthentication-Results: mail.example; spf=pass\r\n", octets)

    def test_refused(self) -> None:
        """A message that is refused needs none, and nobody writes one."""
        conversation = self.open(Recorder(data_post=deny()), authserv_id=ID)
        self.assertReply(conversation.message(), 552)


class ForeignFieldTests(ComponentTestCase):
    def delivered(self, *fields: str) -> bytes:
        """What is delivered of some fields."""
        conversation = self.open(authserv_id=ID)
        conversation.message("\r\n".join((*fields, "Subject: test", "", "words")))
        return self.queue.messages[-1].content.partition(b"\r\nReceived: ")[2]

    def test_own_is_removed(self) -> None:
        """Fields that claim to be ours go, all of them and however they are written."""
        octets = self.delivered(
            "Authentication-Results: mail.example; spf=pass",
            "X-Before: 1",
            "authentication-results: MAIL.Example 1; dkim=pass",
            "Authentication-Results : (a \\) (b)) mail.example (c); auth=pass",
            'Authentication-Results: "mail.example"; auth=pass',
            'Authentication-Results: "mail\\.example"; auth=pass',
            "Authentication-Results:",
            " mail.example.; auth=pass",
            "Authentication-Results: mail.example",
            "Authentication-Results: (never closed mail.example; auth=pass",
            "Authentication-Results: ",
        )
        self.assertNotIn(b"uthentication-", octets)
        self.assertIn(b"X-Before: 1\r\nSubject: test\r\n\r\nwords", octets)

    def test_own_is_removed_though_signed(self) -> None:
        """They go whatever a DKIM signature says."""
        octets = self.delivered(
            "DKIM-Signature: v=1; h=From:Authentication-Results; b=x",
            "Authentication-Results: mail.example; spf=pass",
        )
        self.assertNotIn(b"spf=pass", octets)

    def test_own_is_removed_from_large_headers(self) -> None:
        """They are found in all of a header section that is as large as its limit lets it be."""
        fields = "\r\n".join(["X: " + "x" * 900] * 1200)
        for limit in (0, 2_000_000):
            conversation = self.open(authserv_id=ID, header_size=limit)
            conversation.message(f"{fields}\r\n{NAME}: {ID}; spf=pass\r\n\r\nwords")
            self.assertNotIn(b"spf=pass", self.queue.messages[-1].content)

    def test_others_are_renamed(self) -> None:
        """Those of other servers are renamed, each of them, where they stand."""
        octets = self.delivered(
            "Authentication-Results: one.example; spf=pass",
            "Authentication-Results: two.example;",
            "\tspf=pass",
            "Authentication-Results: three.example; spf=pass",
        )
        self.assertIn(
            b"\r\nOriginal-Authentication-Results: one.example; spf=pass"
            b"\r\nOriginal-Authentication-Results: two.example;\r\n\tspf=pass"
            b"\r\nOriginal-Authentication-Results: three.example; spf=pass"
            b"\r\nSubject: test\r\n",
            octets,
        )

    def test_signed(self) -> None:
        """Those that a DKIM signature covers stay as they are, or it would break."""
        octets = self.delivered(
            "DKIM-Signature: v=1; h=From:Subject; b=x",
            "DKIM-Signature: v=1;h=From : authentication-results;",
            " b=x",
            "Authentication-Results: one.example; spf=pass",
        )
        self.assertIn(b"\r\nAuthentication-Results: one.example; spf=pass\r\n", octets)

    def test_untouched(self) -> None:
        """A message without such fields is delivered as it came, well-formed or not."""
        octets = self.delivered("bogus line", "X: 1")
        self.assertTrue(
            octets.endswith(b"\r\nbogus line\r\nX: 1\r\nSubject: test\r\n\r\nwords\r\n")
        )


class ManyFieldsTests(SynchronousTestCase):
    def changes(self, count: int) -> int:
        """How often the header section is written anew for a number of fields."""
        spool = Spool(1 << 20, None)
        self.addCleanup(spool.close)
        spool.write(b"Authentication-Results: x\r\nAuthentication-Results:\r\n" * count)
        spool.write(b"\r\n")
        message = Message(spool)
        touch, touched = HeaderSection._touch, [0]

        def counted(headers: HeaderSection) -> None:
            touched[0] += 1
            touch(headers)

        patch = self.patch(HeaderSection, "_touch", counted)
        clean(message, ID)
        patch.restore()
        renamed = b"Original-Authentication-Results: x\r\n" * count
        self.assertEqual(message.as_bytes(), renamed + b"\r\n")
        return touched[0]

    def test_in_one_pass(self) -> None:
        """However many fields claim to be ours, the header section is written anew as often.

        One of 1 MiB has 40,000 of them; taken out one by one they cost minutes.
        """
        self.assertEqual(self.changes(2), self.changes(200))


class ServerTests(SynchronousTestCase):
    def test_read(self) -> None:
        """The name is found behind comments, and with or without quotes."""
        for value, server in {
            "mx.example; spf=pass": "mx.example",
            "mx.example;spf=pass": "mx.example",
            " (c) mx.example 1; none": "mx.example",
            "mx.example(c); none": "mx.example",
            '"mx \\"a\\""; none': 'mx "a"',
            "": None,
            "(open": None,
            '"open': None,
            ";": None,
        }.items():
            self.assertEqual(server_of(value), server, value)

"""The Received field."""

import re
from email.utils import parsedate_to_datetime
from typing import Any

from qpsmtpd import __version__
from qpsmtpd.server.received import auth_comment, protocol_name, received, tls_comment
from qpsmtpd.session import TLSState
from qpsmtpd.smtp.address import Address
from qpsmtpd.testing import ComponentTestCase

HOSTILE = 'a)\r\nX-Injected: yes\r\n\r\n(b "\\ <>@;:\x00\x7f\xe9'


class ReceivedTests(ComponentTestCase):
    def field(self, **facts: object) -> str:
        facts = {"hello": "ehlo", "hello_host": "client.example"} | facts
        transaction = self.transaction(session=self.session(**facts))
        return received(transaction, "mail.example").decode("ascii")

    def test_form(self) -> None:
        """The field is in the form of the Perl qpsmtpd, which log tools read."""
        field = self.field(remote_host="host.client.example")
        self.assertRegex(
            field,
            r"^Received: from host\.client\.example \(HELO client\.example\) \(192\.0\.2\.1\)\r\n"
            rf" by mail\.example \(qpsmtpd/{re.escape(__version__)}\) with ESMTP id \S+;\r\n .+$",
        )

    def test_date(self) -> None:
        """The date is one that RFC 5322, 3.3 knows."""
        parsedate_to_datetime(self.field().rpartition(";\r\n ")[2])

    def test_id(self) -> None:
        """The field has the transaction's id, which the log has too."""
        transaction = self.transaction()
        self.assertIn(f" id {transaction.id};", received(transaction, "mail.example").decode())

    def test_unknown_host(self) -> None:
        """A client without a name is called so."""
        self.assertIn(
            "from Unknown (HELO client.example) (2001:db8::1)", self.field(remote_ip="2001:db8::1")
        )

    def test_ident(self) -> None:
        """What the ident protocol said stands before the host."""
        self.assertIn("from joe@Unknown ", self.field(remote_info="joe"))

    def test_tls(self) -> None:
        """The version and the cipher are told."""
        field = self.field(tls=TLSState("TLSv1.3", "TLS_AES_256_GCM_SHA384"))
        self.assertIn(" with ESMTPS id ", field)
        self.assertIn("\r\n (TLSv1.3 TLS_AES_256_GCM_SHA384 encrypted);\r\n ", field)

    def test_recipient(self) -> None:
        """A single recipient is told; of several none is, so that nobody learns of the others."""
        one = self.transaction("a@client.example", "b@mail.example")
        self.assertIn(b"\r\n for <b@mail.example>;\r\n ", received(one, "mail.example"))
        two = self.transaction("a@client.example", "b@mail.example", "c@mail.example")
        self.assertNotIn(b" for ", received(two, "mail.example"))

    def test_recipient_under_tls(self) -> None:
        """It stands behind the comment about TLS, on the same line where there is room."""
        session = self.session(hello="ehlo", tls=TLSState("TLSv1.3", "TLS_AES_256_GCM_SHA384"))
        for name, fold in (("b", " "), ("b" * 40, "\r\n ")):
            transaction = self.transaction("a@b.example", f"{name}@mail.example", session=session)
            self.assertIn(
                f"\r\n (TLSv1.3 TLS_AES_256_GCM_SHA384 encrypted){fold}for <{name}@mail.example>;",
                received(transaction, "mail.example").decode(),
            )

    def test_recipient_in_utf8(self) -> None:
        """A recipient beyond ASCII is told where the message may have UTF-8 in its header."""
        transaction = self.transaction("a@client.example", SMTPUTF8=None)
        transaction.recipients = [Address.parse("<bärbel@mail.example>")]
        self.assertIn(" for <bärbel@mail.example>;", received(transaction, "m.example").decode())
        transaction.parameters = {}
        self.assertTrue(received(transaction, "m.example").isascii())

    def test_short_lines(self) -> None:
        """Lines keep to 78 octets where they can, and to 998 always (RFC 5322, 2.1.1)."""
        session = self.session(hello="ehlo", hello_host="client.example")
        session.tls = TLSState("TLSv1.3", "TLS_AES_256_GCM_SHA384")
        session.remote_host = "a-rather-long-name.of.a.client.example"
        transaction = self.transaction("a@b.example", "b@mail.example", session=session)
        me = "a-rather-long-name.of.a.server.example"
        for line in received(transaction, me).split(b"\r\n"):
            self.assertLessEqual(len(line), 78)
        session.remote_info = session.remote_host = session.hello_host = "x" * 3000
        field = received(transaction, me)
        self.assertLessEqual(max(map(len, field.split(b"\r\n"))), 998)
        self.assertEqual(field.count(b"x" * 255), 2)

    def test_hostile_names(self) -> None:
        """Nothing that a client says ends the comment, the line or the field."""
        for name in ("hello_host", "remote_host", "remote_info", "remote_ip"):
            lines = self.field(**{name: HOSTILE}).split("\r\n")
            self.assertTrue(all(line[:1] == " " for line in lines[1:]))
            by = next(number for number, line in enumerate(lines) if line.startswith(" by "))
            came = "".join(lines[:by])
            self.assertEqual(came.count("("), 2)
            self.assertEqual(came.count(")"), 2)
            self.assertTrue(came.isprintable() and came.isascii())


class ProtocolNameTests(ComponentTestCase):
    def test_names(self) -> None:
        """The word says which protocol and which extensions were used (RFC 3848)."""
        tls = TLSState("TLSv1.3", "c")
        sessions: list[tuple[str, dict[str, Any]]] = [
            ("SMTP", {"hello": "helo"}),
            ("ESMTP", {"hello": "ehlo"}),
            ("ESMTPS", {"hello": "ehlo", "tls": tls}),
            ("ESMTPA", {"hello": "ehlo", "auth_user": "u"}),
            ("ESMTPSA", {"hello": "ehlo", "tls": tls, "auth_user": "u"}),
            ("LMTP", {"hello": "lhlo"}),
            ("LMTPS", {"hello": "lhlo", "tls": tls}),
            ("LMTPA", {"hello": "lhlo", "auth_user": "u"}),
            ("LMTPSA", {"hello": "lhlo", "tls": tls, "auth_user": "u"}),
        ]
        for expected, facts in sessions:
            transaction = self.transaction(session=self.session(**facts))
            self.assertEqual(protocol_name(transaction), expected)

    def test_utf8(self) -> None:
        """A message with SMTPUTF8 says so (RFC 6531, 4.3)."""
        tls = TLSState("TLSv1.3", "c")
        for hello, word in (("ehlo", "UTF8SMTP"), ("lhlo", "UTF8LMTP")):
            for facts, letters in (
                ({}, ""),
                ({"tls": tls}, "S"),
                ({"auth_user": "u"}, "A"),
                ({"tls": tls, "auth_user": "u"}, "SA"),
            ):
                session = self.session(hello=hello, **facts)
                transaction = self.transaction(session=session, SMTPUTF8=None)
                self.assertEqual(protocol_name(transaction), word + letters)


class CommentTests(ComponentTestCase):
    def test_stranger(self) -> None:
        """A stranger in clear has no comments."""
        session = self.session()
        self.assertEqual((auth_comment(session), tls_comment(session)), ("", ""))

    def test_user(self) -> None:
        """A user's name cannot end its comment."""
        session = self.session(auth_user="joe) (", auth_mechanism="CRAM-MD5")
        self.assertEqual(
            auth_comment(session),
            "(smtp-auth username joe???, mechanism cram-md5)",
        )

"""The Received field."""

import re
from email.utils import parsedate_to_datetime
from typing import Any

from qpsmtpd import __version__
from qpsmtpd.server.received import auth_comment, protocol_name, received, tls_comment
from qpsmtpd.session import TLSState
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
            rf" by mail\.example \(qpsmtpd/{re.escape(__version__)}\) with ESMTP id \S+; .+$",
        )

    def test_date(self) -> None:
        """The date is one that RFC 5322, 3.3 knows."""
        parsedate_to_datetime(self.field().rpartition("; ")[2])

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
        """The cipher is told."""
        field = self.field(tls=TLSState("TLSv1.3", "TLS_AES_256_GCM_SHA384"))
        self.assertIn(" with ESMTPS id ", field)
        self.assertIn("\r\n (TLS_AES_256_GCM_SHA384 encrypted); ", field)

    def test_hostile_names(self) -> None:
        """Nothing that a client says ends the comment, the line or the field."""
        for name in ("hello_host", "remote_host", "remote_info", "remote_ip"):
            lines = self.field(**{name: HOSTILE}).split("\r\n")
            self.assertEqual(len(lines), 2)
            self.assertEqual(lines[0].count("("), 2)
            self.assertEqual(lines[0].count(")"), 2)
            self.assertTrue(lines[0].isprintable() and lines[0].isascii())


class ProtocolNameTests(ComponentTestCase):
    def test_names(self) -> None:
        """The word says which extensions were used (RFC 3848)."""
        tls = TLSState("TLSv1.3", "c")
        sessions: list[tuple[str, dict[str, Any]]] = [
            ("SMTP", {"hello": "helo"}),
            ("ESMTP", {"hello": "ehlo"}),
            ("ESMTPS", {"hello": "ehlo", "tls": tls}),
            ("ESMTPA", {"hello": "ehlo", "auth_user": "u"}),
            ("ESMTPSA", {"hello": "ehlo", "tls": tls, "auth_user": "u"}),
        ]
        for expected, facts in sessions:
            transaction = self.transaction(session=self.session(**facts))
            self.assertEqual(protocol_name(transaction), expected)

    def test_utf8(self) -> None:
        """A message with SMTPUTF8 says so (RFC 6531, 4.3)."""
        session = self.session(hello="ehlo", auth_user="u")
        transaction = self.transaction(session=session, SMTPUTF8=None)
        self.assertEqual(protocol_name(transaction), "UTF8SMTPA")


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

"""Tests of the authentication exchanges."""

import hashlib
import hmac

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.smtp.sasl import (
    MECHANISMS,
    Credentials,
    Exchange,
    SASLError,
    challenge_text,
    decode,
)


class DecodeTests(SynchronousTestCase):
    def test_base64(self) -> None:
        """A response is read from base64."""
        self.assertEqual(decode(b"AGFubmEAc2VjcmV0"), b"\0anna\0secret")

    def test_empty(self) -> None:
        """An equals sign and an empty line are an empty response (RFC 4954, 4)."""
        self.assertEqual(decode(b"="), b"")
        self.assertEqual(decode(b""), b"")

    def test_not_base64(self) -> None:
        """What is no base64 is an error: foreign octets, missing or early padding, a cut group."""
        for line in (b"!", b"YW5uYQ", b"YW5u YQ==", b"YQ==YQ==", b"Y", b"==", b"\xff\xff\xff\xff"):
            with self.assertRaises(SASLError, msg=repr(line)):
                decode(line)

    def test_challenge(self) -> None:
        """A challenge is base64 on one line, however long it is."""
        self.assertEqual(challenge_text(b"Username:"), "VXNlcm5hbWU6")
        self.assertNotIn("\n", challenge_text(b"x" * 200))


class ExchangeCase(SynchronousTestCase):
    """Plays exchanges."""

    def begin(self, mechanism: str, initial: bytes | None = None) -> Exchange:
        return MECHANISMS[mechanism]("mail.example", initial)

    def finish(self, exchange: Exchange, response: bytes | None) -> Credentials:
        with self.assertRaises(StopIteration) as caught:
            exchange.send(response)  # type: ignore[arg-type]
        credentials: Credentials = caught.exception.value
        return credentials

    def refused(self, mechanism: str, initial: bytes) -> None:
        with self.assertRaises(SASLError, msg=repr(initial)):
            next(self.begin(mechanism, initial))


class PlainTests(ExchangeCase):
    def test_initial_response(self) -> None:
        """Everything may come with the command."""
        exchange = self.begin("PLAIN", b"\0anna@mail.example\0secret word")
        credentials = self.finish(exchange, None)
        self.assertEqual(credentials, Credentials("PLAIN", "anna@mail.example", b"secret word"))

    def test_asked(self) -> None:
        """Without an initial response the server asks with an empty challenge."""
        exchange = self.begin("PLAIN")
        self.assertEqual(next(exchange), b"")
        self.assertEqual(self.finish(exchange, b"\0anna\0secret").user, "anna")

    def test_identity(self) -> None:
        """A user may name herself as the identity to act for, and nobody else (RFC 4616, 2)."""
        self.assertEqual(self.finish(self.begin("PLAIN", b"anna\0anna\0secret"), None).user, "anna")
        self.refused("PLAIN", b"bert\0anna\0secret")

    def test_incomplete(self) -> None:
        """A missing or empty user or password, and a NUL too many, are errors."""
        for initial in (b"", b"anna", b"\0anna", b"\0anna\0", b"\0\0secret", b"\0anna\0sec\0ret"):
            self.refused("PLAIN", initial)

    def test_user_name(self) -> None:
        """A user's name is UTF-8 without control characters, which would reach logs."""
        self.assertEqual(
            self.finish(self.begin("PLAIN", "\0ännchen\0x".encode()), None).user, "ännchen"
        )
        for name in (b"\xe4nn", b"anna\r\nMAIL", b"anna\x1b[2J", "an\u2028na".encode()):
            self.refused("PLAIN", b"\0" + name + b"\0secret")

    def test_password_octets(self) -> None:
        """A password is octets in any encoding."""
        self.assertEqual(
            self.finish(self.begin("PLAIN", b"\0anna\0\xe4\xff"), None).password, b"\xe4\xff"
        )


class LoginTests(ExchangeCase):
    def test_two_questions(self) -> None:
        """The user is asked for, then the password."""
        exchange = self.begin("LOGIN")
        self.assertEqual(next(exchange), b"Username:")
        self.assertEqual(exchange.send(b"anna"), b"Password:")
        credentials = self.finish(exchange, b"secret")
        self.assertEqual(credentials, Credentials("LOGIN", "anna", b"secret"))

    def test_user_with_command(self) -> None:
        """A user given with the command is not asked for again."""
        exchange = self.begin("LOGIN", b"anna")
        self.assertEqual(next(exchange), b"Password:")
        self.assertEqual(self.finish(exchange, b"secret").user, "anna")

    def test_incomplete(self) -> None:
        """An empty user or password and a NUL in the password are errors."""
        for user, password in ((b"", b"secret"), (b"anna", b""), (b"anna", b"sec\0ret")):
            exchange = self.begin("LOGIN", user)
            next(exchange)
            with self.assertRaises(SASLError):
                exchange.send(password)


class CramMD5Tests(ExchangeCase):
    def test_vector(self) -> None:
        """The example of RFC 2195, 2 is right, in upper case too, and with no other password."""
        digest = "b913a602c7eda7a495b4e6e7334d3890"
        challenge = b"<1896.697170952@postoffice.reston.mci.net>"
        for spelt in (digest, digest.upper()):
            credentials = Credentials("CRAM-MD5", "tim", digest=spelt, challenge=challenge)
            self.assertTrue(credentials.matches(b"tanstaaftanstaaf"))
            self.assertFalse(credentials.matches(b"tanstaaf"))

    def test_exchange(self) -> None:
        """The answer is the user and a digest keyed with the password."""
        exchange = self.begin("CRAM-MD5")
        challenge = next(exchange)
        self.assertRegex(challenge, rb"\A<[0-9a-f]{16}\.[0-9a-f]+@mail\.example>\Z")
        digest = hmac.new(b"secret", challenge, hashlib.md5).hexdigest()
        credentials = self.finish(exchange, b"anna maria " + digest.encode())
        self.assertEqual(credentials.user, "anna maria")
        self.assertIsNone(credentials.password)
        self.assertTrue(credentials.matches(b"secret"))

    def test_challenges_differ(self) -> None:
        """No challenge comes twice."""
        challenges = {next(self.begin("CRAM-MD5")) for _ in range(50)}
        self.assertEqual(len(challenges), 50)

    def test_malformed(self) -> None:
        """An answer without user or digest, and an initial response, are errors."""
        self.refused("CRAM-MD5", b"anna 00")
        for response in (b"", b"anna", b" 00112233445566778899aabbccddeeff"):
            exchange = self.begin("CRAM-MD5")
            next(exchange)
            with self.assertRaises(SASLError):
                exchange.send(response)

    def test_strange_digest(self) -> None:
        """A digest that is no hex is a wrong one, not an error."""
        for digest in (b"", b"\xff\xfe", b"x" * 32):
            exchange = self.begin("CRAM-MD5")
            next(exchange)
            self.assertFalse(self.finish(exchange, b"anna " + digest).matches(b"secret"))


class CredentialsTests(SynchronousTestCase):
    def test_matches(self) -> None:
        """A password in clear matches itself alone."""
        credentials = Credentials("PLAIN", "anna", b"secret")
        self.assertTrue(credentials.matches(b"secret"))
        self.assertFalse(credentials.matches(b"secret "))
        self.assertFalse(credentials.matches(b""))

    def test_nothing_matches_nothing(self) -> None:
        """Credentials without a secret match no password, the empty one included."""
        self.assertFalse(Credentials("PLAIN", "anna").matches(b""))
        self.assertFalse(Credentials("PLAIN", "anna", b"").matches(b""))

    def test_repr(self) -> None:
        """No secret shows in a log."""
        for credentials in (
            Credentials("PLAIN", "anna", b"secret"),
            Credentials("CRAM-MD5", "anna", digest="secret", challenge=b"secret"),
        ):
            for shown in (repr(credentials), str(credentials), f"{credentials}"):
                self.assertNotIn("secret", shown)

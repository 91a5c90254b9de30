"""The list of sessions is read as it is meant."""

import base64
import hmac

from twisted.trial.unittest import SynchronousTestCase

from tests.compared.sessions import FILE, Session, Step, octets, read


class ReadTests(SynchronousTestCase):
    def test_read(self) -> None:
        """Sessions have names, addresses and steps; a comment is none of them."""
        text = (
            "# a\n\n== one\nfrom 127.0.0.2\nC: NOOP\n+ NOOP\n+\nC:\nTLS\n== two\nD: x\n+ .\nEND\n"
        )
        one = [Step("C", ["NOOP", "NOOP", ""]), Step("C", [""]), Step("TLS")]
        two = [Step("D", ["x", "."]), Step("END")]
        self.assertEqual(
            read(text), [Session("one", "127.0.0.2", one), Session("two", "127.0.0.1", two)]
        )

    def test_wrong_line(self) -> None:
        """A line that is nothing of the kind is an error, with its number."""
        error = self.assertRaises(ValueError, read, "== one\nNOOP\n")
        self.assertIn("line 2", str(error))

    def test_the_list(self) -> None:
        """There are many sessions, each with a name of its own."""
        names = [session.name for session in read(FILE.read_text("utf-8"))]
        self.assertGreaterEqual(len(names), 60)
        self.assertEqual(len(set(names)), len(names))


class StepTests(SynchronousTestCase):
    def test_replies(self) -> None:
        """Each command has a reply; content has one, and so has each command behind it."""
        self.assertEqual(Step("C", ["RSET", "NOOP"]).replies, 2)
        self.assertEqual(Step("D", ["one", "", "two", "."]).replies, 1)
        self.assertEqual(Step("D", ["one", ".", "RSET", "QUIT"]).replies, 3)

    def test_shown(self) -> None:
        """A table shows the beginning, and how many lines follow."""
        self.assertEqual(Step("C", ["RSET", "NOOP"]).shown, "RSET (+1)")
        self.assertEqual(Step("C", [""]).shown, "(an empty line)")
        self.assertEqual(Step("TLS").shown, "TLS")
        self.assertEqual(Step("C", ["x" * 61]).shown, "x" * 57 + "...")


class OctetsTests(SynchronousTestCase):
    def test_octets(self) -> None:
        """A line may have any octets, Base64, repetitions and the answer to a challenge."""
        self.assertEqual(octets(r"a\x00\xe9\n\t\r", b""), b"a\0\xe9\n\t\r\r\n")
        self.assertEqual(octets(r"{\x00u\x00p} {3*ab}", b""), b"AHUAcA== ababab\r\n")
        digest = hmac.new(b"secret", b"<1@x>", "md5").hexdigest()
        answer = base64.b64encode(b"anna " + digest.encode("ascii"))
        self.assertEqual(octets("{cram:anna:secret}", b"<1@x>"), answer + b"\r\n")

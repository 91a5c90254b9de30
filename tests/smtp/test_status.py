"""Tests of the enhanced status codes."""

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.smtp.reply import Reply
from qpsmtpd.smtp.status import CLASSES, DESCRIPTIONS, STATUSES, Status, describe


class StatusTests(SynchronousTestCase):
    def test_by_name(self) -> None:
        """A name gives code, kind and text."""
        self.assertEqual(
            STATUSES["relaying_denied"], Status("relaying_denied", "7.1", "deny", "Relaying denied")
        )

    def test_code(self) -> None:
        """The class of the code is that of the kind, the status's own if none is given."""
        for name, kind, code in [
            ("relaying_denied", None, "5.7.1"),
            ("relaying_denied", "defer", "4.7.1"),
            ("no_such_user", "ok", "2.1.1"),
            ("addr_rcpt_ok", None, "2.1.5"),
            ("mbox_full", None, "4.2.2"),
            ("mbox_full", "deny", "5.2.2"),
        ]:
            self.assertEqual(STATUSES[name].code(kind), code)  # type: ignore[arg-type]

    def test_kinds(self) -> None:
        """What may pass with time is a deferral, what cannot is a refusal."""
        for kind, names in {
            "ok": {"addr_rcpt_ok"},
            "defer": {"unspecified", "sys_disk_full", "too_many_rcpts", "temp_resolver_failed"},
            "deny": {"too_many_hops", "net_routing_loop", "media_unsupported", "bad_sender_ip"},
        }.items():
            self.assertEqual({STATUSES[name].kind for name in names}, {kind})

    def test_misspelt_name(self) -> None:
        """The misspelt name that old plugins use means the same as the right one."""
        old, new = STATUSES["addr_dest_ambigous"], STATUSES["addr_dest_ambiguous"]
        self.assertEqual((old.detail, old.kind, old.text), (new.detail, new.kind, new.text))

    def test_complete(self) -> None:
        """Each status has its own name, a known meaning and a text that a reply can hold."""
        self.assertEqual(len(STATUSES), 50)
        for name, status in STATUSES.items():
            self.assertEqual(name, status.name)
            self.assertIn(status.detail, DESCRIPTIONS)
            for kind, digit in CLASSES.items():
                code = status.code(kind)
                reply = Reply(int(digit) * 100 + 50, status.text, code)
                self.assertEqual(
                    reply.octets, f"{digit}50 {code} {status.text}\r\n".encode("ascii")
                )

    def test_immutable(self) -> None:
        """A plugin cannot change what the next one reads."""
        with self.assertRaises(TypeError):
            STATUSES["mbox_full"] = STATUSES["no_such_user"]  # type: ignore[index]
        with self.assertRaises(AttributeError):
            STATUSES["mbox_full"].text = "other"  # type: ignore[misc]


class DescribeTests(SynchronousTestCase):
    def test_known(self) -> None:
        """A code is described in the words of the registry, whatever its class."""
        for status, text in [
            ("5.7.1", "Delivery not authorized, message refused"),
            ("4.7.1", "Delivery not authorized, message refused"),
            ("5.7.8", "Authentication credentials invalid"),
            ("5.7.9", "Authentication mechanism is too weak"),
            ("5.6.7", "Non-ASCII addresses not permitted for that sender or recipient"),
            ("5.7.27", "Sender address has null MX"),
            ("5.1.10", "Recipient address has null MX"),
            ("2.1.5", "Destination address valid"),
        ]:
            self.assertEqual(describe(status), text)

    def test_unknown_detail(self) -> None:
        """A detail that nobody registered is described by its subject."""
        self.assertEqual(describe("5.7.999"), "Other or undefined security status")

    def test_unknown_subject(self) -> None:
        """A subject that nobody registered is undefined."""
        self.assertEqual(describe("4.9.1"), "Other undefined status")

    def test_malformed(self) -> None:
        """What has not the form of a code is an error of the program."""
        for status in ["", "5.7", "3.7.1", "5.7.1 ", "5.7.1\n", "5.7.1000", "5.\u0667.1"]:
            with self.assertRaises(ValueError):
                describe(status)

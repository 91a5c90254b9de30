"""Tests of stored passwords."""

import ctypes
import hashlib
from base64 import b64encode

from cryptography.hazmat.primitives.kdf import argon2
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd import passwords
from qpsmtpd.passwords import check, clear_text, hash_password, verify

#: Hashes of "correct horse" at low cost: Argon2's by ``cryptography``, the others by Perl's
#: ``crypt``.
HASHES = {
    "bcrypt": "$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e",
    "yescrypt": "$y$j75$abcdefghijklmnop$1kKL1r02wT4HlcktLfzeoOHd1GFgv7Ay4JeEbqGj80B",
    "SHA-512": (
        "$6$rounds=1000$saltsalt$4GMtaIz3E1AdDi2SmCokEW0ehi.HdxNDcL3fGE1XXuzvo6kbx7UOloZKONqEk5H3"
        "JrQA4NOfU8BmqFPrpGqwA1"
    ),
    "SHA-256": "$5$rounds=1000$saltsalt$R6e4P8ccT9iMqkYg7Z8YtpId/lfsIfnuPkp8WXposU8",
    "MD5": "$1$saltsalt$NuzA7WTAelpl95xgBGWN60",
    "Argon2id": (
        "$argon2id$v=19$m=64,t=1,p=1$YSBnb29kIHNhbHQgMTIzNA"
        "$KZ1dVsOU6x+6aq6mRoalB+ZWrxTyyjvlHbJVLr1ZSwk"
    ),
}


def pbkdf2(name: str, password: bytes) -> str:
    salt, digest = b"a salt", hashlib.pbkdf2_hmac(name, password, b"a salt", 1000)
    encoded = [b64encode(part).decode().rstrip("=") for part in (salt, digest)]
    return f"$pbkdf2-{name}$1000${encoded[0]}${encoded[1]}"


class ForeignHashTests(SynchronousTestCase):
    def test_right(self) -> None:
        """The password of a hash that another program made is right, and no other is."""
        for name, stored in HASHES.items():
            check(stored)
            self.assertTrue(verify(b"correct horse", stored), name)
            for wrong in (b"correct horsf", b"correct", b"correct horse\0", b"", stored.encode()):
                self.assertFalse(verify(wrong, stored), f"{name} {wrong!r}")

    def test_argon2_reference(self) -> None:
        """The example that comes with the reference implementation of Argon2 is right."""
        stored = "$argon2i$v=19$m=65536,t=2,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b+dWRWJTmaaJObG"
        self.assertTrue(verify(b"password", stored))
        self.assertFalse(verify(b"Password", stored))

    def test_braces(self) -> None:
        """A word in braces before a hash changes nothing, in any case."""
        self.assertTrue(verify(b"correct horse", "{SHA512-CRYPT}" + HASHES["SHA-512"]))
        self.assertTrue(verify(b"correct horse", "{crypt}" + HASHES["bcrypt"]))
        self.assertFalse(verify(b"correct", "{CRYPT}" + HASHES["SHA-512"]))

    def test_too_long(self) -> None:
        """A password longer than any hash takes is wrong."""
        for stored in HASHES.values():
            self.assertFalse(verify(b"x" * 10000, stored))

    def test_pbkdf2(self) -> None:
        """PBKDF2 hashes are verified, with either digest and with ``.`` for ``+``."""
        for name in ("sha256", "sha512"):
            stored = pbkdf2(name, b"correct horse")
            self.assertTrue(verify(b"correct horse", stored))
            self.assertTrue(verify(b"correct horse", stored.replace("+", ".")))
            self.assertFalse(verify(b"correct", stored))


class OwnHashTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(passwords, "_LN", 10)

    def test_right(self) -> None:
        """The password of a new hash is right, and no other is."""
        stored = hash_password(b"correct horse")
        check(stored)
        self.assertTrue(verify(b"correct horse", stored))
        self.assertFalse(verify(b"correct", stored))
        self.assertFalse(verify(b"", hash_password(b"")))

    def test_salted(self) -> None:
        """Two hashes of one password differ."""
        self.assertNotEqual(hash_password(b"secret"), hash_password(b"secret"))

    def test_not_clear(self) -> None:
        """No password in clear can be had of a hash."""
        self.assertIsNone(clear_text(hash_password(b"secret")))

    def test_too_costly(self) -> None:
        """A hash that would take all memory is refused."""
        stored = hash_password(b"secret").replace("ln=10", "ln=40")
        with self.assertRaisesRegex(ValueError, "needs less than"):
            verify(b"secret", stored)


class ClearTests(SynchronousTestCase):
    def test_clear(self) -> None:
        """Text that is no hash is the password itself."""
        for stored in ("secret word", "$ecret", "p{a}ss", "a$1$b", "ä", "$ 1$"):
            check(stored)
            self.assertEqual(clear_text(stored), stored.encode())
            self.assertTrue(verify(stored.encode(), stored))
            self.assertFalse(verify(b"x" + stored.encode(), stored))

    def test_plain(self) -> None:
        """``{PLAIN}`` marks a password in clear that looks like a hash."""
        stored = "{PLAIN}$1$really"
        check(stored)
        self.assertEqual(clear_text(stored), b"$1$really")
        self.assertTrue(verify(b"$1$really", stored))
        self.assertFalse(verify(stored.encode(), stored))

    def test_empty(self) -> None:
        """An empty password matches nothing, not even itself."""
        self.assertFalse(verify(b"", ""))
        self.assertFalse(verify(b"", "{PLAIN}"))
        with self.assertRaises(ValueError):
            check("")


class RefusedTests(SynchronousTestCase):
    def refused(self, stored: str, expected: str) -> None:
        for act in (lambda: check(stored), lambda: verify(b"secret", stored)):
            with self.assertRaisesRegex(ValueError, expected) as caught:
                act()
            self.assertNotIn("hidden", str(caught.exception))

    def test_unknown(self) -> None:
        """A scheme that cannot be verified is an error that says so, and shows no secret."""
        self.refused("$unknown$hidden$hiddenhiddenhiddenhidden", "this system knows")
        self.refused("{SSHA}hidden", "known, not {SSHA}")
        self.refused("{PBKDF2}$1$hidden$1000$hidden", "known, not {PBKDF2}")
        self.refused("{CRYPT}hidden", "behind a word in braces")

    def test_cut(self) -> None:
        """A hash that lost its end is an error, not a password that never matches."""
        for stored in (
            "$scrypt$ln=15,r=8,p=3$hidden",
            "$pbkdf2-sha256$1000$hidden",
            "$argon2id$v=19$m=64,t=1,p=1$hidden",
            "$6$hidden",
        ):
            self.refused(stored, "cut or changed")

    def test_without_library(self) -> None:
        """Where there is no libxcrypt, crypt(3) hashes are an error, and others are not."""

        def missing(name: str | None) -> None:
            raise OSError(f"{name}: no such file")

        passwords._libcrypt.cache_clear()
        self.addCleanup(passwords._libcrypt.cache_clear)
        self.patch(ctypes, "CDLL", missing)
        self.refused(HASHES["SHA-512"], "libxcrypt")
        self.assertTrue(verify(b"correct horse", HASHES["Argon2id"]))

    def test_without_argon2(self) -> None:
        """With a ``cryptography`` that has no Argon2, such hashes are an error."""
        passwords._argon2.cache_clear()
        self.addCleanup(passwords._argon2.cache_clear)
        self.patch(argon2, "Argon2id", None)
        self.refused(HASHES["Argon2id"], "cryptography 45")

"""Tests of auth/auth_flat_file."""

import hmac
import threading
from base64 import b64encode
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher
from zope.interface.verify import verifyObject

from qpsmtpd import logs, passwords
from qpsmtpd.chain import Chain
from qpsmtpd.configuration.errors import ConfigurationError
from qpsmtpd.interfaces import HOOKS, IAuthLogin, IAuthPlain, ILifecycle
from qpsmtpd.plugins.auth.auth_flat_file import AuthFlatFile, maker, user
from qpsmtpd.smtp.sasl import Credentials
from qpsmtpd.testing.cases import ComponentTestCase

#: Hashes of "correct horse".
SHA512 = (
    "$6$rounds=1000$saltsalt$4GMtaIz3E1AdDi2SmCokEW0ehi.HdxNDcL3fGE1XXuzvo6kbx7UOloZKONqEk5H3"
    "JrQA4NOfU8BmqFPrpGqwA1"
)
BCRYPT = "$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e"


def flat(*lines: str, **settings: Any) -> AuthFlatFile:
    """The plugin with the lines of a file."""
    users = tuple(user(line) for line in lines)
    return AuthFlatFile(users=users, reactor=reactor, **settings)


def plain(name: str, password: str, mechanism: str = "PLAIN") -> Credentials:
    return Credentials(mechanism, name, password.encode())


def cram(name: str, password: str) -> Credentials:
    challenge = b"<1.2@mail.example>"
    digest = hmac.new(password.encode(), challenge, "md5").hexdigest()
    return Credentials("CRAM-MD5", name, digest=digest, challenge=challenge)


class ClearTests(ComponentTestCase):
    def setUp(self) -> None:
        self.plugin = flat(
            "good@example.com:good_pass",
            "bad@example.com:bad_pass",
            "Anna@Example.ORG: correct:horse battery ",
        )

    def test_right(self) -> None:
        """The password of the file is right, with PLAIN and LOGIN."""
        for hook in ("auth_plain", "auth_login"):
            verdict = self.ask(
                self.plugin, hook, self.session(), plain("good@example.com", "good_pass")
            )
            self.assertAccepted(verdict, "auth_flat_file")

    def test_wrong(self) -> None:
        """Another password is refused, and the text does not say why."""
        for password in ("not_bad_pass", "", "bad_pas", "bad_pass "):
            verdict = self.ask(
                self.plugin, "auth_plain", self.session(), plain("bad@example.com", password)
            )
            self.assertDenied(verdict, "auth_flat_file - wrong password")

    def test_nobody(self) -> None:
        """A user who is not in the file is left to the next plugin, with any mechanism."""
        session = self.session()
        nobody = plain("none@example.com", "x")
        self.assertDeclined(self.ask(self.plugin, "auth_plain", session, nobody))
        nobody = cram("none@example.com", "x")
        self.assertDeclined(self.ask(self.plugin, "auth_cram_md5", session, nobody))

    def test_patterns(self) -> None:
        """A user's name is no pattern: what only looks like one in the file is nobody."""
        for name in (".*@example.com", "good.example.com", "good@example.com:", "(", "%"):
            verdict = self.ask(self.plugin, "auth_plain", self.session(), plain(name, "good_pass"))
            self.assertDeclined(verdict)

    def test_line(self) -> None:
        """Users are the same in any case; a password is all behind the first colon, trimmed."""
        for name in ("anna@example.org", "ANNA@example.org"):
            verdict = self.ask(
                self.plugin, "auth_plain", self.session(), plain(name, "correct:horse battery")
            )
            self.assertAccepted(verdict)

    def test_cram_md5(self) -> None:
        """A digest keyed with the password of the file is right, and no other."""
        session = self.session()
        right = cram("good@example.com", "good_pass")
        wrong = cram("good@example.com", "bad_pass")
        self.assertAccepted(self.ask(self.plugin, "auth_cram_md5", session, right))
        self.assertDenied(
            self.ask(self.plugin, "auth_cram_md5", session, wrong),
            "auth_flat_file - wrong password",
        )

    def test_offered(self) -> None:
        """All three mechanisms are offered, and the client may relay when it is right."""
        token = b64encode(b"\0good@example.com\0good_pass").decode()
        self.converse(
            [self.plugin],
            f"""
            C: EHLO client.example
            S: 250-mail.example ...
            S: 250 AUTH PLAIN LOGIN CRAM-MD5
            C: AUTH PLAIN {token}
            S: 235 2.7.0 PLAIN authentication successful for good@example.com - auth_flat_file
            """,
        )

    def test_same_words(self) -> None:
        """A wrong password and a user that is not there are told the same."""
        wrong = b64encode(b"\0good@example.com\0x").decode()
        nobody = b64encode(b"\0none@example.com\0x").decode()
        self.converse(
            [self.plugin],
            f"""
            C: EHLO client.example
            S: 250
            C: AUTH PLAIN {wrong}
            S: 535 5.7.8 PLAIN authentication failed for good@example.com from 192.0.2.1
            C: AUTH PLAIN {nobody}
            S: 535 5.7.8 PLAIN authentication failed for none@example.com from 192.0.2.1
            """,
            auth_delay=0,
        )

    def test_next_plugin(self) -> None:
        """A user of another file is found by another plugin."""
        conversation = self.open(self.plugin, flat("other@example.net:secret"))
        conversation.greet()
        token = b64encode(b"\0other@example.net\0secret").decode()
        self.assertReply(conversation.command(f"AUTH PLAIN {token}"), 235)


class HashTests(ComponentTestCase):
    def setUp(self) -> None:
        self.plugin = flat(
            f"anna@example.org:{SHA512}",
            f"carl@example.org:{SHA512}",
            f"dora@example.org:{{CRYPT}}{BCRYPT}",
            "bert@example.org:bert's own",
        )
        self.plugin.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.plugin.stop()))

    async def verdict(self, credentials: Credentials) -> Any:
        hook = "auth_" + credentials.mechanism.lower().replace("-", "_")
        return await self.asking(self.plugin, hook, self.session(), credentials)

    async def test_right(self) -> None:
        """A password whose hash the file has is right, whatever the hash."""
        for name in ("anna@example.org", "dora@example.org"):
            for mechanism in ("PLAIN", "LOGIN"):
                verdict = await self.verdict(plain(name, "correct horse", mechanism))
                self.assertAccepted(verdict, "auth_flat_file")

    async def test_wrong(self) -> None:
        """Any other password is wrong, the hash itself among them."""
        for password in ("correct", SHA512, ""):
            self.assertDenied(
                await self.verdict(plain("anna@example.org", password)),
                "auth_flat_file - wrong password",
            )

    async def test_mixed(self) -> None:
        """Passwords in clear are compared beside hashes."""
        self.assertAccepted(await self.verdict(plain("bert@example.org", "bert's own")))
        self.assertDenied(await self.verdict(plain("bert@example.org", "correct horse")))

    async def test_same_work(self) -> None:
        """Every attempt costs one hash: right, wrong, nobody, and a password in clear."""
        hashed = []
        original = passwords.verify

        def counted(password: bytes, stored: str) -> bool:
            if passwords.clear_text(stored) is None:
                hashed.append((stored, threading.current_thread() is threading.main_thread()))
            return original(password, stored)

        self.patch(passwords, "verify", counted)
        for name, password in (
            ("anna@example.org", "correct horse"),
            ("anna@example.org", "wrong"),
            ("nobody@example.org", "correct horse"),
            ("bert@example.org", "bert's own"),
        ):
            await self.verdict(plain(name, password))
            self.assertEqual(hashed, [(SHA512, False)], name)
            hashed.clear()

    async def test_nobody(self) -> None:
        """The password of the hash that is computed for users that do not exist opens nothing."""
        self.assertDeclined(await self.verdict(plain("nobody@example.org", "correct horse")))

    async def test_reactor_goes_on(self) -> None:
        """While a hash is computed, the server does its other work."""
        release = threading.Event()
        self.addCleanup(release.set)
        self.patch(passwords, "verify", lambda *_: release.wait(30))
        asking = self.asking(
            self.plugin, "auth_plain", self.session(), plain("anna@example.org", "x")
        )
        await deferLater(reactor, 0)
        self.assertNoResult(asking)
        release.set()
        self.assertAccepted(await asking)

    async def test_bounded(self) -> None:
        """No more hashes are computed at the same time than there are threads."""
        running, most, lock = [0], [0], threading.Lock()
        full, release = threading.Semaphore(0), threading.Event()
        self.addCleanup(release.set)

        def slow(password: bytes, stored: str) -> bool:
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            full.release()
            release.wait(30)
            with lock:
                running[0] -= 1
            return True

        self.patch(passwords, "verify", slow)
        asked: list[Deferred[Any]] = [
            self.asking(self.plugin, "auth_plain", self.session(), plain("anna@example.org", "x"))
            for _ in range(6)
        ]
        for _ in range(2):
            self.assertTrue(full.acquire(timeout=30))
        release.set()
        for each in asked:
            self.assertAccepted(await each)
        self.assertEqual(most, [2])

    def test_no_cram_md5(self) -> None:
        """CRAM-MD5 is not offered for a file with hashes."""
        conversation = self.open(self.plugin)
        self.assertIn("AUTH PLAIN LOGIN", conversation.greet().lines)

    def test_cram_md5_all_the_same(self) -> None:
        """Offered all the same, CRAM-MD5 is for users with a password in clear."""
        plugin = flat(
            f"anna@example.org:{SHA512}", "bert@example.org:own", mechanisms=("cram-md5",)
        )
        session = self.session()
        self.assertAccepted(
            self.ask(plugin, "auth_cram_md5", session, cram("bert@example.org", "own"))
        )
        anna = cram("anna@example.org", "correct horse")
        self.assertDeclined(self.ask(plugin, "auth_cram_md5", session, anna))
        conversation = self.open(plugin)
        self.assertIn("AUTH CRAM-MD5", conversation.greet().lines)


class ConfigurationTests(ComponentTestCase):
    def test_mechanisms(self) -> None:
        """Exactly the mechanisms of the argument are offered, and are the component's hooks."""
        plugin = flat("anna:secret", mechanisms=("login", "plain"))
        verifyObject(IAuthPlain, plugin)
        verifyObject(IAuthLogin, plugin)
        verifyObject(ILifecycle, plugin)
        chain = Chain([plugin])
        offered = [name for name in HOOKS if name.startswith("auth") and getattr(chain, name)]
        self.assertEqual(offered, ["auth_plain", "auth_login"])

    def test_argument(self) -> None:
        """The argument is a list of words, and others are an error."""
        convert = {each.name: each.converter for each in maker.arguments()}["mechanisms"]
        self.assertEqual(convert("plain,CRAM-MD5"), ("plain", "cram-md5"))
        with self.assertRaises(ValueError):
            convert("plain,digest-md5")

    def test_no_colon(self) -> None:
        """A line without a colon is an error that does not show it: it may be a password."""
        with self.assertRaises(ConfigurationError) as caught:
            flat("anna:secret", "lostsecret")
        self.assertEqual(str(caught.exception), 'flat_auth_pw: "entry 2": expected user:password')

    def test_unknown_hash(self) -> None:
        """A hash that cannot be verified is an error that names the user, not the hash."""
        with self.assertRaises(ConfigurationError) as caught:
            flat("anna:{SSHA}hidden")
        self.assertIn("anna", str(caught.exception))
        self.assertNotIn("hidden", str(caught.exception))

    def test_no_password(self) -> None:
        """A user without a password is an error."""
        with self.assertRaises(ConfigurationError):
            flat("anna:")

    def test_no_threads(self) -> None:
        """Without a thread nothing could be computed, so that is an error."""
        with self.assertRaises(ValueError):
            flat("anna:secret", threads=0)

    def test_nothing_shown(self) -> None:
        """Neither a log at its most talkative nor the component's own text shows a secret."""
        events: list[str] = []
        globalLogPublisher.addObserver(lambda event: events.append(repr(event)))  # type: ignore[arg-type]
        observer = globalLogPublisher._observers[-1]
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.patch(logs.threshold, "level", 7)
        plugin = flat("anna:hidden")
        for offered in ("hidden", "hidden too"):
            self.ask(plugin, "auth_plain", self.session(), plain("anna", offered))
            self.ask(plugin, "auth_cram_md5", self.session(), cram("anna", offered))
        self.ask(plugin, "auth_plain", self.session(), plain("nobody", "hidden"))
        self.assertTrue(any("wrong password for anna" in event for event in events))
        self.assertNotIn("hidden", " ".join(events))
        self.assertNotIn("hidden", repr(plugin))

"""The plugin greylisting."""

import os
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from qpsmtpd.chain import Link
from qpsmtpd.interfaces import HOOKS
from qpsmtpd.plugins.greylisting import (
    Greylisting,
    Record,
    Rules,
    exclude_file,
    p0f,
    pairs,
)
from qpsmtpd.services.store import SQLiteStore
from qpsmtpd.session import Session
from qpsmtpd.smtp.address import Address
from qpsmtpd.testing import ComponentTestCase, FakeStore

TEXT = "This mail is temporarily denied"
MINUTE = 60
DAY = 86400
KEY = "greylist:3221225985"
RECIPIENT = Address.parse("user@here.example")


class Contested(FakeStore):
    """A store in which somebody else acts between two operations of ours."""

    meanwhile: Callable[[], Any] | None = None

    async def get(self, key: str) -> bytes | None:
        found = await super().get(key)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return found


class GreylistingTests(ComponentTestCase):
    def setUp(self) -> None:
        self.store = Contested(self.clock)
        self.clock.advance(1_800_000_000)

    def plugin(self, **settings: Any) -> Greylisting:
        return Greylisting(store=self.store, **settings)

    def mail(self, plugin: Greylisting, sender: str = "a@client.example", **facts: Any) -> Any:
        """What the plugin says at MAIL, at the present time."""
        self.last = self.transaction(sender, session=self.session(**facts))
        self.last.started = self.clock.seconds()
        return self.ask(plugin, "mail", self.last, self.last.reverse_path)

    def rcpt(self, plugin: Greylisting, sender: str = "a@client.example") -> Any:
        self.last = self.transaction(sender, session=self.session())
        self.last.started = self.clock.seconds()
        return self.ask(plugin, "rcpt", self.last, RECIPIENT)

    def record(self, key: str = KEY) -> bytes | None:
        found: bytes | None = self.successResultOf(self.deferred(self.store.get(key)))
        return found

    def deferred(self, coroutine: Any) -> Any:
        return Deferred.fromCoroutine(coroutine)

    # The life of a record.

    def test_conversation(self) -> None:
        """A new client is told to come back later, and the connection stays."""
        self.converse(
            lambda: [Greylisting(store=FakeStore(self.clock))],
            f"""
            C: EHLO client.example
            S: 250 mail.example ...
            C: MAIL FROM:<a@client.example>
            S: 450 4.7.1 {TEXT}
            C: NOOP
            S: 250 ...
            """,
        )

    def test_life(self) -> None:
        """Black for 50 minutes, then white while there is mail, and new after 36 days without."""
        plugin = self.plugin()
        began = int(self.clock.seconds())
        self.assertDeferred(self.mail(plugin), TEXT, status="4.7.1", disconnect=False)
        self.assertEqual(self.record(), b"%d:1:0:0" % began)
        self.clock.advance(49 * MINUTE)
        self.assertDeferred(self.mail(plugin))
        self.assertEqual(self.record(), b"%d:1:1:0" % began)
        self.clock.advance(2 * MINUTE)
        self.assertDeclined(self.mail(plugin))
        self.assertEqual(self.record(), b"%d:1:1:1" % (began + 51 * MINUTE))
        self.clock.advance(35 * DAY)
        self.assertDeclined(self.mail(plugin))
        self.clock.advance(35 * DAY)
        self.assertDeclined(self.mail(plugin))
        self.assertEqual(self.record(), b"%d:1:1:3" % self.clock.seconds())
        self.clock.advance(36 * DAY)
        self.assertDeferred(self.mail(plugin))

    def test_expiry_in_the_store(self) -> None:
        """The store forgets a record when it has no meaning any more."""
        self.mail(self.plugin(grey_timeout=4000.0))
        self.clock.advance(3999)
        self.assertIsNotNone(self.record())
        self.clock.advance(1)
        self.assertIsNone(self.record())

    def test_grey_timeout(self) -> None:
        """Who comes back after grey_timeout is new again."""
        rules = Rules(grey_timeout=4000)
        record, passes, _ = rules.judge(Record(1000), 5000)
        self.assertEqual((record, passes), (Record(5000), False))
        record, passes, _ = rules.judge(Record(1000), 4999)
        self.assertEqual((record, passes), (Record(4999, white=1), True))

    def test_old_record(self) -> None:
        """What does not look like a record counts as absent, and is written anew."""
        for old in (b"", b"rubbish", b"1:2:3", b"1:2:3:-4"):
            self.successResultOf(self.deferred(self.store.set(KEY, old)))
            self.assertDeferred(self.mail(self.plugin()))
            self.assertEqual(self.record(), b"%d:1:0:0" % self.clock.seconds())

    # What is told apart.

    def test_key(self) -> None:
        """A record is named by the parts that are told apart; addresses are numbers."""
        sender = Address.parse("User@Example.example")
        for settings, ip, key in (
            ({}, "192.168.1.1", "3232235777"),
            ({"sender": True}, "192.168.1.1", "3232235777:User@example.example"),
            (
                {"sender": True, "recipient": True},
                "192.168.1.1",
                "3232235777:User@example.example:user@here.example",
            ),
            ({"remote_ip": False, "sender": True}, "192.168.1.1", "User@example.example"),
            ({"ipv4_prefix": 24}, "192.168.1.1", "3232235776"),
            ({}, "::ffff:192.168.1.1", "3232235777"),
            ({"ipv6_prefix": 128}, "2001:db8::1", str(0x20010DB8 << 96 | 1)),
        ):
            plugin = self.plugin(**settings)
            self.assertEqual(plugin.key(self.session(remote_ip=ip), sender, RECIPIENT), key)

    def test_ipv6_network(self) -> None:
        """An IPv6 client may come back from another address of its /64."""
        plugin = self.plugin()
        self.assertDeferred(self.mail(plugin, remote_ip="2001:db8::1"))
        self.clock.advance(DAY)
        self.assertDeclined(self.mail(plugin, remote_ip="2001:db8::2"))
        self.assertDeferred(self.mail(plugin, remote_ip="2001:db8:0:1::1"))

    def test_nothing_told_apart(self) -> None:
        """A line that tells nothing apart, or with timeouts that make no sense, is an error."""
        for settings in (
            {"remote_ip": False},
            {"black_timeout": 60.0, "grey_timeout": 60.0},
            {"black_timeout": 60.0, "white_timeout": 30.0},
            {"ipv4_prefix": 33},
        ):
            self.assertRaisesRegex(ValueError, "expected", self.plugin, **settings)

    # Where it is asked.

    def asked_at(self, plugin: Greylisting) -> set[str]:
        return {name for name, hook in HOOKS.items() if Link(plugin).answers(hook)}

    def test_hooks(self) -> None:
        """It is asked at MAIL, or at RCPT where recipients matter, and at DATA."""
        self.assertEqual(self.asked_at(self.plugin()), {"mail", "data"})
        self.assertEqual(self.asked_at(self.plugin(recipient=True)), {"rcpt", "data"})
        self.assertEqual(self.asked_at(self.plugin(per_recipient=True)), {"rcpt", "data"})

    def test_rcpt(self) -> None:
        """At RCPT each recipient is refused by itself."""
        plugin = self.plugin(recipient=True)
        self.assertDeferred(self.rcpt(plugin), TEXT)
        self.clock.advance(DAY)
        self.assertDeclined(self.rcpt(plugin))

    def test_callback(self) -> None:
        """At RCPT the null reverse-path is taken, and the message refused."""
        conversation = self.open(self.plugin(recipient=True))
        self.assertReply(conversation.envelope(""), 250)
        self.assertReply(conversation.command("DATA"), 451, "4.7.1", TEXT)

    def test_deny_late(self) -> None:
        """With deny_late it is DATA that is refused."""
        conversation = self.open(self.plugin(deny_late=True))
        self.assertReply(conversation.envelope(), 250)
        self.assertReply(conversation.command("DATA"), 451, "4.7.1", TEXT)

    def test_data(self) -> None:
        """At DATA only what was marked is refused, unless all recipients are whitelisted."""
        plugin = self.plugin()
        transaction = self.transaction("a@b.example", "c@d.example")
        self.assertDeclined(self.ask(plugin, "data", transaction))
        transaction.notes["greylist"] = TEXT
        transaction.notes["whitelistrcpt"] = 2
        self.assertDeferred(self.ask(plugin, "data", transaction), TEXT)
        transaction.notes["whitelistrcpt"] = 1
        self.assertDeclined(self.ask(plugin, "data", transaction))

    def test_reject_0(self) -> None:
        """With reject 0 records are kept and nobody is refused."""
        self.assertDeclined(self.mail(self.plugin(reject=False)))
        self.assertIsNotNone(self.record())

    # Who is not greylisted.

    def excluded(self, plugin: Greylisting, session: Session) -> bool:
        transaction = self.transaction(session=session)
        return self.ask(plugin, "mail", transaction, transaction.reverse_path) is None

    def test_immunity(self) -> None:
        """Relay clients are not greylisted, and have no record."""
        self.assertDeclined(self.mail(self.plugin(), relay_client=True))
        self.assertIsNone(self.record())

    def test_no_address(self) -> None:
        """Clients of a UNIX socket are not told apart, so they are not greylisted."""
        self.assertDeclined(self.mail(self.plugin(), remote_ip=""))

    def test_exclude_file(self) -> None:
        """A file in postgrey's form names domains with their hosts, networks and patterns."""
        name = self.mktemp()
        with open(name, "w") as file:
            file.write(
                "# comment\n\n198.51.100.4 # an address\nbig.example\n/^mta[12]\\.tel\\.example$/\n"
                "203.0.113\n2001:db8:1::/48\n"
            )
        plugin = self.plugin(excluded=(exclude_file(name),))
        for ip, host, wanted in (
            ("198.51.100.4", None, True),
            ("198.51.100.40", None, False),
            ("192.0.2.1", "big.example", True),
            ("192.0.2.1", "mx.Big.example", True),
            ("192.0.2.1", "notbig.example", False),
            ("192.0.2.1", "mta2.tel.example", True),
            ("192.0.2.1", "mta1234.tel.example", False),
            ("198.51.100.4", "mta1234.tel.example", True),
            ("203.0.113.77", None, True),
            ("2001:db8:1:2::1", None, True),
            ("2001:db8:2:2::1", None, False),
        ):
            session = self.session(remote_ip=ip, remote_host=host)
            self.assertEqual(self.excluded(plugin, session), wanted, (ip, host))

    def test_wrong_exclude_file(self) -> None:
        """A file that is missing or has a wrong line is an error that names it."""
        name = self.mktemp()
        self.assertRaisesRegex(ValueError, name, exclude_file, name)
        with open(name, "w") as file:
            file.write("good.example\n/(/\n")
        self.assertRaisesRegex(ValueError, f"{name}, line 2", exclude_file, name)

    def test_geoip(self) -> None:
        """Countries that are named are not greylisted, in any case of letters."""
        plugin = self.plugin(geoip=("US", "UK", "HU"))
        for country, wanted in (("US", True), ("us", True), ("hu", True), ("PK", False)):
            session = self.session()
            session.notes["geoip_country"] = country
            self.assertEqual(self.excluded(plugin, session), wanted, country)
        self.assertFalse(self.excluded(plugin, self.session()))

    def test_p0f(self) -> None:
        """With p0f, only what one of its matches finds is greylisted."""
        for argument, note, greylisted in (
            ("genre,Lindows", {"genre": "windows"}, False),
            ("genre,Windows", {"genre": "windows"}, True),
            ("distance,8", {"distance": 9}, True),
            ("distance,8", {"distance": "7"}, False),
            ("link,dsl", {"link": "DSL"}, True),
            ("link,dsl", {"link": "Ethernet"}, False),
            ("uptime,100", {"uptime": 99}, True),
            ("uptime,100", {"uptime": 500}, False),
            ("uptime,100", {"uptime": None}, False),
            ("genre,linux,uptime,100", {"genre": "windows", "uptime": 7.5}, True),
            ("genre,windows", None, False),
        ):
            session = self.session()
            session.notes["p0f"] = note
            plugin = self.plugin(p0f=p0f(argument))
            self.assertEqual(self.excluded(plugin, session), not greylisted, (argument, note))
        for wrong in ("genre", "colour,red", "distance,far", "genre,("):
            self.assertRaisesRegex(ValueError, "expected names and values", p0f, wrong)

    # Arguments.

    def test_settings_file(self) -> None:
        """The file gives what the line leaves open; with per_recipient it goes before the line."""
        settings = (pairs("black_timeout 10 sender 1"), pairs("reject 0 db_dir /var/x"))
        rules = self.plugin(settings=settings, black_timeout=20.0).rules
        self.assertEqual((rules.black_timeout, rules.sender, rules.reject), (20, True, False))
        rules = self.plugin(settings=settings, black_timeout=20.0, per_recipient=True).rules
        self.assertEqual((rules.black_timeout, rules.sender, rules.reject), (10, True, False))
        for wrong in ("sender", "colour red", "sender maybe"):
            self.assertRaisesRegex(ValueError, "expected", pairs, wrong)

    def test_checked_only(self) -> None:
        """A configuration can be checked where there is no store."""
        plugin = Greylisting(store=None, black_timeout=20.0)  # type: ignore[arg-type]
        self.assertEqual(plugin.rules.black_timeout, 20)

    def test_ignored(self) -> None:
        """Where the records are is the store's business; older arguments are noted and ignored."""
        with capturedLogs() as events:
            self.plugin(db_dir="/var/lib/x", nfslock="0").start()
        self.assertEqual([event.get("name") for event in events], ["db_dir"])

    # The store.

    def test_two_at_once(self) -> None:
        """Two processes that meet at one record agree: each attempt counts once."""
        plugin, other = self.plugin(), self.plugin()
        self.store.meanwhile = lambda: self.mail(other)
        self.assertDeferred(self.mail(plugin))
        self.assertEqual(self.record(), b"%d:1:1:0" % self.clock.seconds())

    def test_contested(self) -> None:
        """Where others are always faster, the verdict stands all the same."""

        class Lost(FakeStore):
            async def replace(self, *arguments: Any, **more: Any) -> bool:
                return False

        plugin = Greylisting(store=Lost(self.clock))
        self.assertDeferred(self.mail(plugin))

    def test_store_fails(self) -> None:
        """Without its store it does not guess: 451, or the next component with on_fault skip."""
        self.store.fails = True
        for skip, code in ((False, 451), (True, 250)):
            conversation = self.open(Link(self.plugin(), skip_faults=skip))
            conversation.greet()
            self.assertReply(conversation.command("MAIL FROM:<a@b.example>"), code)
        self.assertEqual(len(self.flushLoggedErrors()), 2)

    async def test_shared_file(self) -> None:
        """Two processes that share the embedded store's file let the same clients through."""
        path = os.path.abspath(self.mktemp())
        one, two = SQLiteStore(path, reactor), SQLiteStore(path, reactor)
        try:
            first = self.transaction("a@client.example", session=self.session())
            later = self.transaction("a@client.example", session=self.session())
            later.started = first.started + 3000
            asked = (first, first.reverse_path)
            verdict = await self.asking(Greylisting(store=one), "mail", *asked)
            self.assertDeferred(verdict)
            asked = (later, later.reverse_path)
            verdict = await self.asking(Greylisting(store=two), "mail", *asked)
            self.assertDeclined(verdict)
        finally:
            await one.close()
            await two.close()

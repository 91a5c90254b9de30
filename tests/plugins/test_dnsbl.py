"""The plugin dnsbl."""

import os
from collections.abc import Callable
from typing import Any

from twisted.logger import capturedLogs

from qpsmtpd import logs
from qpsmtpd.configuration.values import ip_network
from qpsmtpd.plugins.dnsbl import DNSBL, Zone, allowed, decision, zone
from qpsmtpd.plugins.naughty import Naughty
from qpsmtpd.policy import RejectType
from qpsmtpd.testing import ComponentTestCase, Conversation, FakeResolver

CLIENT = "1.2.0.192."
NIBBLES = "1." + "0." * 23 + "8.b.d.0.1.0.0.2."


class DNSBLTests(ComponentTestCase):
    def setUp(self) -> None:
        self.resolver = FakeResolver(
            a={
                f"{CLIENT}plain.example": ["127.0.0.4"],
                f"{CLIENT}first.example": ["127.0.0.2"],
                f"{NIBBLES}plain.example": ["127.0.0.2"],
                f"{CLIENT}parked.example": ["198.51.100.7"],
                f"{CLIENT}limited.example": ["127.255.255.254"],
            },
            txt={
                f"{CLIENT}words.example": ["Listed, see  http://words.example"],
                f"{CLIENT}first.example": ["first"],
                f"{CLIENT}parked.example": ["Buy this domain"],
                f"{CLIENT}limited.example": ["Error: open resolver"],
            },
            fails={f"{CLIENT}broken.example"},
            silent={f"{CLIENT}silent.example"},
        )

    def plugin(self, *zones: str, **settings: Any) -> DNSBL:
        return DNSBL(
            zones=tuple(map(zone, zones)), resolver=self.resolver, clock=self.clock, **settings
        )

    def connected(self, *zones: str, **settings: Any) -> Any:
        """What the plugin says of a client that connects."""
        facts = {"remote_ip": settings.pop("remote_ip", "192.0.2.1")}
        self.last = self.session(**facts)
        return self.ask(self.plugin(*zones, **settings), "connect", self.last)

    def logged(self, act: Callable[[], object]) -> list[str]:
        self.patch(logs.threshold, "level", 7)
        with capturedLogs() as events:
            act()
        return [event["text"] for event in events if event.get("plugin") == "dnsbl"]

    def test_refused(self) -> None:
        """A listed client is refused with the words of the zone, and loses karma."""
        self.assertDenied(self.connected("words.example"), "Listed, see http://words.example")
        self.assertEqual(self.last.note("karma"), -1)

    def test_conversation(self) -> None:
        """A listed client is not greeted."""
        self.assertEqual(
            self.open(self.plugin("words.example")).said,
            ["554 5.7.1 Listed, see http://words.example"],
        )

    def test_not_listed(self) -> None:
        """A client that no zone lists is greeted."""
        self.assertDeclined(self.connected("none.example", "other.example"))
        self.assertDeclined(self.connected("plain.example", remote_ip="192.0.2.2"))

    def test_text_of_the_file(self) -> None:
        """The file's own text comes before the zone's, which is then not even asked for."""
        verdict = self.connected("plain.example:Listed: see http://x.example/%IP%")
        self.assertDenied(verdict, "Listed: see http://x.example/192.0.2.1")
        self.assertEqual(self.resolver.questions, [("a", f"{CLIENT}plain.example")])

    def test_no_text(self) -> None:
        """Without any text the client is told where it is listed."""
        self.assertDenied(self.connected("plain.example"), "192.0.2.1 is listed by plain.example")

    def test_rejectmsg(self) -> None:
        """dnsbl_rejectmsg is added to every refusal."""
        self.assertDenied(self.connected("first.example", rejectmsg="Call us."), "first Call us.")

    def test_several_listings(self) -> None:
        """The first zone of the file gives the text; all of them cost karma."""
        verdict = self.connected("none.example", "first.example", "words.example", "plain.example")
        self.assertDenied(verdict, "first")
        self.assertEqual(self.last.note("karma"), -3)

    def test_ipv6(self) -> None:
        """IPv6 clients are looked up by nibbles (RFC 5782, 2.4), mapped ones as IPv4."""
        self.assertDenied(self.connected("plain.example", remote_ip="2001:db8::1"))
        self.assertDenied(self.connected("plain.example", remote_ip="::ffff:192.0.2.1"))

    def test_no_address(self) -> None:
        """A client of a UNIX socket is not looked up."""
        self.assertDeclined(self.connected("plain.example", remote_ip=""))
        self.assertEqual(self.resolver.questions, [])

    def test_not_a_listing(self) -> None:
        """A list that does not serve us, or that no longer exists, refuses nobody."""
        for name in ("parked.example", "limited.example", "parked.example:text"):
            said = self.logged(lambda name=name: self.assertDeclined(self.connected(name)))  # type: ignore[misc]
            self.assertIn(f"error, {name.partition(':')[0]} answered", said[0])

    def test_return_codes(self) -> None:
        """Where a line names return codes, no others count."""
        self.assertDenied(self.connected("plain.example=127.0.0.4"))
        self.assertDenied(self.connected("plain.example=127.0.0.9,127.0.0.0/29:text"), "text")
        self.assertDeclined(self.connected("plain.example=127.0.0.2"))
        self.assertDeclined(self.connected("words.example=127.0.0.2"))

    def test_resolver_fails(self) -> None:
        """A zone that cannot be asked refuses nobody, is logged, and leaves the others alone."""
        said = self.logged(lambda: self.assertDeclined(self.connected("broken.example")))
        self.assertIn("error, broken.example query failed", said[0])
        self.assertDenied(self.connected("broken.example", "first.example"), "first")

    def test_words_fail(self) -> None:
        """A listing counts also where its words cannot be had."""

        class Wordless(FakeResolver):
            async def txt(self, name: str) -> list[str]:
                return await FakeResolver(fails={name}).txt(name)

        self.resolver = Wordless(a={f"{CLIENT}plain.example": ["127.0.0.2"]})
        self.assertDenied(self.connected("plain.example"), "192.0.2.1 is listed by plain.example")

    def test_all_at_once(self) -> None:
        """All zones are asked when the client connects, whatever the first one does."""
        conversation = self.open(self.plugin("silent.example:x", "plain.example:y"))
        self.assertEqual(
            self.resolver.questions,
            [("a", f"{CLIENT}silent.example"), ("a", f"{CLIENT}plain.example")],
        )
        self.assertEqual(conversation.said, [])
        self.clock.advance(30)
        self.assertEqual(conversation.said, ["554 5.7.1 y"])

    def test_timeout(self) -> None:
        """A zone that never answers holds a client up for the time given, and no longer."""
        conversation = self.open(self.plugin("silent.example", timeout=10.0))
        self.clock.advance(9)
        self.assertEqual(conversation.said, [])
        self.clock.advance(1)
        self.assertEqual(conversation.new_replies[0].code, 220)

    def test_client_goes(self) -> None:
        """When the client goes, the look-ups end."""
        conversation = self.open(self.plugin("silent.example"))
        conversation.lose()
        self.assertEqual(self.logged(lambda: self.clock.advance(60)), [])

    def test_reject_0(self) -> None:
        """With reject 0 the finding is logged and the client greeted without delay."""
        said = self.logged(lambda: self.assertDeclined(self.connected("words.example", reject="0")))
        self.assertIn("fail, tolerated, words.example", said)
        conversation = self.open(self.plugin("silent.example", reject="0"))
        self.assertReply(conversation.new_replies[0], 220)

    def test_reject_type(self) -> None:
        """The argument reject_type says how to refuse."""
        for kind, status, closes in (
            (None, "5.7.1", False),
            (RejectType.TEMP, "4.7.1", False),
            (RejectType.DISCONNECT, "5.7.1", True),
        ):
            verdict = self.connected("words.example", reject_type=kind)
            self.assertEqual((verdict.status, verdict.disconnect), (status, closes))

    def test_reject_words(self) -> None:
        """Any word is a yes for reject, as it always was, but for 0, naughty and rcpt."""
        words = ("0", "", "1", "connect", "yes", "naughty", "rcpt")
        wanted = ["0", "0", "connect", "connect", "connect", "naughty", "rcpt"]
        self.assertEqual([decision(word) for word in words], wanted)

    def test_reject_naughty(self) -> None:
        """With naughty, nobody waits until naughty's moment, and then it has all the findings."""
        plugin = self.plugin("silent.example", "words.example", reject="naughty")
        conversation = self.open(plugin, Naughty(reject="mail"))
        self.assertReply(conversation.new_replies[0], 220)
        conversation.greet()
        conversation.send("MAIL FROM:<a@client.example>")
        self.assertEqual(conversation.said, [])
        self.clock.advance(30)
        self.assertEqual(conversation.said, ["550 5.7.1 (dnsbl) Listed, see http://words.example"])
        self.assertTrue(conversation.closed)

    def test_reject_rcpt(self) -> None:
        """With rcpt a listed client is greeted, and its recipients are refused."""
        conversation = self.open(self.plugin("words.example", reject="rcpt"))
        self.assertReply(conversation.envelope("a@client.example"), 550, "5.7.1", "Listed, ...")

    def test_authenticated(self) -> None:
        """With rcpt, users who have authenticated meanwhile are not refused."""
        conversation = self.open(self.plugin("words.example", reject="rcpt"))
        conversation.session.relay_client = True
        self.assertReply(conversation.envelope("a@client.example"), 250)

    def special(self, conversation: Conversation) -> None:
        self.assertReply(conversation.envelope("a@b.example", "Postmaster@here.example"), 250)
        self.assertReply(conversation.command("RCPT TO:<postmaster>"), 250)
        self.assertReply(conversation.command("RCPT TO:<abuse@sub.hosts.example>"), 250)
        self.assertReply(conversation.command("RCPT TO:<root@mail.example>"), 250)

    def test_special_accounts(self) -> None:
        """A listed client can reach postmaster and the like, and at our domains only."""
        for reject in ("rcpt", "naughty"):
            plugin = self.plugin(
                "words.example",
                reject=reject,
                reject_type=RejectType.PERM,
                rcpthosts=("here.example", ".hosts.example"),
                me="mail.example",
            )
            conversation = self.open(plugin, Naughty())
            self.special(conversation)
            for other in ("root@elsewhere.example", "user@here.example"):
                self.assertReply(conversation.command(f"RCPT TO:<{other}>"), 550)
            self.assertReply(conversation.command("DATA"), 354)
            self.assertReply(conversation.command("X: y\r\n\r\n."), 250)
            user = conversation.envelope("a@b.example", "user@here.example")
            self.assertReply(user, 550)

    def test_immunity(self) -> None:
        """A whitelisted client is not looked up."""
        session = self.session()
        session.notes["whitelisthost"] = 1
        self.assertDeclined(self.ask(self.plugin("words.example"), "connect", session))
        self.assertEqual(self.resolver.questions, [])

    def test_allow(self) -> None:
        """Clients in dnsbl_allow are not looked up."""
        for line in ("192.0.2.1", "192.0.2.", "192.0", "192.0.2.0/24"):
            self.assertDeclined(self.connected("words.example", allow=(allowed(line),)))
        self.assertDenied(self.connected("words.example", allow=(allowed("192.0.20."),)))
        self.assertDenied(self.connected("words.example", allow=(allowed("192.0.2.10"),)))
        self.assertEqual(allowed("2001:db8::/32"), ip_network("2001:db8::/32"))
        for line in ("", "a.example", "192.0.2.1/24"):
            self.assertRaisesRegex(ValueError, "expected an address", allowed, line)

    def test_rblsmtpd(self) -> None:
        """RBLSMTPD with a text refuses the client with it; without one it lets it pass."""
        for value, told in (("No way %IP%", "Call us. No way 192.0.2.1"), ("x", "Call us. x")):
            self.patch(os, "environ", {"RBLSMTPD": value})
            self.assertDenied(self.connected("words.example", rejectmsg="Call us."), told)
        self.patch(os, "environ", {"RBLSMTPD": ""})
        self.assertDeclined(self.connected("words.example"))
        session = self.session()
        session.notes["RBLSMTPD"] = "by note"
        self.assertDenied(self.ask(self.plugin(), "connect", session), "by note")
        self.assertEqual(self.resolver.questions, [])

    def test_zones(self) -> None:
        """A line of dnsbl_zones is a zone, and perhaps return codes and a text."""
        codes = (ip_network("127.0.0.2"), ip_network("127.0.0.8/29"))
        self.assertEqual(zone("Zen.example."), Zone("zen.example"))
        self.assertEqual(zone("zen.example: a: b "), Zone("zen.example", (), "a: b"))
        self.assertEqual(zone("z.example=127.0.0.2, 127.0.0.8/29"), Zone("z.example", codes))
        for line in ("a zone", "zen.example=x", ":text"):
            self.assertRaisesRegex(ValueError, "expected a zone", zone, line)

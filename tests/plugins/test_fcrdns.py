"""The plugin fcrdns."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from qpsmtpd.plugins.fcrdns import FCrDNS
from qpsmtpd.policy import AUTH_RESULTS, NAUGHTY, Reject, RejectType
from qpsmtpd.session import Session
from qpsmtpd.testing import ComponentTestCase, FakeResolver

IP = "192.0.2.1"
IP6 = "2001:db8::1"

NO_SETTINGS: Final[Mapping[str, Any]] = MappingProxyType({})


class FCrDNSTests(ComponentTestCase):
    def connected(
        self, ip: str = IP, settings: Mapping[str, Any] = NO_SETTINGS, **world: Any
    ) -> Any:
        """What the plugin says of a client that connects."""
        self.asked = FakeResolver(**world)
        self.last: Session = self.session(remote_ip=ip)
        plugin = FCrDNS(resolver=self.asked, clock=self.clock, **settings)
        return self.ask(plugin, "connect", self.last)

    def assert_found(self, result: str, karma: int | None, ip: str = IP) -> None:
        self.assertEqual(self.last.note(AUTH_RESULTS), [f"iprev={result} policy.iprev={ip}"])
        self.assertEqual(self.last.note("karma"), karma)

    def test_pass(self) -> None:
        """A name that leads back is a pass, whichever of the names it is."""
        world = {"a.example": ["192.0.2.9"], "b.example": ["198.51.100.1", IP]}
        self.assertDeclined(self.connected(ptr={IP: ["a.example", "b.example"]}, a=world))
        self.assert_found("pass", 1)

    def test_ipv6(self) -> None:
        """IPv6 clients are asked for by AAAA; mapped ones as IPv4."""
        self.connected(IP6, ptr={IP6: ["six.example"]}, aaaa={"six.example": [IP6]})
        self.assert_found("pass", 1, f'"{IP6}"')
        self.connected(f"::ffff:{IP}", ptr={IP: ["a.example"]}, a={"a.example": [IP]})
        self.assert_found("pass", 1)

    def test_fail(self) -> None:
        """Names that lead elsewhere or nowhere are a fail; by default nobody is refused."""
        for a in ({}, {"a.example": ["198.51.100.1"]}):
            self.assertDeclined(self.connected(ptr={IP: ["a.example"]}, a=a))
            self.assert_found("fail", -1)

    def test_no_name(self) -> None:
        """An address without a name, or with one that is none, is a permerror."""
        for names in ([], ["localhost"]):
            self.assertDeclined(self.connected(ptr={IP: names}))
            self.assert_found("permerror", -1)

    def test_neighbour(self) -> None:
        """A name of the same network is published as a fail, and costs nothing."""
        settings = {"reject": Reject.YES}
        world: dict[str, Any] = {"ptr": {IP: ["a.example"]}, "a": {"a.example": ["192.0.2.200"]}}
        self.assertDeclined(self.connected(settings=settings, **world))
        self.assert_found("fail", None)

    def test_dns_fails(self) -> None:
        """When the DNS does not answer, nobody is refused for that."""
        settings = {"reject": Reject.YES}
        for fails in (IP, "a.example"):
            world: dict[str, Any] = {"ptr": {IP: ["a.example"]}, "fails": {fails}}
            self.assertDeclined(self.connected(settings=settings, **world))
            self.assert_found("temperror", None)

    def test_timeout(self) -> None:
        """The DNS gets five seconds, and with reject 0 no client waits for them."""
        plugin = FCrDNS(resolver=FakeResolver(silent={IP}), clock=self.clock)
        conversation = self.open(plugin, remote_ip=IP)
        self.assertEqual(len(conversation.said), 1)
        self.clock.advance(4.9)
        self.assertIsNone(conversation.session.note(AUTH_RESULTS))
        self.clock.advance(0.2)
        self.assertIn("iprev=temperror", conversation.session.notes[AUTH_RESULTS][0])

    def test_reject(self) -> None:
        """reject 1 refuses, for now unless reject_type says otherwise."""
        settings: dict[str, Any] = {"reject": Reject.YES}
        self.assertDeferred(self.connected(settings=settings), "The address 192.0.2.1 has no ...")
        settings["reject_type"] = RejectType.PERM
        self.assertDenied(self.connected(settings=settings), "The address 192.0.2.1 has no ...")

    def test_naughty(self) -> None:
        """reject naughty leaves the refusal to the plugin naughty."""
        self.assertDeclined(self.connected(settings={"reject": Reject.NAUGHTY}))
        self.assertIn("has no name", str(self.last.note(NAUGHTY)))

    def test_many_names(self) -> None:
        """Of a thousand names ten are looked up."""
        self.connected(ptr={IP: [f"n{each}.example" for each in range(1000)]})
        self.assertEqual(len(self.asked.questions), 11)

    def test_not_looked_up(self) -> None:
        """This machine, UNIX sockets and exempt clients are not looked up."""
        for ip in ("127.0.0.1", "::1", "127.255.255.255", ""):
            self.assertDeclined(self.connected(ip, settings={"reject": Reject.YES}))
            self.assertEqual(self.asked.questions, [])
        resolver = FakeResolver()
        session = self.session(remote_ip=IP, relay_client=True)
        self.assertDeclined(
            self.ask(FCrDNS(resolver=resolver, clock=self.clock), "connect", session)
        )
        self.assertEqual(resolver.questions, [])

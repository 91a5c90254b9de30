"""Networks and the values of addresses in them."""

from ipaddress import IPv6Address, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.networks import NetworkTable, client_address, unmapped


def table(*networks: str) -> NetworkTable[str]:
    """A table in which each network's value is its own text."""
    return NetworkTable((ip_network(each), each) for each in networks)


class ClientAddressTests(SynchronousTestCase):
    def test_forms(self) -> None:
        """A mapped address is one of IPv4, a zone is left out, and a UNIX socket has none."""
        self.assertEqual(client_address("192.0.2.1"), ip_address("192.0.2.1"))
        self.assertEqual(client_address("::ffff:192.0.2.1"), ip_address("192.0.2.1"))
        self.assertEqual(client_address("2001:db8::1"), ip_address("2001:db8::1"))
        self.assertEqual(client_address("fe80::1%eth0"), ip_address("fe80::1"))
        self.assertIsNone(client_address(""))


class NetworkTableTests(SynchronousTestCase):
    def test_first(self) -> None:
        """The first network with the address counts, wider or narrower than the others."""
        self.assertEqual(table("192.0.2.0/24", "192.0.2.7/32").find("192.0.2.7"), "192.0.2.0/24")
        self.assertEqual(table("192.0.2.7/32", "192.0.2.0/24").find("192.0.2.7"), "192.0.2.7/32")
        twice = NetworkTable([(ip_network("192.0.2.0/24"), 1), (ip_network("192.0.2.0/24"), 2)])
        self.assertEqual(twice.find("192.0.2.1"), 1)

    def test_edges(self) -> None:
        """The first and the last address of a network belong to it, their neighbours do not."""
        networks = table("192.0.2.8/31")
        found = [networks.find(f"192.0.2.{last}") is not None for last in range(7, 11)]
        self.assertEqual(found, [False, True, True, False])
        self.assertEqual(table("2001:db8::/32").find("2001:db8::"), "2001:db8::/32")
        self.assertIsNone(table("2001:db8::/32").find("2001:db9::"))

    def test_protocols(self) -> None:
        """All of IPv4 and all of IPv6 are apart; a mapped address is one of IPv4."""
        networks = table("0.0.0.0/0", "::/0")
        self.assertEqual(networks.find("192.0.2.1"), "0.0.0.0/0")
        self.assertEqual(networks.find("2001:db8::1"), "::/0")
        self.assertEqual(networks.find("::ffff:192.0.2.1"), "0.0.0.0/0")
        mapped = table("::ffff:192.0.2.0/120")
        self.assertIsNotNone(mapped.find("192.0.2.1"))
        self.assertIsNotNone(mapped.find("::ffff:192.0.2.1"))

    def test_255(self) -> None:
        """Addresses that hold 255 are like any other."""
        for ip in ("10.0.255.7", "255.1.1.1", "10.255.255.255"):
            self.assertEqual(table("0.0.0.0/0").find(ip), "0.0.0.0/0")

    def test_zone(self) -> None:
        """The zone of a link-local address does not matter (RFC 4007, 11)."""
        self.assertEqual(table("fe80::/10").find("fe80::1%eth0"), "fe80::/10")

    def test_none(self) -> None:
        """Without networks nothing is found, and a UNIX socket is in no network."""
        self.assertFalse(table())
        self.assertIsNone(table().find("192.0.2.1"))
        self.assertTrue(table("0.0.0.0/0"))
        self.assertIsNone(table("0.0.0.0/0", "::/0").find(""))

    @given(
        st.lists(st.tuples(st.integers(0, 255), st.integers(24, 32)), max_size=8),
        st.integers(0, 255),
        st.booleans(),
    )
    def test_like_ipaddress(self, drawn: list[tuple[int, int]], last: int, six: bool) -> None:
        """It finds what one gets by asking each network in turn."""
        prefix, more = ("2001:db8::", 96) if six else ("192.0.2.", 0)
        octet = "{:x}" if six else "{}"
        networks = [
            ip_network(f"{prefix}{octet.format(start)}/{length + more}", strict=False)
            for start, length in drawn
        ]
        address = ip_address(prefix + octet.format(last))
        self.assertEqual(isinstance(address, IPv6Address), six)
        expected = next((each for each in networks if address in each), None)
        self.assertEqual(
            NetworkTable((each, each) for each in networks).find(str(address)), expected
        )


class UnmappedTests(SynchronousTestCase):
    def test_mapped(self) -> None:
        """An address of IPv4 in the form of IPv6 becomes one of IPv4, however it is written."""
        for ip in ("::ffff:192.0.2.1", "::FFFF:192.0.2.1", "::ffff:c000:201"):
            self.assertEqual(unmapped(ip), "192.0.2.1")

    def test_others(self) -> None:
        """All others stay as they are."""
        for ip in ("", "192.0.2.1", "2001:db8::1", "::ffff:1", "::", "fe80::1%eth0"):
            self.assertEqual(unmapped(ip), ip)

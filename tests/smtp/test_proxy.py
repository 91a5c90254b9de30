"""Headers of the PROXY protocol, whole and in pieces, good and hostile."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.smtp.proxy import MAX_V1, MAX_V2, Proxied, ProxyError, parse_proxy

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
CLIENT = Proxied("192.0.2.7", 56324, "192.0.2.25", 25)
CLIENT6 = Proxied("2001:db8::7", 56324, "2001:db8::25", 25)

ports = st.integers(0, 65535)
addresses = st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)) | st.tuples(
    st.ip_addresses(v=6), st.ip_addresses(v=6)
)


def version_1(proxied: Proxied) -> bytes:
    family = ip_address(proxied.source_ip).version
    return (
        f"PROXY TCP{family} {proxied.source_ip} {proxied.destination_ip}"
        f" {proxied.source_port} {proxied.destination_port}\r\n"
    ).encode("ascii")


def version_2(
    proxied: Proxied | None = None,
    rest: bytes = b"",
    *,
    command: int = 0x21,
    family: int | None = None,
) -> bytes:
    content = b""
    if proxied is not None:
        source, destination = ip_address(proxied.source_ip), ip_address(proxied.destination_ip)
        content = (
            source.packed
            + destination.packed
            + proxied.source_port.to_bytes(2, "big")
            + proxied.destination_port.to_bytes(2, "big")
        )
        if family is None:
            family = 0x11 if source.version == 4 else 0x21
    content += rest
    return SIGNATURE + bytes((command, family or 0)) + len(content).to_bytes(2, "big") + content


class ProxyTests(SynchronousTestCase):
    def test_version_1(self) -> None:
        """A line of text names both addresses and both ports."""
        for client in (CLIENT, CLIENT6):
            line = version_1(client)
            self.assertEqual(parse_proxy(line), (client, len(line)))

    def test_version_2(self) -> None:
        """A binary header names both addresses and both ports."""
        for client in (CLIENT, CLIENT6):
            header = version_2(client)
            self.assertEqual(parse_proxy(header), (client, len(header)))

    def test_octets_of_version_2(self) -> None:
        """Addresses stand before ports, each source first, most significant octet first."""
        header = (
            SIGNATURE + b"\x21\x11\x00\x0c" + bytes((192, 0, 2, 7, 192, 0, 2, 25, 220, 4, 0, 25))
        )
        self.assertEqual(parse_proxy(header), (CLIENT, 28))

    def test_what_follows_stays(self) -> None:
        """Octets behind the header belong to the client."""
        for header in (version_1(CLIENT), version_2(CLIENT)):
            self.assertEqual(parse_proxy(header + b"EHLO a\r\n"), (CLIENT, len(header)))

    def test_unknown(self) -> None:
        """A balancer that does not know the client says so; whatever else it says is dropped."""
        for line in (b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff:f 65535 x\r\n"):
            self.assertEqual(parse_proxy(line), (Proxied(), len(line)))
        header = version_2(rest=b"\x04\0\0")
        self.assertEqual(parse_proxy(header), (Proxied(), len(header)))

    def test_unix(self) -> None:
        """A client on a UNIX socket has no address that means anything to us."""
        header = version_2(rest=bytes(216), family=0x31)
        self.assertEqual(parse_proxy(header), (Proxied(), len(header)))

    def test_local(self) -> None:
        """A health check names nobody, whatever addresses stand in it."""
        for header in (
            version_2(command=0x20),
            version_2(CLIENT, command=0x20),
            version_2(rest=b"??", command=0x20, family=0x77),
        ):
            self.assertEqual(parse_proxy(header), (Proxied(local=True), len(header)))

    def test_additions_are_passed_over(self) -> None:
        """TLVs behind the addresses change nothing."""
        header = version_2(CLIENT, b"\x01\x00\x02h2\x20\x00\x05\x01\0\0\0\0")
        self.assertEqual(parse_proxy(header), (CLIENT, len(header)))

    def test_refused(self) -> None:
        """What is not exactly a header is an error as soon as that can be known."""
        for octets in (
            b"E",
            b"EHLO client.example\r\n",
            b"PROXYTCP4",
            b"PX",
            b"proxy TCP4 192.0.2.7 192.0.2.25 56324 25\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.25 56324\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.25 56324 25 \r\n",
            b"PROXY TCP4  192.0.2.7 192.0.2.25 56324 25\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.25 056324 25\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.25 65536 25\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.25 +1 25\r\n",
            b"PROXY TCP4 192.0.2.256 192.0.2.25 1 25\r\n",
            b"PROXY TCP4 192.0.2.07 192.0.2.25 1 25\r\n",
            b"PROXY TCP4 2001:db8::7 2001:db8::25 1 25\r\n",
            b"PROXY TCP6 192.0.2.7 192.0.2.25 1 25\r\n",
            b"PROXY TCP6 fe80::1%eth0 2001:db8::25 1 25\r\n",
            b"PROXY UDP4 192.0.2.7 192.0.2.25 1 25\r\n",
            b"PROXY UNKNOWNX\r\n",
            b"PROXY UNKNOWN \x00\r\n",
            b"PROXY \r\n",
            SIGNATURE[:11] + b"\r",
            version_2(CLIENT, command=0x11),
            version_2(CLIENT, command=0x22),
            version_2(CLIENT, family=0x12),
            version_2(CLIENT, family=0x21),
            version_2(family=0x11),
        ):
            with self.assertRaises(ProxyError, msg=repr(octets)) as caught:
                parse_proxy(octets)
            self.assertNotIn("192", str(caught.exception))

    def test_longest_line(self) -> None:
        """A line of version 1 has at most 107 octets; nobody waits for more."""
        line = b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 16) + b"\r\n"
        self.assertEqual(parse_proxy(line), (Proxied(), MAX_V1))
        self.assertIsNone(parse_proxy(line[:-1]))
        with self.assertRaises(ProxyError):
            parse_proxy(line[:-2] + b"x\r\n")
        with self.assertRaises(ProxyError):
            parse_proxy(b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 14))

    def test_longest_header(self) -> None:
        """A header of version 2 that announces more than we wait for is refused at once."""
        header = version_2(CLIENT, bytes(MAX_V2 - 28))
        self.assertEqual(parse_proxy(header), (CLIENT, MAX_V2))
        with self.assertRaises(ProxyError):
            parse_proxy(version_2(CLIENT, bytes(MAX_V2 - 27))[:16])

    @given(addresses, ports, ports, st.booleans(), st.binary(max_size=20))
    def test_any_client(
        self,
        pair: tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address],
        source_port: int,
        destination_port: int,
        binary: bool,
        rest: bytes,
    ) -> None:
        """Whatever the addresses, they are read back, and every beginning asks for more."""
        client = Proxied(str(pair[0]), source_port, str(pair[1]), destination_port)
        header = version_2(client) if binary else version_1(client)
        self.assertEqual(parse_proxy(header + rest), (client, len(header)))
        for size in range(len(header)):
            self.assertIsNone(parse_proxy(header[:size]))

    @given(
        st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ", SIGNATURE])
        | st.just(SIGNATURE + b"\x21\x11"),
        st.binary(max_size=150) | st.text("0123456789abcdef:. \r\n", max_size=110).map(str.encode),
    )
    def test_hostile(self, prefix: bytes, rest: bytes) -> None:
        """Any octets are a header, an error, or too few; an error stays one when more come."""
        octets = prefix + rest
        try:
            found = parse_proxy(octets)
        except ProxyError:
            with self.assertRaises(ProxyError):
                parse_proxy(octets + b"\r\n")
            return
        if found is None:
            self.assertLess(len(octets), MAX_V2)
        else:
            proxied, size = found
            self.assertLessEqual(size, len(octets))
            self.assertEqual(parse_proxy(octets[:size]), found)
            if proxied.source_ip:
                self.assertEqual(
                    ip_address(proxied.source_ip).version,
                    ip_address(proxied.destination_ip).version,
                )

"""The plugin user_config, with real files."""

import os
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.logger import capturedLogs, formatEvent
from zope.interface import implementer

from qpsmtpd.chain import Chain
from qpsmtpd.component import component, service
from qpsmtpd.configuration.files import ControlFiles
from qpsmtpd.configuration.lookup import Lookup
from qpsmtpd.interfaces import IConfiguration, IRcpt
from qpsmtpd.plugins.user_config import UserConfig, folder_pattern
from qpsmtpd.session import Transaction
from qpsmtpd.smtp.address import Address
from qpsmtpd.testing import ComponentTestCase
from qpsmtpd.verdicts import Verdict, deny


@implementer(IRcpt)
@component
class Closed:
    """Refuses mail to users who want none."""

    configuration: IConfiguration = service(IConfiguration)

    async def rcpt(self, transaction: Transaction, recipient: Address) -> Verdict | None:
        reason = await self.configuration.first("closed", recipient)
        return None if reason is None else deny(reason, "5.2.1")


class UserConfigTests(ComponentTestCase):
    def setUp(self) -> None:
        self.top = Path(self.mktemp()).absolute()
        self.top.mkdir()

    def write(self, path: str, octets: bytes) -> None:
        file = self.top / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(octets)

    def plugin(self, pattern: str = "home/%u/.qpsmtpd", **settings: Any) -> UserConfig:
        folder = folder_pattern(str(self.top / pattern))
        threads: Any = reactor
        return UserConfig(folder=folder, threads=threads, **settings)

    async def ask_for(
        self, local_part: str, name: str = "mine", plugin: UserConfig | None = None
    ) -> list[str] | None:
        asked = plugin or self.plugin()
        answer = await asked.user_config(Address(local_part, "Example.ORG"), name)
        return None if answer is None else list(answer)

    async def test_pattern(self) -> None:
        """Local part, domain and address stand in the path; the file's lines are the answer."""
        self.write("testuser_example.org_testuser@example.org/field", b"testdata\n")
        plugin = self.plugin("%u_%h_%a")
        self.assertEqual(await self.ask_for("TestUser", "field", plugin), ["testdata"])
        self.assertIsNone(await self.ask_for("testuser", "noconfig", plugin))
        self.assertIsNone(await self.ask_for("other", "field", plugin))

    async def test_lines(self) -> None:
        """Blank lines and comments are no values; a file without others says that there is none."""
        self.write("home/user/.qpsmtpd/mine", b"# no\n\n one \r\n\xc3\xa4 # two\n")
        self.assertEqual(await self.ask_for("user"), ["one", "\xe4 # two"])
        self.write("home/user/.qpsmtpd/empty", b"\n")
        self.assertEqual(await self.ask_for("user", "empty"), [])

    async def test_extension(self) -> None:
        """What stands behind an extension's character does not count."""
        self.write("home/joe/.qpsmtpd/mine", b"1\n")
        self.assertIsNone(await self.ask_for("joe+list"))
        plugin = self.plugin(extension="+-")
        for local_part in ("joe", "joe+list", "joe-a+b", "joe+a-b"):
            self.assertEqual(await self.ask_for(local_part, plugin=plugin), ["1"])
        self.assertIsNone(await self.ask_for("+joe", plugin=plugin))

    async def test_hostile(self) -> None:
        """No address and no name leads out of the folders."""
        self.write("secret/.qpsmtpd/mine", b"secret\n")
        self.write("home/user/.qpsmtpd/mine", b"1\n")
        self.write("home/.qpsmtpd/mine", b"1\n")
        for local_part in ("../secret", "x/../../secret", "user/.", "..", ".", "/etc", "a\\b/c"):
            self.assertIsNone(await self.ask_for(local_part), local_part)
        for name in ("../../../secret/.qpsmtpd/mine", "./mine", "..", "", "a/b", "mine\0", ".hid"):
            self.assertIsNone(await self.ask_for("user", name), name)
        postmaster = Address("postmaster", None)
        self.assertIsNone(await self.plugin().user_config(postmaster, "mine"))

    async def test_links(self) -> None:
        """A link within the user's folder is followed, one out of it is not, and is told."""
        self.write("home/user/.qpsmtpd/real", b"1\n")
        self.write("home/other/.qpsmtpd/mine", b"secret\n")
        os.symlink("real", self.top / "home/user/.qpsmtpd/mine")
        os.symlink("../../other/.qpsmtpd/mine", self.top / "home/user/.qpsmtpd/out")
        self.write("secret/mine", b"secret\n")
        (self.top / "home/evil").mkdir()
        os.symlink("../../secret", self.top / "home/evil/.qpsmtpd")
        self.assertEqual(await self.ask_for("user"), ["1"])
        for local_part, name in (("user", "out"), ("evil", "mine")):
            with capturedLogs() as events:
                self.assertIsNone(await self.ask_for(local_part, name))
            self.assertIn("it leads out of its folder", formatEvent(events[0]) or "")

    async def test_no_plain_file(self) -> None:
        """A folder or a FIFO of that name is nothing, and nobody waits for it."""
        (self.top / "home/user/.qpsmtpd/mine").mkdir(parents=True)
        os.mkfifo(self.top / "home/user/.qpsmtpd/pipe")
        self.assertIsNone(await self.ask_for("user"))
        self.assertIsNone(await self.ask_for("user", "pipe"))

    async def test_unreadable(self) -> None:
        """A file that is too long or no text is told, and others are asked."""
        self.write("home/user/.qpsmtpd/mine", b"x" * (1 << 20) + b"x")
        self.write("home/user/.qpsmtpd/latin", b"\xe4\n")
        for name in ("mine", "latin"):
            with capturedLogs() as events:
                self.assertIsNone(await self.ask_for("user", name))
            self.assertIn(f"user/.qpsmtpd/{name}: ", formatEvent(events[0]) or "")

    def test_argument(self) -> None:
        """A folder is a whole path, and one for each user."""
        self.assertEqual(folder_pattern("/srv/%h/./%u/"), "/srv/%h/%u")
        for text in ("", "home/%u", "/home/all"):
            self.assertRaisesRegex(
                ValueError, "expected the path of a folder", folder_pattern, text
            )

    async def test_conversation(self) -> None:
        """A component that asks per recipient hears each user's own words, or everybody's."""
        self.write("home/joe/.qpsmtpd/closed", b"Joe is on the road\n")
        self.write("config/closed", b"Nobody is here\n")
        self.write("home/ann/.qpsmtpd/closed", b"\n")
        lookup = Lookup(ControlFiles([str(self.top / "config")]), lambda interface: reactor)
        lookup.chain = Chain([self.plugin()])
        await self.converse(
            [Closed(configuration=lookup)],
            """
            C: EHLO client.example
            S: 250 ...
            C: MAIL FROM:<a@client.example>
            S: 250 ...
            C: RCPT TO:<joe@example.org>
            S: 550 5.2.1 Joe is on the road
            C: RCPT TO:<ann@example.org>
            S: 250 ...
            C: RCPT TO:<bob@example.org>
            S: 550 5.2.1 Nobody is here
            """,
        )

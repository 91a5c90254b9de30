"""The programs of docs/how-to/embed-in-twisted.md, run as they stand there on real sockets."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from twisted.application.service import IService, IServiceCollection
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from qpsmtpd.server.embedded import EndpointService

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "embed-in-twisted.md"
BLOCKS = re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


class EmbeddingTests(TestCase):
    async def run_program(self, name: str) -> tuple[dict[str, Any], list[int]]:
        """Start a program as twistd does; only its ports are others.

        :returns: What it defines, and its ports.
        """
        (source,) = (source for block, source in BLOCKS if block == name)
        program: dict[str, Any] = {}
        exec(compile(re.sub(r"tcp:\d+", "tcp:0", source), name, "exec"), program)
        application = program["application"]
        IService(application).privilegedStartService()
        IService(application).startService()
        self.addCleanup(lambda: maybeDeferred(IService(application).stopService))
        ports = []
        for service in IServiceCollection(application):
            if isinstance(service, EndpointService):
                assert service._starting is not None
                await service._starting
                port = service.port
            else:
                port = service._waitingForPort.result
            ports.append(port.getHost().port)
        return program, ports

    def talk(self, port: int, say: Callable[[smtplib.SMTP], Any]) -> Deferred[Any]:
        """Let a client of the standard library talk to a server."""

        def talk() -> Any:
            with smtplib.SMTP("127.0.0.1", port, "client.example") as client:
                return say(client)

        return deferToThread(talk)

    def test_all_blocks(self) -> None:
        """Every program of the page is run here."""
        self.assertEqual([name for name, _ in BLOCKS], ["inbox.tac", "stock.tac", "delivery.tac"])
        self.assertEqual(PAGE.read_text().count("```"), 2 * len(BLOCKS))

    async def test_inbox(self) -> None:
        """The site shows the subject of a message that came in, and strangers may not relay."""
        _, (smtp, http) = await self.run_program("inbox.tac")

        def say(client: smtplib.SMTP) -> Any:
            client.sendmail("a@client.example", ["b@mail.example"], "Subject: <hello>\n\nb\n")
            client.mail("a@client.example")
            return client.rcpt("b@elsewhere.example")

        self.assertEqual((await self.talk(smtp, say))[0], 550)
        page = await deferToThread(lambda: urlopen(f"http://127.0.0.1:{http}/").read())
        self.assertIn(b"<li>&lt;hello&gt;</li>", page)

    async def test_stock(self) -> None:
        """Behind Twisted's server, the chain keeps strangers from relaying, and lets users."""
        program, (smtp,) = await self.run_program("stock.tac")
        ended: list[Deferred[None]] = [Deferred(), Deferred()]
        left = list(ended)

        class Server(program["factory"].protocol):  # type: ignore[misc]
            def connectionLost(self, reason: Any) -> None:
                super().connectionLost(reason)
                left.pop().callback(None)

        program["factory"].protocol = Server

        def stranger(client: smtplib.SMTP) -> Any:
            client.sendmail("a@client.example", ["b@mail.example"], "Subject: a\n\nb\n")
            client.mail("a@client.example")
            return client.rcpt("b@elsewhere.example")

        def user(client: smtplib.SMTP) -> Any:
            client.login("alice", "secret")
            return client.sendmail("a@mail.example", ["b@elsewhere.example"], "Subject: a\n\nb\n")

        self.assertEqual((await self.talk(smtp, stranger))[0], 550)
        self.assertEqual(await self.talk(smtp, user), {})
        for each in ended:
            await each

    async def test_delivery(self) -> None:
        """The application's delivery gets the message, its portal knows the user."""
        program, (smtp,) = await self.run_program("delivery.tac")

        def say(client: smtplib.SMTP) -> Any:
            client.login("alice", "secret")
            to = ["bob@mail.example", "nobody@mail.example"]
            return client.sendmail("alice@mail.example", to, "Subject: a\n\n.b\n")

        refused = await self.talk(smtp, say)
        self.assertEqual(refused, {"nobody@mail.example": (550, b"5.1.1 nobody of this name")})
        (message,) = program["mailboxes"][b"bob@mail.example"]
        self.assertTrue(message.startswith(b"Received: "))
        self.assertTrue(message.endswith(b"Subject: a\n\n.b"))

"""Servers whose settings a component knows: at the start, at a reload, in each way to run one."""

import json
import os
import smtplib
import subprocess

from twisted.internet.defer import Deferred

from qpsmtpd.server.service import SMTPService
from tests.server.processes import LIMIT, PYTHON, TWISTD, Server, connect, run
from tests.server.test_service import ServiceTestCase

#: Reads settings from a file, in its own time, as one might from another machine.
SLOW = """
    import json

    from twisted.internet import reactor
    from twisted.internet.task import deferLater
    from zope.interface import implementer

    from qpsmtpd.component import PluginMaker, argument, component
    from qpsmtpd.configuration.values import text
    from qpsmtpd.interfaces import IConfig

    @implementer(IConfig)
    @component
    class Slow:
        "Knows settings."

        path: str = argument(text, positional=True, help="a file")

        async def config(self, name):
            await deferLater(reactor, 0.001)
            with open(self.path) as file:
                return json.load(file).get(name)

    maker = PluginMaker("slow", Slow)
"""


class AskingTestCase(ServiceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.write("more/slow.py", SLOW)
        self.say(me=["asked.example"], rcpthosts=["asked.example"])
        self.configure(
            {
                "plugins": f"slow {self.at('settings')}\nlife {self.at('life')} x\n"
                f"rcpt_ok\nqueue/maildir {self.at('Maildir')}\n"
            }
        )

    def say(self, **settings: list[str]) -> None:
        self.write("settings", json.dumps(settings))

    async def ready(self, service: SMTPService) -> smtplib.SMTP:
        return await self.connect(service)


class ServiceTests(AskingTestCase):
    async def test_start(self) -> None:
        """A server greets nobody before it has heard its settings, and then goes by them."""
        service = self.start()
        client = await self.ready(service)
        code, said = await self.wait(client.ehlo, "client.example")
        self.assertEqual((code, said.split()[0]), (250, b"asked.example"))
        await self.wait(
            client.sendmail, "a@example.org", ["b@asked.example"], "Subject: x\r\n\r\nx\r\n"
        )
        self.assertEqual(len(self.received()), 1)
        with self.assertRaises(smtplib.SMTPRecipientsRefused):
            await self.send(client)  # example.com stands in the file
        self.assertEqual(self.lived(), "start x\n")

    async def test_reload(self) -> None:
        """At a reload they are asked again; if that fails all stays as it was."""
        service = self.start()
        await self.ready(service)
        self.say(me=["new.example"])
        self.assertTrue(await service.reload())
        client = await self.ready(service)
        _, said = await self.wait(client.ehlo, "client.example")
        self.assertEqual(said.split()[0], b"new.example")
        await self.send(client)  # the file's rcpthosts count now
        self.write("settings", "no json")
        self.assertFalse(await service.reload())
        self.assertTrue(self.flushLoggedErrors(ValueError))
        again = await self.ready(service)
        _, said = await self.wait(again.ehlo, "client.example")
        self.assertEqual(said.split()[0], b"new.example")

    async def test_stop_while_asking(self) -> None:
        """A stop does not wait for answers."""
        self.write("more/slow.py", SLOW.replace("0.001", "10000"))
        service = self.start()
        stopped: Deferred[None] = service.stopService()
        await stopped.addTimeout(LIMIT, service._reactor)


class ProcessTests(AskingTestCase):
    def test_check(self) -> None:
        """``check`` asks them, too, and says what is wrong and by whom."""
        words = [*PYTHON, "-m", "qpsmtpd", "check", "-c", self.at("config")]
        said = run(words, self.top)
        self.assertIn("uses slow\n", said)
        self.assertIn("The configuration can be used.", said)
        self.say(databytes=["many"])
        self.assertIn('slow: databytes:1: "many": expected', run(words, self.top, status=1))
        os.unlink(self.at("settings"))
        said = run(words, self.top, status=1)
        self.assertIn("expected an answer; slow failed at config: FileNotFoundError", said)

    def test_twistd(self) -> None:
        """Under twistd, alone and with workers."""
        for number, workers in enumerate(("1", "2")):
            self.write(f"run{number}/empty", "")
            words = ["-n", "qpsmtpd", "-c", self.at("config"), "-l", "tcp:0:interface=127.0.0.1"]
            server = Server(
                self,
                [*TWISTD, *words, "-w", workers, "-s", self.at("state")],
                self.at(f"run{number}"),
            )
            client = connect(server.port(), "127.0.0.1")
            _, said = client.ehlo("client.example")
            self.assertEqual(said.split()[0], b"asked.example")
            client.close()
            server.stop()

    def test_twistd_fails(self) -> None:
        """A component that cannot say ends the start, with its name."""
        self.write("settings", "no json")
        words = ["-n", "qpsmtpd", "-c", self.at("config"), "-l", "tcp:0:interface=127.0.0.1"]
        server = Server(
            self,
            [*TWISTD, *words, "-s", self.at("state")],
            self.top,
        )
        server.wait_for(r"qpsmtpd cannot start: slow: \"me\": expected an answer; slow failed")
        server.wait()
        self.assertNotIn("Listening on IPv4", server.said.replace("starting on", ""))

    def test_stdio(self) -> None:
        """On standard input and output."""
        done = subprocess.run(
            [*PYTHON, "-m", "qpsmtpd", "stdio", "-c", self.at("config"), "-s", self.at("state")],
            input=b"QUIT\r\n",
            capture_output=True,
            cwd=self.top,
            env={**os.environ, "TCPREMOTEIP": "192.0.2.1"},
            timeout=LIMIT,
        )
        self.assertTrue(done.stdout.startswith(b"220 asked.example "), done)
        self.assertEqual(done.returncode, 0)

"""A server in this process: where it listens, how it reloads, and how it stops."""

import os
import pickle
import signal
import smtplib
import socket
import ssl
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from qpsmtpd.configuration.errors import ConfigurationError, ConfigurationErrors
from qpsmtpd.server import service as service_module
from qpsmtpd.server.options import ServerOptions
from qpsmtpd.server.service import SMTPService, check
from tests.configuration.folders import FolderTestCase
from tests.server.certificates import write_certificate
from tests.server.processes import LIMIT, connect

P = ParamSpec("P")
T = TypeVar("T")

TCP = "tcp:0:interface=127.0.0.1"

#: Writes to a file when it starts and stops; fails to start when its name is ``fails``.
LIFE = """
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred
    from twisted.internet.task import deferLater
    from zope.interface import implementer

    from qpsmtpd.component import PluginMaker, argument, component
    from qpsmtpd.configuration.values import text
    from qpsmtpd.interfaces import ILifecycle

    @implementer(ILifecycle)
    @component
    class Life:
        "Tells of its life."

        path: str = argument(text, positional=True, help="a file")
        called: str = argument(text, positional=True, help="its name")

        def tell(self, what):
            with open(self.path, "a") as file:
                file.write(f"{what} {self.called}\\n")

        async def start(self):
            if self.called == "slow":
                await deferLater(reactor, 0.01)
            if self.called == "never":
                await Deferred()
            if self.called == "fails":
                raise RuntimeError("it does not start")
            self.tell("start")

        def stop(self):
            self.tell("stop")

    maker = PluginMaker("life", Life)
"""


class ServiceTestCase(FolderTestCase, TestCase):
    """Runs servers in this process; their clients run in threads."""

    def setUp(self) -> None:
        super().setUp()
        self.events: list[LogEvent] = []
        observer: ILogObserver = self.events.append  # type: ignore[assignment]
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.write("more/life.py", LIFE)
        self.configure(
            {
                "me": "mail.example\n",
                "loglevel": "0\n",
                "rcpthosts": "example.com\n",
                "plugin_dirs": self.at("more") + "\n",
                "plugins": f"rcpt_ok\nqueue/maildir {self.at('Maildir')}\n",
            }
        )

    def options(self, *endpoints: str, **others: Any) -> ServerOptions:
        given = {"state": self.at("state"), "grace": LIMIT, **others}
        return ServerOptions((self.at("config"),), endpoints or (TCP,), **given)

    def start(self, *endpoints: str, **others: Any) -> SMTPService:
        """Start a server, which is stopped after the test."""
        service = SMTPService(self.options(*endpoints, **others))
        self.addCleanup(self.stop, service)
        service.privilegedStartService()
        service.startService()
        return service

    async def stop(self, service: SMTPService) -> None:
        if service.running:
            await service.stopService()

    async def connect(self, service: SMTPService, number: int = 0) -> smtplib.SMTP:
        """Open a session on one of the server's ports."""
        where = service.addresses[number]
        client = await self.wait(
            connect,
            getattr(where, "port", 0) or os.fsdecode(where.name),
            getattr(where, "host", ""),
        )
        self.addCleanup(client.close)
        return client

    async def wait(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do something that waits for the server."""
        done: Deferred[T] = deferToThread(call, *args, **kwargs)
        return await done.addTimeout(LIMIT, reactor)

    async def send(self, client: smtplib.SMTP, text: str = "hello") -> None:
        """Send a message."""
        message = f"Subject: {text}\r\n\r\n{text}\r\n"
        await self.wait(client.sendmail, "a@example.org", ["b@example.com"], message)

    def received(self) -> list[str]:
        """The messages that have arrived."""
        folder = self.at("Maildir/new")
        names = os.listdir(folder) if os.path.isdir(folder) else []
        texts = []
        for name in names:
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                texts.append(file.read())
        return texts

    def lived(self) -> str:
        with open(self.at("life"), encoding="utf-8") as file:
            return file.read()

    def said(self, text: str) -> list[str]:
        """What the log says with a text in it, on one line each."""
        said = [self.plain(Exception(formatEvent(event))) for event in self.events]
        return [each for each in said if text in each]


class EndpointTests(ServiceTestCase):
    async def test_takes_mail(self) -> None:
        """A server takes a message to where the configuration says."""
        service = self.start()
        await self.send(await self.connect(service))
        [message] = self.received()
        self.assertIn("Delivered-To: b@example.com\n", message)
        self.assertIn("\n\nhello\n", message)

    async def test_several(self) -> None:
        """A server listens on all the endpoints that it is given."""
        service = self.start(TCP, TCP, "tcp6:0:interface=\\:\\:1")
        self.assertEqual(len({where.port for where in service.addresses}), 3)
        for number in range(3):
            await self.send(await self.connect(service, number), f"over {number}")
        self.assertEqual(len(self.received()), 3)

    async def test_ipv6(self) -> None:
        """Over IPv6 the trace field has the client's address."""
        service = self.start("tcp6:0:interface=\\:\\:1")
        await self.send(await self.connect(service))
        [message] = self.received()
        self.assertIn("(::1)", message)

    async def test_unix(self) -> None:
        """A server listens on a UNIX socket, which goes when it stops."""
        path = self.short_path()
        service = self.start(f"unix:{path}:mode=600")
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        await self.send(await self.connect(service))
        self.assertEqual(len(self.received()), 1)
        await service.stopService()
        self.assertFalse(os.path.lexists(path))
        self.assertFalse(os.path.lexists(path + ".lock"))

    async def test_unix_path_that_stays(self) -> None:
        """A path that cannot be removed, as after a change of user, does not keep the stop."""
        path = self.short_path()
        service = self.start(f"unix:{path}")
        os.unlink(path)
        os.mkdir(path)  # cannot be unlinked, whoever we are
        await service.stopService()
        self.assertFalse(service.running)

    async def test_tls_from_the_first_octet(self) -> None:
        """On an ``ssl`` endpoint TLS comes first, and the trace field says so."""
        certificate, key = write_certificate(self.top, "mail.example")
        service = self.start(f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}")
        context = ssl.create_default_context(cafile=certificate)
        context.check_hostname = False

        def connect_tls() -> smtplib.SMTP:
            where = service.addresses[0]
            return smtplib.SMTP_SSL(
                where.host, where.port, "client.example", timeout=LIMIT, context=context
            )

        client = await self.wait(connect_tls)
        self.addCleanup(client.close)
        await self.send(client)
        [message] = self.received()
        self.assertIn("ESMTPS", message)
        await self.wait(client.ehlo)
        self.assertFalse(client.has_extn("starttls"))

    async def test_proxy(self) -> None:
        """Behind a load balancer the client is whom its header names."""
        service = self.start(proxy_from=("127.0.0.0/8",))

        def talk() -> None:
            where = service.addresses[0]
            with socket.create_connection((where.host, where.port), LIMIT) as connection:
                connection.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 25\r\n")
                with smtplib.SMTP(local_hostname="client.example") as client:
                    client.sock = connection
                    client.getreply()
                    client.sendmail("a@example.org", ["b@example.com"], "Subject: x\r\n\r\nx\r\n")

        await self.wait(talk)
        [message] = self.received()
        self.assertIn("(192.0.2.7)", message)

    async def test_proxy_on_unix_socket(self) -> None:
        """A load balancer may reach the server through a UNIX socket."""
        path = self.short_path()
        service = self.start(f"unix:{path}", proxy_from=("unix",))

        def talk() -> bytes:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(LIMIT)
                connection.connect(path)
                connection.sendall(b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 25\r\n")
                connection.sendall(b"EHLO client.example\r\nQUIT\r\n")
                said = b""
                while more := connection.recv(1000):
                    said += more
                return said

        self.assertIn(b"[2001:db8::7]", await self.wait(talk))
        self.assertTrue(service.running)

    async def test_nobody_before_the_start(self) -> None:
        """Between the opening of the sockets and the start, clients wait in the backlog."""
        service = SMTPService(self.options())
        self.addCleanup(self.stop, service)
        service.privilegedStartService()
        [where] = service.addresses
        connecting = deferToThread(connect, where.port)
        with socket.create_connection((where.host, where.port), LIMIT):
            pass  # the socket is open
        await deferLater(reactor, 0.05)
        self.assertFalse(connecting.called)
        service.startService()
        client = await connecting
        client.close()

    def short_path(self) -> str:
        """The path of a socket; the system takes only short ones."""
        folder = os.path.relpath(self.top)
        return os.path.join(folder, "s")


class StartTests(ServiceTestCase):
    def test_bad_configuration(self) -> None:
        """A configuration that cannot be used keeps the server from starting."""
        self.write("config/plugins", "nowhere\n")
        service = SMTPService(self.options())
        caught = self.assertRaises(ConfigurationErrors, service.privilegedStartService)
        self.assertIn('TOP/config/plugins:1: "nowhere"', self.plain(caught))

    async def test_component_fails(self) -> None:
        """A component that does not start keeps the server from starting."""
        self.write("config/plugins", f"life {self.at('life')} a\nlife {self.at('life')} fails\n")
        service = SMTPService(self.options(pid_file=self.at("pid")))
        self.addCleanup(self.stop, service)
        service.privilegedStartService()
        caught = self.assertRaises(RuntimeError, service.startService)
        self.assertEqual(str(caught), "it does not start")
        self.assertEqual(self.lived(), "start a\nstop a\n")
        self.assertFalse(os.path.exists(self.at("pid")))

    async def test_component_fails_later(self) -> None:
        """When a component fails after some waiting, the reactor stops and the log says why."""
        path = self.at("life")
        self.write("config/plugins", f"life {path} slow\nlife {path} fails\n")
        stopped: Deferred[None] = Deferred()

        class Reactor:
            """The reactor, which only says that it would stop."""

            def stop(self) -> None:
                stopped.callback(None)

            def __getattr__(self, name: str) -> Any:
                return getattr(reactor, name)

        service = SMTPService(self.options(), Reactor())
        self.addCleanup(self.stop, service)
        service.privilegedStartService()
        service.startService()
        await stopped.addTimeout(LIMIT, reactor)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertIsNotNone(service.failure)

    async def test_folders(self) -> None:
        """The folders for state and for large messages are made, for us alone."""
        self.write("config/plugins", "greylisting\n")
        self.write("config/spool_dir", self.at("spool/deep") + "\n")
        self.start(state=self.at("var/state"))
        for path in ("var", "var/state", "spool", "spool/deep"):
            self.assertEqual(os.stat(self.at(path)).st_mode & 0o777, 0o700)

    async def test_spool_perms(self) -> None:
        """``spool_perms`` is the mode of a folder that is made; another one is told."""
        self.write("config/spool_dir", self.at("spool/deep") + "\n")
        self.write("config/spool_perms", "0750\n")
        service = self.start()
        self.assertEqual(os.stat(self.at("spool")).st_mode & 0o777, 0o700)
        self.assertEqual(os.stat(self.at("spool/deep")).st_mode & 0o777, 0o750)
        said = "Permissions on spool_dir"
        self.assertFalse([each for each in self.events if said in (formatEvent(each) or "")])
        self.write("config/spool_perms", "0700\n")
        self.assertTrue(await service.reload())
        self.assertEqual(os.stat(self.at("spool/deep")).st_mode & 0o777, 0o750)
        [told] = [each for each in self.events if said in (formatEvent(each) or "")]
        self.assertIn("are not 0700, but 0750", formatEvent(told) or "")

    async def test_no_folder_for_nothing(self) -> None:
        """Where no component keeps state, no folder is made for it."""
        self.start()
        self.assertFalse(os.path.exists(self.at("state")))

    def test_folder_that_cannot_be(self) -> None:
        """A folder that cannot be made is told as an error of the configuration."""
        path = self.write("file", "") + "/spool"
        self.write("config/spool_dir", path + "\n")
        service = SMTPService(self.options())
        caught = self.assertRaises(ConfigurationError, service.privilegedStartService)
        self.assertIn('"TOP/file/spool": expected a folder that can be made', self.plain(caught))

    async def test_pid_file(self) -> None:
        """The file has the process's id while the server runs."""
        service = self.start(pid_file=self.at("pid"))
        with open(self.at("pid"), encoding="ascii") as file:
            self.assertEqual(file.read(), f"{os.getpid()}\n")
        await service.stopService()
        self.assertFalse(os.path.exists(self.at("pid")))

    async def test_pickle(self) -> None:
        """A service can be pickled, for a tap file, and is started anew from there."""
        service = pickle.loads(pickle.dumps(self.start()))
        self.addCleanup(self.stop, service)
        service.startService()
        await self.send(await self.connect(service))
        self.assertEqual(len(self.received()), 1)

    def test_check(self) -> None:
        """A check names what the configuration uses, and opens and makes nothing."""
        self.write("config/plugins", "greylisting\nqueue/discard\n")
        found = check(self.options())
        self.assertEqual(
            [link.name for link in found.chain.links], ["greylisting", "queue/discard"]
        )
        self.assertEqual(set(os.listdir(self.top)), {"config", "more"})

    def test_check_endpoints(self) -> None:
        """An endpoint that cannot be used is an error of the configuration."""
        bad = self.write("bad.pem", "no key\n")
        for endpoint in (
            "tcp:smtp-ish",
            "pigeon:1",
            "ssl:0:privateKey=gone",
            f"ssl:0:privateKey={bad}",
        ):
            caught = self.assertRaises(ConfigurationError, check, self.options(endpoint))
            self.assertIn("expected an endpoint such as tcp:25", str(caught))

    def test_check_user(self) -> None:
        """A user that is not there is an error of the configuration."""
        caught = self.assertRaises(ConfigurationError, check, self.options(user="no-such-user"))
        self.assertEqual(str(caught), '"no-such-user": expected the name of a user')


class PolicyTests(ServiceTestCase):
    """Two endpoints, of which the second has a policy of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.write("submission/plugins", f"rcpt_ok\nqueue/maildir {self.at('Sent')}\n")
        self.write("submission/me", "submission.example\n")

    def both(self, **others: Any) -> SMTPService:
        return self.start(TCP, TCP, policies=("", self.at("submission")), **others)

    async def turned_away(self, service: SMTPService, number: int) -> str:
        """What a client is told that is not let in."""
        try:
            await self.connect(service, number)
        except smtplib.SMTPConnectError as error:
            self.assertEqual(error.smtp_code, 421)
            return str(error)
        raise AssertionError("it was let in")

    async def test_chains(self) -> None:
        """Each endpoint has its own chain and settings; files that it lacks are the others'."""
        service = self.both()
        for number, me, folder in (
            (0, b"mail.example", "Maildir"),
            (1, b"submission.example", "Sent"),
        ):
            client = await self.connect(service, number)
            self.assertTrue((await self.wait(client.ehlo))[1].startswith(me))
            self.assertFalse(os.path.exists(self.at(folder)))
            await self.send(client)
            self.assertEqual(len(os.listdir(self.at(folder) + "/new")), 1)

    async def test_shared(self) -> None:
        """Endpoints with one folder share a chain, and the limits of it."""
        self.write("submission/limits", "connections 1\n")
        folder = self.at("submission")
        service = self.start(TCP, TCP, TCP, policies=("", folder, folder))
        await self.connect(service, 1)
        await self.turned_away(service, 2)
        await self.connect(service, 0)

    async def test_command_line_limits(self) -> None:
        """Limits of the command line win over the control files, in each policy."""
        self.write("submission/limits", "connections 100\nconnections_per_address 100\n")
        service = self.both(connections=3, connections_per_address=1)
        for number in (0, 1):
            await self.connect(service, number)
            self.assertIn("from your address", await self.turned_away(service, number))

    async def test_names(self) -> None:
        """Names of clients are looked up where the command line says so, in each policy."""
        self.write("submission/reverse_dns", "0\n")
        for asked in (False, True):
            service = self.both(reverse_dns=asked)
            found = {
                factory.generation.settings.reverse_dns for factory in service.factories.values()
            }
            self.assertEqual(found, {asked})

    def test_without_limits(self) -> None:
        """Policies without a limit on connections share what the system has descriptors for."""
        self.write("config/limits", "connections 0\n")
        self.write("submission/limits", "connections 30\n")
        other = self.at("other")
        self.write("other/limits", "connections 0\n")
        asked: list[int] = []

        def provide(connections: int) -> int:
            asked.append(connections)
            return 230

        self.patch(service_module, "provide", provide)
        folders = ("", self.at("submission"), other)
        service = self.start(TCP, TCP, TCP, policies=folders)
        limits = [service.factories[each].generation.settings.connections for each in folders]
        self.assertEqual((limits, asked), ([100, 30, 100], [0]))

    async def test_reload(self) -> None:
        """A reload reaches every policy."""
        service = self.both()
        self.write("submission/me", "new.example\n")
        self.assertTrue(await service.reload())
        for number, me in ((0, b"mail.example"), (1, b"new.example")):
            client = await self.connect(service, number)
            self.assertTrue((await self.wait(client.ehlo))[1].startswith(me))

    async def test_reload_fails(self) -> None:
        """Where one policy cannot be used, or does not start, none changes."""
        path = self.at("life")
        self.write("config/plugins", f"life {path} first\nrcpt_ok\n")
        service = self.both()
        self.write("config/me", "new.example\n")
        self.write("config/plugins", f"life {path} second\nrcpt_ok\n")
        self.write("submission/plugins", "nowhere\n")
        self.assertFalse(await service.reload())
        self.assertEqual(len(self.said('TOP/submission/plugins:1: "nowhere"')), 1)
        self.write("submission/plugins", f"life {path} fails\n")
        self.assertFalse(await service.reload())
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.lived(), "start first\nstart second\nstop second\n")
        client = await self.connect(service)
        self.assertTrue((await self.wait(client.ehlo))[1].startswith(b"mail.example"))

    async def test_stop(self) -> None:
        """A stop ends the sessions of every policy, and its components."""
        path = self.at("life")
        self.write("config/plugins", f"life {path} first\n")
        self.write("submission/plugins", f"life {path} second\n")
        service = self.both()
        clients = [await self.connect(service, number) for number in (0, 1)]
        await service.stopService()
        for client in clients:
            self.assertEqual((await self.wait(client.noop))[0], 421)
        self.assertEqual(sorted(self.lived().split("\n")[2:]), ["", "stop first", "stop second"])

    def test_check(self) -> None:
        """What is wrong in several policies is all said, and once."""
        self.write("config/limits", "nothing 1\n")
        self.write("submission/plugins", "nowhere\n")
        options = self.options(TCP, TCP, policies=("", self.at("submission")))
        caught = self.assertRaises(ConfigurationErrors, check, options)
        self.assertEqual(
            [line.partition(": ")[0] for line in self.plain(caught).splitlines()],
            ["TOP/config/limits:1", "TOP/submission/plugins:1"],
        )
        gone = self.options(TCP, policies=(self.at("gone"),))
        caught = self.assertRaises(ConfigurationError, check, gone)
        self.assertIn("expected a folder with control files", str(caught))


class ReloadTests(ServiceTestCase):
    async def test_new_sessions(self) -> None:
        """After a reload new sessions run on the new configuration, running ones on the old."""
        service = self.start()
        old = await self.connect(service)
        self.write("config/rcpthosts", "example.net\n")
        self.write("config/me", "new.example\n")
        self.assertTrue(await service.reload())
        new = await self.connect(service)
        for client, me, refused in (
            (old, b"mail.example", "b@example.net"),
            (new, b"new.example", "b@example.com"),
        ):
            _, text = await self.wait(client.ehlo)
            self.assertTrue(text.startswith(me), text)
            await self.wait(client.mail, "a@example.org")
            self.assertEqual((await self.wait(client.rcpt, refused))[0], 550)
        self.assertEqual((await self.wait(old.rcpt, "b@example.com"))[0], 250)
        self.assertEqual((await self.wait(new.rcpt, "b@example.net"))[0], 250)
        self.assertEqual(len(self.said("The configuration was read again")), 1)

    async def test_old_components_stop(self) -> None:
        """The old components are stopped when the last session has left them."""
        path = self.at("life")
        self.write("config/plugins", f"life {path} first\nrcpt_ok\n")
        service = self.start()
        client = await self.connect(service)
        self.write("config/plugins", f"life {path} second\nrcpt_ok\n")
        await service.reload()
        self.assertEqual(self.lived(), "start first\nstart second\n")
        await self.wait(client.quit)
        self.assertEqual(self.lived(), "start first\nstart second\nstop first\n")
        await service.stopService()
        self.assertEqual(self.lived(), "start first\nstart second\nstop first\nstop second\n")

    async def test_bad_configuration(self) -> None:
        """A configuration that cannot be used changes nothing; the log says file and line."""
        service = self.start()
        self.write("config/plugins", "rcpt_ok\nnowhere\nrcpt_ok on_fault never\n")
        self.assertFalse(await service.reload())
        first, second = self.said("The configuration stays as it was: ")
        self.assertIn('TOP/config/plugins:2: "nowhere": expected a plugin that can be', first)
        self.assertIn('TOP/config/plugins:3: "never": expected tempfail or skip', second)
        await self.send(await self.connect(service))
        self.assertEqual(len(self.received()), 1)

    async def test_component_fails(self) -> None:
        """A new configuration whose components do not start changes nothing."""
        service = self.start()
        path = self.at("life")
        self.write("config/plugins", f"life {path} a\nlife {path} fails\n")
        self.assertFalse(await service.reload())
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.lived(), "start a\nstop a\n")
        await self.send(await self.connect(service))

    async def test_signal(self) -> None:
        """SIGHUP reads the configuration again; after the stop it is what it was before."""
        before = signal.getsignal(signal.SIGHUP)
        service = self.start()
        self.write("config/me", "new.example\n")
        os.kill(os.getpid(), signal.SIGHUP)
        while not self.said("The configuration was read again"):
            await deferLater(reactor, 0.01)
        client = await self.connect(service)
        _, text = await self.wait(client.ehlo)
        self.assertTrue(text.startswith(b"new.example"), text)
        await service.stopService()
        self.assertEqual(signal.getsignal(signal.SIGHUP), before)

    async def test_one_after_the_other(self) -> None:
        """Of several reloads at once the last one wins, however long the others take."""
        service = self.start()
        path = self.at("life")
        self.write("config/plugins", f"life {path} slow\n")
        slow = service.reload()
        self.write("config/plugins", f"life {path} last\n")
        last = service.reload()
        self.assertTrue(await slow)
        self.assertTrue(await last)
        self.assertEqual(self.lived(), "start slow\nstart last\nstop slow\n")

    async def test_stop_meanwhile(self) -> None:
        """A stop ends a reload that is under way; all that has started stops, once."""
        path = self.at("life")
        self.write("config/plugins", f"life {path} old\n")
        service = self.start()
        self.write("config/plugins", f"life {path} new\nlife {path} never\n")
        reloaded = service.reload()
        await service.stopService()
        self.assertFalse(await reloaded)
        self.assertEqual(self.lived(), "start old\nstart new\nstop new\nstop old\n")

    async def test_not_when_stopped(self) -> None:
        """A server that has stopped is not reloaded."""
        service = self.start()
        await service.stopService()
        self.assertFalse(await service.reload())

    async def test_log_level(self) -> None:
        """A reload takes the new level of the log into use."""
        from qpsmtpd.logs import threshold

        before = threshold.level
        service = self.start()
        self.assertEqual(threshold.level, 0)
        self.write("config/loglevel", "1\n")
        await service.reload()
        self.assertEqual(threshold.level, 1)
        await service.stopService()
        self.assertEqual(threshold.level, before)


class StopTests(ServiceTestCase):
    async def test_idle(self) -> None:
        """A session that waits for a command is told 421 and closed."""
        service = self.start()
        client = await self.connect(service)
        await self.wait(client.ehlo)
        await service.stopService()
        code, _ = await self.wait(client.getreply)
        self.assertEqual(code, 421)
        with self.assertRaises(smtplib.SMTPServerDisconnected):
            await self.wait(client.noop)
        self.assertEqual(self.said("Unhandled"), [])

    async def test_before_the_start(self) -> None:
        """A stop ends a start that is under way; all that has started stops, once."""
        path = self.at("life")
        self.write("config/plugins", f"life {path} one\nlife {path} never\n")
        service = self.start()
        await service.stopService()
        self.assertEqual(self.lived(), "start one\nstop one\n")

    async def test_message_on_its_way(self) -> None:
        """A message on its way arrives within the grace, and nobody new is let in."""
        service = self.start()
        client = await self.connect(service)
        await self.half_a_message(client)
        [where] = service.addresses
        stopping = service.stopService()
        await deferLater(reactor, 0.05)
        self.assertFalse(stopping.called)
        with self.assertRaises(ConnectionRefusedError):
            await self.wait(connect, where.port)
        await self.wait(client.send, "the rest\r\n.\r\n")
        self.assertEqual((await self.wait(client.getreply))[0], 250)
        self.assertEqual((await self.wait(client.getreply))[0], 421)
        await stopping
        self.assertEqual(len(self.received()), 1)

    async def test_grace_ends(self) -> None:
        """A message that does not arrive within the grace is given up, and not stored."""
        service = self.start(grace=0.1)
        client = await self.connect(service)
        await self.half_a_message(client)
        await service.stopService()
        self.assertEqual(self.received(), [])

    async def half_a_message(self, client: smtplib.SMTP) -> None:
        await self.wait(client.ehlo)
        await self.wait(client.mail, "a@example.org")
        await self.wait(client.rcpt, "b@example.com")
        self.assertEqual((await self.wait(client.docmd, "DATA"))[0], 354)
        await self.wait(client.send, "Subject: half\r\n\r\n")

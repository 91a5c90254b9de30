"""The options of ``twistd qpsmtpd``."""

import os
import re
from pathlib import Path

from twisted.application.service import IServiceMaker
from twisted.plugin import IPlugin
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qpsmtpd.server.options import DEFAULT_ENDPOINT, ServerOptions
from qpsmtpd.server.service import SMTPService
from qpsmtpd.server.supervisor import Supervisor
from qpsmtpd.tap import Options, makeService
from tests.configuration.folders import FolderTestCase
from twisted.plugins import qpsmtpd_tap


def parsed(*words: str) -> ServerOptions:
    """The options of a command line."""
    options = Options()
    options.parseOptions(list(words))
    return options.server()


class OptionsTests(SynchronousTestCase):
    def refused(self, *words: str) -> str:
        return str(self.assertRaises(UsageError, parsed, *words))

    def test_defaults(self) -> None:
        """Without options: one process, on a port of the loopback interface."""
        self.assertEqual(parsed(), ServerOptions())
        self.assertEqual(ServerOptions().endpoints, (DEFAULT_ENDPOINT,))
        self.assertIn("interface=127.0.0.1", DEFAULT_ENDPOINT)

    def test_all(self) -> None:
        """Every option reaches the server."""
        options = parsed(
            *("--config", "/a", "--config", "/b", "--listen", "tcp:25", "--listen", "ssl:465"),
            *("--proxy-from", "192.0.2.0/24", "--proxy-from", "2001:db8::1"),
            *("--proxy-from", "unix", "--workers", "3", "--user", "mail", "--grace", "2m"),
            *("--state", "s", "--pid-file", "p", "--policy", "/c"),
            *("--limit-connections", "15", "--max-from-ip", "5", "--reverse-dns"),
        )
        self.assertEqual(
            options,
            ServerOptions(
                directories=("/a", "/b"),
                endpoints=("tcp:25", "ssl:465"),
                proxy_from=("192.0.2.0/24", "2001:db8::1", "unix"),
                workers=3,
                user="mail",
                grace=120.0,
                state="s",
                pid_file="p",
                policies=("", "/c"),
                connections=15,
                connections_per_address=5,
                reverse_dns=True,
            ),
        )

    def test_short(self) -> None:
        """Options that are given often have a short form."""
        options = parsed("-c", "/a", "-l", "tcp:25", "-w", "2", "-u", "me", "-g", "1", "-s", "s")
        self.assertEqual(options, ServerOptions(("/a",), ("tcp:25",), (), 2, "me", 1.0, "s", None))

    def test_relative_config(self) -> None:
        """A folder counts from where twistd was started, wherever it goes then."""
        self.assertEqual(parsed("--config", "here").directories, (os.path.abspath("here"),))

    def test_policies(self) -> None:
        """A policy belongs to the endpoint before it; one without has the general policy."""
        words = ["--listen", "tcp:25", "--policy", "in", "--listen", "tcp:26", "--listen", "tcp:27"]
        options = parsed(*words, "--policy", "out")
        self.assertEqual(options.policies, (os.path.abspath("in"), "", os.path.abspath("out")))
        self.assertEqual(options.all_policies(), list(options.policies))
        self.assertEqual(parsed("--listen", "tcp:25").policies, ())
        self.assertEqual(parsed("--listen", "tcp:25").all_policies(), [""])
        self.assertIn("a --listen before it", self.refused("--policy", "in"))
        self.assertIn("one for each --listen", self.refused(*words[:4], "--policy", "out"))

    def test_bad_values(self) -> None:
        """A value that makes no sense is refused with what was expected."""
        self.assertEqual(self.refused("--workers", "0"), "--workers: expected 1 or more")
        self.assertIn("invalid literal", self.refused("--workers", "two"))
        self.assertIn("0 or more", self.refused("--limit-connections", "-1"))
        self.assertIn("0 or more", self.refused("--max-from-ip", "-1"))
        self.assertIn("expected a number of seconds", self.refused("--grace", "soon"))
        self.assertIn(
            "--proxy-from: expected an IP address or network", self.refused("--proxy-from", "here")
        )
        self.assertIn("10.0.0.0/8", self.refused("--proxy-from", "10.1.0.0/8"))


class ServiceTests(FolderTestCase):
    def options(self, *words: str) -> Options:
        options = Options()
        options.parseOptions(["--config", self.at("config"), *words])
        return options

    def test_one_process(self) -> None:
        """One worker is this process."""
        self.write("config/plugins", "")
        service = makeService(self.options())
        self.assertIsInstance(service, SMTPService)

    def test_several(self) -> None:
        """Several workers are processes of a supervisor's."""
        self.write("config/plugins", "")
        service = makeService(self.options("--workers", "2"))
        self.assertIsInstance(service, Supervisor)

    def test_bad_configuration(self) -> None:
        """What is wrong with the configuration is all said before anything is opened."""
        self.write("config/plugins", "nowhere\nnobody\n")
        caught = self.assertRaises(SystemExit, makeService, self.options())
        said = self.plain(caught).splitlines()
        self.assertEqual(said[0], "qpsmtpd cannot start:")
        self.assertTrue(said[1].startswith('TOP/config/plugins:1: "nowhere": '))
        self.assertTrue(said[2].startswith('TOP/config/plugins:2: "nobody": '))

    def test_bad_options(self) -> None:
        """So is what is wrong with an endpoint, a user or a folder."""
        self.write("config/plugins", "")
        for words in (
            ("--listen", "pigeon:1"),
            ("--user", "no-such-user"),
            ("--config", self.at("gone")),
        ):
            caught = self.assertRaises(SystemExit, makeService, self.options(*words))
            self.assertIn(f'"{words[1]}": expected ', str(caught))

    def test_documented(self) -> None:
        """The reference has every option, and no other."""
        checkout = Path(__file__).resolve().parent.parent
        page = (checkout / "docs" / "reference" / "command-line.md").read_text()
        part = page.partition("## `twistd qpsmtpd`")[2].partition("### ")[0]
        documented = set(re.findall(r"^\|(?: `-\w`,)? `--([a-z-]+)", part, re.MULTILINE))
        options = {name.rstrip("=") for name in Options().longOpt}
        self.assertEqual(documented, options - {"help", "version"})

    def test_twistd_plugin(self) -> None:
        """twistd finds the server by its name."""
        maker = qpsmtpd_tap.qpsmtpd
        for interface in (IPlugin, IServiceMaker):
            self.assertTrue(verifyObject(interface, maker))
        self.assertEqual(maker.tapname, "qpsmtpd")
        self.assertIs(maker.options, Options)
        self.assertIs(maker.makeService, makeService)

"""Components that know settings: asked before all others are built, within a time, by name."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from qpsmtpd.configuration.asking import ANSWER_TIME, complete
from qpsmtpd.configuration.errors import ConfigurationError, ConfigurationErrors
from qpsmtpd.configuration.load import Configuration, load
from qpsmtpd.plugins.rcpt_ok import RcptOk
from tests.configuration.folders import FolderTestCase

#: Answers from a table when somebody says so; notes what it was asked and how it lived.
REMOTE = """
    from twisted.internet.defer import Deferred
    from zope.interface import implementer

    from qpsmtpd.component import PluginMaker, argument, component
    from qpsmtpd.configuration.values import text
    from qpsmtpd.interfaces import IConfig, ILifecycle

    table = {}
    asked = []
    life = []
    waiting = []
    faults = {}

    @implementer(IConfig, ILifecycle)
    @component
    class Remote:
        "Knows settings."

        called: str = argument(text, positional=True, default="")

        async def start(self):
            life.append("start" + self.called)
            if "start" in faults:
                await faults["start"]

        def stop(self):
            life.append("stop" + self.called)

        async def config(self, name):
            asked.append(name)
            if name in faults:
                await faults[name]
            return table.get(name)

    maker = PluginMaker("remote", Remote)
"""


def services(interface: object) -> object:
    return Clock()


class CompleteTests(FolderTestCase):
    def setUp(self) -> None:
        super().setUp()
        text = REMOTE.replace('default=""', 'default="", help="a name"')
        self.write("more/remote.py", text)
        self.write("config/plugin_dirs", self.at("more") + "\n")
        self.clock = Clock()

    def load(self, **texts: str) -> tuple[Configuration, Any]:
        found = load(self.configure(texts), {}, services, self.clock)
        import qpsmtpd.plugins.remote as remote  # type: ignore[import-not-found]

        return found, remote

    def complete(self, found: Configuration) -> Deferred[Configuration]:
        return Deferred.fromCoroutine(complete(found, {}, services, self.clock))

    def failure(self, completing: Deferred[Configuration], kind: type[Exception]) -> str:
        return self.plain(self.failureResultOf(completing, kind).value)

    def test_none(self) -> None:
        """Without such components a configuration is whole at once."""
        found = load(self.configure({"plugins": "rcpt_ok"}), {}, services, self.clock)
        self.assertTrue(found.whole)
        self.assertIs(self.successResultOf(self.complete(found)), found)

    def test_asked(self) -> None:
        """Their answers come before the files, for the engine and for every plugin."""
        found, remote = self.load(
            plugins="remote\nrcpt_ok\n", me="file.example", rcpthosts="file.example", timeout="7"
        )
        self.assertFalse(found.whole)
        self.assertEqual((found.chain.links, remote.life), ((), []))
        remote.table.update(me=["hook.example"], rcpthosts=["one.example", "two.example"])
        whole = self.successResultOf(self.complete(found))
        self.assertEqual(whole.settings.me, "hook.example")
        self.assertEqual(whole.settings.limits.command_time, 7)
        link = whole.chain.links[1]
        assert isinstance(link.component, RcptOk)
        self.assertEqual(link.component.rcpthosts, ("one.example", "two.example"))
        self.assertEqual(link.component.me, "hook.example")
        self.assertEqual(len(remote.asked), len(set(remote.asked)))
        self.assertTrue({"databytes", "spool_dir", "morercpthosts"} <= set(remote.asked))
        for name in ("plugins", "plugin_dirs", "logging", "loglevel"):
            self.assertNotIn(name, remote.asked)

    def test_nobody_asked(self) -> None:
        """Who only looks at an installation has all of it checked by its files, and asks nobody."""
        _, remote = self.load(plugins="remote\nrcpt_ok\n", me="file.example")
        files = self.configure({"plugins": "remote\nrcpt_ok wrong\n"})
        caught = self.assertRaises(ConfigurationErrors, load, files, {}, services, given={})
        self.assertIn('TOP/config/plugins:2: "wrong": ', self.plain(caught))
        files = self.configure({"plugins": "remote\nrcpt_ok\n"})
        found = load(files, {}, services, given={})
        self.assertEqual(len(found.chain.links), 2)
        self.assertEqual((remote.asked, remote.life), ([], []))

    def test_no_value(self) -> None:
        """An answer without a line is the default, whatever the file says."""
        found, remote = self.load(plugins="remote", databytes="5", smtpgreeting="hello")
        remote.table["smtpgreeting"] = []
        whole = self.successResultOf(self.complete(found))
        self.assertEqual((whole.settings.greeting, whole.settings.limits.message_size), (None, 5))

    def test_one_life(self) -> None:
        """A component that was asked is started once, and stops with the others."""
        found, remote = self.load(plugins="remote a\nremote:1 b\n")
        whole = self.successResultOf(self.complete(found))
        self.successResultOf(Deferred.fromCoroutine(whole.chain.start()))
        self.assertEqual(remote.life, ["starta", "startb"])
        self.successResultOf(Deferred.fromCoroutine(whole.chain.stop()))
        self.assertEqual(remote.life, ["starta", "startb", "stopb", "stopa"])

    def test_waits(self) -> None:
        """An answer may take its time; one that takes too long is an error by name."""
        for name in ("start", "rcpthosts"):
            for late in (False, True):
                found, remote = self.load(plugins="remote\nrcpt_ok\n")
                remote.life.clear()
                remote.faults.clear()
                remote.faults[name] = Deferred()
                completing = self.complete(found)
                self.clock.advance(ANSWER_TIME - 1)
                self.assertNoResult(completing)
                if late:
                    self.clock.advance(1)
                    said = self.failure(completing, ConfigurationError)
                    self.assertIn("remote", said)
                    self.assertIn("within 30 seconds", said)
                    self.flushLoggedErrors()
                    self.assertEqual(remote.life.count("stop"), name != "start")
                else:
                    remote.faults[name].callback(None)
                    self.assertTrue(self.successResultOf(completing).whole)
                self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_fails(self) -> None:
        """One that fails is an error with its name and the setting's, unless it may be skipped."""
        for plugins, skipped in (("remote", False), ("remote on_fault skip", True)):
            found, remote = self.load(plugins=plugins, databytes="5")
            remote.faults.clear()
            remote.faults["databytes"] = Deferred[None]()
            remote.faults["databytes"].errback(OSError("no route"))
            completing = self.complete(found)
            if skipped:
                whole = self.successResultOf(completing)
                self.assertEqual(whole.settings.limits.message_size, 5)
            else:
                said = self.failure(completing, ConfigurationError)
                self.assertIn('remote: "databytes": expected an answer; remote failed', said)
                self.assertIn("no route", said)
            self.flushLoggedErrors(OSError)

    def test_does_not_start(self) -> None:
        """One that does not start is an error with its name; those before it stop."""
        found, remote = self.load(plugins="remote a\nremote:1 b\n")
        remote.faults["start"] = Deferred[None]()
        completing = self.complete(found)
        remote.faults["start"].callback(None)
        remote.faults["start"] = Deferred[None]()
        remote.faults["start"].errback(RuntimeError("not today"))
        self.successResultOf(completing)
        remote.life.clear()
        said = self.failure(self.complete(found), ConfigurationError)
        self.assertIn('"remote": expected a component that starts; ', said)
        self.assertIn("not today", said)

    def test_wrong_answer(self) -> None:
        """An answer that cannot be meant is an error that names who gave it."""
        found, remote = self.load(plugins="remote\nrcpt_ok\n")
        remote.table.update(databytes=["many"], rcpthosts=["fine.example", ".."])
        said = self.failure(self.complete(found), ConfigurationErrors)
        self.assertIn('remote: databytes:1: "many": expected', said)
        self.assertIn('remote: rcpthosts:2: "..": expected', said)
        self.assertEqual(remote.life, ["start", "stop"])
        remote.table.clear()
        remote.table["me"] = [b"octets"]
        found, remote = self.load()
        said = self.failure(self.complete(found), ConfigurationError)
        self.assertIn("remote: ", said)

    def test_wrong_line(self) -> None:
        """What is wrong with its line is told before anything is asked."""
        caught = self.assertRaises(ConfigurationErrors, self.load, plugins="remote a b c\n")
        self.assertIn('TOP/config/plugins:1: "b": ', self.plain(caught))

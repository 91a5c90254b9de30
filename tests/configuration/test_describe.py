"""A plugin's settings as an operator reads them."""

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from qpsmtpd.component import PluginMaker, argument, component, control_file
from qpsmtpd.configuration import discovery
from qpsmtpd.configuration.describe import describe, hooks, manual
from qpsmtpd.configuration.values import domain, integer, text
from qpsmtpd.interfaces import Call, IMiddleware, IQuit, IRcpt, Proceed
from qpsmtpd.verdicts import Verdict


@implementer(IQuit, IRcpt)
@component
class Sample:
    """What is described here."""

    size: int = argument(integer, help="how large")
    loud: bool = argument(text, flag=True, help="shout")
    word: str = argument(text, default="a b", help="what to say")
    exempt: tuple[str, ...] = control_file("exempt", domain, help="left alone")

    def quit(self, session: object) -> None:
        """Say nothing."""

    def rcpt(self, transaction: object, recipient: object) -> None:
        """Say nothing."""


@implementer(IMiddleware)
@component
class Around:
    """Stands around two hooks."""

    hooks = ("mail", "rcpt")

    async def __call__(self, call: Call, proceed: Proceed) -> Verdict | None:
        answer: Verdict | None = await proceed()
        return answer


@implementer(IMiddleware)
@component
class AroundAll:
    """Stands around all."""

    hooks = None

    async def __call__(self, call: Call, proceed: Proceed) -> Verdict | None:
        answer: Verdict | None = await proceed()
        return answer


class DescribeTests(SynchronousTestCase):
    def test_short(self) -> None:
        """In short: the first sentence, hooks in the order of a session, settings, files."""
        self.assertEqual(
            describe(PluginMaker("sample", Sample)),
            "sample\n"
            "    A plugin's settings as an operator reads them.\n"
            "    hooks: rcpt, quit\n"
            "    argument size <a whole number, 0 or more>: how large (required)\n"
            "    argument loud: shout (default False)\n"
            "    argument word <a text>: what to say (default 'a b')\n"
            "    file exempt: left alone\n",
        )

    def test_whole(self) -> None:
        """As a whole: the manual too, and the arguments that every plugin has."""
        found = describe(discovery.find("rcpt_ok"), whole=True).splitlines()
        self.assertEqual(found[0], "rcpt_ok")
        self.assertIn("    hooks: rcpt", found)
        manual_lines = [line.strip() for line in found]
        for line in manual(discovery.find("rcpt_ok")).splitlines():
            self.assertIn(line.strip(), manual_lines)
        self.assertIn(
            "    argument on_fault <tempfail or skip>: what a failure of the plugin stands for: "
            "tempfail, or skip to go on without it (default 'tempfail')",
            found,
        )
        self.assertTrue(any(line.startswith("    file rcpthosts: ") for line in found))

    def test_middleware(self) -> None:
        """Middleware is described by the hooks that it stands around."""
        self.assertEqual(hooks(PluginMaker("a", Around)), ["around mail", "around rcpt"])
        self.assertEqual(hooks(PluginMaker("a", AroundAll)), ["around all"])

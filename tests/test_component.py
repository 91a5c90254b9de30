"""How a component declares what it needs."""

from __future__ import annotations

from typing import Any

from twisted.plugin import IPlugin
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qpsmtpd.component import (
    Argument,
    ControlFile,
    PluginMaker,
    Service,
    argument,
    component,
    control_file,
    declarations,
    service,
    state,
)
from qpsmtpd.interfaces import IPluginMaker, IResolver


@component
class Sample:
    """A component with one of everything."""

    limit: int = argument(int, help="how many", positional=True)
    check_at: str = argument(str, default="connect", help="when", name="check-at")
    loud: bool = argument(bool, help="say more", flag=True)
    zones: tuple[str, ...] = argument(str, help="where", many=True)
    exempt: tuple[str, ...] = control_file("sample_exempt", str, help="not these")
    best: str | None = control_file("sample_best", str, help="the best", first=True)
    worst: str = control_file("sample_worst", str, help="the worst", first=True, default="none")
    resolver: object = service(IResolver)
    seen: list[str] = state(list)


def sample(**settings: Any) -> Sample:
    """A sample without a resolver."""
    return Sample(**{"limit": 1, "resolver": None} | settings)


class ConstructorTests(SynchronousTestCase):
    def test_defaults(self) -> None:
        """What is not given has its default."""
        made = sample()
        self.assertEqual(
            (made.check_at, made.loud, made.zones, made.exempt, made.best, made.worst),
            ("connect", False, (), (), None, "none"),
        )

    def test_required(self) -> None:
        """An argument without a default, and a service, have to be given."""
        self.assertRaises(TypeError, Sample, resolver=None)
        self.assertRaises(TypeError, Sample, limit=3)

    def test_by_name(self) -> None:
        """All are given by name, and state is not given at all."""
        self.assertRaises(TypeError, Sample, 3, resolver=None)
        self.assertRaises(TypeError, sample, seen=[])

    def test_state(self) -> None:
        """State is each object's own."""
        one, other = sample(), sample()
        one.seen.append("x")
        self.assertEqual(other.seen, [])

    def test_identity(self) -> None:
        """Two components with the same settings are two components."""
        one, other = sample(), sample()
        self.assertNotEqual(one, other)
        self.assertEqual(len({one, other}), 2)


class DeclarationTests(SynchronousTestCase):
    def test_fields(self) -> None:
        """Declarations come in the order of the fields; state is none of the operator's."""
        self.assertEqual(
            [name for name, _ in declarations(Sample)],
            ["limit", "check_at", "loud", "zones", "exempt", "best", "worst", "resolver"],
        )

    def test_arguments(self) -> None:
        """An argument knows its name on the line, and what it may be."""
        found = dict(declarations(Sample))
        self.assertEqual(
            [found[name] for name in ("check_at", "loud", "zones")],
            [
                Argument("check-at", str, "when", default="connect"),
                Argument("loud", bool, "say more", default=False, flag=True),
                Argument("zones", str, "where", default=(), many=True),
            ],
        )
        limit = found["limit"]
        assert isinstance(limit, Argument)
        self.assertEqual((limit.name, limit.converter), ("limit", int))
        self.assertTrue(limit.required and limit.positional)

    def test_control_files(self) -> None:
        """A control file knows its name, and whether one line counts or all."""
        found = dict(declarations(Sample))
        self.assertEqual(
            [found[name] for name in ("exempt", "best", "worst")],
            [
                ControlFile("sample_exempt", str, "not these", ()),
                ControlFile("sample_best", str, "the best", None, first=True),
                ControlFile("sample_worst", str, "the worst", "none", first=True),
            ],
        )

    def test_services(self) -> None:
        """A service is named by its interface."""
        self.assertEqual(dict(declarations(Sample))["resolver"], Service(IResolver))


class PluginMakerTests(SynchronousTestCase):
    maker = PluginMaker("sample", Sample)

    def test_interfaces(self) -> None:
        """A maker is a plugin that Twisted can find."""
        verifyObject(IPluginMaker, self.maker)
        self.assertTrue(IPlugin.providedBy(self.maker))

    def test_make(self) -> None:
        """It makes a component out of settings by the names of the fields."""
        made = self.maker.make({"limit": 1, "check_at": "rcpt", "resolver": None})
        assert isinstance(made, Sample)
        self.assertEqual((made.limit, made.check_at), (1, "rcpt"))

    def test_sorts(self) -> None:
        """It tells arguments, control files and services apart."""
        self.assertEqual(
            [each.name for each in self.maker.arguments()], ["limit", "check-at", "loud", "zones"]
        )
        self.assertEqual(
            [each.name for each in self.maker.control_files()],
            ["sample_exempt", "sample_best", "sample_worst"],
        )
        self.assertEqual(self.maker.services(), [Service(IResolver)])

# -*- test-case-name: tests.test_component -*-
"""How a component declares what it needs: arguments, control files, services.

A setting's name, type, default and meaning stand once, on a field::

    @implementer(IMail)
    @component
    class NullMX:
        reject: bool = argument(yes_no, default=True, help="0 takes the mail all the same")
        exempt: tuple[str, ...] = control_file("null_mx_exempt", domain, help="not asked about")
        resolver: IResolver = service(IResolver)

    maker = PluginMaker("null_mx", NullMX)

The constructor takes each by its name, so a test or an embedding application writes
``NullMX(resolver=..., exempt=("example.net",))``. A line of the ``plugins`` file is checked
against the same declarations when the server starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, Literal, Protocol, TypeVar, dataclass_transform

from twisted.plugin import IPlugin
from zope.interface import implementer
from zope.interface.interface import InterfaceClass

from qpsmtpd.interfaces import IPluginMaker

__all__ = [
    "Argument",
    "ControlFile",
    "ControlMap",
    "PluginMaker",
    "Service",
    "argument",
    "component",
    "control_file",
    "control_map",
    "declarations",
    "service",
    "state",
]

T = TypeVar("T")

_KEY: Final = "qpsmtpd"


class _Converter(Protocol):
    """Text to setting; :mod:`qpsmtpd.configuration.values` has those that are needed often."""

    def __call__(self, text: str, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a ``plugins`` line.

    :ivar name: Its name there.
    :ivar converter: Text to value; raises ``ValueError`` saying what was expected.
    :ivar help: What it means, for the operator.
    :ivar required: Whether a line without it is an error.
    :ivar default: The value of a line without it.
    :ivar positional: Whether it may stand without its name, in the order of the fields.
    :ivar flag: Whether its name alone is a word, and means ``True``.
    :ivar many: Whether it may come several times; the value is a tuple.
    """

    name: str
    converter: _Converter
    help: str
    required: bool = False
    default: Any = None
    positional: bool = False
    flag: bool = False
    many: bool = False


@dataclass(frozen=True, slots=True)
class ControlFile:
    """A control file that a component reads.

    :ivar name: The file's name.
    :ivar converter: A line to a value.
    :ivar help: What it means, for the operator.
    :ivar default: The value where there is no file or nothing in it.
    :ivar first: Whether only the first line counts; otherwise the value is a tuple.
    :ivar example: A line of it.
    """

    name: str
    converter: _Converter
    help: str
    default: Any = None
    first: bool = False
    example: str = ""


@dataclass(frozen=True, slots=True)
class ControlMap:
    """A constant database, ``NAME.cdb``, that a component looks keys up in.

    :ivar name: The file's name without ``.cdb``.
    :ivar help: What it means, for the operator.
    """

    name: str
    help: str

    @property
    def file(self) -> str:
        """The file's name."""
        return f"{self.name}.cdb"


@dataclass(frozen=True, slots=True)
class Service:
    """Something of the world that a component asks through an interface."""

    interface: InterfaceClass


def argument(
    converter: Callable[[str], T],
    *,
    help: str,
    default: Any = MISSING,
    name: str | None = None,
    positional: bool = False,
    flag: bool = False,
    many: bool = False,
) -> Any:
    """Declare an argument; see :class:`Argument`.

    :param name: Its name on the line, if it cannot be a field's: ``check-at``.
    """
    required = default is MISSING and not flag and not many
    if flag and default is MISSING:
        default = False
    if many and default is MISSING:
        default = ()
    declared = Argument(name or "", converter, help, required, default, positional, flag, many)
    return _field(declared, default)


def control_file(
    name: str,
    converter: Callable[[str], T],
    *,
    help: str,
    default: Any = MISSING,
    first: bool = False,
    example: str = "",
) -> Any:
    """Declare a control file; see :class:`ControlFile`.

    :param default: What stands for a missing file; unless given, ``()``, or ``None`` with
        ``first``.
    """
    if default is MISSING:
        default = None if first else ()
    return _field(ControlFile(name, converter, help, default, first, example), default)


def control_map(name: str, *, help: str, default: Any = frozenset()) -> Any:
    """Declare a constant database; see :class:`ControlMap`.

    The value is a ``Container`` of keys, as octets.

    :param default: What stands for a missing file.
    """
    return _field(ControlMap(name, help), default)


def service(interface: InterfaceClass) -> Any:
    """Declare a service: ``IResolver``, ``IStore``, ``IReactorTime``, ..."""
    return _field(Service(interface), MISSING)


def state(factory: Callable[[], T], *, init: Literal[False] = False) -> T:
    """Declare what a component keeps for itself: open files, counters over all sessions.

    What belongs to one session goes into that session's notes.
    """
    made: T = field(init=init, repr=False, default_factory=factory)
    return made


def _field(declared: object, default: Any) -> Any:
    return field(default=default, kw_only=True, metadata={_KEY: declared})


@dataclass_transform(
    kw_only_default=True, field_specifiers=(argument, control_file, control_map, service, state)
)
def component(cls: type[T]) -> type[T]:
    """Make a class a component: its fields are its settings, its constructor the wiring.

    Components compare by identity. One object serves every session at once.
    """
    return dataclass(kw_only=True, eq=False)(cls)


def declarations(cls: type) -> Iterator[tuple[str, Argument | ControlFile | ControlMap | Service]]:
    """What a component's class declares, field by field.

    :returns: The field's name and its declaration; an argument's has its name filled in.
    """
    for each in fields(cls):
        declared = each.metadata.get(_KEY)
        if isinstance(declared, Argument) and not declared.name:
            yield (
                each.name,
                Argument(
                    each.name,
                    declared.converter,
                    declared.help,
                    declared.required,
                    declared.default,
                    declared.positional,
                    declared.flag,
                    declared.many,
                ),
            )
        elif declared is not None:
            yield each.name, declared


@implementer(IPlugin, IPluginMaker)
class PluginMaker:
    """Gives a component a name that the ``plugins`` file can use.

    A plugin's module has one, under any global name::

        maker = PluginMaker("queue/maildir", Maildir)

    :ivar name: The name, as a line of the ``plugins`` file begins with it.
    :ivar component: The component's class.
    """

    def __init__(self, name: str, component: type) -> None:
        self.name = name
        self.component = component

    def make(self, settings: dict[str, Any]) -> object:
        """Build a component from checked settings."""
        return self.component(**settings)

    def arguments(self) -> list[Argument]:
        """The arguments its lines may have."""
        return _of(self.component, Argument)

    def control_files(self) -> list[ControlFile]:
        """The control files it reads."""
        return _of(self.component, ControlFile)

    def control_maps(self) -> list[ControlMap]:
        """The constant databases it reads."""
        return _of(self.component, ControlMap)

    def services(self) -> list[Service]:
        """The services it asks."""
        return _of(self.component, Service)

    def __repr__(self) -> str:
        return f"<PluginMaker {self.name}>"


def _of(cls: type, wanted: type[T]) -> list[T]:
    found: Iterable[object] = (declared for _, declared in declarations(cls))
    return [declared for declared in found if isinstance(declared, wanted)]

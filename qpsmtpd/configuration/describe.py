# -*- test-case-name: tests.configuration.test_describe -*-
"""A plugin's settings as text, for ``python -m qpsmtpd plugins`` and the documentation."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

from qpsmtpd.component import Argument, PluginMaker
from qpsmtpd.configuration.plugins import COMMON_ARGUMENTS
from qpsmtpd.interfaces import HOOKS, IMiddleware

__all__ = ["describe", "hooks", "manual"]


def describe(maker: PluginMaker, whole: bool = False) -> str:
    """A plugin on a few lines.

    :param whole: With its manual; otherwise with its first sentence.
    """
    return "\n".join(_lines(maker, whole))


def manual(maker: PluginMaker) -> str:
    """What its module says about itself."""
    module = sys.modules[maker.component.__module__]
    return inspect.cleandoc(module.__doc__ or "")


def hooks(maker: PluginMaker) -> list[str]:
    """The hooks that its component takes part in, in the order of a session."""
    component = maker.component
    found = [hook.name for hook in HOOKS.values() if hook.interface.implementedBy(component)]
    if IMiddleware.implementedBy(component):
        found.extend(f"around {name}" for name in getattr(component, "hooks", None) or ["all"])
    return found


def _lines(maker: PluginMaker, whole: bool) -> Iterator[str]:
    text = manual(maker)
    yield maker.name
    yield from (f"    {line}".rstrip() for line in (text if whole else _first(text)).splitlines())
    yield f"    hooks: {', '.join(hooks(maker))}"
    for argument in maker.arguments():
        yield f"    argument {_argument(argument)}"
    if whole:
        for argument in COMMON_ARGUMENTS.values():
            yield f"    argument {_argument(argument)}"
    for file in maker.control_files():
        yield f"    file {file.name}: {file.help}"
    for map in maker.control_maps():
        yield f"    file {map.file}: {map.help}"
    yield ""


def _first(text: str) -> str:
    return text.partition("\n\n")[0]


def _argument(argument: Argument) -> str:
    value = "" if argument.flag else f" <{getattr(argument.converter, 'expects', 'text')}>"
    default = "required" if argument.required else f"default {argument.default!r}"
    return f"{argument.name}{value}: {argument.help} ({default})"

# -*- test-case-name: tests.configuration.test_plugins -*-
"""The ``plugins`` file to the links of a chain, checked against what plugins declare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, TypeVar

from zope.interface.interface import InterfaceClass

from qpsmtpd.chain import Link
from qpsmtpd.component import (
    Argument,
    ControlFile,
    ControlMap,
    PluginMaker,
    Service,
    declarations,
)
from qpsmtpd.configuration import discovery, perl
from qpsmtpd.configuration.errors import ConfigurationError, ConfigurationErrors, Notice
from qpsmtpd.configuration.files import ControlFiles, Line
from qpsmtpd.configuration.lines import PluginLine
from qpsmtpd.configuration.values import choice, converter, path, seconds, yes_no
from qpsmtpd.interfaces import IConfig
from qpsmtpd.logs import Shift

__all__ = ["COMMON_ARGUMENTS", "Services", "declared_files", "read_first_links", "read_links"]

T = TypeVar("T")

#: Gives a service by its interface; raises ``KeyError`` for one that there is not.
Services = Callable[[InterfaceClass], object]

_POLICY: Final = choice("tempfail", "skip")

#: Arguments that every plugin's line may have.
COMMON_ARGUMENTS: Final[Mapping[str, Argument]] = {
    argument.name: argument
    for argument in (
        Argument(
            "on_fault",
            _POLICY,
            "what a failure of the plugin stands for: tempfail, or skip to go on without it",
            default="tempfail",
        ),
        Argument(
            "loglevel",
            converter("1 to 7 for all its lines, or +1, -2 and so on to shift them")(Shift.parse),
            "the level of what the plugin logs; see the reference about the log",
        ),
        Argument("time_limit", seconds, "seconds it may take for one answer", default=0.0),
    )
}


def read_first_links(files: ControlFiles, services: Services) -> dict[Line, Link]:
    """Build the components that know settings: those with the hook ``config``.

    What is wrong with other lines is left to :func:`read_links`.

    :returns: The links by their lines.

    :raises ConfigurationErrors: With all that is wrong with their lines.
    """
    errors: list[ConfigurationError] = []
    links: dict[Line, Link] = {}
    for line, plugin, maker in _makers(files):
        if IConfig.implementedBy(maker.component):
            try:
                links[line] = _link(maker, plugin, line, files, services, [])
            except ConfigurationError as error:
                errors.append(error)
            except ConfigurationErrors as several:
                errors.extend(several)
    if errors:
        raise ConfigurationErrors(errors)
    return links


def declared_files(files: ControlFiles) -> list[str]:
    """The names of the control files that the plugins of a configuration read."""
    return [each.name for _, _, maker in _makers(files) for each in maker.control_files()]


def _makers(files: ControlFiles) -> Iterator[tuple[Line, PluginLine, PluginMaker]]:
    """The plugins that the files ``logging`` and ``plugins`` name, as far as they can be found."""
    for line in _plugin_lines(files):
        try:
            plugin = _present(PluginLine.parse(line), [])
            yield line, plugin, discovery.find(plugin.name)
        except (ConfigurationError, discovery.DiscoveryError):
            continue


def _plugin_lines(files: ControlFiles) -> list[Line]:
    try:
        folders = [line.value(path) for line in files.lines("plugin_dirs")]
        discovery.add_folders(folders)
        return [*files.lines("logging"), *files.lines("plugins")]
    except ConfigurationError as error:
        raise ConfigurationErrors([error]) from error


def read_links(
    files: ControlFiles, services: Services, given: Mapping[Line, Link] = MappingProxyType({})
) -> tuple[list[Link], list[Notice]]:
    """Build the components that the ``plugins`` file names, and the ``logging`` file before it.

    A plugin of the Perl qpsmtpd that is not there does not keep the server from starting. Who
    may relay, authenticate or queue fails closed without it; what a filter would have refused is
    let through, as if the line were not there. So each is named.

    :param given: Links that are there already, by their lines.

    :returns: The links, and what has no effect.

    :raises ConfigurationErrors: With all that is wrong, each with its file and line.
    """
    errors: list[ConfigurationError] = []
    links: list[Link] = []
    notices: list[Notice] = []
    for line in _plugin_lines(files):
        if line in given:
            links.append(given[line])
            continue
        try:
            plugin = _present(PluginLine.parse(line), notices)
            try:
                maker = discovery.find(plugin.name)
            except discovery.NotFoundError as error:
                notices.append(_missing(plugin, line, error))
            except discovery.DiscoveryError as error:
                raise line.error(f"a plugin that can be used; {error}", plugin.title) from error
            else:
                links.append(_link(maker, plugin, line, files, services, notices))
        except ConfigurationError as error:
            errors.append(error)
        except ConfigurationErrors as several:
            errors.extend(several)
    if errors:
        raise ConfigurationErrors(errors)
    return links, notices


def _present(plugin: PluginLine, notices: list[Notice]) -> PluginLine:
    """The line with the present name of its plugin, if it has an old one that is nobody's."""
    now = perl.OLD_NAMES.get(plugin.name)
    if now is None or plugin.name in discovery.names():
        return plugin
    notices.append(Notice(plugin.title, f"is read as {now}", plugin.file, plugin.line))
    name, *words = now.split()
    return replace(plugin, name=name, arguments=(*words, *plugin.arguments))


def _missing(plugin: PluginLine, line: Line, error: discovery.NotFoundError) -> Notice:
    """Say that a plugin of the Perl qpsmtpd is not there.

    :raises ConfigurationError: It is none of those.
    """
    task = perl.PLUGINS.get(plugin.name)
    if task is not None:
        effect = f"has no effect: this plugin of the Perl qpsmtpd is not there; {task.value}"
        return Notice(plugin.title, effect, line.file, line.number, grave=True)
    if now := perl.MOVED.get(plugin.name):
        raise line.error(f"the plugin that has taken its place: {now}", plugin.title) from error
    if found := discovery.perl_file(plugin.name):
        raise line.error(
            f"a plugin in Python; {found} is one in Perl, which has to be ported", plugin.title
        ) from error
    raise line.error(f"a plugin that can be used; {error}", plugin.title) from error


def _link(
    maker: PluginMaker,
    plugin: PluginLine,
    line: Line,
    files: ControlFiles,
    services: Services,
    notices: list[Notice],
) -> Link:
    settings, common = _settings(maker, plugin, line, files, services, notices)
    try:
        component = maker.make(settings)
    except (ConfigurationError, ConfigurationErrors):
        raise
    except (ValueError, OSError) as error:
        raise line.error(f"settings that {plugin.title} can use; {error}") from error
    return Link(
        component,
        plugin.title,
        skip_faults=common.get("on_fault") == "skip",
        time_limit=common.get("time_limit", 0.0),
        log_shift=common.get("loglevel"),
    )


def _settings(
    maker: PluginMaker,
    plugin: PluginLine,
    line: Line,
    files: ControlFiles,
    services: Services,
    notices: list[Notice],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a component's constructor is given, and the values of the common arguments."""
    settings: dict[str, Any] = {}
    fields: dict[str, str] = {}
    arguments: list[Argument] = []
    errors: list[ConfigurationError] = []
    for field, declared in declarations(maker.component):
        match declared:
            case Argument():
                arguments.append(declared)
                fields[declared.name] = field
            case ControlFile():
                settings[field] = _control_file(declared, files, errors)
            case ControlMap():
                try:
                    settings[field] = files.database(declared.name)
                except ConfigurationError as error:
                    errors.append(error)
            case Service():
                try:
                    settings[field] = services(declared.interface)
                except KeyError:
                    name = declared.interface.__name__
                    errors.append(line.error(f"a server that offers {name} to {plugin.title}"))
    common: dict[str, Any] = {}
    try:
        for name, value in _arguments(arguments, plugin, line, notices).items():
            if name in fields:
                settings[fields[name]] = value
            else:
                common[name] = value
    except ConfigurationError as error:
        errors.append(error)
    if errors:
        raise ConfigurationErrors(errors)
    return settings, common


def _control_file(
    declared: ControlFile, files: ControlFiles, errors: list[ConfigurationError]
) -> Any:
    try:
        lines = files.lines(declared.name)
    except ConfigurationError as error:
        errors.append(error)
        return declared.default
    if not lines:
        return declared.default
    values = []
    for line in lines[:1] if declared.first else lines:
        try:
            values.append(_line_value(declared, line))
        except ConfigurationError as error:
            errors.append(error)
    if declared.first:
        return next(iter(values), declared.default)
    return tuple(values)


def _line_value(declared: ControlFile, line: Line) -> Any:
    try:
        return declared.converter(line.text)
    except ValueError as error:
        raise line.error(str(error)) from None


def _arguments(
    declared: list[Argument], plugin: PluginLine, line: Line, notices: list[Notice]
) -> dict[str, Any]:
    """Read the words of a line: ``name value``, ``name=value``, flags, and words by position.

    What the Perl qpsmtpd is known to pass over is passed over here too, with a notice.
    """
    known = {**COMMON_ARGUMENTS, **{argument.name: argument for argument in declared}}
    given: dict[str, Any] = {}
    words = iter(plugin.arguments)
    for word in words:
        name, equals, value = word.partition("=")
        argument = known.get(name if equals else word)
        ignored = None if argument else perl.IGNORED_ARGUMENTS.get(plugin.name, {}).get(word)
        if ignored is not None:
            skipped = " ".join([word, *islice(words, ignored)])
            effect = f"means nothing to {plugin.title} and is passed over"
            notices.append(Notice(skipped, effect, line.file, line.number))
            continue
        if argument is None:
            argument = _next_by_position(declared, given)
            if argument is None:
                raise line.error(_expected(plugin, known), word)
            value = word
        elif argument.flag:
            given[argument.name] = _flag(argument, value, line) if equals else True
            continue
        elif not equals:
            found = next(words, None)
            if found is None:
                raise line.error(f"a value behind {word}", word)
            value = found
        converted = _converted(argument, value, line)
        if argument.many:
            converted = (*given.get(argument.name, ()), converted)
        given[argument.name] = converted
    missing = [each.name for each in declared if each.required and each.name not in given]
    if missing:
        raise line.error(f"the argument {missing[0]} of {plugin.title}")
    return given


def _next_by_position(declared: list[Argument], given: Mapping[str, Any]) -> Argument | None:
    """What a word without a name is: the first that has no value yet, or may have several."""
    for argument in declared:
        if argument.positional and (argument.many or argument.name not in given):
            return argument
    return None


def _flag(argument: Argument, value: str, line: Line) -> bool:
    try:
        return yes_no(value)
    except ValueError as error:
        raise line.error(f"{error} for {argument.name}", value) from None


def _converted(argument: Argument, value: str, line: Line) -> Any:
    try:
        return argument.converter(value)
    except ValueError as error:
        raise line.error(f"{error} for {argument.name}", value) from None


def _expected(plugin: PluginLine, known: Mapping[str, Argument]) -> str:
    return f"an argument of {plugin.title}: {', '.join(known)}"

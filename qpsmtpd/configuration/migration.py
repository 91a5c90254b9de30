# -*- test-case-name: tests.configuration.test_migration -*-
"""Read an existing installation, and say what becomes of each file and each plugin.

The installation is one of the Perl qpsmtpd or of qmail-smtpd: a folder with ``config/`` or
``control/`` in it, or such a folder itself. Nothing of it is changed or run; a plugin in
Python that it names is imported, as at a start.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from qpsmtpd.component import PluginMaker
from qpsmtpd.configuration import discovery, perl
from qpsmtpd.configuration.errors import ConfigurationError, ConfigurationErrors, Notice
from qpsmtpd.configuration.files import ControlFiles, Line
from qpsmtpd.configuration.load import Configuration, load
from qpsmtpd.configuration.plugins import Services
from qpsmtpd.configuration.reference import ENGINE_FILES
from qpsmtpd.configuration.report import Kind, Report
from qpsmtpd.configuration.starting import examine_environment, examine_scripts
from qpsmtpd.configuration.values import path, yes_no

__all__ = ["examine"]

#: Entries of one folder that are looked at, and errors of one file that are told.
_ENTRIES: Final = 1000
_ERRORS: Final = 10

#: Control files that say of a folder that it has control files.
_SIGNS: Final = ("plugins", "me", "rcpthosts", "loglevel", "smtpgreeting", "logging", "databytes")

#: Control files of qmail that belong to its other programs.
_QMAIL_FILES: Final[Mapping[str, str]] = {
    name: program
    for program, names in {
        "qmail-send": """
            bouncefrom bouncehost bouncemaxbytes concurrencylocal concurrencyremote doublebouncehost
            doublebounceto envnoathost locals percenthack queuelifetime virtualdomains
            """,
        "qmail-inject": "defaultdomain defaulthost idhost plusdomain qmqpservers",
        "qmail-remote": "helohost smtproutes timeoutconnect timeoutremote outgoingip",
        "qmail-pop3d and the scripts that start servers": "concurrencyincoming defaultdelivery",
        "qmail-smtpd with the TLS patch": """
            clientca.pem clientcrl.pem clientcert.pem dh1024.pem dh2048.pem dh512.pem rsa2048.pem
            rsa512.pem servercert.pem tlsclients tlsserverciphers tlsclientciphers
            """,
    }.items()
    for name in names.split()
}

#: Files that hold secrets.
_SECRETS: Final = frozenset({"flat_auth_pw", "ldap", "log2sql", "vpopmail_mysql_pass"})

#: What to do about a file that is not read here, where more can be said than "nothing".
_INSTEAD: Final[Mapping[str, str]] = {
    "IP": "say it with --listen, as in tcp:25:interface=192.0.2.1",
    "servercert.pem": "load the plugin tls with this certificate and key",
    "tlsserverciphers": "put its text into tls_ciphers, and load the plugin tls",
}

#: What differs on purpose where a plugin is used; more stands on each plugin's page.
_DIFFERENCES: Final[Mapping[str, str]] = {
    "dnsbl": "zones with a text answer with it, and errors of a list are no listings",
    "greylisting": "remembers anew: every client is deferred once more",
    "naughty": "an unknown reject_type is an error",
    "rcpt_ok": "whitelisted hosts and senders may not relay",
    "virus/clamdscan": "mail is deferred while clamd cannot be reached",
}

#: Lines of the sample configuration that let others relay, and its users.
_SAMPLE_CLIENTS: Final = frozenset({"192.0.", "2001:0DB8", "2001:DB8::1", "2001:DB8::1/32"})
_SAMPLE_USERS: Final = ("good@example.com:", "bad@example.com:")

#: The widest public networks that nobody asks about, in bits.
_WIDE: Final = {4: 16, 6: 32}

#: A chain that does what qmail-smtpd does; it has no ``plugins`` file.
_LIKE_QMAIL: Final = ("badmailfrom", "relay", "rcpt_ok", "queue/qmail-queue")


def examine(folder: str, environ: Mapping[str, str], services: Services) -> Report:
    """Look at an installation.

    :param folder: A folder with ``config/`` or ``control/`` in it, or one of these.
    :param environ: The environment that a server would have.

    :raises ConfigurationError: There is no such folder, or nothing like that in it.
    """
    return _Examination(folder, environ, services).report


class _Examination:
    def __init__(self, folder: str, environ: Mapping[str, str], services: Services) -> None:
        self.folder = os.path.abspath(folder)
        self.report = Report(self.folder)
        self.directories = _control_folders(self.folder)
        self._add_qmail(environ)
        self.files = ControlFiles(self.directories)
        self._found: Configuration | None = None
        self._errors: list[ConfigurationError] = []
        self._told: set[ConfigurationError] = set()
        self._plugin_lines: list[Line] = []
        self._makers = _makers(discovery.names())
        own = os.path.join(self.folder, "plugins")
        if os.path.isdir(own):
            discovery.add_folders([own])
        try:
            # With {} nobody is asked for settings: what lies in the files is looked at.
            self._found = load(self.files, environ, services, given={})
        except ConfigurationErrors as several:
            self._errors = [each for each in several if each.found != "plugins" or each.file]
        self._lines()
        known = {maker.name for maker in self._makers}
        self._makers += _makers(name for name in sorted(self._used) if name not in known)
        self._read_by = {name: maker.name for maker in self._makers for name in _files_of(maker)}
        self._control_files()
        self._plugins()
        self._perl_plugins()
        self._dangers()
        examine_environment(environ, "environment", self.report)
        examine_scripts(self.folder, self.report)
        for error in self._errors:
            if error not in self._told:
                self.report.add(Kind.BAD, self._shown(error.file or "configuration"), str(error))

    # Control files.

    def _add_qmail(self, environ: Mapping[str, str]) -> None:
        """The Perl qpsmtpd takes from qmail's folder what its own does not have."""
        qmail = os.path.join(environ.get("QMAIL") or "/var/qmail", "control")
        if not os.path.isdir(qmail) or any(_same(qmail, each) for each in self.directories):
            return
        self.directories.insert(0, qmail)
        self.report.add(
            Kind.CHANGES,
            qmail,
            "its files count where the installation has none of their names",
            "start with QPSMTPD_CONFIG, or name both folders with --config, this one first",
        )

    def _lines(self) -> None:
        for name in ("logging", "plugins"):
            try:
                self._plugin_lines.extend(self.files.lines(name))
            except ConfigurationError:
                pass  # told with the file
        names = [_name(line) for line in self._plugin_lines]
        self._has_plugins = self._read("plugins")
        self._used = set(names if self._has_plugins else _LIKE_QMAIL)

    def _read(self, name: str) -> bool:
        try:
            return self.files.path(name) is not None
        except ConfigurationError:
            return True

    def _control_files(self) -> None:
        for directory in self.directories:
            for name, place in self._entries(directory):
                self._control_file(name, place)

    def _entries(self, directory: str) -> Iterator[tuple[str, str]]:
        try:
            names = sorted(os.listdir(directory))
        except OSError as error:
            self.report.add(Kind.BAD, self._shown(directory), f"cannot be read: {error.strerror}")
            return
        if len(names) > _ENTRIES:
            self.report.add(
                Kind.BAD,
                self._shown(directory),
                f"has {len(names)} entries; only the first {_ENTRIES} are looked at",
            )
        for name in names[:_ENTRIES]:
            yield name, os.path.join(directory, name)

    def _control_file(self, name: str, place: str) -> None:
        shown = self._shown(place)
        try:
            status = os.stat(place)
        except OSError as error:
            why = "a link that goes in circles" if error.errno == errno.ELOOP else error.strerror
            self.report.add(Kind.BAD, shown, f"cannot be read: {why}", "mend it or take it away")
            return
        if stat.S_ISDIR(status.st_mode):
            self._sub_folder(name, shown)
            return
        if not stat.S_ISREG(status.st_mode):
            self.report.add(Kind.BAD, shown, "is no regular file", "take it away")
            return
        wrong = [each for each in self._errors if each.file and _same(each.file, place)]
        if wrong and (name not in ("plugins", "logging") or wrong[0].line is None):
            for each in wrong[:_ERRORS]:
                self.report.add(Kind.BAD, self._place(each), _without_place(each))
            self._told.update(wrong)
            return
        if not os.access(place, os.R_OK):
            self.report.add(Kind.BAD, shown, "cannot be read: Permission denied", "let its user")
            return
        wins = self.files.path(name)
        if wins is not None and wins != place:
            self.report.add(Kind.UNUSED, shown, f"counts for nothing beside {self._shown(wins)}")
            return
        self._permissions(name, shown, status)
        if wrong := list(self._wrong_lines(name)):
            for each in wrong[:_ERRORS]:
                self.report.add(Kind.BAD, self._place(each), _without_place(each))
        else:
            self.report.add(*self._fate(name, shown))

    def _wrong_lines(self, name: str) -> Iterator[ConfigurationError]:
        """What its plugin would not take, where no line of ``plugins`` has told already."""
        maker = self._maker(self._read_by.get(name, ""))
        if maker is None or maker.name not in self._used:
            return
        declared = next((each for each in maker.control_files() if each.name == name), None)
        if declared is None:
            return  # a database, which is read at the start
        try:
            lines = self.files.lines(name)
        except ConfigurationError as error:
            yield error
            return
        for line in lines[:1] if declared.first else lines:
            try:
                declared.converter(line.text)
            except ValueError as error:
                yield line.error(str(error))

    def _sub_folder(self, name: str, shown: str) -> None:
        reader = perl.CONTROL_FILES.get(name)
        if reader is None:
            self.report.add(Kind.UNUSED, shown, "is a folder, which only $include would read")
        else:
            self.report.add(*self._of_plugin(reader, shown))

    def _fate(self, name: str, shown: str) -> tuple[Kind, str, str, str]:
        """What becomes of a control file that can be read."""
        if name in ENGINE_FILES:
            return Kind.WORKS, shown, "is read by the server", ""
        if (reader := self._read_by.get(name)) is not None:
            return self._of_plugin(reader, shown)
        reader = perl.CONTROL_FILES.get(name)
        do = _INSTEAD.get(name, "")
        if reader:
            if self._maker(reader) is None:
                return self._of_plugin(reader, shown)
            used = Kind.MISSING if reader in self._used else Kind.UNUSED
            return used, shown, f"is not read: {reader} does without it here", do
        if reader == "":
            return Kind.UNUSED, shown, "is read by no server, as before", ""
        if name in _QMAIL_FILES:
            return Kind.UNUSED, shown, f"belongs to {_QMAIL_FILES[name]}", do
        if any(_same(each, os.path.join(self.folder, shown)) for each in self.files.files_read()):
            return Kind.WORKS, shown, "is included by another file", ""
        if do:
            return Kind.CHANGES, shown, "is not read", do
        if name.startswith(".") or name.endswith(("~", ".bak", ".orig", ".rpmnew", ".rpmsave")):
            return Kind.UNUSED, shown, "looks like a copy, and nothing reads it", ""
        do = "if a plugin of your own reads it, that plugin has to be ported"
        return Kind.UNUSED, shown, "is unknown, and nothing reads it", do

    def _of_plugin(self, reader: str, shown: str) -> tuple[Kind, str, str, str]:
        if reader not in self._used:
            return Kind.UNUSED, shown, f"belongs to {reader}, which plugins does not name", ""
        if self._maker(reader) is None:
            return Kind.MISSING, shown, f"belongs to {reader}, which is not there", ""
        return Kind.WORKS, shown, f"is read by {reader}", ""

    def _permissions(self, name: str, shown: str, status: os.stat_result) -> None:
        if status.st_mode & stat.S_IWOTH:
            do = "chmod o-w"
            self.report.add(Kind.DANGER, shown, "can be written by every user of the machine", do)
        if name in _SECRETS and status.st_mode & stat.S_IROTH:
            do = "chmod o-r, and let the server's user read it"
            self.report.add(Kind.DANGER, shown, "has secrets that every user can read", do)

    # Plugins.

    def _plugins(self) -> None:
        if not self._has_plugins:
            self.report.add(
                Kind.MISSING,
                "plugins",
                "there is no such control file, and a server without plugins accepts nothing",
                "write one into a folder of its own; like qmail-smtpd is a chain of "
                f"{', '.join(_LIKE_QMAIL)}, one on a line",
            )
            return
        notices: dict[tuple[str, int], list[Notice]] = {}
        for notice in self._found.notices if self._found else self._notices():
            notices.setdefault((notice.file, notice.line), []).append(notice)
        for line in self._plugin_lines:
            self._plugin(line, notices.get((line.file, line.number), []))
        if self._plugin_lines and not any(name.startswith("queue/") for name in self._used):
            self.report.add(
                Kind.CHANGES,
                "plugins",
                "no queue plugin is active: every message is deferred with 451, as before",
                "add one, such as queue/maildir DIR",
            )

    def _notices(self) -> Iterator[Notice]:
        """What would be noticed if the rest were right."""
        for line in self._plugin_lines:
            name = _name(line)
            if name in perl.PLUGINS and self._maker(name) is None:
                said = f"is not there; {perl.PLUGINS[name].value}"
                yield Notice(name, said, line.file, line.number, grave=True)

    def _plugin(self, line: Line, notices: Iterable[Notice]) -> None:
        shown = f"{self._shown(line.file)}:{line.number} {line.text.split()[0]}"
        bad = [each for each in self._errors if (each.file, each.line) == (line.file, line.number)]
        for error in bad:
            self._told.add(error)
            self.report.add(Kind.BAD, shown, _without_place(error))
        missing = False
        for notice in notices:
            missing = missing or notice.grave
            kind = Kind.MISSING if notice.grave else Kind.CHANGES
            do = "go without it, or wait with the move until it is there" if notice.grave else ""
            self.report.add(kind, shown, notice.effect, do)
        if not bad and not missing:
            name = _name(line)
            different = _DIFFERENCES.get(name)
            if different is None:
                self.report.add(Kind.WORKS, shown, "is loaded with these arguments")
            else:
                self.report.add(Kind.CHANGES, shown, f"is loaded; {different}")

    def _perl_plugins(self) -> None:
        """Name what is written in Perl and is none of the plugins that come with qpsmtpd."""
        folders = [os.path.join(self.folder, "plugins")]
        try:
            folders += [line.value(path) for line in self.files.lines("plugin_dirs")]
        except ConfigurationError:
            pass  # told with the file
        for folder in folders:
            if not os.path.isdir(folder):
                continue
            names = list(_plugin_files(folder))
            for name in names[:_ENTRIES]:
                known = name in perl.PLUGINS or name in perl.OLD_NAMES or perl.TOOLS.fullmatch(name)
                if known or name in self._used or not discovery.perl_file(name):
                    continue
                self.report.add(
                    Kind.UNUSED,
                    self._shown(os.path.join(folder, name)),
                    "is a plugin in Perl that plugins does not name",
                )

    # Dangers.

    def _dangers(self) -> None:
        for line in self._lines_of("flat_auth_pw"):
            if line.text.startswith(_SAMPLE_USERS) and "auth/auth_flat_file" in self._used:
                user = line.text.partition(":")[0]
                self.report.add(
                    Kind.DANGER,
                    f"{self._shown(line.file)}:{line.number}",
                    f"{user} is a user of the sample configuration, whose password everybody knows",
                    "take the line out",
                )
        if "relay" in self._used:
            self._relay_clients()
        if "rcpt_ok" in self._used and not self._lines_of("rcpthosts"):
            self.report.add(
                Kind.CHANGES,
                "rcpthosts",
                "is absent or empty: mail is taken for the name in me alone, as the Perl qpsmtpd "
                "does; qmail-smtpd without the file takes mail for every domain",
                "list your domains",
            )
        self._authentication()

    def _authentication(self) -> None:
        if not any(name.startswith("auth/") and name != "auth/authdeny" for name in self._used):
            return
        first = next(iter(self._lines_of("tls_before_auth")), None)
        try:
            before = first is not None and first.value(yes_no)
        except ConfigurationError:
            return  # told with the file
        if before and "tls" not in self._used:
            self.report.add(
                Kind.CHANGES,
                "tls_before_auth",
                "without the plugin tls AUTH is not offered at all; in Perl it was, in clear",
                "load the plugin tls",
            )
        elif not before:
            self.report.add(
                Kind.DANGER,
                "tls_before_auth",
                "is not set, so passwords may cross the network in clear, as before",
                "load the plugin tls, and write 1 into tls_before_auth",
            )

    def _relay_clients(self) -> None:
        maker = self._maker("relay")
        converters = [
            file.converter
            for file in (maker.control_files() if maker else ())
            if file.name == "relayclients"
        ]
        for line in self._lines_of("relayclients"):
            shown = f"{self._shown(line.file)}:{line.number}"
            if line.text in _SAMPLE_CLIENTS:
                said = f"{line.text} is of the sample configuration, and lets strangers relay"
                self.report.add(Kind.DANGER, shown, said, "take the line out if it is not yours")
                continue
            for converter in converters:
                try:
                    network = converter(line.text)
                except ValueError:
                    continue  # told with the file
                if _is_wide(network):
                    said = f"{network.num_addresses} addresses may relay: {network}"
                    self.report.add(Kind.DANGER, shown, said, "say the network that is meant")

    def _lines_of(self, name: str) -> tuple[Line, ...]:
        try:
            return self.files.lines(name)
        except ConfigurationError:
            return ()  # told with the file

    def _maker(self, name: str) -> PluginMaker | None:
        return next((each for each in self._makers if each.name == name), None)

    # How things are shown.

    def _shown(self, place: str) -> str:
        short = os.path.relpath(place, self.folder)
        return place if short.startswith("..") else short

    def _place(self, error: ConfigurationError) -> str:
        file = self._shown(error.file or "")
        return file if error.line is None else f"{file}:{error.line}"


def _control_folders(folder: str) -> list[str]:
    """The folders with control files, as the Perl qpsmtpd would search them.

    :raises ConfigurationError: There is none.
    """
    if not os.path.isdir(folder):
        raise ConfigurationError(folder, "the folder of an installation")
    below = [os.path.join(folder, name) for name in ("control", "config")]
    found = [each for each in below if os.path.isdir(each)]
    if not found and any(os.path.lexists(os.path.join(folder, name)) for name in _SIGNS):
        found = [folder]
    if not found:
        signs = ", ".join(_SIGNS)
        raise ConfigurationError(
            folder, f"config/ or control/ in this folder, or control files: one of {signs}"
        )
    return found


def _makers(names: Iterable[str]) -> list[PluginMaker]:
    """The plugins of these names, as far as they can be used."""
    found = []
    for name in names:
        try:
            found.append(discovery.find(name))
        except discovery.DiscoveryError:
            continue  # whoever names it in plugins is told
    return found


def _name(line: Line) -> str:
    """The present name of a line's plugin."""
    name = line.text.split()[0].partition(":")[0]
    return perl.OLD_NAMES.get(name, name).split()[0]


def _files_of(maker: PluginMaker) -> list[str]:
    """The control files that a plugin reads."""
    return [
        *(each.name for each in maker.control_files()),
        *(each.file for each in maker.control_maps()),
    ]


def _plugin_files(folder: str) -> Iterator[str]:
    """Names of what could be plugins: files without an ending, one folder deep."""
    for entry in _some_entries(folder):
        if entry.is_file():
            yield entry.name
        elif entry.is_dir(follow_symlinks=False):
            for inner in _some_entries(entry.path):
                if inner.is_file():
                    yield f"{entry.name}/{inner.name}"


def _some_entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            some = [entry for _, entry in zip(range(_ENTRIES), entries, strict=False)]
    except OSError:
        return []
    return sorted((each for each in some if "." not in each.name), key=lambda each: each.name)


def _is_wide(network: IPv4Network | IPv6Network) -> bool:
    return not network.is_private and network.prefixlen <= _WIDE[network.version]


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _without_place(error: ConfigurationError) -> str:
    return str(ConfigurationError(error.found, error.expected))

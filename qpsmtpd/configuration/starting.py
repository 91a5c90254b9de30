# -*- test-case-name: tests.configuration.test_starting -*-
"""How an existing installation is started: its run scripts, environment and client rules."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Final

from qpsmtpd.configuration.report import Kind, Report

__all__ = ["examine_environment", "examine_scripts", "read_some"]

#: Octets of a script that are looked at.
_LOOKED_AT: Final = 65536

#: Where scripts lie below an installation, and a service folder.
_SCRIPTS: Final = (
    "run",
    "run.forkserver",
    "run.prefork",
    "run.tcpserver",
    "rc",
    "supervise/qmail-smtpd/run",
    "service/qmail-smtpd/run",
    "supervise/qpsmtpd/run",
)

_PROGRAMS: Final = ("qpsmtpd-forkserver", "qpsmtpd-prefork", "qpsmtpd", "qmail-smtpd")

#: Sources of tcprules; a .cdb beside one is made from it.
_RULES: Final = ("tcp.smtp", "smtp.rules", "etc/tcp.smtp", "control/tcp.smtp")


def read_some(path: str, limit: int = _LOOKED_AT) -> str | None:
    """The beginning of a regular file as text; ``None`` if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return file.read(limit).decode("utf-8", "replace")
    except (OSError, ValueError):
        pass
    return None


def examine_environment(
    environ: Mapping[str, str], where: str, report: Report, kind: Kind = Kind.CHANGES
) -> None:
    """Say what becomes of variables that the Perl qpsmtpd or qmail-smtpd looks at.

    :param where: Where they were found.
    :param kind: What it is there that every client may relay.
    """
    if "RELAYCLIENT" in environ:
        report.add(
            kind,
            f"{where}: RELAYCLIENT",
            "a super-server that hands it on lets every client relay; to a daemon it means nothing",
            "leave it to the rules of single clients, or list clients in relayclients",
        )
        if environ["RELAYCLIENT"]:
            report.add(*_appended(f"{where}: RELAYCLIENT"))
    if value := environ.get("DATABYTES"):
        said = f"limits messages to {value} octets, whatever the file databytes says, as in qmail"
        report.add(Kind.CHANGES, f"{where}: DATABYTES", f"{said}; the Perl qpsmtpd passed over it")
    for name in ("QMAILQUEUE", "POSTFIXQUEUE", "RBLSMTPD", "WHITELISTCLIENT", "TLSCIPHERS"):
        if name in environ:
            report.add(
                Kind.CHANGES,
                f"{where}: {name}",
                "counts where the plugin that reads it is there",
                "see the manual: python -m qpsmtpd plugins NAME",
            )


def _appended(subject: str) -> tuple[Kind, str, str]:
    said = "its value is not added to recipients, as qmail-smtpd does; it only lets relay"
    return Kind.CHANGES, subject, said


def examine_scripts(folder: str, report: Report) -> None:
    """Look at the scripts that start the server, at envdirs and at tcprules below a folder."""
    for name in _SCRIPTS:
        text = read_some(os.path.join(folder, name))
        if text is not None:
            _examine_script(name, text, report)
    for name in ("env", "supervise/qmail-smtpd/env", "supervise/qpsmtpd/env"):
        found = _envdir(os.path.join(folder, name))
        if found:
            examine_environment(found, name, report, Kind.DANGER)
    for name in _RULES:
        text = read_some(os.path.join(folder, name))
        if text is not None:
            _examine_rules(name, text, report)


def _envdir(folder: str) -> dict[str, str]:
    """The variables of a folder for envdir: a file each, whose first line is the value."""
    names = ("RELAYCLIENT", "DATABYTES", "QMAILQUEUE", "POSTFIXQUEUE", "RBLSMTPD")
    found = {}
    for name in names:
        text = read_some(os.path.join(folder, name))
        if text:
            found[name] = text.partition("\n")[0].rstrip()
    return found


def _examine_rules(name: str, text: str, report: Report) -> None:
    report.add(Kind.WORKS, name, "rules of tcpserver, which go on to work under tcpserver -x")
    if re.search(r'^[^#\n]*RELAYCLIENT=(["\']?)[^"\',\s]+\1', text, re.MULTILINE):
        report.add(*_appended(name))
    for line in text.splitlines():
        if re.match(r"\s*:allow,.*RELAYCLIENT=", line):
            report.add(
                Kind.DANGER, name, "its last rule lets every client relay", "take RELAYCLIENT out"
            )


def _examine_script(name: str, text: str, report: Report) -> None:
    code = re.sub(r"\\\n", " ", "\n".join(_code(text)))
    program = next(
        (each for each in _PROGRAMS if re.search(rf"(?:^|[/\s]){each}(?:\s|$)", code)), None
    )
    found = re.findall(r"^\s*(?:export\s+)?(RELAYCLIENT|DATABYTES)=(\S*)", code, re.MULTILINE)
    variables = {variable: value.strip("\"';") for variable, value in found}
    examine_environment(variables, name, report, Kind.DANGER)
    if program is None:
        return
    if "tcpserver" in code:
        report.add(
            Kind.CHANGES,
            name,
            f"starts {program} under tcpserver",
            f"in place of {program}: python -m qpsmtpd stdio",
        )
        if "qmail-smtpd" in code and "rblsmtpd" in code:
            report.add(
                Kind.CHANGES, name, "rblsmtpd goes on to work; the plugin dnsbl can take its place"
            )
        return
    if program in ("qpsmtpd-forkserver", "qpsmtpd-prefork"):
        do = f"call this installation's {program} in its place, with the same options and no perl"
    else:
        do = f"in place of {program}: python -m qpsmtpd stdio"
    report.add(Kind.CHANGES, name, f"starts {program}", do)


def _code(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if not line.lstrip().startswith("#"))

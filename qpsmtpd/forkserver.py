# -*- test-case-name: tests.test_forkserver -*-
"""The commands ``qpsmtpd-forkserver`` and ``qpsmtpd-prefork``, with the Perl programs' options.

Neither forks for each client any more. Both are ``twistd qpsmtpd`` under names and options that
start scripts have already; what an option can no longer mean is said on standard error.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from qpsmtpd import __version__

__all__ = ["forkserver", "forkserver_words", "prefork", "prefork_words"]

#: Whom root becomes unless it is told otherwise.
DEFAULT_USER: Final = "smtpd"

_ADDRESS: Final = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*|[\w.-]+)"
    r"(?::(?P<port>\d+))?"
)


def forkserver(arguments: Sequence[str] | None = None) -> None:
    """Run a server with the options of ``qpsmtpd-forkserver``."""
    _run(forkserver_words(sys.argv[1:] if arguments is None else arguments))


def prefork(arguments: Sequence[str] | None = None) -> None:
    """Run a server with the options of ``qpsmtpd-prefork``."""
    _run(prefork_words(sys.argv[1:] if arguments is None else arguments))


def forkserver_words(arguments: Sequence[str]) -> list[str]:
    """What a command line of ``qpsmtpd-forkserver`` is for ``twistd``.

    :raises SystemExit: If there is something wrong with it.
    """
    parser = _parser("qpsmtpd-forkserver")
    _add_common(parser, "-l", "-u", "-m", "-d")
    parser.add_argument("-p", "--port", action="append", type=_port, metavar="N", default=[])
    parser.add_argument(
        *("-c", "--limit-connections"), type=_count, metavar="N", default=15, help="at once [15]"
    )
    parser.add_argument(
        *("-H", "--no-rdns"),
        action="store_true",
        help="look clients' names up only if the control file reverse_dns says so",
    )
    parser.set_defaults(max_from_ip=5, workers=1)
    options = parser.parse_args(arguments)
    return _words(options, options.port or [2525], options.limit_connections)


def prefork_words(arguments: Sequence[str]) -> list[str]:
    """What a command line of ``qpsmtpd-prefork`` is for ``twistd``.

    :raises SystemExit: If there is something wrong with it.
    """
    parser = _parser("qpsmtpd-prefork")
    _add_common(parser, "--interface")
    parser.add_argument("--port", type=_port, metavar="N", default=25)
    parser.add_argument("--children", type=_count, metavar="N", default=15, help="clients at once")
    for option, arguments_taken, meaning in (
        ("--idle-children", 1, "a worker serves many clients, and none is made for the next one"),
        ("--pretty-child", 0, "workers have the name of their command"),
        ("--renice-parent", 1, "the parent does not accept clients"),
        ("--quiet", 0, "the control file loglevel says what is logged"),
        ("--debug", 0, "the control file loglevel says what is logged"),
    ):
        parser.add_argument(
            option, action=_Meaningless, nargs=arguments_taken, type=int, meaning=meaning
        )
    parser.set_defaults(max_from_ip=10, workers=len(os.sched_getaffinity(0)), no_rdns=False)
    options = parser.parse_args(arguments)
    return _words(options, [options.port], options.children)


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name,
        description="Serve with the options of the Perl program of this name.",
        epilog="What else there is: twistd qpsmtpd --help.",
    )
    parser.add_argument("--version", action="version", version=f"{name} {__version__}")
    return parser


def _add_common(parser: argparse.ArgumentParser, *others: str) -> None:
    """Add what both have, with other names that one of them has for it."""

    def add(option: str, short: str, **how: object) -> None:
        names = [other for other in others if other == short] + [option]
        parser.add_argument(*names, **how)  # type: ignore[arg-type]

    listen = "--interface" if "--interface" in others else "-l"
    add(
        *("--listen-address", listen),
        action="append",
        type=_address,
        dest="listen_address",
        metavar="ADDRESS[:PORT]",
        default=[],
    )
    add("--max-from-ip", "-m", type=_count, metavar="N", help="clients at once from one address")
    add("--user", "-u", metavar="NAME", help=f"whom to run as; for root {DEFAULT_USER}")
    add("--detach", "-d", action="store_true", help="run in the background")
    parser.add_argument("--pid-file", metavar="FILE", type=_absolute)
    parser.add_argument("--config", action="append", metavar="DIR", default=[])
    parser.add_argument("--state", metavar="DIR", help="what plugins remember")
    parser.add_argument("--workers", type=_some, metavar="N", help="processes that serve")


class _Meaningless(argparse.Action):
    """An option that is taken, and that its user is told about."""

    def __init__(self, meaning: str, **how: object) -> None:
        super().__init__(help=f"has no effect: {meaning}", **how)  # type: ignore[arg-type]
        self._meaning = meaning

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        print(f"{parser.prog}: {option_string} has no effect: {self._meaning}", file=sys.stderr)


def _words(options: argparse.Namespace, ports: Sequence[int], clients: int) -> list[str]:
    words = ["--pidfile="]
    if not options.detach:
        words.append("--nodaemon")
    words += ["--logger", "qpsmtpd.services.logs.plain_log", "qpsmtpd"]
    for endpoint in _endpoints(options.listen_address, ports):
        words += ["--listen", endpoint]
    for folder in options.config:
        words += ["--config", folder]
    user = options.user
    if user is None and os.geteuid() == 0:
        user = DEFAULT_USER
    for name, value in (
        ("limit-connections", clients),
        ("max-from-ip", options.max_from_ip),
        ("workers", options.workers),
        ("user", user),
        ("pid-file", options.pid_file),
        ("state", options.state),
    ):
        if value is not None:
            words += [f"--{name}", str(value)]
    if not options.no_rdns:  # both always looked them up
        words.append("--reverse-dns")
    return words


def _endpoints(addresses: Sequence[tuple[str, int]], ports: Sequence[int]) -> Iterable[str]:
    """Every address with its port, or with every port if it has none of its own."""
    for host, own in addresses or [(_everywhere(), 0)]:
        for port in [own] if own else ports:
            kind = "tcp6" if ":" in host else "tcp"
            interface = host.replace(":", "\\:")
            yield f"{kind}:{port}:interface={interface}"


def _everywhere() -> str:
    """The address for all clients: an IPv6 socket takes those of IPv4, too, if there are any."""
    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::", 0))
    except OSError:
        return "0.0.0.0"
    return "::"


def _address(word: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(word)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected ADDRESS, ADDRESS:PORT or [IPV6]:PORT: {word}")
    return match["host"].strip("[]"), _port(match["port"]) if match["port"] else 0


def _number(least: int, most: int | None = None) -> Callable[[str], int]:
    def convert(word: str) -> int:
        if not (word.isascii() and word.isdigit()) or int(word) < least:
            raise argparse.ArgumentTypeError(f"expected a number of {least} or more: {word}")
        if most is not None and int(word) > most:
            raise argparse.ArgumentTypeError(f"expected a number up to {most}: {word}")
        return int(word)

    return convert


_port: Final = _number(0, 65535)
_count: Final = _number(0)
_some: Final = _number(1)


def _absolute(word: str) -> str:
    if not os.path.isabs(word):
        raise argparse.ArgumentTypeError(f"expected an absolute path: {word}")
    return word


def _run(words: Sequence[str]) -> None:
    from twisted.scripts import twistd

    sys.argv[1:] = words
    twistd.run()

# -*- test-case-name: tests.test_main -*-
"""``python -m qpsmtpd`` and the command ``qpsmtpd``: what there is beside ``twistd qpsmtpd``."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Sequence

from qpsmtpd import __version__
from qpsmtpd.logtools import command as log_command

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    :returns: The exit status: 0 if all is well, 1 if not, 2 for a bad command line.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    if not arguments and _has_client():
        arguments = ["stdio"]  # as the qpsmtpd that tcpserver has always started
    if arguments and arguments[0] in ("forkserver", "prefork"):
        return _serve(arguments[0], arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # as with `| head`: who reads has enough
        # Python flushes once more at its end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _has_client() -> bool:
    """Whether a super-server has started this process for one client."""
    if "TCPREMOTEIP" in os.environ:
        return True
    try:
        return stat.S_ISSOCK(os.fstat(0).st_mode)
    except OSError:
        return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m qpsmtpd",
        description="Look at a configuration, list plugins, write a tap file, serve one client.",
    )
    parser.add_argument("--version", action="version", version=f"qpsmtpd {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    check = commands.add_parser("check", help="say what is wrong with a configuration")
    _add_config(check)
    check.add_argument(
        "--from",
        dest="origin",
        metavar="DIR",
        help="say what becomes of an installation of the Perl qpsmtpd or of qmail-smtpd",
    )
    check.add_argument("--json", action="store_true", help="with --from: for other programs")
    check.set_defaults(run=_check)

    plugins = commands.add_parser("plugins", help="list plugins, with their arguments")
    plugins.add_argument("name", nargs="*", help="only these")
    _add_config(plugins)
    plugins.set_defaults(run=_plugins)

    tap = commands.add_parser("tap", help="write a tap file for twistd -f")
    tap.add_argument("-o", "--output", default="qpsmtpd.tap", help="the file to write")
    tap.add_argument(
        "options",
        nargs=argparse.REMAINDER,
        metavar="-- OPTION",
        help="the options of twistd qpsmtpd",
    )
    tap.set_defaults(run=_tap)

    stdio = commands.add_parser(
        "stdio", help="one session on standard input and output, for tcpserver or inetd"
    )
    _add_config(stdio)
    stdio.add_argument("-s", "--state", default="var/state", help="what plugins remember")
    stdio.add_argument(
        "-g", "--grace", default=30.0, type=float, help="seconds for a message at a stop"
    )
    stdio.set_defaults(run=_stdio)

    for name in ("forkserver", "prefork"):  # main takes these by itself
        commands.add_parser(
            name, add_help=False, help=f"serve with the options of the Perl qpsmtpd-{name}"
        )

    secret = commands.add_parser("hash-password", help="hash a password for flat_auth_pw")
    secret.set_defaults(run=_hash_password)

    log_command.add_commands(commands)

    worker = commands.add_parser("worker", help="what a supervisor starts")
    worker.add_argument("server")
    worker.set_defaults(run=_worker)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c",
        "--config",
        action="append",
        default=[],
        metavar="DIR",
        help="a folder with control files; may be given several times, the last one wins",
    )


def _check(options: argparse.Namespace) -> int:
    if options.origin is not None:
        return _check_origin(options)
    from qpsmtpd.configuration.disagreements import disagreements
    from qpsmtpd.configuration.errors import ConfigurationError, ConfigurationErrors
    from qpsmtpd.server.options import ServerOptions
    from qpsmtpd.server.service import check

    try:
        found = check(ServerOptions(directories=tuple(options.config)))
    except (ConfigurationError, ConfigurationErrors) as error:
        print(error, file=sys.stderr)
        return 1
    for name in found.files.files_read():
        print(f"read {name}")
    for link in found.chain.links:
        print(f"uses {link.name}")
    for notice in found.notices:
        print(notice, file=sys.stderr)
    plugins = {link.name for link in found.chain.links}
    for line in disagreements(found.files, os.environ, plugins):
        print(line, file=sys.stderr)
    print("The configuration can be used.")
    return 0


def _check_origin(options: argparse.Namespace) -> int:
    from twisted.internet.task import Clock

    from qpsmtpd.configuration.errors import ConfigurationError
    from qpsmtpd.configuration.migration import examine
    from qpsmtpd.server.options import ServerOptions
    from qpsmtpd.services.registry import ServiceRegistry

    services = ServiceRegistry(Clock(), ServerOptions().state)
    try:
        report = examine(options.origin, os.environ, services)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        print(report.json())
    else:
        for line in report.lines():
            print(line)
    return report.status


def _plugins(options: argparse.Namespace) -> int:
    from qpsmtpd.configuration import discovery
    from qpsmtpd.configuration.describe import describe
    from qpsmtpd.configuration.errors import ConfigurationError
    from qpsmtpd.configuration.load import control_files
    from qpsmtpd.configuration.values import path

    try:
        files = control_files(options.config, os.environ, os.getcwd())
        discovery.add_folders(line.value(path) for line in files.lines("plugin_dirs"))
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1
    status = 0
    for name in options.name or discovery.names():
        try:
            maker = discovery.find(name)
        except discovery.DiscoveryError as error:
            print(f"{name}: {error}", file=sys.stderr)
            status = 1
        else:
            print(describe(maker, whole=bool(options.name)))
    return status


def _tap(options: argparse.Namespace) -> int:
    from twisted.application.service import Application, IServiceCollection
    from twisted.persisted.sob import IPersistable
    from twisted.python.usage import UsageError

    from qpsmtpd.tap import Options, makeService

    parsed = Options()
    words = options.options[1:] if options.options[:1] == ["--"] else options.options
    try:
        parsed.parseOptions(words)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    application = Application("qpsmtpd")
    try:
        makeService(parsed).setServiceParent(IServiceCollection(application))
        IPersistable(application).save(filename=options.output)
    except SystemExit as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{options.output}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"Run it with: twistd -f {options.output}")
    return 0


def _serve(name: str, arguments: Sequence[str]) -> int:
    from qpsmtpd import forkserver

    run = forkserver.forkserver if name == "forkserver" else forkserver.prefork
    run(arguments)
    return 0


def _stdio(options: argparse.Namespace) -> int:
    from qpsmtpd.server.stdio import main as serve

    return serve(options.config, options.state, options.grace)


def _hash_password(options: argparse.Namespace) -> int:
    import getpass

    from qpsmtpd.passwords import hash_password

    secret = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    if not secret:
        print("No password was given.", file=sys.stderr)
        return 1
    print(hash_password(secret.encode("utf-8")))
    return 0


def _worker(options: argparse.Namespace) -> int:
    from qpsmtpd.server import workers

    return workers.main(options.server)


if __name__ == "__main__":
    sys.exit(main())

# -*- test-case-name: tests.test_tap -*-
"""``twistd qpsmtpd``: options to a service."""

from __future__ import annotations

import os

from twisted.application.service import IService
from twisted.python.usage import Options as _Options
from twisted.python.usage import UsageError

from qpsmtpd.configuration.errors import ConfigurationError, ConfigurationErrors
from qpsmtpd.configuration.values import ip_network, seconds
from qpsmtpd.server.options import DEFAULT_ENDPOINT, ServerOptions
from qpsmtpd.server.service import SMTPService, check_files
from qpsmtpd.server.supervisor import Supervisor

__all__ = ["Options", "makeService"]


class Options(_Options):
    """The options of ``twistd qpsmtpd``."""

    longdesc = (
        "Receives mail through the components that the control file `plugins` names. "
        "Without --config, control files are looked for as the Perl qpsmtpd does: in "
        "$QMAIL/control or /var/qmail/control, in ./config, and in $QPSMTPD_CONFIG. "
        "SIGHUP reads the configuration again."
    )

    optParameters = [
        ["workers", "w", 1, "Processes that share the listening sockets.", int],
        ["user", "u", None, "User to run as once the sockets are open."],
        ["grace", "g", 30.0, "Seconds that messages on their way get at a stop.", seconds],
        ["state", "s", "var/state", "Folder for what plugins remember."],
        ["pid-file", None, None, "File to write the process id to."],
        ["limit-connections", None, None, "Connections at once; 0 is no limit.", int],
        ["max-from-ip", None, None, "Connections at once from one address.", int],
    ]

    optFlags = [["reverse-dns", None, "Look clients' names up, whatever reverse_dns says."]]

    def __init__(self) -> None:
        super().__init__()
        self.directories: list[str] = []
        self.endpoints: list[str] = []
        self.policies: list[str] = []
        self.networks: list[str] = []

    def opt_config(self, directory: str) -> None:
        """Folder with control files. Several times: for each file, the last that has it wins."""
        # twistd goes to another folder later, if it is told to.
        self.directories.append(os.path.abspath(directory))

    opt_c = opt_config

    def opt_listen(self, endpoint: str) -> None:
        """Endpoint, several times for more. [default: tcp:2525:interface=127.0.0.1]"""
        self.endpoints.append(endpoint)
        self.policies.append("")

    opt_l = opt_listen

    def opt_policy(self, directory: str) -> None:
        """Folder with control files of its own for the last --listen; the others follow it."""
        if not self.policies:
            raise UsageError("--policy: expected a --listen before it")
        if self.policies[-1]:
            raise UsageError("--policy: expected one for each --listen")
        self.policies[-1] = os.path.abspath(directory)

    def opt_proxy_from(self, network: str) -> None:
        """Network whose connections begin with a PROXY header; unix for UNIX sockets."""
        if network != "unix":
            try:
                ip_network(network)
            except ValueError as error:
                raise UsageError(f"--proxy-from: {error}") from None
        self.networks.append(network)

    def postOptions(self) -> None:
        if self["workers"] < 1:
            raise UsageError("--workers: expected 1 or more")
        for limit in ("limit-connections", "max-from-ip"):
            if self[limit] is not None and self[limit] < 0:
                raise UsageError(f"--{limit}: expected 0 or more")

    def server(self) -> ServerOptions:
        """The options as the server takes them."""
        return ServerOptions(
            directories=tuple(self.directories),
            endpoints=tuple(self.endpoints) or (DEFAULT_ENDPOINT,),
            proxy_from=tuple(self.networks),
            workers=self["workers"],
            user=self["user"],
            grace=self["grace"],
            state=self["state"],
            pid_file=self["pid-file"],
            policies=tuple(self.policies) if any(self.policies) else (),
            connections=self["limit-connections"],
            connections_per_address=self["max-from-ip"],
            reverse_dns=bool(self["reverse-dns"]),
        )


def makeService(options: Options) -> IService:
    """Make the server's service; its configuration is checked here, before anything else.

    Where components have to be asked for settings, that is done when the reactor runs.

    :raises SystemExit: If the configuration cannot be used; says why.
    """
    server = options.server()
    try:
        check_files(server)
    except (ConfigurationError, ConfigurationErrors) as error:
        raise SystemExit(f"qpsmtpd cannot start:\n{error}") from None
    if server.workers > 1:
        return Supervisor(server)
    return SMTPService(server)

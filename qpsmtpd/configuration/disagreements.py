# -*- test-case-name: tests.configuration.test_disagreements -*-
"""Where qmail-smtpd and the Perl qpsmtpd read one configuration in two ways, and what we do.

Of two readings the safe one counts: what lets fewer relay, and changes no address.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from qpsmtpd.configuration.files import ControlFiles

__all__ = ["disagreements"]


def disagreements(
    files: ControlFiles, environ: Mapping[str, str], plugins: Collection[str]
) -> Iterator[str]:
    """Say what an operator of either may not expect, a line for each; nothing of it is wrong.

    :param plugins: The names of those in use.
    """
    if "rcpt_ok" in plugins and not files.lines("rcpthosts"):
        yield (
            "rcpthosts is missing or empty: mail is taken for the name in me alone, as in Perl;"
            " qmail-smtpd without the file would take it for everybody"
        )
    if path := files.path("localiphost"):
        yield (
            f"{path}: counts for recipients at the address that the client connected to;"
            " qmail-smtpd knows all addresses of the machine, and Perl none"
        )
    if "RELAYCLIENT" in environ:
        yield (
            "RELAYCLIENT is set: it counts under tcpserver or inetd alone, for the one client; with"
            " Perl it would open a server for everybody"
        )
        if environ["RELAYCLIENT"]:
            yield (
                "RELAYCLIENT has a value: no recipient is changed, as in Perl; qmail-smtpd would"
                " append it to every recipient"
            )
    if environ.get("DATABYTES"):
        yield (
            "DATABYTES is set: it counts in place of databytes, as in qmail-smtpd; Perl would not"
            " look at it"
        )

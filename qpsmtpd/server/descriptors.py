# -*- test-case-name: tests.server.test_descriptors -*-
"""How many connections a process can have before it runs out of descriptors.

A session is worth nothing when its message cannot be opened a file. So each connection is
counted twice, up to a number of files that are hardly ever open at once, and some descriptors
are kept for what all share.
"""

from __future__ import annotations

import resource
from typing import Final

from twisted.logger import Logger

__all__ = ["affordable", "provide"]

log: Final = Logger()

#: Descriptors for what is no session's: sockets that listen, a batch of files that are
#: written, questions to the DNS.
RESERVE: Final = 128

#: Sessions that have a message above ``size_threshold`` on its way at the same time, at most.
FILES: Final = 4096


def affordable(limit: int) -> int:
    """How many connections there may be at once.

    :param limit: How many descriptors there may be.
    """
    return max(max(limit - RESERVE, limit // 2) // 2, limit - RESERVE - FILES)


def provide(connections: int) -> int:
    """See to it that there are descriptors for connections, as far as the system allows it.

    :param connections: Connections at once; 0 for as many as possible.

    :returns: How many can be had, no more than asked for.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + RESERVE if connections else hard
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if wanted == resource.RLIM_INFINITY or resource.RLIM_INFINITY != soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            log.warn("No more than {limit} descriptors: {error}", limit=soft, error=error)
        else:
            soft = wanted
    if soft == resource.RLIM_INFINITY:
        return connections
    most = affordable(soft)
    if 0 < connections <= most:
        return connections
    if connections:
        log.warn(
            "{most} connections at once are all that {limit} descriptors allow, not {connections}",
            most=most,
            limit=soft,
            connections=connections,
        )
    return most

"""The Perl qpsmtpd with two clients: ``python -m tests.logtools.perl FOLDER``, for its log.

It runs where there is no way out, as in :mod:`tests.compared.world`.
"""

import sys
from pathlib import Path

from tests.compared.world import PORTS, names, server
from tests.server.certificates import write_certificate
from tests.server.processes import connect, until


def main(folder: Path) -> None:
    """Have it log a session that is taken and one that is refused, in ``perl.log``."""
    write_certificate(str(folder), "mail.example")
    log = folder / "perl.log"
    with names(), server("perl", folder):
        with connect(PORTS["perl"]) as taken, connect(PORTS["perl"]) as refused:
            refused.ehlo("evil.example")
            refused.mail("spammer@bad.example")
            refused.rcpt("anna@example.com")
            taken.sendmail("a@example.org", ["anna@example.com"], "Subject: x\n\ny\n")
        # The first one that it cleans up after was there to see whether it serves.
        ended = b"cleaning up after"
        until(lambda: log.read_bytes().count(ended) >= 3, lambda: str(log.read_bytes()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

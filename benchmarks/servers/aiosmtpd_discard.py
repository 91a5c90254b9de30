"""aiosmtpd, with a handler that accepts and discards.

As a program, in the interpreter that has aiosmtpd: ``aiosmtpd_discard.py PORT
SECONDS``. The second argument is how long each ``RCPT`` waits.
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path


def main(port: int, wait: float) -> None:
    from aiosmtpd.smtp import SMTP

    class Discard:
        async def handle_DATA(self, server, session, envelope):  # noqa: N802
            return "250 2.0.0 Discarded"

    class WaitAndDiscard(Discard):
        async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
            await asyncio.sleep(wait)
            envelope.rcpt_tos.append(address)
            return "250 2.1.5 OK"

    async def serve() -> None:
        handler = WaitAndDiscard() if wait else Discard()
        server = await asyncio.get_running_loop().create_server(
            lambda: SMTP(handler, hostname="mail.example", data_size_limit=None),
            "127.0.0.1",
            port,
            backlog=4096,
        )
        await server.serve_forever()

    asyncio.run(serve())


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
else:
    from benchmarks.servers.base import PEER_PYTHON, Command, Server

    def prepare(folder: Path, port: int, *, wait: float = 0) -> Command:
        return Command([str(PEER_PYTHON), "-P", __file__, str(port), str(wait)])

    SERVER = Server("aiosmtpd", prepare)

    def waiting(seconds: float) -> Server:
        return Server(SERVER.title, partial(prepare, wait=seconds))

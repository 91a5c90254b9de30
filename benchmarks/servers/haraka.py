"""Haraka (Node.js), one process, with one plugin that accepts and discards."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from benchmarks.servers.base import NODE_MODULES, Command, Server

#: Answers the look-up of the client's name too, which would be a question to a name server.
PLUGIN = """\
'use strict';
exports.hook_lookup_rdns = (next) => next(OK, 'localhost');
exports.hook_mail = (next) => next(OK);
exports.hook_rcpt = (next) => { if (WAIT) setTimeout(() => next(OK), WAIT); else next(OK); };
exports.hook_queue = (next) => next(OK);
"""


def prepare(folder: Path, port: int, *, wait: float = 0) -> Command:
    configuration = folder / "config"
    configuration.mkdir()
    (folder / "plugins").mkdir()
    (folder / "queue").mkdir()
    plugin = f"const WAIT = {round(wait * 1000)};\n{PLUGIN}"
    (folder / "plugins" / "discard_all.js").write_text(plugin)
    for name, text in {
        "plugins": "discard_all",
        "me": "mail.example",
        "log.ini": "[main]\nlevel=crit",
        "smtp.ini": f"listen=127.0.0.1:{port}\npublic_ip=127.0.0.1\nnodes=0",
    }.items():
        (configuration / name).write_text(f"{text}\n")
    haraka = NODE_MODULES / "Haraka" / "bin" / "haraka"
    # It counts on sections of this file, so it gets the packaged one.
    shutil.copy(NODE_MODULES / "Haraka" / "config" / "connection.ini", configuration)
    return Command(["node", str(haraka), "-c", str(folder)])


#: Answers 503 to a command that came with the end of a message.
SERVER = Server("Haraka", prepare, after_data=False)


def waiting(seconds: float) -> Server:
    return Server(SERVER.title, partial(prepare, wait=seconds))

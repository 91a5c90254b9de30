"""A real Postfix that queues what it takes, and delivers nothing.

Every message goes to the hold queue: ``cleanup`` writes and syncs it there as it
does for any other queue, and the queue manager never looks at it. Needs root,
as Postfix does.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.servers.base import Command, Server, count_files

MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = mail.example
mydestination =
inet_interfaces = loopback-only
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
relay_domains =
alias_maps =
smtpd_recipient_restrictions = check_client_access static:HOLD, permit_mynetworks, reject
smtpd_relay_restrictions = permit_mynetworks, reject
# The hostname of the client would be a question to a name server.
smtpd_peername_lookup = no
# Should anything leave the hold queue, there is no such transport in master.cf.
default_transport = nowhere
local_transport = nowhere
relay_transport = nowhere
# Waits for the queue manager to keep up, which has nothing to do here.
in_flow_delay = 0
message_size_limit = 0
mailbox_size_limit = 0
"""

MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
retry     unix - - n - - error
error     unix - - n - - error
proxymap  unix - - n - - proxymap
anvil     unix - - n - 1 anvil
"""


def prepare(folder: Path, port: int) -> Command:
    configuration = folder / "etc"
    configuration.mkdir()
    (folder / "queue").mkdir()
    data = folder / "data"
    data.mkdir()
    shutil.chown(data, "postfix")
    (configuration / "main.cf").write_text(MAIN.format(folder=folder))
    (configuration / "master.cf").write_text(MASTER.format(port=port))
    return Command(["/usr/sbin/postfix", "-c", str(configuration), "start-fg"])


def stored(folder: Path) -> int:
    return count_files(folder / "queue" / "hold")


SERVER = Server("Postfix smtpd, queueing", prepare, stored)

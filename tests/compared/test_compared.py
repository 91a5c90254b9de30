"""What a client hears from this server and from the Perl qpsmtpd, for the same sessions."""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.compared.sessions import FILE, read
from tests.compared.table import PAGE, differences, explained, row
from tests.server.processes import run
from tests.services.binaries import find

CHECKOUT = Path(__file__).parents[2]

#: What is done in the new namespaces before the servers start. The Perl server then asks the DNS
#: of that network, which the process has itself.
SCRIPT = """
"$1" link set lo up
"$2" --bind resolv.conf /etc/resolv.conf
exec "$3" -m tests.compared.world . >said.json
"""


class ComparedTests(SynchronousTestCase):
    def test_same_but_for_what_is_explained(self) -> None:
        """Each command of each session has the Perl server's codes, or the page says why not."""
        sessions = read(FILE.read_text("utf-8"))
        found = [row(each) for each in differences(sessions, self.play())]
        page = PAGE.read_text("utf-8")
        rows = explained(page)
        self.assertIn(f"has {len(sessions)} sessions", page)
        self.assertEqual(len(set(rows)), len(rows), "a row is there twice")
        new = "\n".join(each for each in found if each not in rows)
        gone = "\n".join(each for each in rows if each not in found)
        self.assertEqual(new, "", f"{PAGE} does not explain\n{new}")
        self.assertEqual(gone, "", f"{PAGE} has what does not happen\n{gone}")

    def play(self) -> dict[str, dict[str, list[list[str]]]]:
        """Play the sessions in a network of their own, without any way to the outside."""
        folder = Path(tempfile.mkdtemp(prefix="qpsmtpd-test-"))
        self.addCleanup(shutil.rmtree, folder)
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        command = [find("unshare"), "--net", "--mount"]
        if os.geteuid() != 0:
            command.append("--map-root-user")
        command += [find("sh"), "-ec", SCRIPT, "sh", find("ip"), find("mount"), sys.executable]
        path = os.pathsep.join([str(CHECKOUT), *filter(None, sys.path)])
        run(command, folder, {"PYTHONPATH": path})
        said: dict[str, dict[str, list[list[str]]]] = json.loads((folder / "said.json").read_text())
        return said

"""From root to the user who serves. These tests run as root; a container's root will do."""

import os
import pwd
import shutil
import stat
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.configuration.errors import ConfigurationError
from qpsmtpd.server.privileges import check_user, drop_privileges, make_folder
from tests.server.processes import TWISTD, Server, connect, run


class PrivilegesTests(SynchronousTestCase):
    def setUp(self) -> None:
        # Not below the folder of the tests, which other users may not enter.
        self.folder = Path(tempfile.mkdtemp(prefix="qpsmtpd-test-"))
        self.folder.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.folder)

    def as_nobody(self, program: str) -> str:
        """Run a program that drops its privileges; it has ``drop()`` for that."""
        head = (
            "import os, pwd\nfrom qpsmtpd.server import privileges\n"
            "drop = lambda: privileges.drop_privileges('nobody')\n"
        )
        return run([sys.executable, "-c", head + program], self.folder)

    def test_for_good(self) -> None:
        """After the drop nothing of root is left: no id, no group, and no way back."""
        said = self.as_nobody(
            "os.setgroups([0, 4])\n"
            "drop()\n"
            "print(os.getresuid(), os.getresgid(), os.getgroups())\n"
            "try:\n    os.setuid(0)\nexcept PermissionError:\n    print('no way back')\n"
        )
        nobody = pwd.getpwnam("nobody")
        uid, gid = nobody.pw_uid, nobody.pw_gid
        groups = os.getgrouplist("nobody", gid)
        self.assertEqual(said, f"{(uid, uid, uid)} {(gid, gid, gid)} {groups}\nno way back\n")

    def test_already(self) -> None:
        """Who is the user already stays it; nobody else can be become from there."""
        said = self.as_nobody(
            "drop()\ndrop()\n"
            "try:\n    privileges.check_user('root')\n"
            "except Exception as error:\n    print(error)\n"
        )
        self.assertEqual(said, '"root": expected a start as root, to become this user\n')

    def test_unknown(self) -> None:
        """A user that is not there is an error, and nothing has changed."""
        for call in (check_user, drop_privileges):
            caught = self.assertRaises(ConfigurationError, call, "no-such-user")
            self.assertEqual(str(caught), '"no-such-user": expected the name of a user')

    def test_none(self) -> None:
        """Without a user nothing changes."""
        before = os.getresuid()
        check_user(None)
        drop_privileges(None)
        self.assertEqual(os.getresuid(), before)

    def test_folder(self) -> None:
        """Folders are made for the user, however far down; one that is there stays as it is."""
        make_folder(str(self.folder / "a/b/c"), "nobody")
        nobody = pwd.getpwnam("nobody").pw_uid
        for path in ("a", "a/b", "a/b/c"):
            found = (self.folder / path).stat()
            self.assertEqual((found.st_uid, stat.S_IMODE(found.st_mode)), (nobody, 0o700))
        make_folder(str(self.folder / "d/e"), "nobody", 0o2750)
        modes = [stat.S_IMODE((self.folder / path).stat().st_mode) for path in ("d", "d/e")]
        self.assertEqual(modes, [0o700, 0o2750])
        before = self.folder.stat()
        make_folder(str(self.folder), "nobody")
        self.assertEqual(self.folder.stat(), before)

    def test_server(self) -> None:
        """A server started by root serves as the user, in all its threads, and keeps state."""
        config = self.folder / "config"
        config.mkdir()
        maildir = self.folder / "mail"
        make_folder(str(maildir), "nobody")
        (config / "rcpthosts").write_text("example.com\n")
        (config / "plugins").write_text(f"rcpt_ok\ngreylisting\nqueue/maildir {maildir}/M\n")
        pid_file = self.folder / "pid"
        options = ["--config", str(config), "--listen", "tcp:0:interface=127.0.0.1"]
        options += ["--listen", f"unix:{self.folder}/s", "--user", "nobody"]
        options += ["--state", str(self.folder / "state"), "--pid-file", str(pid_file)]
        server = Server(self, [*TWISTD, "-n", "--pidfile=", "qpsmtpd", *options], self.folder)
        port = server.port()
        server.wait_for(r"Listening on UNIXAddress")
        self.assertEqual(pid_file.read_text(), f"{server.pid}\n")
        with connect(port) as client:
            client.ehlo()
            code, text = client.mail("a@example.org")
        self.assertEqual(code // 100, 4, text)  # greylisted: it is remembered
        nobody = pwd.getpwnam("nobody")
        groups = os.getgrouplist("nobody", nobody.pw_gid)
        for task in Path(f"/proc/{server.pid}/task").iterdir():
            fields = dict(
                line.split(":\t", 1) for line in (task / "status").read_text().splitlines()
            )
            self.assertEqual(set(fields["Uid"].split()), {str(nobody.pw_uid)})
            self.assertEqual(set(fields["Gid"].split()), {str(nobody.pw_gid)})
            self.assertEqual(fields["Groups"].split(), [str(group) for group in groups])
        store = self.folder / "state" / "store.sqlite"
        self.assertEqual(store.stat().st_uid, nobody.pw_uid)
        server.stop()
        self.assertNotIn("Traceback", server.said)

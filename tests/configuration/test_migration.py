"""An existing installation, file by file and plugin by plugin."""

import functools
import json
import os
import shutil
from pathlib import Path

from twisted.internet.task import Clock

from qpsmtpd.configuration import discovery, perl
from qpsmtpd.configuration.errors import ConfigurationError
from qpsmtpd.configuration.migration import examine
from qpsmtpd.configuration.report import Item, Report
from qpsmtpd.services.registry import ServiceRegistry
from tests.server.processes import PYTHON, run
from tests.test_main import MainTestCase

SAMPLE = Path(__file__).resolve().parent.parent / "migration" / "sample"


@functools.cache
def plugins_imported() -> None:
    """Import the bundled plugins once; a test forgets those that it was the first to import."""
    for name in discovery.names():
        discovery.find(name)


class MigrationTestCase(MainTestCase):
    def setUp(self) -> None:
        plugins_imported()
        super().setUp()

    def examine(self, folder: str = "", **environ: str) -> Report:
        environ = {"QMAIL": self.at("no-qmail"), **environ}
        self.report = examine(self.at(folder), environ, ServiceRegistry(Clock(), self.mktemp()))
        return self.report

    def items(self, subject: str) -> list[Item]:
        return [each for each in self.report.items if each.subject == subject]

    def assert_item(self, subject: str, kind: str, said: str) -> None:
        """One thing said of a subject is of this kind, and has these words."""
        found = [(each.kind.value, each.said) for each in self.items(subject)]
        self.assertTrue(
            any(each == kind and said in text for each, text in found), f"{subject}: {found}"
        )


class FolderTests(MigrationTestCase):
    def test_qpsmtpd(self) -> None:
        """The folder of qpsmtpd has config/."""
        self.configure({"plugins": "rcpt_ok\nqueue/discard\n", "rcpthosts": "mail.example\n"})
        self.assertEqual(self.examine().status, 0)
        self.assert_item("config/rcpthosts", "works", "is read by rcpt_ok")
        self.assert_item("config/plugins:2 queue/discard", "works", "is loaded")

    def test_config_itself(self) -> None:
        """A folder with control files in it, such as /etc/qpsmtpd, will do."""
        self.configure({"plugins": "rcpt_ok\nqueue/discard\n", "rcpthosts": "mail.example\n"})
        self.assertEqual(self.examine("config").status, 0)
        self.assert_item("rcpthosts", "works", "is read by rcpt_ok")

    def test_qmail(self) -> None:
        """The root of qmail, or its control/, with files of its other programs."""
        self.write("qmail/control/me", "mail.example\n")
        self.write("qmail/control/rcpthosts", "mail.example\n")
        self.write("qmail/control/locals", "mail.example\n")
        self.write("qmail/control/badmailfrom", "a b c d\n")
        for folder, prefix in (("qmail", "control/"), ("qmail/control", "")):
            self.assertEqual(self.examine(folder).status, 1)
            self.assert_item(f"{prefix}me", "works", "is read by the server")
            self.assert_item(f"{prefix}rcpthosts", "works", "is read by rcpt_ok")
            self.assert_item(f"{prefix}locals", "unused", "belongs to qmail-send")
            self.assert_item(f"{prefix}badmailfrom:1", "bad", "expected")
            self.assert_item("plugins", "missing", "there is no such control file")

    def test_no_rcpthosts(self) -> None:
        """Where qmail-smtpd takes mail for every domain, the safe reading is told."""
        self.write("control/me", "mail.example\n")
        self.examine()
        self.assert_item("rcpthosts", "changes", "mail is taken for the name in me alone")

    def test_beside_qmail(self) -> None:
        """Files of the machine's qmail count where an installation of qpsmtpd has none."""
        self.configure({"plugins": "rcpt_ok\nqueue/discard\n", "me": "mail.example\n"})
        self.write("qmail/control/rcpthosts", "mail.example\n")
        self.write("qmail/control/me", "other.example\n")
        self.assertEqual(self.examine(QMAIL=self.at("qmail")).status, 0)
        self.assert_item(self.at("qmail/control"), "changes", "where the installation has none")
        self.assert_item("qmail/control/rcpthosts", "works", "is read by rcpt_ok")
        self.assert_item("qmail/control/me", "unused", "counts for nothing beside config/me")
        self.examine()
        self.assertEqual(self.items("qmail/control/me"), [])

    def test_none(self) -> None:
        """A folder that is no installation, and one that is none at all, are errors."""
        os.rmdir(self.at("config"))
        os.mkdir(self.at("empty"))
        for folder in ("empty", "nowhere"):
            self.assertRaises(ConfigurationError, self.examine, folder)

    def test_both(self) -> None:
        """A file in config/ wins against one of the same name in control/."""
        self.configure({"plugins": "rcpt_ok\n", "me": "mail.example\n"})
        self.write("control/me", "other.example\n")
        self.examine()
        self.assert_item("config/me", "works", "is read by the server")
        self.assert_item("control/me", "unused", "counts for nothing beside config/me")


class FileTests(MigrationTestCase):
    def test_bad_files(self) -> None:
        """What cannot be read is told, and the rest all the same."""
        self.configure({"plugins": "rcpt_ok\nbadrcptto\n", "rcpthosts": "mail.example\n"})
        for name in ("smtpgreeting", "badrcptto"):
            with open(self.at(f"config/{name}"), "wb") as file:
                file.write(b"fine\n\xff\xfe\n" if name == "badrcptto" else b"\xff\n")
        os.truncate(self.write("config/databytes", "1\n"), 1 << 40)
        os.mkfifo(self.at("config/fifo"))
        os.symlink("circle", self.at("config/circle"))
        os.symlink("nowhere", self.at("config/dangling"))
        os.mkdir(self.at("config/folder"))
        self.assertEqual(self.examine().status, 1)
        self.assert_item("config/smtpgreeting:1", "bad", "expected UTF-8")
        self.assert_item("config/badrcptto:2", "bad", "expected UTF-8")
        self.assert_item("config/databytes", "bad", "expected at most 67108864 octets")
        self.assert_item("config/fifo", "bad", "is no regular file")
        self.assert_item("config/circle", "bad", "a link that goes in circles")
        self.assert_item("config/dangling", "bad", "No such file")
        self.assert_item("config/folder", "unused", "is a folder")
        self.assert_item("config/rcpthosts", "works", "is read by rcpt_ok")

    def test_wrong_values(self) -> None:
        """A value that is none is told with its line, and with what was expected."""
        self.configure({"plugins": "rcpt_ok\n", "databytes": "much\n", "loglevel": "# x\nloud\n"})
        self.examine()
        self.assert_item("config/databytes:1", "bad", '"much": expected a number')
        self.assert_item("config/loglevel:2", "bad", '"loud": expected a log level')

    def test_includes(self) -> None:
        """A circle of includes is told; an included file is known."""
        self.configure({"plugins": "$include more\n", "more": "rcpt_ok\n", "me": "$include me\n"})
        self.examine()
        self.assert_item("config/more", "works", "is included by another file")
        self.assert_item("config/more:1 rcpt_ok", "changes", "is loaded")
        self.assert_item("config/me:1", "bad", "expected no circle of files")

    def test_plugins_unreadable(self) -> None:
        """When the chain itself cannot be read, that is told, and no plugin is made up."""
        self.configure({"me": "mail.example\n"})
        with open(self.at("config/plugins"), "wb") as file:
            file.write(b"rcpt_ok\nrcpt_\xff\n")
        self.assertEqual(self.examine().status, 1)
        self.assertIn("expected UTF-8", "\n".join(self.report.lines()))

    def test_unknown(self) -> None:
        """What nobody reads is told: of other programs, of plugins not named, and unknown."""
        names = ("mine", "plugins~", "public_suffix_list", "IP", "dnsbl_zones", "me")
        self.configure({"plugins": "rcpt_ok\n", **dict.fromkeys(names, "0\n")})
        self.examine()
        self.assert_item("config/mine", "unused", "is unknown")
        self.assert_item("config/plugins~", "unused", "looks like a copy")
        self.assert_item("config/public_suffix_list", "unused", "is read by no server")
        self.assert_item("config/dnsbl_zones", "unused", "belongs to dnsbl, which plugins does not")
        self.assertIn(self.items("config/IP")[0].kind.value, ("works", "changes"))

    def test_permissions(self) -> None:
        """Secrets that everybody can read, and files that everybody can write, are a danger."""
        self.configure({"plugins": "rcpt_ok\n", "flat_auth_pw": "a@mail.example:x\n", "me": "m\n"})
        os.chmod(self.at("config/flat_auth_pw"), 0o644)
        os.chmod(self.at("config/me"), 0o666)
        self.examine()
        self.assert_item("config/flat_auth_pw", "danger", "has secrets")
        self.assert_item("config/me", "danger", "can be written by every user")
        os.chmod(self.at("config/flat_auth_pw"), 0o640)
        os.chmod(self.at("config/me"), 0o644)
        self.assertEqual(self.examine().status, 0)

    def test_unreadable(self) -> None:
        """A file of somebody else is told."""
        self.configure({"plugins": "rcpt_ok\n", "locals": "mail.example\n"})
        real = os.access
        self.patch(os, "access", lambda path, mode: "locals" not in path and real(path, mode))
        self.examine()
        self.assert_item("config/locals", "bad", "Permission denied")

    def test_many_files(self) -> None:
        """A folder with very many files is looked at in part, and that is told."""
        self.configure({"plugins": "rcpt_ok\n", **{f"x{each}": "" for each in range(1100)}})
        self.examine()
        self.assert_item("config", "bad", "only the first 1000")


class PluginTests(MigrationTestCase):
    def test_perl(self) -> None:
        """A plugin of one's own in Perl has to be ported; one that is not used is only named."""
        self.configure({"plugins": "mine\nrcpt_ok\n"})
        for name in ("mine", "spare", "rcpt_ok"):
            self.write(f"plugins/{name}", "use strict;\nsub hook_rcpt { return DECLINED }\n")
        self.write("plugins/README", "Nothing of interest.\n")
        self.examine()
        self.assert_item("config/plugins:1 mine", "bad", "is one in Perl, which has to be ported")
        self.assert_item("plugins/spare", "unused", "is a plugin in Perl")
        self.assertEqual(self.items("plugins/README") + self.items("plugins/rcpt_ok"), [])
        self.assert_item("config/plugins:2 rcpt_ok", "changes", "is loaded")

    def test_missing(self) -> None:
        """A plugin that is not there is told with what goes without it, whatever else is wrong."""
        self.patch(perl, "PLUGINS", {"not_there": perl.Task.QUEUE})
        self.patch(perl, "CONTROL_FILES", {"its_file": "not_there"})
        for others in ({}, {"databytes": "much\n"}):
            texts = {"plugins": "not_there a b\nrcpt_ok\n", "its_file": "x\n", **others}
            self.configure(texts)
            self.assertEqual(self.examine().status, 1)
            self.assert_item("config/plugins:1 not_there", "missing", "no message is queued by it")
            self.assert_item("config/its_file", "missing", "belongs to not_there")

    def test_lines(self) -> None:
        """Each wrong line is told, and each right one, instances and loggers too."""
        self.configure(
            {
                "plugins": "rcpt_ok fly\nrelay:0 somearg\nnowhere\nA::B\n",
                "logging": "logging/nowhere\n",
            }
        )
        self.examine()
        self.assert_item("config/plugins:1 rcpt_ok", "bad", '"fly": expected')
        self.assert_item("config/plugins:3 nowhere", "bad", "not found")
        self.assert_item("config/plugins:4 A::B", "bad", "Package::Module cannot be loaded")
        self.assert_item("config/logging:1 logging/nowhere", "bad", "not found")

    def test_passed_over(self) -> None:
        """A word that is passed over is a change, and no more."""
        self.configure({"plugins": "relay:0 somearg\nrcpt_ok\n", "rcpthosts": "mail.example\n"})
        self.assertEqual(self.examine().status, 0)
        self.assert_item("config/plugins:1 relay:0", "changes", "is passed over")
        self.assert_item("plugins", "changes", "no queue plugin is active")


class DangerTests(MigrationTestCase):
    def test_sample_users(self) -> None:
        """Users of the sample configuration are a danger, and their passwords are not shown."""
        self.configure(
            {
                "plugins": "auth/auth_flat_file\nrcpt_ok\n",
                "flat_auth_pw": "good@example.com:good_pass\nanna@mail.example:secret\n",
            }
        )
        os.chmod(self.at("config/flat_auth_pw"), 0o600)
        self.examine()
        self.assert_item("config/flat_auth_pw:1", "danger", "good@example.com is a user of the")
        self.assertEqual(self.items("config/flat_auth_pw:2"), [])
        self.assertNotIn("good_pass", self.report.json())
        self.assertNotIn("secret ", self.report.json())

    def test_authentication(self) -> None:
        """AUTH in clear is a danger; tls_before_auth without tls offers no AUTH."""
        self.configure({"plugins": "auth/auth_flat_file\n"})
        self.examine()
        self.assert_item("tls_before_auth", "danger", "passwords may cross the network in clear")
        self.configure({"tls_before_auth": "1\n"})
        self.examine()
        self.assert_item("tls_before_auth", "changes", "AUTH is not offered at all")

    def test_relay_clients(self) -> None:
        """Networks of strangers in relayclients are a danger; one's own are not."""
        clients = "127.0.0.1\n10.\n192.0.\n198.51.100.0/24\n8.\n2001:0DB8\n2000::/3\n"
        self.configure({"plugins": "relay\nrcpt_ok\n", "relayclients": clients})
        self.examine()
        found = [each.subject for each in self.report.items if each.kind.value == "danger"]
        self.assertEqual(found, [f"config/relayclients:{number}" for number in (3, 5, 6, 7)])

    def test_environment(self) -> None:
        """RELAYCLIENT in an environment is told; one that a super-server hands on is a danger."""
        self.configure({"plugins": "rcpt_ok\n"})
        self.assertEqual(self.examine(RELAYCLIENT="").status, 0)
        self.assert_item("environment: RELAYCLIENT", "changes", "to a daemon it means nothing")
        self.write("env/RELAYCLIENT", "\n")
        self.assertEqual(self.examine().status, 1)
        self.assert_item("env: RELAYCLIENT", "danger", "lets every client relay")

    def test_scripts(self) -> None:
        """The script that starts it is looked at."""
        self.configure({"plugins": "rcpt_ok\n"})
        self.write("run", "exec ./qpsmtpd-forkserver -p 2525\n")
        self.examine()
        self.assertIn("qpsmtpd-forkserver in its place", self.items("run")[0].do)


class SampleTests(MigrationTestCase):
    def test_sample(self) -> None:
        """Of the sample configuration, each file and each active line is told, and its dangers."""
        shutil.copytree(SAMPLE, self.at("sample"))
        self.assertEqual(self.examine("sample").status, 1)
        subjects = {each.subject.partition(":")[0] for each in self.report.items}
        self.assertEqual(set(os.listdir(SAMPLE)) - subjects, set())
        lines = [each for each in self.report.items if each.subject.startswith("plugins:")]
        self.assertEqual(len({each.subject for each in lines}), 24)
        self.assertEqual([each for each in self.report.items if each.kind.value == "bad"], [])
        dangers = [each.subject for each in self.report.items if each.kind.value == "danger"]
        self.assertIn("flat_auth_pw:2", dangers)
        self.assertIn("relayclients:3", dangers)


class CommandTests(MigrationTestCase):
    def test_command(self) -> None:
        """The command ends as the report says, in text and in JSON."""
        self.configure({"plugins": "rcpt_ok\nqueue/discard\n", "rcpthosts": "mail.example\n"})
        status, out, err = self.run_main("check", "--from", self.top)
        self.assertEqual((status, err), (0, ""))
        self.assertIn("works    config/rcpthosts: is read by rcpt_ok", out.splitlines())
        status, out, _ = self.run_main("check", "--json", "--from", self.top)
        self.assertEqual((status, json.loads(out)["status"]), (0, 0))
        self.configure({"plugins": "nowhere\n"})
        self.assertEqual(self.run_main("check", "--from", self.top)[0], 1)
        self.assertEqual(self.run_main("check", "--from", self.at("nowhere"))[0], 1)

    def test_process(self) -> None:
        """It is the same from a shell, and changes nothing."""
        shutil.copytree(SAMPLE, self.at("sample"))
        before = {path: path.stat().st_mtime_ns for path in Path(self.top).rglob("*")}
        out = run([*PYTHON, "-m", "qpsmtpd", "check", "--from", "sample"], self.top, status=1)
        self.assertIn("danger   flat_auth_pw:2: good@example.com is a user", out)
        self.assertEqual(
            before, {path: path.stat().st_mtime_ns for path in Path(self.top).rglob("*")}
        )

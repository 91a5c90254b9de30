"""A whole configuration: where it is looked for, what comes of it, and all that is wrong."""

import os

from twisted.internet.task import Clock
from zope.interface.interface import InterfaceClass

import qpsmtpd
from qpsmtpd.configuration.errors import ConfigurationError, ConfigurationErrors
from qpsmtpd.configuration.load import Configuration, control_files, load
from tests.configuration.folders import FolderTestCase


def services(interface: InterfaceClass) -> object:
    """Offer a clock in place of everything."""
    return Clock()


class ControlFilesTests(FolderTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.environ = {"QMAIL": self.at("qmail")}

    def found(self, name: str, *directories: str, **environ: str) -> str | None:
        files = control_files(directories, {**self.environ, **environ}, self.top)
        return files.path(name)

    def test_named_folders(self) -> None:
        """Where the operator names folders, nothing else is searched, and the last one wins."""
        self.write("config/plugins", "")
        self.write("one/plugins", "")
        self.write("one/me", "")
        self.write("two/me", "")
        folders = (self.at("one"), self.at("two"))
        self.assertEqual(self.found("plugins", *folders), self.at("one/plugins"))
        self.assertEqual(self.found("me", *folders), self.at("two/me"))
        self.write("config/rcpthosts", "")
        self.assertIsNone(self.found("rcpthosts", *folders))

    def test_named_folder_is_missing(self) -> None:
        """A folder that is named and not there is an error."""
        caught = self.assertRaises(ConfigurationError, self.found, "plugins", self.at("gone"))
        self.assertEqual(self.plain(caught), '"TOP/gone": expected a folder with control files')

    def test_search_path(self) -> None:
        """Otherwise it is the search path of the Perl qpsmtpd."""
        self.write("qmail/control/rcpthosts", "")
        self.write("config/plugins", "")
        self.write("chosen/me", "")
        self.assertEqual(self.found("plugins"), self.at("config/plugins"))
        self.assertEqual(self.found("rcpthosts"), self.at("qmail/control/rcpthosts"))
        self.assertEqual(self.found("me", QPSMTPD_CONFIG=self.at("chosen")), self.at("chosen/me"))

    def test_sample(self) -> None:
        """Where there is no ``plugins`` file, it is the sample that comes with the package."""
        sample = os.path.join(os.path.dirname(qpsmtpd.__file__), "config")
        self.assertEqual(self.found("plugins"), os.path.join(sample, "plugins"))
        self.assertEqual(self.found("rcpthosts"), os.path.join(sample, "rcpthosts"))

    def test_sample_behind_own_files(self) -> None:
        """The sample's other files count only where there are none of one's own."""
        self.write("config/rcpthosts", "")
        self.assertEqual(self.found("rcpthosts"), self.at("config/rcpthosts"))


class LoadTests(FolderTestCase):
    def load(self, **texts: str) -> Configuration:
        return load(self.configure(texts), {}, services, Clock())

    def errors(self, **texts: str) -> list[str]:
        caught = self.assertRaises(ConfigurationErrors, self.load, **texts)
        return self.plain(caught).splitlines()

    def test_whole(self) -> None:
        """Settings, chain, log level and the files that were read come out of one folder."""
        found = self.load(
            plugins="rcpt_ok\nqueue/discard\n", me="mail.example\n", loglevel="LOGINFO\n"
        )
        self.assertEqual([link.name for link in found.chain.links], ["rcpt_ok", "queue/discard"])
        self.assertEqual(found.settings.me, "mail.example")
        self.assertEqual(found.loglevel, 6)
        self.assertEqual(
            set(found.files.files_read()),
            {self.at("config/plugins"), self.at("config/me"), self.at("config/loglevel")},
        )

    def test_loglevel(self) -> None:
        """Warnings are logged where no level is set."""
        self.assertEqual(self.load(plugins="").loglevel, 4)

    def test_sample(self) -> None:
        """The sample configuration can be used, and ends with a queue and a goodbye."""
        files = control_files((), {"QMAIL": self.at("qmail")}, self.at("empty"))
        names = [link.name for link in load(files, {}, services).chain.links]
        self.assertEqual(names[-3:], ["rcpt_ok", "queue/maildir", "quit_fortune"])

    def test_no_plugins_file(self) -> None:
        """A folder without a ``plugins`` file is no configuration."""
        self.assertEqual(
            self.errors(), ['"plugins": expected a file of this name in one of TOP/config']
        )

    def test_all_errors(self) -> None:
        """What is wrong with settings, level and plugins is told at once, and each once."""
        errors = self.errors(
            me="a b",
            databytes="x",
            loglevel="loud",
            plugins="nowhere\nrcpt_ok\nrcpt_ok:1\n",
            rcpthosts="fine.example\n..\n",
        )
        self.assertEqual(
            [error.split(": expected ")[0] for error in errors],
            [
                'TOP/config/databytes:1: "x"',
                'TOP/config/loglevel:1: "loud"',
                'TOP/config/plugins:1: "nowhere"',
                'TOP/config/rcpthosts:2: ".."',
                'TOP/config/me:1: "a b"',
            ],
        )

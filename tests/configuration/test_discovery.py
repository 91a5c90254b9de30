"""A plugin's name leads to its maker, and to no other module."""

import os
import subprocess
import sys

import qpsmtpd.plugins
from qpsmtpd.configuration import discovery
from qpsmtpd.configuration.discovery import DiscoveryError
from tests.configuration.folders import FolderTestCase

PLUGIN = """
    from qpsmtpd.component import PluginMaker, component

    @component
    class Mine:
        "Does nothing."

    maker = PluginMaker("{name}", Mine)
"""


class DiscoveryTestCase(FolderTestCase):
    def plugin(self, path: str, name: str) -> None:
        """Write the module of a plugin."""
        self.write(path, PLUGIN.replace("{name}", name))

    def refused(self, name: str) -> str:
        """What is said of a name that leads to no plugin."""
        return self.plain(self.assertRaises(DiscoveryError, discovery.find, name))


class FindTests(DiscoveryTestCase):
    def test_bundled(self) -> None:
        """Bundled plugins are found by their names, in sub-folders too."""
        for name in ("rcpt_ok", "queue/maildir", "auth/auth_flat_file"):
            self.assertEqual(discovery.find(name).name, name)

    def test_only_named_is_imported(self) -> None:
        """Of all plugins, only the module of the named one is imported."""
        program = (
            "import sys; from qpsmtpd.configuration import discovery; discovery.names();"
            "discovery.find('queue/discard');"
            "print([name for name in sys.modules if name.startswith('qpsmtpd.plugins.')])"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
        )
        self.assertEqual(
            done.stdout, "['qpsmtpd.plugins.queue', 'qpsmtpd.plugins.queue.discard']\n"
        )

    def test_hyphens(self) -> None:
        """A hyphen in a name is an underscore in the module's, and either form is understood."""
        self.plugin("more/queue/qmail_relay.py", "queue/qmail-relay")
        discovery.add_folders([self.at("more")])
        self.assertEqual(discovery.find("queue/qmail-relay").name, "queue/qmail-relay")
        self.assertIs(discovery.find("queue/qmail_relay"), discovery.find("queue/qmail-relay"))

    def test_folder_beside_bundled(self) -> None:
        """A folder with a sub-folder of the same name as a bundled one hides none of it."""
        self.plugin("more/queue/mine.py", "queue/mine")
        discovery.add_folders([self.at("more")])
        self.assertEqual(discovery.find("queue/mine").name, "queue/mine")
        self.assertEqual(discovery.find("queue/discard").name, "queue/discard")

    def test_folders_come_first(self) -> None:
        """Folders are searched before the bundled plugins, the first of them first."""
        self.plugin("one/of_two.py", "of_two")
        self.plugin("two/of_two.py", "of_two")
        discovery.add_folders([self.at("one"), self.at("two")])
        found = discovery.find("of_two").component.__module__
        self.assertEqual(sys.modules[found].__file__, self.at("one/of_two.py"))

    def test_folders_added_again(self) -> None:
        """A folder that is added again, as at a reload, is searched once."""
        discovery.add_folders([self.at("one")])
        discovery.add_folders([self.at("two"), self.at("one")])
        path = list(qpsmtpd.plugins.__path__)
        self.assertEqual(path[:2], [self.at("two"), self.at("one")])
        self.assertEqual(path.count(self.at("one")), 1)

    def test_plugin_of_later_time(self) -> None:
        """A plugin that was written after a vain search is found at the next one."""
        os.mkdir(self.at("more"))
        discovery.add_folders([self.at("more")])
        self.refused("late")
        self.plugin("more/late.py", "late")
        discovery.add_folders([self.at("more")])
        self.assertEqual(discovery.find("late").name, "late")

    def test_unknown(self) -> None:
        """A name that leads nowhere is refused with the folders that were searched."""
        os.mkdir(self.at("more"))
        discovery.add_folders([self.at("more"), self.at("missing")])
        said = self.refused("queue/nowhere")
        bundled = os.path.dirname(os.path.abspath(str(qpsmtpd.plugins.__file__)))
        self.assertTrue(said.startswith("plugin queue/nowhere not found in TOP/more, "), said)
        self.assertIn(bundled, said)
        self.assertNotIn("missing", said)
        self.assertIn("not found in", self.refused("rcpt_ok/deeper"))

    def test_no_name(self) -> None:
        """A text that could lead out of the plugins is no plugin's name."""
        for name in ("", "/", "a//b", "../rcpt_ok", "queue.maildir", "a b", "/etc/x", "a/"):
            self.assertEqual(self.refused(name), f"{name} is no plugin's name")

    def test_missing_python_module(self) -> None:
        """A plugin that needs a Python module says which one is not installed."""
        self.write("more/needs.py", "import nowhere_to_be_found.deeper\n")
        discovery.add_folders([self.at("more")])
        self.assertEqual(
            self.refused("needs"),
            "plugin needs needs the Python module nowhere_to_be_found, which is not installed",
        )

    def test_broken(self) -> None:
        """A plugin that fails when it is imported is refused with what it raised."""
        self.write("more/broken.py", "1 / 0\n")
        self.write("more/leaves.py", "import sys\nsys.exit(3)\n")
        discovery.add_folders([self.at("more")])
        self.assertEqual(
            self.refused("broken"),
            "plugin broken cannot be imported: ZeroDivisionError('division by zero')",
        )
        self.assertEqual(self.refused("leaves"), "plugin leaves cannot be imported: SystemExit(3)")

    def test_no_maker(self) -> None:
        """A module without a maker of the name is no plugin of that name."""
        self.write("more/empty.py", "")
        self.plugin("more/other.py", "another")
        discovery.add_folders([self.at("more")])
        self.assertEqual(self.refused("empty"), "TOP/more/empty.py has no PluginMaker for empty")
        self.assertEqual(self.refused("other"), "TOP/more/other.py has no PluginMaker for other")


class NamesTests(DiscoveryTestCase):
    def test_all(self) -> None:
        """All plugins are listed by name, sorted, and nothing else that lies beside them."""
        self.plugin("more/sub/deep.py", "sub/deep")
        self.plugin("more/with_hyphen.py", "with-hyphen")
        self.write("more/_helper.py", "")
        self.write("more/notes.txt", "")
        self.write("more/__pycache__/x.py", "")
        before = discovery.names()
        discovery.add_folders([self.at("more"), self.at("missing")])
        names = discovery.names()
        self.assertEqual(names, sorted(names))
        self.assertEqual(set(names) - set(before), {"sub/deep", "with_hyphen"})
        self.assertTrue({"rcpt_ok", "queue/maildir"} <= set(before))

    def test_every_bundled_plugin_is_found(self) -> None:
        """Each bundled plugin that is listed can be found, whichever hyphens its name has."""
        for name in discovery.names():
            self.assertEqual(discovery.find(name).name.replace("-", "_"), name)

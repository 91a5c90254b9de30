"""What is known of the Perl qpsmtpd's plugins."""

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.component import PluginMaker
from qpsmtpd.configuration import discovery, perl
from qpsmtpd.logtools import registry


class PluginsTests(SynchronousTestCase):
    def test_names(self) -> None:
        """Each plugin is there once; helpers that are no plugins are not."""
        self.assertEqual(len(perl.PLUGINS), sum(len(each.split()) for each in perl._NAMES.values()))
        self.assertNotIn("tls_cert", perl.PLUGINS)
        self.assertNotIn("karma_tool", perl.PLUGINS)

    def test_log_tools(self) -> None:
        """The log tools have a column for each plugin that says something about a session."""
        silent = {"http_config", "stunnel", "user_config"}
        unknown = {
            name
            for name in perl.PLUGINS
            if registry.find(name.replace("/", "::")).id == registry.UNKNOWN
            and not name.startswith("logging/")
        }
        self.assertEqual(unknown - silent, set())

    def test_old_names(self) -> None:
        """An old name leads to a plugin's present one, and is none itself."""
        for old, new in perl.OLD_NAMES.items():
            self.assertIn(new.split()[0], perl.PLUGINS)
            self.assertNotIn(old, perl.PLUGINS)
        self.assertEqual(perl.OLD_NAMES.keys() & perl.MOVED.keys(), set())

    def test_ignored_words(self) -> None:
        """What is passed over belongs to one plugin, which does not declare it."""
        for name, words in perl.IGNORED_ARGUMENTS.items():
            self.assertIn(name, perl.PLUGINS)
            try:
                maker: PluginMaker = discovery.find(name)
            except discovery.NotFoundError:
                continue
            self.assertFalse({each.name for each in maker.arguments()} & set(words))

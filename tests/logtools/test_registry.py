"""The table of plugins that log tools know."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.configuration import discovery
from qpsmtpd.logtools.registry import PLUGINS, UNKNOWN, find
from qpsmtpd.services.logs import log_name

CHECKOUT = Path(__file__).resolve().parent.parent.parent


class RegistryTests(SynchronousTestCase):
    def test_unique(self) -> None:
        """Ids, names with aliases, and short names each stand for one plugin, in order."""
        for values in (
            [plugin.id for plugin in PLUGINS],
            [name for plugin in PLUGINS for name in (plugin.name, *plugin.aliases)],
            [plugin.short for plugin in PLUGINS],
            [plugin.longer for plugin in PLUGINS],
        ):
            self.assertEqual(len(set(values)), len(values))
        self.assertEqual(list(PLUGINS), sorted(PLUGINS))
        for plugin in PLUGINS:
            self.assertTrue(len(plugin.short) <= 3 and len(plugin.longer) <= 5, plugin)

    def test_bundled(self) -> None:
        """Every bundled plugin that reports is known; those that write the log report nothing."""
        silent = ("logging/", "http_config", "user_config", "stunnel")
        missing = [
            name
            for name in discovery.names()
            if not name.startswith(silent) and find(log_name(name)).id == UNKNOWN
        ]
        self.assertEqual(missing, [])

    def test_names(self) -> None:
        """A plugin is found by its name, an older name, and with the number of one of its uses."""
        self.assertEqual(find("queue::maildir")[:4], (801, "queue::maildir", "qdr", "qudir"))
        self.assertEqual(find("check_relay").name, "relay")
        self.assertEqual(find("dnsbl_3asecond").name, "dnsbl")
        self.assertEqual(find("dnsbl:second").name, "dnsbl")
        self.assertEqual(find("ident::p0f_3a0").id, 203)
        self.assertEqual(find("rcpt_regex"), find("rcpt_regexp"))

    def test_unknown(self) -> None:
        """Any other plugin goes by its own name."""
        self.assertEqual(find("my::own_3a2"), (UNKNOWN, "my::own", "my::own", "my::own", ()))

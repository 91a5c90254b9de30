"""The configuration that Debian's package of the Perl qpsmtpd installs, as it is."""

from qpsmtpd.server.options import ServerOptions
from qpsmtpd.server.service import check
from tests.configuration.test_migration import MigrationTestCase

ETC = "/etc/qpsmtpd"


class DebianTests(MigrationTestCase):
    """Needs Debian's package ``qpsmtpd``; ``tests/services/install`` brings it."""

    def test_loaded(self) -> None:
        """It can be used: old names of plugins, a list of folders and includes too."""
        found = check(ServerOptions(directories=(ETC,), state=self.mktemp()))
        names = {link.name for link in found.chain.links}
        self.assertLess({"relay", "badmailfrom", "badrcptto", "loop", "rcpt_ok"}, names)
        said = "\n".join(map(str, found.notices))
        self.assertIn('"check_relay": is read as relay', said)

    def test_examined(self) -> None:
        """Nothing in it is bad or a danger, and what changes is told."""
        self.examine(ETC)
        bad = [str(each) for each in self.report.items if each.kind.value in ("bad", "danger")]
        self.assertEqual(bad, [])
        self.assert_item("relayclients", "works", "is read by relay")
        changes = [each for each in self.report.items if each.said == "is read as relay"]
        self.assertEqual([each.kind.value for each in changes], ["changes"])

"""The engine's control files as data: examples that work, and the environment."""

from qpsmtpd.configuration import discovery
from qpsmtpd.configuration.load import load
from qpsmtpd.configuration.reference import DEFAULTS, ENGINE_FILES, FILES_ONLY, VARIABLES
from qpsmtpd.settings import Settings
from tests.configuration.folders import FolderTestCase


class ReferenceTests(FolderTestCase):
    def test_examples(self) -> None:
        """The example of every file can be used, all together."""
        texts = {name: f"{file.example}\n" for name, file in ENGINE_FILES.items()}
        found = load(self.configure(texts), {}, lambda interface: self)
        self.assertEqual(found.loglevel, 6)
        self.assertEqual(found.settings.me, "mail.example.org")
        self.assertEqual(found.settings.limits.recipients, 100)
        for name in ("localiphost", "spool_dir", "spool_perms", "size_threshold", "reverse_dns"):
            self.assertNotEqual(getattr(found.settings, name), getattr(Settings(), name), name)

    def test_examples_of_plugins(self) -> None:
        """The example of a plugin's control file is a line that the plugin takes."""
        count = 0
        for name in discovery.names():
            try:
                maker = discovery.find(name)
            except discovery.DiscoveryError:
                continue  # it needs a library that is not here
            for file in maker.control_files():
                if file.example:
                    file.converter(file.example)
                    count += 1
        self.assertGreater(count, 15)

    def test_complete(self) -> None:
        """Everything is described; what is special is a file of the engine."""
        for name, file in ENGINE_FILES.items():
            self.assertTrue(file.effect.endswith("."), name)
            self.assertTrue(file.default and file.example, name)
        self.assertLess({*FILES_ONLY, *DEFAULTS}, ENGINE_FILES.keys())
        for name, variable in VARIABLES.items():
            self.assertTrue(variable.effect.endswith("."), name)
            self.assertTrue(variable.holds_for or not variable.example, name)

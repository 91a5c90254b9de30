"""The manual page, ``docs/qpsmtpd.8``."""

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.forkserver import forkserver_words, prefork_words
from qpsmtpd.tap import Options
from tests.server.processes import run
from tests.services.binaries import find

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "qpsmtpd.8"


class ManualTests(SynchronousTestCase):
    def section(self, title: str) -> set[str]:
        """The long options of a section."""
        text = PAGE.read_text().partition(f".SH {title}\n")[2].partition("\n.SH ")[0]
        return set(re.findall(r"--[a-z-]+", text.replace("\\-", "-")))

    def help(self, words: Callable[[list[str]], object]) -> set[str]:
        """The long options that a command's help has."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            self.assertRaises(SystemExit, words, ["--help"])
        return set(re.findall(r"(?<!\w)--[a-z-]+", said.getvalue())) - {"--help", "--version"}

    def test_well_formed(self) -> None:
        """mandoc has nothing to say against it."""
        self.assertEqual(run([find("mandoc"), "-T", "lint", "-W", "style", str(PAGE)], DOCS), "")

    def test_readable(self) -> None:
        """As text it has its name and its options."""
        said = run([find("mandoc"), "-T", "ascii", str(PAGE)], DOCS)
        plain = re.sub(".\b", "", said)
        self.assertIn("qpsmtpd, qpsmtpd-forkserver, qpsmtpd-prefork - mail server", plain)
        self.assertIn("-c, --config dir", plain)

    def test_options(self) -> None:
        """It has every option of every way to serve, and no other."""
        options = {f"--{name.rstrip('=')}" for name in Options().longOpt}
        self.assertEqual(
            self.section("OPTIONS OF TWISTD QPSMTPD"), options - {"--help", "--version"}
        )
        forkserver = self.section("OPTIONS OF QPSMTPD-FORKSERVER")
        self.assertEqual(forkserver, self.help(forkserver_words))
        prefork = self.section("OPTIONS OF QPSMTPD-PREFORK")
        self.assertEqual(prefork - self.help(prefork_words), set())
        self.assertEqual(self.help(prefork_words) - prefork - forkserver, set())

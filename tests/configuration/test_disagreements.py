"""What check says where qmail-smtpd and the Perl qpsmtpd disagree."""

from collections.abc import Mapping

from qpsmtpd.configuration.disagreements import disagreements
from tests.configuration.folders import FolderTestCase


class DisagreementsTests(FolderTestCase):
    def said(self, *plugins: str, environ: Mapping[str, str] = {}, **texts: str) -> list[str]:
        found = disagreements(self.configure(texts), environ, plugins)
        return [line.replace(self.top, "TOP").partition(":")[0] for line in found]

    def test_none(self) -> None:
        """A configuration that both read alike has none."""
        self.assertEqual(self.said("rcpt_ok", environ={"HOME": "/"}, rcpthosts="a.example"), [])
        self.assertEqual(self.said("queue/discard"), [])

    def test_rcpthosts(self) -> None:
        """Without rcpthosts nobody else's mail is taken, and that is said where it counts."""
        for text in ("", "# none\n"):
            self.assertEqual(
                self.said("rcpt_ok", rcpthosts=text), ["rcpthosts is missing or empty"]
            )

    def test_localiphost(self) -> None:
        """localiphost is of qmail-smtpd's."""
        self.assertEqual(self.said(localiphost="a.example"), ["TOP/config/localiphost"])

    def test_environment(self) -> None:
        """RELAYCLIENT, with a value and without one, and DATABYTES."""
        self.assertEqual(self.said(environ={"RELAYCLIENT": ""}), ["RELAYCLIENT is set"])
        self.assertEqual(
            self.said(environ={"RELAYCLIENT": "@x", "DATABYTES": "7"}),
            ["RELAYCLIENT is set", "RELAYCLIENT has a value", "DATABYTES is set"],
        )

"""Differences are found, and the page that explains them is read."""

from twisted.trial.unittest import SynchronousTestCase

from tests.compared.sessions import Session, Step
from tests.compared.table import Difference, differences, explained, row

SESSIONS = [Session("one", "127.0.0.1", [Step("C", ["NOOP"]), Step("C", ["QUIT"])])]


def compared(perl: list[str], ours: list[str]) -> list[Difference]:
    """The differences where only the replies to NOOP may be some."""
    end = ["221", "closed"]
    said = {"one": {"perl": [["220"], perl, end], "ours": [["220"], ours, end]}}
    return differences(SESSIONS, said)


class DifferencesTests(SynchronousTestCase):
    def test_alike(self) -> None:
        """An enhanced status code counts where the Perl server has one."""
        self.assertEqual(compared(["250"], ["250"]), [])
        self.assertEqual(compared(["250"], ["250 2.0.0"]), [])
        self.assertEqual(compared(["550 5.7.1"], ["550 5.7.1"]), [])

    def test_different(self) -> None:
        """Another code, another status, and one reply more or less are differences."""
        for perl, ours in (
            (["250"], ["251"]),
            (["550 5.7.1"], ["550 5.1.1"]),
            (["550 5.7.1"], ["550"]),
            (["250", "451"], ["250"]),
            (["250"], ["250", "closed"]),
            (["nothing"], ["250 2.0.0"]),
            (["250-"], ["250 2.0.0"]),
        ):
            expected = Difference("one", "1 NOOP", ", ".join(perl), ", ".join(ours))
            self.assertEqual(compared(perl, ours), [expected])


class PageTests(SynchronousTestCase):
    def page(self, reason: str) -> str:
        head = "| session | step | the Perl qpsmtpd | this one |\n| --- | --- | --- | --- |\n"
        line = row(Difference("a", "1 X|`", "250", "550 5.7.1"))
        return f"# Title\n\nText.\n\n## Because\n\n{reason}\n\n{head}{line}\n\n## Other\n\nText.\n"

    def test_explained(self) -> None:
        """The rows of all tables are what is explained."""
        self.assertEqual(
            explained(self.page("A reason.")), ["| a | `` 1 X\\|` `` | 250 | 550 5.7.1 |"]
        )

    def test_without_a_reason(self) -> None:
        """A table that nothing explains is an error."""
        self.assertRaises(ValueError, explained, self.page(""))

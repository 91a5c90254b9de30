"""The table of defects that stay behind: docs/reference/defects.md."""

import re
from importlib import import_module
from pathlib import Path
from typing import NamedTuple
from unittest import TestCase

from twisted.trial.unittest import SynchronousTestCase

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "defects.md"


class Row(NamedTuple):
    number: str
    defect: str
    here: str
    test: str


def rows(page: str) -> list[Row]:
    """The rows of all tables of a page, without their heads."""
    found = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and cells[0] not in ("number", "---"):
            found.append(Row(*cells))
    return found


def exists(name: str) -> bool:
    """Whether there is a test of a dotted name."""
    module, owner, method = name.rsplit(".", 2)
    try:
        found = getattr(import_module(module), owner, None)
    except ImportError:
        return False
    return (
        isinstance(found, type)
        and issubclass(found, TestCase | SynchronousTestCase)
        and method.startswith("test_")
        and callable(getattr(found, method, None))
    )


class DefectsTests(SynchronousTestCase):
    rows = rows(PAGE.read_text(encoding="utf-8"))

    def test_all_are_there(self) -> None:
        """Each of L1 to L66 has one row."""
        numbers = sorted(int(row.number.removeprefix("L")) for row in self.rows)
        self.assertEqual(numbers, list(range(1, 67)))

    def test_tests_exist(self) -> None:
        """The test that each row names exists."""
        for row in self.rows:
            self.assertTrue(re.fullmatch(r"`tests\.[\w.]+`", row.test), row)
            self.assertTrue(exists(row.test.strip("`")), row)

    def test_each_says_something(self) -> None:
        """Each row says what was wrong and what is here."""
        for row in self.rows:
            for cell in (row.defect, row.here):
                self.assertTrue(len(cell) > 10 and cell.endswith("."), row)


class HelperTests(SynchronousTestCase):
    def test_exists(self) -> None:
        """A name of no module, no class or no test is found out."""
        self.assertTrue(exists("tests.test_defects.HelperTests.test_exists"))
        for name in (
            "tests.test_defects.HelperTests.test_something_else",
            "tests.test_defects.HelperTests.assertEqual",
            "tests.test_defects.Nobody.test_exists",
            "tests.test_defects.Row.test_exists",
            "tests.test_nothing.HelperTests.test_exists",
        ):
            self.assertFalse(exists(name), name)

    def test_rows(self) -> None:
        """Heads and text are no rows."""
        page = "# x\n\n| number | a | b | c |\n| --- | --- | --- | --- |\n| L1 | p | q | `t` |\n"
        self.assertEqual(rows(page), [Row("L1", "p", "q", "`t`")])

"""The page on testing components."""

import re
from pathlib import Path

from twisted.trial.reporter import TestResult
from twisted.trial.runner import TestLoader
from twisted.trial.unittest import SynchronousTestCase

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "test-a-component.md"


class HowToTests(SynchronousTestCase):
    def test_code(self) -> None:
        """The code on the page is a test module that passes."""
        blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
        module = Path(self.mktemp())
        module.mkdir()
        path = module / "test_page.py"
        path.write_text("\n\n".join(blocks))
        result = TestResult()
        TestLoader().loadFile(str(path)).run(result)
        self.assertEqual(result.errors + result.failures, [])
        self.assertEqual(result.successes, 6)

"""What the operator reads when the configuration is wrong."""

import pickle

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.configuration.errors import ConfigurationError, ConfigurationErrors


class ConfigurationErrorTests(SynchronousTestCase):
    def test_one_line(self) -> None:
        """An error names the file, the line, what stands there and what should."""
        error = ConfigurationError(
            "dnsbl reject maybe", "yes or no", file="config/plugins", line=12
        )
        self.assertEqual(str(error), 'config/plugins:12: "dnsbl reject maybe": expected yes or no')

    def test_converters_words(self) -> None:
        """The text of a converter's error, which begins with "expected", is not doubled."""
        error = ConfigurationError("maybe", "expected yes or no")
        self.assertEqual(error.expected, "yes or no")
        self.assertEqual(str(error), '"maybe": expected yes or no')

    def test_whole_file(self) -> None:
        """An error about a file as a whole shows neither a line nor an empty text."""
        error = ConfigurationError("", "a regular file", file="config/me")
        self.assertEqual(str(error), "config/me: expected a regular file")

    def test_safe_to_print(self) -> None:
        """Whatever a file or its name holds, the error stays one line that is safe to print."""
        error = ConfigurationError("a\nb\x1b[2J\x85\udcff", "text", file="c\rd", line=1)
        self.assertEqual(str(error), r'c\rd:1: "a\nb\x1b[2J\x85\udcff": expected text')

    def test_long_text(self) -> None:
        """A long text is cut, so that the line stays readable."""
        error = ConfigurationError("x" * 100_000, "less")
        self.assertEqual(str(error), f'"{"x" * 200}...": expected less')
        self.assertEqual(len(error.found), 100_000)

    def test_pickled(self) -> None:
        """An error can be sent from one process to another."""
        error = ConfigurationError("maybe", "yes or no", file="config/plugins", line=12)
        self.assertEqual(str(pickle.loads(pickle.dumps(error))), str(error))


class ConfigurationErrorsTests(SynchronousTestCase):
    def test_one_line_each(self) -> None:
        """Several errors are told at once, one on each line, in the order found."""
        first = ConfigurationError("b", "c", file="a", line=2)
        second = ConfigurationError("e", "f", file="d", line=1)
        errors = ConfigurationErrors([first, second])
        self.assertEqual(str(errors), 'a:2: "b": expected c\nd:1: "e": expected f')
        self.assertEqual(list(errors), [first, second])
        self.assertEqual(len(errors), 2)

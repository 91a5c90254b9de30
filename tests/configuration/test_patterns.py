"""How a regular expression in the configuration is read."""

import re

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.configuration.patterns import compiled


class CompiledTests(SynchronousTestCase):
    def matched(self, pattern: str, *texts: str) -> list[str]:
        return [text for text in texts if compiled(pattern).search(text)]

    def test_python(self) -> None:
        """A pattern is Python's."""
        self.assertEqual(compiled(r"^a+\.b$"), re.compile(r"^a+\.b$"))
        self.assertEqual(self.matched(r"(?P<x>a)(?P=x)(?<=a)(?<!b)", "aa", "ab"), ["aa"])

    def test_wrong(self) -> None:
        """A pattern that cannot be compiled is refused with the reason."""
        for pattern, reason in {
            "*@mail.example": "nothing to repeat at position 0",
            "(": "missing ), unterminated subpattern at position 0",
            r"\K": r"bad escape \K at position 0",
            "a{99999999999999}": "the repetition number is too large",
            "^[:alpha:]$": "write [:alpha:] inside another pair of brackets",
            "[[:alfa:]]": "there is no [:alfa:]",
        }.items():
            with self.assertRaises(Exception) as caught:
                compiled(pattern)
            self.assertEqual(str(caught.exception), reason)

    def test_perl_end(self) -> None:
        r"""``\z`` is the very end; ``\Z`` allows for a final line feed, as in Perl."""
        self.assertEqual(self.matched(r"a\z", "a", "a\n"), ["a"])
        self.assertEqual(self.matched(r"a\Z", "a", "a\n", "a\n\n"), ["a", "a\n"])
        self.assertEqual(self.matched(r"a\\z", r"a\z", "a"), [r"a\z"])

    def test_perl_names(self) -> None:
        """A group is named and referred to as in Perl."""
        self.assertEqual(self.matched(r"^(?<x>.)-\k<x>$", "a-a", "a-b"), ["a-a"])

    def test_perl_classes(self) -> None:
        """A POSIX class stands inside brackets, next to others."""
        self.assertEqual(self.matched(r"^[[:alpha:]_]+$", "ab_", "a1", ":"), ["ab_"])
        self.assertEqual(self.matched(r"^[^][:digit:]]$", "a", "]", "1", "["), ["a", "["])
        punctuation = [chr(code) for code in range(33, 127) if not chr(code).isalnum()]
        self.assertEqual(self.matched("^[[:punct:]]$", *map(chr, range(128))), punctuation)

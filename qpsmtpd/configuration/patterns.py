# -*- test-case-name: tests.configuration.test_patterns -*-
r"""Regular expressions as administrators wrote them for the Perl qpsmtpd.

Python's notation and Perl's are one, but for a few pieces. Of these Perl's are read
too: ``\z``, ``(?<name>...)``, ``\k<name>`` and ``[[:alpha:]]``; and ``\Z`` means
Perl's, the end or before a final line feed. What Python does not know either, such
as ``\K`` or ``\Q``, is an error.
"""

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["compiled"]


def compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern.

    :raises re.error: It is none.
    :raises ValueError: A POSIX class is unknown, or not inside brackets.
    """
    return re.compile(_PERL.sub(_in_python, pattern))


def _in_python(perl: re.Match[str]) -> str:
    """Return a piece of a regular expression as Python writes it."""
    if perl["reference"] is not None:
        return f"(?P={perl['reference']})"
    if perl["brackets"] is None:
        return _PYTHON.get(perl[0], perl[0])
    if _POSIX.fullmatch(perl[0]):
        raise ValueError(f"write {perl[0]} inside another pair of brackets")
    return _POSIX.sub(_posix_class, perl[0])


def _posix_class(posix: re.Match[str]) -> str:
    try:
        return _POSIX_CLASSES[posix[1]]
    except KeyError:
        raise ValueError(f"there is no {posix[0]}") from None


#: The pieces of a regular expression that hide or hold what Perl writes in its own way.
_PERL: Final = re.compile(
    r"""
    (?P<brackets> \[ \^? \]? (?: \\. | \[: \^? [a-z]+ :\] | [^]\\] )* \] )
    | \\k< (?P<reference> [A-Za-z_]\w*) > | \\.
    | \(\?< (?=[A-Za-z_])
    """,
    re.VERBOSE | re.DOTALL,
)
_POSIX: Final = re.compile(r"\[:(\^?[a-z]+):\]")
_PYTHON: Final[Mapping[str, str]] = {r"\z": r"\Z", r"\Z": r"(?=\n?\Z)", "(?<": "(?P<"}
_POSIX_CLASSES: Final[Mapping[str, str]] = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": r"\x21-\x7e",
    "lower": "a-z",
    "print": r"\x20-\x7e",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\s",
    "upper": "A-Z",
    "word": r"\w",
    "xdigit": "0-9a-fA-F",
}

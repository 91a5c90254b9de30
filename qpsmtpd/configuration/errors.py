# -*- test-case-name: tests.configuration.test_errors -*-
"""What the operator is told when the configuration cannot be used."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["ConfigurationError", "ConfigurationErrors", "Notice"]

#: Characters of a faulty line that an error repeats; enough to recognise it by.
_FOUND_LIMIT: Final = 200


class ConfigurationError(Exception):
    """One place where the configuration says something that cannot be meant.

    As text it is one line: ``config/plugins:12: "dnsbl reject maybe": expected
    yes or no``. Whatever the file held, that line is safe to print: characters
    that are not printable are escaped, and a long text is cut.

    :ivar found: What stands there; empty when nothing can be shown, for
        example of a file that cannot be read.
    :ivar expected: What would have been right. A leading ``expected`` is
        dropped, so the text of a converter's `ValueError` can be given as it is.
    :ivar file: The file, as it was opened; `None` when no file is to blame.
    :ivar line: The line in that file, counted from 1.
    """

    def __init__(
        self, found: str, expected: str, *, file: str | None = None, line: int | None = None
    ) -> None:
        self.found: Final = found
        self.expected: Final = expected.removeprefix("expected ")
        self.file: Final = file
        self.line: Final = line
        super().__init__(found, expected)

    def __str__(self) -> str:
        parts = []
        if self.file is not None:
            parts.append(self.file if self.line is None else f"{self.file}:{self.line}")
        if self.found:
            parts.append(f'"{_shortened(self.found)}"')
        parts.append(f"expected {self.expected}")
        return _printable(": ".join(parts))


class ConfigurationErrors(Exception):  # noqa: N818 - it is several
    """All that is wrong with a configuration, so that one look mends it.

    As text it is one line for each error, in the order found.

    :ivar errors: The errors; at least one.
    """

    def __init__(self, errors: Iterable[ConfigurationError]) -> None:
        self.errors: Final = tuple(errors)
        super().__init__(self.errors)

    def __iter__(self) -> Iterator[ConfigurationError]:
        return iter(self.errors)

    def __len__(self) -> int:
        return len(self.errors)

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


@dataclass(frozen=True, slots=True)
class Notice:
    """A place where the configuration says something that has no effect here.

    It does not keep the server from starting, and the operator has to know. As text it is
    one line that is safe to print: ``config/plugins:9: "dkim": has no effect; ...``.

    :ivar found: What stands there.
    :ivar effect: What follows from that.
    :ivar file: The file.
    :ivar line: The line in that file, counted from 1.
    :ivar grave: Whether something that was asked for is not done.
    """

    found: str
    effect: str
    file: str
    line: int
    grave: bool = False

    def __str__(self) -> str:
        return _printable(f'{self.file}:{self.line}: "{_shortened(self.found)}": {self.effect}')


def _shortened(text: str) -> str:
    return text if len(text) <= _FOUND_LIMIT else f"{text[:_FOUND_LIMIT]}..."


def _printable(text: str) -> str:
    """Escape what could move a terminal's cursor or break a log line in two."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )

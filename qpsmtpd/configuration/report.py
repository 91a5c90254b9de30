# -*- test-case-name: tests.configuration.test_report -*-
"""What was found in an existing installation, thing by thing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import Enum

__all__ = ["Item", "Kind", "Report"]


class Kind(Enum):
    """What a finding means. The last three have to be mended before or after the move."""

    WORKS = "works"
    UNUSED = "unused"
    CHANGES = "changes"
    MISSING = "missing"
    BAD = "bad"
    DANGER = "danger"

    @property
    def stops(self) -> bool:
        """Whether an installation with it cannot just be moved."""
        return self in (Kind.MISSING, Kind.BAD, Kind.DANGER)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing of the installation.

    :ivar subject: The file, the file and line, or the variable.
    :ivar said: What becomes of it.
    :ivar do: What to do about it; empty for nothing.
    """

    kind: Kind
    subject: str
    said: str
    do: str = ""

    def __str__(self) -> str:
        text = f"{self.kind.value:8} {self.subject}: {self.said}"
        return _printable(f"{text}. To do: {self.do}" if self.do else text)


@dataclass(slots=True)
class Report:
    """All that was found.

    :ivar folder: Where.
    :ivar items: In the order in which it was looked at.
    """

    folder: str
    items: list[Item] = field(default_factory=list)

    def add(self, kind: Kind, subject: str, said: str, do: str = "") -> None:
        """Add a finding."""
        self.items.append(Item(kind, subject, said, do))

    @property
    def status(self) -> int:
        """The exit status: 1 if something is missing, bad or a danger; otherwise 0."""
        return int(any(item.kind.stops for item in self.items))

    def lines(self) -> Iterator[str]:
        """The report as text."""
        for item in self.items:
            yield str(item)
        counted = ", ".join(f"{count} {kind.value}" for kind, count in self._counts())
        yield f"{counted or 'nothing was found'}."

    def json(self) -> str:
        """The report for other programs."""
        items = [{**asdict(item), "kind": item.kind.value} for item in self.items]
        found = {"folder": self.folder, "status": self.status, "items": items}
        return json.dumps(found, indent=2)

    def _counts(self) -> Iterator[tuple[Kind, int]]:
        for kind in Kind:
            count = sum(item.kind is kind for item in self.items)
            if count:
                yield kind, count


def _printable(text: str) -> str:
    """Escape what could move a terminal's cursor; names of files may have it."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )

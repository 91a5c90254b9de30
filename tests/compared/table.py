# -*- test-case-name: tests.compared.test_table -*-
"""Where two servers answer differently, and the page that explains each difference.

``docs/reference/compared-with-perl.md`` has a section for each reason, with a table of the
differences that it explains.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.compared.sessions import Session

__all__ = ["PAGE", "Difference", "differences", "explained", "row"]

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "compared-with-perl.md"

_HEAD: Final = "| session | step | the Perl qpsmtpd | this one |\n| --- | --- | --- | --- |\n"


class Difference(NamedTuple):
    """Two answers to one step of one session."""

    session: str
    step: str
    perl: str
    ours: str


def differences(
    sessions: Sequence[Session], said: Mapping[str, Mapping[str, list[list[str]]]]
) -> list[Difference]:
    """Compare what two servers said.

    Codes have to be the same, and so have enhanced status codes where the Perl qpsmtpd gives one.

    :param said: For each session and server the greeting's replies and those to each step.
    """
    found = []
    for session in sessions:
        steps = ["greeting", *(step.shown for step in session.steps)]
        perl, ours = said[session.name]["perl"], said[session.name]["ours"]
        for number, (step, one, other) in enumerate(zip(steps, perl, ours, strict=True)):
            if not _alike(one, other):
                shown = f"{number} {step}" if number else step
                found.append(Difference(session.name, shown, ", ".join(one), ", ".join(other)))
    return found


def _alike(perl: Sequence[str], ours: Sequence[str]) -> bool:
    if len(perl) != len(ours):
        return False
    return all(
        one == other or (" " not in one and one == other.split(" ")[0])
        for one, other in zip(perl, ours, strict=True)
    )


def row(difference: Difference) -> str:
    """A difference as a row of the page's tables."""
    session, step, perl, ours = (cell.replace("|", "\\|") for cell in difference)
    shown = f"`` {step} ``" if "`" in step else f"`{step}`"
    return f"| {session} | {shown} | {perl} | {ours} |"


def explained(page: str) -> list[str]:
    """The rows of a page.

    :raises ValueError: A table has no reason above it.
    """
    rows = []
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        reason, head, table = section.partition(_HEAD)
        if not head:
            continue
        _, _, text = reason.partition("\n")
        if not text.strip():
            raise ValueError(f"nothing explains {reason.strip()}")
        rows += [line for line in table.splitlines() if line.startswith("| ")]
    return rows

# -*- test-case-name: tests.logtools.test_figures -*-
"""Figures of many sessions: how they ended, what plugins found, and why mail was refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from qpsmtpd.logtools.registry import UNKNOWN, Plugin
from qpsmtpd.logtools.sessions import Finding, Outcome, Session
from qpsmtpd.logtools.summary import draw

__all__ = ["Figures"]

#: Different reasons that are counted; clients can make as many as they like.
REASONS_LIMIT: Final = 10_000

#: Reasons that are shown, and characters of each.
REASONS_SHOWN: Final = 10
REASON_WIDTH: Final = 78

_OUTCOMES: Final = {
    Outcome.QUEUED: "mail was queued",
    Outcome.REFUSED: "refused",
    Outcome.TIMEOUT: "timed out",
    Outcome.NOTHING: "no mail and no refusal",
}

_FINDINGS: Final = (
    Finding.PASS,
    Finding.FAIL,
    Finding.TOLERATED,
    Finding.SKIP,
    Finding.ERROR,
    Finding.POSITIVE,
    Finding.NEGATIVE,
    Finding.OTHER,
)

#: What differs from client to client where the reason is the same.
_VARIABLE: Final = re.compile(
    r"<[^<>]*>|\b\d{1,3}(?:\.\d{1,3}){3}\b|\b[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){3,7}\b"
    r"|[^\s<>()]+@[^\s<>()]+"
)


class Figures:
    """Counts sessions."""

    def __init__(self) -> None:
        self._sessions = 0
        self._messages = 0
        self._outcomes: Counter[str] = Counter()
        self._plugins: dict[Plugin, Counter[str]] = {}
        self._reasons: Counter[str] = Counter()

    def add(self, session: Session) -> None:
        """Count a session."""
        self._sessions += 1
        self._messages += session.queued
        self._outcomes[session.outcome] += 1
        for plugin, (finding, _) in session.findings.items():
            if plugin in self._plugins or len(self._plugins) < REASONS_LIMIT:
                self._plugins.setdefault(plugin, Counter())[finding] += 1
        for reason in _reasons(session):
            if reason in self._reasons or len(self._reasons) < REASONS_LIMIT:
                self._reasons[reason] += 1

    def lines(self) -> Iterator[str]:
        """The tables."""
        rows: list[list[str | int]] = [["all", self._sessions]]
        rows += [[text, self._outcomes[outcome]] for outcome, text in _OUTCOMES.items()]
        rows.append(["messages queued", self._messages])
        yield from draw(["connections", "number"], rows)
        if self._plugins:
            yield ""
            yield from self._plugin_lines()
        if self._reasons:
            yield ""
            yield from draw(
                ["times", "refused because"],
                [[count, text] for text, count in self._reasons.most_common(REASONS_SHOWN)],
            )

    def _plugin_lines(self) -> Iterator[str]:
        used = [each for each in _FINDINGS if any(found[each] for found in self._plugins.values())]
        ordered = sorted(
            self._plugins.items(), key=lambda item: (item[0].id == UNKNOWN, item[0][:2])
        )
        rows: list[list[str | int]] = [
            [plugin.name, *(found[each] for each in used)] for plugin, found in ordered
        ]
        yield from draw(["plugin", *used], rows)


def _reasons(session: Session) -> Iterator[str]:
    """Why mail was refused: the replies, or what plugins said where no reply is logged."""
    # What a reply says was said before it, too, of some.
    replies = [text for text in session.refusals if text[0].isdigit()]
    texts = (
        replies
        or session.refusals
        or [
            f"{plugin.name}: {text}"
            for plugin, (finding, text) in session.findings.items()
            if finding == Finding.FAIL
        ]
    )
    for text in texts:
        yield _VARIABLE.sub("...", text)[:REASON_WIDTH]

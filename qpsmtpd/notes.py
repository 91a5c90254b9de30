"""Notes: what components tell each other about a session or a transaction."""

from __future__ import annotations

from typing import Any

__all__ = ["Notes"]


class Notes(dict[str, Any]):
    """A mapping from a note's name to its value.

    Names are upstream's where a note exists there (``whitelisthost``,
    ``naughty``, ...); a component that keeps something for itself uses its
    plugin's name. A note that was never made reads as ``None``.
    """

    __slots__ = ()

    def __missing__(self, name: str) -> None:
        return None

"""The garbage collector, set for a server."""

from __future__ import annotations

import gc
from typing import Final

__all__ = ["calm_collector"]

#: New objects until the collector looks at them, and how often it looks at older ones. A session
#: frees its objects itself and leaves no cycles; with Python's defaults the collector goes
#: through all sessions again and again, which takes a quarter of the CPU time where a thousand
#: of them wait (``python -m benchmarks waiting``: 238 us a message, and 175 us with these).
THRESHOLDS: Final = (20_000, 20, 100)


def calm_collector() -> None:
    """Let the collector look for cycles less often, and never among what is there already.

    For a process that only serves, when its components have started. An application that embeds
    a server decides for itself.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)

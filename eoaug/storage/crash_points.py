"""Named instants of publishing, so that tests can stop a process exactly there. Imports nothing.

Without a hook, `reach` does nothing.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["CRASH_POINTS", "hit", "set_hook"]


CRASH_POINTS = (
    "lease taken",
    "data begun",
    "data written",
    "data flushed",
    "data renamed",
    "document written",
    "document flushed",
    "document renamed",
    "item published",
    "catalog told",
    "journal begun",
    "journal written",
)
"""In the order in which a job reaches them first."""

_hook: Callable[[str], None] | None = None


def hit(point: str) -> None:
    """Tell the hook that ``point``, one of `POINTS`, is reached."""
    if _hook is not None:
        _hook(point)


def set_hook(hook: Callable[[str], None] | None) -> None:
    """Have ``hook`` called at every point of this process; None: no longer."""
    global _hook
    _hook = hook

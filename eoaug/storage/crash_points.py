"""Named points of publishing, so that tests can stop a process exactly there. Imports nothing.

Without a hook, `hit` does nothing.
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
    "catalog updated",
    "journal begun",
    "journal written",
)
"""In the order in which a job first reaches them."""

_hook: Callable[[str], None] | None = None


def hit(point: str) -> None:
    """Call the hook with ``point``, one of `CRASH_POINTS`."""
    if _hook is not None:
        _hook(point)


def set_hook(hook: Callable[[str], None] | None) -> None:
    """Call ``hook`` at every crash point of this process from now on; None removes it."""
    global _hook
    _hook = hook

"""Progress bars. tqdm is imported only when a bar is drawn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Literal

__all__ = ["Progress", "ProgressCounter", "track"]


Progress = bool | Literal["steps"] | None
"""False: no bar; True: a bar at once; ``"steps"``: a bar that counts every denoising step of every tile; None:
a bar after some seconds, on a terminal or in a notebook."""

_DELAY_S = 3.0
"""Short work needs no bar; notebooks and logs stay quiet."""


class ProgressCounter:
    """Counts finished units of work against the planned number, from any thread.

    Parameters
    ----------
    update
        Called with the number of units finished since its last call.
    by_step
        True when a unit is a denoising step of a tile, False when it is a tile.
    """

    def __init__(self, update: Callable[[int], object], *, by_step: bool = False) -> None:
        self.by_step = by_step
        self._update = update
        self._lock = threading.Lock()
        self._done = Fraction()
        self._reported = self._planned = 0

    def tiles(self, count: int, parts: int = 1) -> None:
        """Count tiles as finished, or one of ``parts`` equal parts of each."""
        if not self.by_step:
            self._count(Fraction(count, parts))

    def steps(self, count: int) -> None:
        """Count denoising steps of tiles as finished."""
        if self.by_step:
            self._count(Fraction(count))

    def settle(self, planned: int) -> None:
        """Close a chunk of work: those of its ``planned`` units that had nothing to do count as finished."""
        self._planned += planned
        self._count(max(self._planned - self._done, Fraction()))

    def _count(self, count: Fraction) -> None:
        with self._lock:
            self._done += count
            whole = int(self._done) - self._reported
            self._reported += whole
            if whole:
                self._update(whole)


@contextmanager
def track(total: int, *, what: str, unit: str, progress: Progress = None) -> Iterator[ProgressCounter]:
    """Draw a bar of ``total`` units while the block runs.

    Parameters
    ----------
    total, what, unit
        Number of units, name of the work, and name of a unit.
    progress
        When to draw it.
    """
    if progress is False:
        yield ProgressCounter(lambda count: None)
        return
    from tqdm.auto import tqdm

    asked = progress is not None
    with tqdm(
        total=total,
        unit=unit,
        desc=what,
        delay=0 if asked else _DELAY_S,
        leave=asked,
        disable=False if asked else None,
    ) as bar:
        yield ProgressCounter(bar.update, by_step=progress == "steps")

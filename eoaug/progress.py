"""Progress bars, and lines where there is no terminal. tqdm is imported only when work may take long."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from typing import Literal

__all__ = ["LINE_S", "Progress", "ProgressCounter", "line_per_interval", "track"]


Progress = bool | Literal["steps"] | None
"""False: no bar; True: a bar at once; ``"steps"``: a bar that counts every denoising step of every tile; None:
a bar after some seconds, on a terminal or in a notebook, and elsewhere a line every 30 s."""

_DELAY_S = 3.0
"""Short work needs no bar."""
LINE_S = 30.0
"""Seconds between two lines of a long run where there is no terminal."""


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
        done = 0

        def update(count: int) -> None:
            nonlocal done
            done += count
            bar.update(count)

        def state() -> str:
            return f"{what}: {done} of {total} {unit}s"

        with line_per_interval(state) if getattr(bar, "disable", False) else nullcontext():
            yield ProgressCounter(update, by_step=progress == "steps")


@contextmanager
def line_per_interval(state: Callable[[], str], *, every_s: float | None = None) -> Iterator[None]:
    """Print a line on standard error every 30 s while the block runs; a log of a batch system shows that it lives.

    Parameters
    ----------
    state
        Returns what is done so far.
    every_s
        Seconds between two lines; None: `LINE_S`.
    """
    started, ended = time.monotonic(), threading.Event()

    def print_lines() -> None:
        while not ended.wait(LINE_S if every_s is None else every_s):
            try:
                print(f"eoaug: {state()}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)  # noqa: T201
            except (OSError, ValueError):  # the stream is closed; the work goes on
                return

    thread = threading.Thread(target=print_lines, name="eoaug progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
